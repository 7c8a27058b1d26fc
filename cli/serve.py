"""``mlx-server serve``: claim, start, wait until it is ready, stay in the foreground, leave nothing behind."""

import sys
import time
from collections import Counter
from collections.abc import Mapping
from http import HTTPStatus
from typing import IO, Any

from rich.console import Console

from cli import claim, probe
from cli.models import wrong_models
from cli.news import News, Newsroom
from cli.stack import Stack
from cli.words import print_failure, print_lines, print_welcome
from shared import exits
from shared.settings import Settings, load_settings

STOP_TIMEOUT = 120.0  # more than supervisord.conf gives the api and the broker together
MOST_FALLS = 4  # of one program while we wait for it; takes supervisord about 10 s
LAST_GRACE = 10.0  # for workers that outlive the broker


def serve(options: Mapping[str, Any], ready_timeout: float) -> int:
    """Returns the exit code: 0 after an orderly stop, 1 if it did not come up or fell over, 75 if all is taken."""
    settings = load_settings(**options)
    if wrong := [line for line in (settings.open_to_others, *wrong_models(settings)) if line]:
        print_lines(*(f"mlx-server: {line}" for line in wrong), file=sys.stderr)
        return exits.UNUSABLE
    try:
        lock = _claim(settings)
    except claim.Refusal as refusal:
        print_lines(f"mlx-server: {refusal}", file=sys.stderr)
        return refusal.exit_code
    news = Newsroom()
    with lock:
        stack = Stack(settings, options)
        try:
            with Console().status("Starting …"):
                happened = _until_ready(stack, settings, news, ready_timeout)
            return _run(stack, settings, news, happened)
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


def _until_ready(stack: Stack, settings: Settings, news: Newsroom, patience: float) -> News:
    deadline = time.monotonic() + patience
    falls = set[tuple[str, int]]()
    while time.monotonic() < deadline:
        if happened := news.wait(stack.process, 0.1):
            return happened
        # supervisord's socket takes connections before there is an api to answer them: do not wait long for one
        answer = probe.get(settings.host, settings.port, "/ready", timeout=0.5)
        if answer and answer.status == HTTPStatus.OK:
            return News.READY
        falls |= {(program.name, program.started) for program in stack.programs() if program.is_down}
        if max(Counter(name for name, _ in falls).values(), default=0) >= MOST_FALLS:
            return News.FALLING
    return News.LATE


def _run(stack: Stack, settings: Settings, news: Newsroom, happened: News) -> int:
    if happened == News.READY:
        print_welcome(settings)
        happened = news.wait_for_ever(stack.process)
    if happened == News.STOP:
        print_lines("Stopping; running answers get 30 s to finish. Ctrl-C again stops at once.")
        return _stop(stack, news)
    print_failure(stack, settings, happened)
    if happened == News.ENDED:
        _sweep(stack, news)
    else:
        _stop(stack, news)
    return exits.FELL_OVER


def _stop(stack: Stack, news: Newsroom) -> int:
    """All in order: the api ends its streams, the broker its workers. Another STOP cuts it short."""
    stack.stop()
    happened = news.wait(stack.process, STOP_TIMEOUT)
    if happened == News.ENDED:
        _sweep(stack, news)
        return 0
    return 130 if happened == News.STOP else 1


def _sweep(stack: Stack, news: Newsroom) -> None:
    """supervisord has ended: asks whoever is left to end, too."""
    stack.terminate_the_rest()
    deadline = time.monotonic() + LAST_GRACE
    while stack.is_anyone_left() and time.monotonic() < deadline:
        if news.wait(stack.process, 0.1) == News.STOP:
            return
