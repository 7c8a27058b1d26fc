"""Runs a worker whose model another server answers: starts it, waits until it can serve, gives out places.

Requests never pass here: the api that has a place asks the server by HTTP.
"""

import json
import logging
import os
import time
from hashlib import blake2b
from pathlib import Path
from queue import SimpleQueue
from shutil import which
from typing import Any

from shared.model_table import ModelTable
from shared.protocol import Capabilities, Inspection, Place
from shared.settings import Settings
from workers.footprint import footprint
from workers.host.loop import HostLoop
from workers.host.places import Places, prepare_place
from workers.host.probe import READY_PATHS, model_names, ready, spoken
from workers.host.server import HostedServer, how_it_ended
from workers.job import Output, Served
from workers.link import Link
from workers.loop import Command
from workers.model.load_error import LoadError, Progress
from workers.posted import LeaseObeyed, Outputs, PromptsGone
from workers.serve import serve

log = logging.getLogger(__name__)

_GB = 10**9
_LOOK = 0.1  # seconds


def serve_hosted(settings: Settings, model: str, worker_id: str | None) -> int:
    table = settings.table(model)
    running: list[HostedServer] = []

    def load(progress: Progress) -> Served[Any]:
        running.append(server := _started(table))
        wait_until_ready(server, table, progress)
        return _served(server, table, model)

    def loop(served: Served[Any], inbox: "SimpleQueue[Command]", link: Link) -> HostLoop:
        def emit(outputs: list[Output]) -> None:
            link.post(Outputs(outputs))

        places: Any = served.engine
        return HostLoop(
            running[0],
            places,
            inbox,
            emit,
            lambda: link.post(LeaseObeyed()),
            lambda query, forgotten: link.post(PromptsGone(query, forgotten)),
        )

    return serve(
        settings,
        model,
        worker_id,
        load,
        loop,
        footprint=lambda: running[0].footprint() if running else footprint(),
        at_end=lambda: running[0].close() if running else None,
    )


def inspected_hosted(table: ModelTable) -> Inspection:
    """``memory_gb`` of the table is the first guess; what the server's processes take is learned later."""
    if why := cannot_start(table):
        return Inspection(reason=why, permanent=True)
    return Inspection(weights=int((table.memory_gb or 0) * _GB), architecture="hosted")


def cannot_start(table: ModelTable) -> str | None:
    """Why its command cannot be started on this machine, if that can be seen."""
    folder = Path(table.cwd).expanduser() if table.cwd else Path()
    if not folder.is_dir():
        return f"its folder {str(folder)!r} (`cwd`) is not there"
    program = table.serve[0]
    if "/" in program and (folder / program).is_file() and os.access(folder / program, os.X_OK):
        return None
    if "/" not in program and (which(program, path=table.env.get("PATH")) or which(program)):
        return None
    return f"its command {program!r} is no program on this machine"


def digest_of(table: ModelTable) -> str:
    """Of what is asked there: what changes it makes another model of it."""
    said = [table.serve, sorted(table.env.items()), table.cwd, table.model_name]
    return "hosted-" + blake2b(json.dumps(said).encode(), digest_size=16).hexdigest()


def _started(table: ModelTable) -> HostedServer:
    if why := cannot_start(table):
        raise LoadError(why, permanent=True)
    try:
        return HostedServer.start(table, (table.ready,) if table.ready else READY_PATHS)
    except OSError as error:
        raise LoadError(f"Its server cannot be started: {error.strerror}", permanent=False) from error


def wait_until_ready(server: HostedServer, table: ModelTable, progress: Progress) -> None:
    """Raises LoadError when it ends, or says nothing for ``ready_timeout``."""
    asked = table.ready or "/health or its list of models"
    begun = time.monotonic()
    while not ready(server.port, table.ready, table.ready_status):
        now = time.monotonic()
        if (code := server.ended()) is not None:
            raise LoadError(
                f"Its server {how_it_ended(code)} before it was ready; the log of the worker has what it said",
                permanent=False,
            )
        if now - server.said > table.ready_timeout:
            raise LoadError(
                f"Its server did not answer GET {asked} with {table.ready_status} and logged nothing for "
                f"{table.ready_timeout:g} s; `ready`, `ready_status` and `ready_timeout` say what is awaited",
                permanent=False,
            )
        progress(f"waits for its server, {now - begun:.0f} s", 0, 0)
        time.sleep(_LOOK)


def _served(server: HostedServer, table: ModelTable, model: str) -> Served[Any]:
    found = spoken(server.port, table.endpoints)
    if not found:
        raise LoadError(
            "Its server is ready and has no endpoint that is known here; `endpoints` of its table may name them",
            permanent=False,
        )
    if server.open_to_others():
        log.warning(
            "its server listens beyond this machine, where no key is asked for: tell it 127.0.0.1 in `serve`"
        )
    names = [] if table.model_name else model_names(server.port)
    name = table.model_name or (names[0] if len(names) == 1 else model)
    log.info("its server listens at %s, calls the model %r and has %s", server.url, name, ", ".join(found))
    return Served(
        Places(Place(server=server.name, url=server.url, model=name, endpoints=found)),
        prepare_place,
        digest_of(table),
        context_length=0,
        capabilities=Capabilities(kind="hosted", endpoints=list(found)),
    )
