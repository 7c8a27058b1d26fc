"""For how long large bodies stop the event loop of an api process."""

import json
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from shared.settings import Settings
from tests.api.conftest import MODELS
from tests.api.fake_broker import DEADLINE, FakeBroker

MIB = 1 << 20
SIZE = 30 * MIB
STOP = 0.4  # seconds of CPU time; a whole parse on the loop takes more than 1
CHAT, COMPLETIONS, RESPONSES, MESSAGES = (
    f"/v1/{path}" for path in ("chat/completions", "completions", "responses", "messages")
)


@pytest.fixture(scope="module")
def api() -> Iterator[httpx.Client]:
    folder = Path(tempfile.mkdtemp(prefix="mlx", dir="/tmp"))
    settings = Settings(available_models=tuple(f"{model}=/none" for model in MODELS), run_dir=folder)
    broker = FakeBroker(settings.api_socket)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        fd = listener.fileno()
        program = [sys.executable, "-m", "tests.programs.timed_api", settings.model_dump_json(), str(fd)]
        process = subprocess.Popen(program, pass_fds=[fd])
        base = f"http://127.0.0.1:{listener.getsockname()[1]}"
    try:
        with httpx.Client(base_url=base, timeout=10 * DEADLINE) as client:
            client.get("/health")
            yield client
    finally:
        process.terminate()
        process.wait(DEADLINE)
        broker.close()
        shutil.rmtree(folder)


def body(**fields: Any) -> bytes:
    return json.dumps({"model": "tiny", **fields}, ensure_ascii=False).encode()


def said(content: Any, **fields: Any) -> bytes:
    return body(messages=[{"role": "user", "content": content}], **fields)


def of(unit: str) -> str:
    return unit * (SIZE // len(json.dumps(unit, ensure_ascii=False).encode()[1:-1]))


def with_unknown(values: bytes) -> bytes:
    return said("Hi")[:-1] + b', "x": [' + values + b"]}"


PARTS = [{"type": "text", "text": "a" * 14_000}] * 2000
TURNS = [{"role": "user", "content": "a" * 14_000}] * 2000

KINDS: dict[str, tuple[str, Callable[[], bytes]]] = {
    "words": (CHAT, lambda: said(of("word "))),
    "two bytes a letter": (CHAT, lambda: said(of("é"))),
    "three bytes a letter": (CHAT, lambda: said(of("漢"))),
    "four bytes a letter": (CHAT, lambda: said(of("🎉"))),
    "line ends": (CHAT, lambda: said(of("\n"))),
    "quotes": (CHAT, lambda: said(of('"'))),
    "letters as numbers": (CHAT, lambda: said("X").replace(b"X", rb"\u6f22" * (SIZE // 6))),
    "parts": (CHAT, lambda: said(PARTS)),
    "turns": (CHAT, lambda: body(messages=TURNS)),
    "one text": (COMPLETIONS, lambda: body(prompt=of("word "))),
    "a hundred texts": (COMPLETIONS, lambda: body(prompt=["a" * 300_000] * 100)),
    "a million ids": (COMPLETIONS, lambda: body(prompt=list(range(1_000_000)))),
    "items": (RESPONSES, lambda: body(input=TURNS)),
    "items that are too long": (RESPONSES, lambda: body(input=TURNS, truncation="auto")),
    "system": (MESSAGES, lambda: said("Hi", system=of("word "), max_tokens=1)),
    "blocks": (MESSAGES, lambda: said(PARTS, max_tokens=1)),
    "unknown lists": (CHAT, lambda: with_unknown(b"[]," * 60_000 + b'"' + b"a" * SIZE + b'"')),
    "too many lists": (CHAT, lambda: with_unknown(b"[]," * (SIZE // 3) + b"0")),
    "unknown strings": (CHAT, lambda: with_unknown(b'"%b",' % (b"a" * 150) * 190_000 + b"0")),
    "too many strings": (CHAT, lambda: with_unknown(b'"a",' * (SIZE // 4) + b"0")),
    "unknown numbers": (CHAT, lambda: with_unknown(b"1.234567890123456789012345," * 1_000_000 + b"0")),
    "keys": (CHAT, lambda: said("Hi", x={f"{i:0100}": i for i in range(190_000)})),
    "blanks": (CHAT, lambda: said("Hi") + b" " * SIZE),
    "half a body": (CHAT, lambda: said(of("word "))[:-3]),
    "a wrong end": (CHAT, lambda: said(of("word "), temperature="hot")),
}


def longest_stops(api: httpx.Client, path: str, data: bytes, at_once: int = 1) -> tuple[float, float]:
    """Of the process and of the loop's thread."""
    headers = {"content-type": "application/json"}
    api.get("/stopped")
    with ThreadPoolExecutor(at_once) as clients:
        answers = clients.map(lambda _: api.post(path, content=data, headers=headers), range(at_once))
        assert {answer.status_code for answer in answers} <= {200, 400}
    of_process, of_loop = api.get("/stopped").json()
    return of_process, of_loop


def test_a_large_prompt_does_not_stop_the_event_loop(api: httpx.Client) -> None:
    path, data = KINDS["words"]
    of_process, of_loop = longest_stops(api, path, data())
    assert of_process < STOP
    assert of_loop < STOP / 2


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_three_large_bodies_at_once_do_not_stop_the_event_loop(api: httpx.Client, kind: str) -> None:
    """The side thread may hold the interpreter's lock for one call of a parser, which is not measured here.

    On a machine whose fresh memory is slow such a call took 1.5 s of CPU time.
    """
    path, data = KINDS[kind]
    assert longest_stops(api, path, data(), at_once=3)[1] < 1.5 * STOP
