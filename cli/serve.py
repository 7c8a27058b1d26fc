"""``mlx-server serve``: claims run directory and port, runs the stack in the foreground and leaves no process."""

import sys
import time
from collections import Counter
from collections.abc import Mapping
from http import HTTPStatus
from typing import IO, Any

from rich.console import Console

from cli import claim, probe
from cli.events import Event, EventSource
from cli.messages import print_failure, print_lines, print_welcome
from cli.models.wrong import wrong_models
from cli.refusal import INTERRUPTED
from cli.stack import Stack
from shared import exits
from shared.certificate import unusable_certificate
from shared.settings import Settings, load_settings, unusable_keys

STOP_TIMEOUT = 120.0  # longer than the api and the broker may take together, by supervisord.conf
MOST_ENDS = 4  # of one program during the start; supervisord takes about 10 s for these
WORKER_GRACE = 10.0  # seconds for workers that outlive the broker


def serve(options: Mapping[str, Any], ready_timeout: float) -> int:
    """Returns the exit code: 0 after an orderly stop, 1 after a failure, 2 for bad settings, 75 if a lock is taken."""
    settings = load_settings(**options)
    if wrong := [
        line
        for line in (unusable_keys(settings), unusable_certificate(settings), *wrong_models(settings))
        if line
    ]:
        print_lines(*(f"mlx-server: {line}" for line in wrong), file=sys.stderr)
        return exits.UNUSABLE
    try:
        lock = _claim(settings)
    except claim.Refusal as refusal:
        print_lines(f"mlx-server: {refusal}", file=sys.stderr)
        return refusal.exit_code
    events = EventSource()
    with lock:
        stack = Stack(settings, options)
        try:
            with Console().status("Starting …"):
                happened = _until_ready(stack, settings, events, ready_timeout)
            return _run(stack, settings, events, happened)
        finally:
            stack.kill()


def _claim(settings: Settings) -> IO[str]:
    lock = claim.claim_run_dir(settings.sockets_dir)
    try:
        claim.check_port(settings.host, settings.port)
    except claim.Refusal:
        lock.close()
        raise
    return lock


def _until_ready(stack: Stack, settings: Settings, events: EventSource, patience: float) -> Event:
    deadline = time.monotonic() + patience
    ends = set[tuple[str, int]]()
    while time.monotonic() < deadline:
        if happened := events.wait(stack.process, 0.1):
            return happened
        # supervisord's socket accepts connections before an api runs that could answer, so the timeout is short
        answer = probe.get(settings, "/ready", timeout=0.5)
        if answer and answer.status == HTTPStatus.OK:
            return Event.READY
        ends |= {(program.name, program.started) for program in stack.programs() if program.is_down}
        if max(Counter(name for name, _ in ends).values(), default=0) >= MOST_ENDS:
            return Event.FAILING
    return Event.LATE


def _run(stack: Stack, settings: Settings, events: EventSource, happened: Event) -> int:
    if happened == Event.READY:
        print_welcome(settings)
        happened = events.wait_forever(stack.process)
    if happened == Event.STOP:
        print_lines("Stopping; running answers get 30 s to finish. Ctrl-C again stops at once.")
        return _stop(stack, events)
    print_failure(stack, settings, happened)
    if happened == Event.ENDED:
        _sweep(stack, events)
    else:
        _stop(stack, events)
    return exits.FELL_OVER


def _stop(stack: Stack, events: EventSource) -> int:
    """Stops in order: the api ends its streams, then the broker its workers. A second STOP ends all at once."""
    stack.stop()
    happened = events.wait(stack.process, STOP_TIMEOUT)
    if happened == Event.ENDED:
        _sweep(stack, events)
        return 0
    return INTERRUPTED if happened == Event.STOP else 1


def _sweep(stack: Stack, events: EventSource) -> None:
    """After the end of supervisord: terminates the processes that are left."""
    stack.terminate_the_rest()
    deadline = time.monotonic() + WORKER_GRACE
    while stack.is_anyone_left() and time.monotonic() < deadline:
        if events.wait(stack.process, 0.1) == Event.STOP:
            return
