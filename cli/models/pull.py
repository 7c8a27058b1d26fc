"""``mlx-server pull``: a model of the hub is fetched by the running server, else by the same child process.

Rule: Ctrl-C ends only what this command has begun; a download of the server goes on, and ``--cancel`` ends it.
"""

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from cli import probe
from cli.refusal import INTERRUPTED, refuse, something_else_answers
from cli.status import known_report
from shared.commands import typed
from shared.errors import BrokerLost, ModelNotFound
from shared.protocol import DownloadReport
from shared.settings import Settings, load_settings

LOOK = 0.5  # seconds between two looks at a server's status
PATIENCE = 7 * 86400.0
TRIES = 5  # brokers that may end meanwhile
COMMAND = (sys.executable, "-P", "-m", "workers.hub")

Draw = Callable[[int, int], None]
"""(bytes here, bytes in all)"""


def pull(name: str, options: Mapping[str, Any]) -> int:
    """Returns the exit code."""
    settings = load_settings(**options)
    begun = probe.post(settings, _path(name), {}, timeout=10.0)
    if begun is None:
        return _pull_here(settings, name)
    if why := _why_not(settings, begun):
        return refuse(why)
    return _follow(settings, name)


def cancel(name: str, options: Mapping[str, Any]) -> int:
    """Returns the exit code. Only a server's download can be cancelled from elsewhere."""
    settings = load_settings(**options)
    answer = probe.delete(settings, _path(name), timeout=10.0)
    if answer is None:
        return refuse(f"Nothing answers at {probe.address(settings)}, so no server fetches {name}.")
    if why := _why_not(settings, answer):
        return refuse(why)
    print(f"{name} is not fetched any more; what has arrived is kept.")
    return 0


def _path(name: str) -> str:
    return f"/admin/models/{quote(name)}/pull"


def _why_not(settings: Settings, answer: probe.Answer) -> str:
    """The server's refusal, or that it is no server of ours; empty if it does as it was asked."""
    try:
        said = json.loads(answer.body)
        return (
            "" if answer.status < HTTPStatus.BAD_REQUEST and said["model"] else str(said["error"]["message"])
        )
    except (ValueError, KeyError, TypeError):
        return something_else_answers(settings)


def _is_broker_lost(answer: probe.Answer) -> bool:
    try:
        return bool(json.loads(answer.body)["error"]["code"] == BrokerLost.code)
    except (ValueError, KeyError, TypeError):
        return False


def _follow(settings: Settings, name: str) -> int:
    """What the server does, until it is done."""
    answers: list[probe.Answer | None] = []

    def wait() -> None:
        """A broker that is being restarted is asked again."""
        for _ in range(TRIES):
            answer = probe.post(settings, _path(name), {"wait": True}, timeout=PATIENCE)
            if answer is None or not _is_broker_lost(answer):
                break
        answers.append(answer)

    waiting = threading.Thread(target=wait, daemon=True)
    model = settings.registry.resolve(name) or name
    try:
        waiting.start()
        with _bar(name) as draw:
            while waiting.is_alive():
                waiting.join(LOOK)
                draw(*_so_far(settings, model))
    except KeyboardInterrupt:
        refuse(f"The server goes on with {name}; `{typed('mlx-server')} pull --cancel {name}` ends that.")
        return INTERRUPTED
    [answer] = answers
    if answer is None:
        return refuse("The server went away; say it again, and what has arrived is not fetched twice.")
    if why := _why_not(settings, answer):
        return refuse(why)
    print(f"{name} is on this disk.")
    return 0


def _so_far(settings: Settings, model: str) -> tuple[int, int]:
    report = known_report(settings)
    models = report.models if report else []
    return next(
        ((known.done, known.total) for known in models if known.id == model and known.state == "downloading"),
        (0, 0),
    )


def _pull_here(settings: Settings, name: str) -> int:
    model = settings.registry.resolve(name)
    if model is None:
        return refuse(
            f"{ModelNotFound(name, settings.registry.names).message} Only those of the settings are fetched: add it to "
            "mlx-server.toml or MLX_SERVER_AVAILABLE_MODELS."
        )
    last = DownloadReport(reason="it ended without a word")
    # In its own session, so that a terminal's Ctrl-C reaches only this process.
    with subprocess.Popen(
        [*COMMAND, model], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, start_new_session=True
    ) as child:
        try:
            with _bar(name) as draw:
                for last in _reports(child):
                    draw(last.done, last.total)
        except KeyboardInterrupt:
            child.terminate()
            refuse(f"{name} is not whole; say it again to go on with what has arrived.")
            return INTERRUPTED
    if not last.whole:
        return refuse(f"{name} could not be fetched: {last.reason}.")
    print(f"{name} is on this disk.")
    return 0


def _reports(child: "subprocess.Popen[bytes]") -> Iterator[DownloadReport]:
    assert child.stdout
    for line in child.stdout:
        try:
            yield DownloadReport.model_validate_json(line)
        except ValueError:
            continue


@contextmanager
def _bar(name: str) -> Iterator[Draw]:
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as progress:
        task = progress.add_task(name, total=None)

        def draw(done: int, total: int) -> None:
            if total:
                progress.update(task, completed=done, total=total)

        yield draw
