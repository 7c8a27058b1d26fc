"""Clients that read slowly, come in crowds, or send what kills: the others do not notice."""

import signal
import socket
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest

from tests.client import HOST, READ, body_of, chunks, parse_head, post
from tests.faults.client import MARKER, Stream, expected_text
from tests.faults.crowd import ask, ask_until_served, asked, together
from tests.faults.stack import FaultStack, all_right, fault_stack
from tests.faults.test_workers import warm


class SlowReader:
    """Asks for long lines and reads nothing until it is told to."""

    def __init__(self, stack: FaultStack, max_tokens: int, seed: int = 1) -> None:
        body = {
            "model": "a",
            "messages": [{"role": "user", "content": MARKER}],
            "seed": seed,
            "max_tokens": max_tokens,
            "stream": True,
            "logprobs": True,
            "top_logprobs": 2,
        }
        self.expected = expected_text(MARKER, seed, max_tokens)
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self._socket.settimeout(60)
        self._socket.connect((HOST, stack.port))
        self._socket.sendall(post(stack.port, body))

    def is_cut(self, stack: FaultStack) -> bool:
        ours = self._socket.getsockname()[1]
        ends = stack.program("api").net_connections()
        return ours not in [getattr(end.raddr, "port", 0) for end in ends]

    def read(self) -> str:
        """To the end, in order or not; gives the text."""
        # Through the small window each 2 KiB would wait for two turns of a busy processor.
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        data = bytearray()
        with self._socket, suppress(ConnectionResetError):
            while piece := self._socket.recv(READ):
                data += piece
        head, _, body = bytes(data).partition(b"\r\n\r\n")
        choices = [c for chunk in chunks([body_of(parse_head(head)).feed(body)]) for c in chunk["choices"]]
        return "".join(choice["delta"].get("content") or "" for choice in choices)


@pytest.fixture(scope="module")
def busy() -> Iterator[FaultStack]:
    settings = {
        "send_timeout": 4,
        "max_in_flight": 4,
        "queue_per_model": 8,
        "queue_age": 60,
        "first_token_silence": 60,  # a refusal is a status, however long it takes
    }
    with fault_stack("--step", "0.001", "--poison", "deadly", **settings) as stack:
        yield stack
        stack.check()


# ---------------------------------------------------------------- slow readers


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_slow_reader_is_parked_then_cut_and_others_go_on(busy: FaultStack) -> None:
    warm(busy)
    slow = SlowReader(busy, 100_000)
    busy.until(lambda: "is parked" in busy.log("api"), "parked", 120)
    busy.until(lambda: busy.in_flight() == 0, "without a slot for it")
    assert not slow.is_cut(busy)
    for _ in range(5):
        all_right([busy.stream(seed, 30) for seed in range(4)])
    busy.until(lambda: slow.is_cut(busy), "cut")
    text = slow.read()
    assert text and slow.expected.startswith(text) and text != slow.expected


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_reader_that_catches_up_gets_all_of_it(busy: FaultStack) -> None:
    warm(busy)
    before = busy.log("api").count("is parked")
    slow = SlowReader(busy, 12_000, seed=2)
    busy.until(lambda: busy.log("api").count("is parked") > before, "parked", 120)
    assert slow.read() == slow.expected


# ---------------------------------------------------------------- crowds


def fill(stack: FaultStack) -> tuple[list[Stream], list[Stream]]:
    """All slots, until their streams are told to leave, and all places in the queue."""
    running = [stack.stream(seed, 100_000) for seed in range(4)]
    for stream in running:
        stream.wait_for_word()
    waiting = [stack.stream(seed, 5) for seed in range(8)]
    stack.until(lambda: stack.status()["queued"] == 8, "full")
    return running, waiting


@pytest.mark.slow
def test_a_request_that_finds_the_queue_full_is_refused_at_once_and_served_when_it_is_not(
    busy: FaultStack,
) -> None:
    warm(busy)
    running, waiting = fill(busy)
    body = {"model": "a", "messages": [{"role": "user", "content": MARKER}], "stream": True}
    refused = [busy.http.post("/v1/chat/completions", json=body) for _ in range(10)]
    assert busy.status()["queued"] == 8, "refused while those before it still wait"
    for answer in refused:
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "queue_full")
        assert 1 <= int(answer.headers["retry-after"]) <= 60
    for stream in running:
        stream.leave()
    all_right(waiting)
    assert not busy.stream(1, 5).result().wrong


@pytest.mark.slow
def test_a_request_that_waits_too_long_in_the_queue_is_refused_with_a_plain_status() -> None:
    with fault_stack("--step", "0.01", max_in_flight=1, queue_age=2, first_token_silence=20) as stack:
        warm(stack)
        running = stack.stream(1, 9000)
        running.wait_for_word()
        waiting = stack.stream(9, 5).result()
        assert (waiting.status, waiting.errors[0]["code"]) == (503, "queue_full")
        assert 1 <= int(waiting.headers["retry-after"]) <= 60
        assert waiting.took > 1.5
        assert not running.ended
        running.leave()
        stack.check()


