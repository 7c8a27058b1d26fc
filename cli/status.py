"""``mlx-server status``: prints the broker's report as tables or as JSON."""

import json
import time
from collections.abc import Mapping
from contextlib import suppress
from http import HTTPStatus
from typing import Any

from rich.console import Console
from rich.table import Column, Table

from cli import probe
from cli.refusal import FAILED, nothing_answers, refuse, something_else_answers
from shared.protocol import ModelStatus, StatusReport, WorkerStatus
from shared.settings import Settings, load_settings

EVERY = 1.0  # seconds between two looks of --watch


def status(options: Mapping[str, Any], *, as_json: bool, watch: bool = False) -> int:
    """``watch``: again and again, until Ctrl-C; also while no server answers."""
    settings = load_settings(**options)
    if not watch:
        return _status(settings, as_json)
    with suppress(KeyboardInterrupt):
        while True:
            if not as_json:
                Console().clear()
            _status(settings, as_json)
            time.sleep(EVERY)
    return 0


def _status(settings: Settings, as_json: bool) -> int:
    answer, report = _ask(settings)
    if report is None:
        return FAILED
    if as_json:
        print(answer.decode(), flush=True)
    else:
        _print_tables(report, probe.address(settings))
    return 0


def ps(options: Mapping[str, Any], *, as_json: bool) -> int:
    _, report = _ask(load_settings(**options))
    if report is None:
        return FAILED
    if as_json:
        print(json.dumps([worker.model_dump(mode="json") for worker in report.workers]))
    elif report.workers:
        Console(highlight=False, markup=False).print(_loaded(report))
    else:
        print("No model is in memory.")
    return 0


def _ask(settings: Settings) -> tuple[bytes, StatusReport | None]:
    """The server's answer and what it says; None after a sentence for the operator."""
    answer = probe.get(settings, "/admin/status")
    if answer is None:
        refuse(nothing_answers(settings))
    elif answer.status != HTTPStatus.OK:
        body = answer.body[:500].decode(errors="replace")
        refuse(f"{probe.address(settings)}/admin/status answers {answer.status}: {body}")
    else:
        try:
            return answer.body, read_report(answer.body)
        except ValueError:
            refuse(something_else_answers(settings))
    return b"", None


def known_report(settings: Settings) -> StatusReport | None:
    """What a running server says of itself, for commands that also work without one."""
    answer = probe.get(settings, "/admin/status", timeout=2.0)
    if answer is None or answer.status != HTTPStatus.OK:
        return None
    try:
        return read_report(answer.body)
    except ValueError:
        return None


def read_report(body: bytes) -> StatusReport:
    """Raises ValueError."""
    raw = json.loads(body)
    if not isinstance(raw, dict):
        raise ValueError("not an object")
    return StatusReport.model_validate({"query": "", **raw})


def _print_tables(report: StatusReport, where: str) -> None:
    print(
        f"{where}: broker {report.epoch}, pid {report.pid}, up {_span(report.uptime)};"
        f" {report.in_flight} in flight, {report.queued} queued"
    )
    console = Console(highlight=False, markup=False)
    console.print(_models(report))
    if report.workers:
        console.print(_workers(report))


def _models(report: StatusReport) -> Table:
    table = _table("model", "state", "queued", "context", "why")
    for model in report.models:
        context = str(model.context_length or "")
        table.add_row(
            model.id, _downloaded(model) or model.state, str(model.queued), context, model.reason or ""
        )
    return table


def _downloaded(model: ModelStatus) -> str:
    """``downloading (42 %, 12.3 MB/s, 31 s left)``; empty of a model that is not fetched."""
    if model.state != "downloading" or not model.total:
        return ""
    pace = "" if model.eta is None else f", {model.rate / 1e6:.1f} MB/s, {_span(model.eta)} left"
    return f"{model.state} ({100 * model.done // model.total} %{pace})"


def _loaded(report: StatusReport) -> Table:
    table = _table("model", "state", "memory", "in flight", "idle", "until")
    models = {model.id: model for model in report.models}
    for worker in report.workers:
        known = models.get(worker.model)
        table.add_row(
            worker.model,
            _progress(worker) or worker.state,
            f"{worker.memory / 1e9:.1f} GB" if worker.memory else "",
            str(worker.in_flight),
            "" if worker.in_flight or worker.state != "ready" else _span(worker.idle),
            _until(worker, known) if known else "",
        )
    return table


def _progress(worker: WorkerStatus) -> str:
    if not worker.phase:
        return ""
    share = f" {100 * worker.done // worker.total} %" if worker.total else ""
    return f"{worker.state} ({worker.phase}{share})"


def _until(worker: WorkerStatus, model: ModelStatus) -> str:
    """When an idle worker is unloaded."""
    if not worker.spawned:
        return "static"
    if model.pinned:
        return "pinned"
    if not model.ttl:
        return "others need its memory"
    return f"{_span(max(0.0, model.ttl - worker.idle))} from now"


def _workers(report: StatusReport) -> Table:
    table = _table("worker", "model", "pid", "state", "since", "in flight")
    for worker in report.workers:
        state = _progress(worker) or worker.state
        since, in_flight = _span(worker.since), str(worker.in_flight)
        table.add_row(worker.id, worker.model, str(worker.pid), state, since, in_flight)
    return table


def _table(*columns: str) -> Table:
    """A table whose long ids wrap, so that none is truncated."""
    return Table(*(Column(name, overflow="fold") for name in columns), box=None)


def _span(seconds: float) -> str:
    """``42 s``, ``7 min``, ``3 h``: the largest unit that is not zero."""
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{int(seconds // length)} {unit}"
    return f"{int(seconds)} s"
