"""Runs a worker process: the link on the main thread, loading and the loop on the engine thread.

All kinds of workers share this module; they differ in how they load, and in their loop.
"""

import faulthandler
import logging
import os
import secrets
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, Protocol

from shared import exits
from shared.failpoints import failpoint
from shared.settings import Settings
from workers.broker_socket import WorkerIdentity
from workers.engine.cpu.install import share_cores
from workers.footprint import footprint
from workers.job import Served
from workers.link import Link
from workers.loop import Command, Loop
from workers.model.load_error import AbsentError, LoadError, Progress, explained
from workers.posted import (
    EngineDone,
    LeaseObeyed,
    Loaded,
    LoadingFailed,
    LoadingProgress,
    Outputs,
    PromptsGone,
)

log = logging.getLogger(__name__)

Load = Callable[[Progress], Served[Any]]  # raises LoadError


class RunningLoop(Protocol):
    """``steps`` proves progress; ``lease`` is the serial number of the lease that is kept to."""

    steps: int
    lease: int

    def run(self) -> None: ...


MakeLoop = Callable[[Served[Any], "SimpleQueue[Command]", Link], RunningLoop]


def engine_loop(served: Served[Any], inbox: "SimpleQueue[Command]", link: Link) -> Loop:
    return Loop(
        served.engine,
        inbox,
        lambda outputs: link.post(Outputs(outputs)),
        share_cores,
        preparing=lambda: link.preparing,
        obeyed=lambda: link.post(LeaseObeyed()),
        forgot=lambda query, forgotten: link.post(PromptsGone(query, forgotten)),
    )


def new_worker_id() -> str:
    return f"worker-{os.getpid()}-{secrets.token_hex(8)}"


def serve(
    settings: Settings,
    model: str,
    worker_id: str | None,
    load: Load,
    loop: MakeLoop = engine_loop,
    footprint: Callable[[], int] = footprint,
    at_end: Callable[[], None] = lambda: None,
) -> int:
    """Runs until told to leave and then ends the process; returns an exit code only if it could not start."""
    try:
        token = settings.token_file.read_text().strip()
    except OSError as error:
        log.error("no broker has made %s: %s", settings.token_file, error.strerror)
        return exits.MISCONFIGURED
    faulthandler.enable()  # the broker ends a stalled worker with SIGABRT; this logs the stack of every thread
    inbox: SimpleQueue[Command] = SimpleQueue()
    link = Link(settings, WorkerIdentity(worker_id or new_worker_id(), model, token), inbox, footprint)
    engine = threading.Thread(
        target=_engine_thread, args=(link, inbox, load, loop), name="engine", daemon=True
    )
    engine.start()
    code = link.run()
    at_end()
    logging.shutdown()
    os._exit(code)  # MLX's threads abort the process if the interpreter is torn down while they run


def _engine_thread(link: Link, inbox: "SimpleQueue[Command]", load: Load, make_loop: MakeLoop) -> None:
    """Any exception but LoadError ends the process: a broken engine must not go on."""
    try:
        failpoint("worker.load")
        with explained("The model"):
            served = load(lambda phase, done, total: link.post(LoadingProgress(phase, done, total)))
    except LoadError as error:
        log.error("%s", error, exc_info=error.__cause__)
        absent = isinstance(error, AbsentError)
        link.post(LoadingFailed(error.reason.removesuffix("."), error.permanent, absent))
        return
    loop = make_loop(served, inbox, link)
    link.post(Loaded(served, lambda: loop.steps, lambda: loop.lease))
    try:
        loop.run()
        served.at_end()
    except BaseException:
        log.critical("the engine is broken; this worker ends", exc_info=True)
        logging.shutdown()
        os._exit(exits.BUG)
    link.post(EngineDone())
