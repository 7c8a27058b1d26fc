"""A worker process: the link on the main thread, load and loop on the engine thread.

Shared by the real worker and by the scripted one; they differ in how they load.
"""

import faulthandler
import logging
import os
import secrets
import threading
from collections.abc import Callable
from queue import SimpleQueue

from shared import exits
from shared.failpoints import failpoint
from shared.settings import Settings
from workers.engine.cpu.install import share_cores
from workers.job import Served
from workers.link import Finished, Link, Loaded, LoadingFailed, LoadingProgress, Outputs, Who
from workers.loop import Command, Loop
from workers.model.load_error import LoadError, Progress, explained

log = logging.getLogger(__name__)

Load = Callable[[Progress], Served]  # raises LoadError


def new_worker_id() -> str:
    return f"worker-{os.getpid()}-{secrets.token_hex(8)}"


def serve(settings: Settings, model: str, worker_id: str | None, load: Load) -> int:
    """Runs until told to leave, and ends the process; gives an exit code only if it could not begin."""
    try:
        token = settings.token_file.read_text().strip()
    except OSError as error:
        log.error("no broker has made %s: %s", settings.token_file, error.strerror)
        return exits.MISCONFIGURED
    faulthandler.enable()  # on SIGABRT, with which the broker ends a stalled worker, every thread's stack is in the log
    inbox: SimpleQueue[Command] = SimpleQueue()
    link = Link(settings, Who(worker_id or new_worker_id(), model, token), inbox)
    engine = threading.Thread(target=_engine_thread, args=(link, inbox, load), name="engine", daemon=True)
    engine.start()
    code = link.run()
    logging.shutdown()
    os._exit(code)  # MLX's threads abort a process whose interpreter is torn down around them


def _engine_thread(link: Link, inbox: "SimpleQueue[Command]", load: Load) -> None:
    """An exception nobody named ends the process: a half-dead engine is the worst state."""
    try:
        failpoint("worker.load")
        with explained("The model"):
            served = load(lambda phase, done, total: link.post(LoadingProgress(phase, done, total)))
    except LoadError as error:
        log.error("%s", error, exc_info=error.__cause__)
        link.post(LoadingFailed(error.reason.removesuffix("."), error.permanent))
        return
    loop = Loop(
        served.engine, inbox, lambda outputs: link.post(Outputs(outputs)), share_cores, lambda: link.preparing
    )
    link.post(Loaded(served, lambda: loop.steps))
    try:
        loop.run()
    except BaseException:
        log.critical("the engine is broken; this worker ends", exc_info=True)
        logging.shutdown()
        os._exit(exits.BUG)
    link.post(Finished())
