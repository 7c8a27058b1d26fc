"""What ``serve`` prints: the addresses and a first request, or the failure and the log that explains it."""

import json
import shlex
import sys
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from cli import probe
from cli.events import Event
from cli.stack import Stack
from shared.certificate import file_to_trust
from shared.models import EMBEDDED_MODEL
from shared.settings import Settings

LOG_LINES = 15
STOPS = "Ctrl-C stops the server."  # the last line of a server that is ready


def print_lines(*lines: str, file: TextIO | None = None) -> None:
    """Prints without wrapping, so that commands can be copied, and flushes at once."""
    print(*lines, sep="\n", file=file, flush=True)


@dataclass(frozen=True)
class Computes:
    sentence: str
    fast: bool


def what_computes(settings: Settings) -> Computes:
    """Metal, or a processor with this BLAS. Raises ImportError where MLX cannot be loaded."""
    from workers.device import has_accelerator
    from workers.engine.cpu.install import describe_blas, open_blas

    blas = open_blas(settings.blas)  # before MLX is imported
    if has_accelerator():
        return Computes("Metal computes", fast=True)
    return Computes(describe_blas(blas), fast=blas is not None or sys.platform == "darwin")


def print_welcome(settings: Settings) -> None:
    from workers.engine.cpu.install import describe_blas, open_blas

    address = probe.address(settings)
    print_lines(
        f"Serving {', '.join(settings.sources)}",
        f"     at {address}/v1",
        f"     ui {address}/ui",
        f"   logs {settings.log_dir}",
        *([f" config {settings.config}"] if settings.config else []),
        describe_blas(open_blas(settings.blas)),
        "",
        "Try it (the first request of a model loads it):",
        "",
        *_first_request(address, _model_to_try(settings), file_to_trust(settings)),
        "",
        STOPS,
    )


def print_failure(stack: Stack, settings: Settings, what: Event) -> None:
    lines = [f"mlx-server: {what.value}."]
    if answer := probe.get(settings, "/ready", timeout=0.5):
        lines.append(f"/ready says {answer.status}: {answer.body[:500].decode(errors='replace')}")
    for log in _telling_logs(stack):
        lines += ["", f"The last lines of {log}:", *_tail(log)]
    print_lines(*lines, file=sys.stderr)


def _model_to_try(settings: Settings) -> str:
    if EMBEDDED_MODEL in settings.sources:
        return EMBEDDED_MODEL
    return settings.default_model or next(iter(settings.sources))


def _first_request(address: str, model: str, trust: Path | None) -> list[str]:
    question = {"role": "user", "content": "What is the capital of France?"}
    body = json.dumps({"model": model, "messages": [question], "temperature": 0})
    curl = f"curl --cacert {shlex.quote(str(trust))}" if trust else "curl"
    return [
        f"  {curl} {address}/v1/chat/completions -H 'Content-Type: application/json' \\",
        f"    -d '{body}'",
    ]


def _telling_logs(stack: Stack) -> list[Path]:
    """The logs of the programs that do not run; of all if all run; of supervisord if it does not answer."""
    programs = stack.programs()
    if not programs:
        said_early = stack.output.exists() and stack.output.stat().st_size
        return [stack.output if said_early else stack.log_dir / "supervisord.log"]
    broken = [program for program in programs if program.is_down]
    return [program.log for program in broken or programs]


def _tail(log: Path) -> list[str]:
    try:
        with log.open(errors="replace") as file:
            return [line.rstrip("\n") for line in deque(file, maxlen=LOG_LINES)] or ["(it is empty)"]
    except OSError as error:
        return [f"(it cannot be read: {error.strerror})"]