@pytest.fixture(scope="module")
def steady() -> Iterator[FaultStack]:
    """Eight at a time, a twentieth of a second for each token; eight may wait."""
    settings = {"max_in_flight": 8, "queue_per_model": 8, "queue_age": 60, "first_token_silence": 60}
    with fault_stack("--step", "0.05", **settings) as stack:
        yield stack
        stack.check()


@pytest.mark.slow
def test_fifty_requests_at_once_fill_the_slots_and_the_queue_and_the_others_are_refused(
    steady: FaultStack,
) -> None:
    warm(steady)
    answers = together(
        lambda seed=seed: ask(steady.port, asked(seed, 80))  # type: ignore[misc]
        for seed in range(50)
    )
    served = [answer for answer in answers if answer.status == 200]
    refused = [answer for answer in answers if answer.status == 503]
    assert (len(served), len(refused)) == (16, 34)
    assert not [answer.wrong for answer in served if answer.wrong]
    assert all(1 <= int(answer.headers["retry-after"]) <= 60 for answer in refused)
    assert {answer.errors[0]["code"] for answer in refused} == {"queue_full"}
    assert not steady.stream(1, 5).result().wrong


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_a_storm_of_retries_costs_almost_nothing(steady: FaultStack) -> None:
    warm(steady)
    alone, storm = served_per_second(steady, 16), served_per_second(steady, 200)
    print(f"{alone:.1f} answers a second, and {storm:.1f} in a storm of 200")
    assert storm > 0.2 * alone, "on a machine that does nothing else it is 0.9"


def served_per_second(stack: FaultStack, clients: int) -> float:
    began = time.monotonic()
    answers = together(
        lambda seed=seed: ask_until_served(stack.port, seed, 10)  # type: ignore[misc]
        for seed in range(clients)
    )
    assert not [answer.wrong for answer in answers if answer.wrong]
    return clients / (time.monotonic() - began)


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_five_hundred_streams_at_once_are_all_whole() -> None:
    streams, tokens = 500, 40
    settings = {"max_in_flight": streams, "queue_per_model": streams, "heartbeat_timeout": 10}
    with fault_stack("--step", "0.25", **settings) as stack:
        broker = stack.program("broker")
        warm(stack)
        before, began = sum(broker.cpu_times()[:2]), time.monotonic()
        answers = together(
            lambda seed=seed: ask(stack.port, asked(seed, tokens))  # type: ignore[misc]
            for seed in range(streams)
        )
        load = (sum(broker.cpu_times()[:2]) - before) / (time.monotonic() - began)
        gaps = sorted(gap for answer in answers for gap in answer.gaps)
        print(f"broker: {load:.2f} of a core; gaps: p50 {gaps[len(gaps) // 2]:.2f} s,", end=" ")
        print(f"p99 {gaps[len(gaps) * 99 // 100]:.2f} s; {stack.program('api').num_fds()} files afterwards")
        assert not [answer.wrong for answer in answers if answer.wrong]
        assert load < 1.0
        stack.check()


# ---------------------------------------------------------------- poison


@pytest.mark.slow
@pytest.mark.parametrize("innocent", [3, 8])
def test_poison_is_found_out_and_innocents_finish(busy: FaultStack, innocent: int) -> None:
    """``busy`` runs four at a time: of eight, the others are in the queue."""
    warm(busy)
    deaths = len(busy.status()["deaths"])
    innocents = [busy.stream(seed, 800) for seed in range(innocent)]
    for stream in innocents[:3]:
        stream.wait_for_word()
    poison = busy.stream(5, 10, say=f"deadly {innocent}").result()
    assert [error["code"] for error in poison.errors] == ["request_crashed_engine"]
    all_right(innocents)
    crashes = len(busy.status()["deaths"])
    assert crashes <= deaths + 3
    again = busy.stream(6, 10, say=f"deadly {innocent}").result()
    assert (again.status, again.errors[0]["code"]) == (422, "request_crashed_engine")
    assert len(busy.status()["deaths"]) == crashes, "refused without a try"
    assert not busy.stream(7, 10).result().wrong


# ---------------------------------------------------------------- the api's own death


@pytest.mark.slow
def test_a_killed_api_frees_what_it_had_while_its_brother_serves() -> None:
    """With a single api process supervisord closes the port until the next one is there."""
    with fault_stack("--step", "0.01", api_processes=2) as stack:
        warm(stack)
        streams = [stack.stream(seed, 150) for seed in range(8)]
        for stream in streams:
            stream.wait_for_word()
        stack.program("api").send_signal(signal.SIGKILL)
        late = stack.stream(2, 10)
        answers = [stream.result() for stream in streams]
        assert not [answer.wrong for answer in answers if not answer.broken and answer.wrong]
        assert not late.result().wrong
        stack.check()
