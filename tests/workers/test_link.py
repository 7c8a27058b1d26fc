"""The link thread in a real process, over a real socket."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest
import zmq

from shared import wire
from shared.protocol import (
    Bye,
    Cancel,
    Chunks,
    Delta,
    Done,
    Drain,
    Failed,
    ForgetPrompts,
    Forward,
    Goodbye,
    Heartbeat,
    Lease,
    Loading,
    Part,
    Pong,
    PromptsForgotten,
    Register,
)
from tests.jobs import run
from workers.link import MOST_STUCK

DEADLINE = 60  # seconds, on a busy machine
P = TypeVar("P", bound=Part)


class Broker:
    """The broker's end of a worker's socket."""

    def __init__(self, folder: Path) -> None:
        self.socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.ROUTER)
        self.socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.setsockopt(zmq.RCVTIMEO, 1000 * DEADLINE)
        self.socket.bind(f"ipc://{folder}/worker.sock")
        self.worker = b""
        self.bodies: list[Delta] = []
        self.made_by: set[str] = set()  # digests of weights

    def hear(self) -> Part:
        self.worker, header, *body = self.socket.recv_multipart()
        message: Part = wire.decode(wire.FROM_WORKER, header)
        if body:
            chunks: Chunks = wire.decode(wire.TO_API, body[0])
            self.bodies += chunks.deltas
            self.made_by.add(chunks.digest)
        return message

    def wait_for(self, kind: type[P], where: Callable[[P], bool] = lambda message: True) -> P:
        while True:
            message = self.hear()
            if isinstance(message, kind) and where(message):
                return message

    def say(self, message: Part) -> None:
        self.socket.send_multipart([self.worker, *wire.frames(message)])


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    (tmp_path / "worker.token").write_text("secret")
    broker = Broker(tmp_path)
    yield broker
    broker.socket.close()


def start(folder: Path, *options: str, **settings: str) -> "subprocess.Popen[bytes]":
    environment = {
        **os.environ,
        "MLX_SERVER_RUN_DIR": str(folder),
        "MLX_SERVER_HEARTBEAT_INTERVAL": "0.1",
        **{f"MLX_SERVER_{name.upper()}": value for name, value in settings.items()},
    }
    command = [sys.executable, "-m", "tests.programs.scripted_worker", "--model", "m", *options]
    return subprocess.Popen(command, env=environment)


@pytest.fixture
def worker(tmp_path: Path, broker: Broker) -> "Iterator[subprocess.Popen[bytes]]":
    process = start(tmp_path, "--id", "worker-1", "--step", "0.02")
    yield process
    process.kill()
    process.wait()


def test_a_worker_sends_loading_then_registers_then_sends_heartbeats(broker: Broker, worker: object) -> None:
    first = broker.hear()
    assert isinstance(first, Loading) and (first.model, first.token) == ("m", "secret")
    assert broker.worker == b"worker-1"
    assert broker.wait_for(Register).digest == "scripted"
    assert broker.wait_for(Heartbeat).active == 0


def test_a_request_is_answered_step_by_step_and_its_end_is_in_the_header(
    broker: Broker, worker: object
) -> None:
    broker.wait_for(Register)
    broker.say(run("r1", n=2, max_tokens=3))
    broker.wait_for(Forward, lambda forward: forward.ended == {"r1": 1})
    assert [delta.index for delta in broker.bodies if delta.choice == 1] == [0, 1, 2]
    assert sum(delta.finish is not None for delta in broker.bodies) == 2


def test_all_that_a_worker_says_of_answers_names_the_weights_that_made_them(
    broker: Broker, worker: object
) -> None:
    weights = broker.wait_for(Register).digest
    broker.say(run("r1", max_tokens=3))
    broker.wait_for(Forward, lambda forward: forward.ended == {"r1": 1})
    assert broker.made_by == {weights} != {""}


def test_a_new_epoch_makes_the_worker_register_again_with_its_requests(
    broker: Broker, worker: object
) -> None:
    broker.wait_for(Register)
    broker.say(Pong(epoch="one"))
    broker.wait_for(Register)
    broker.say(run("r1", max_tokens=1000))
    broker.wait_for(Forward)
    broker.say(Pong(epoch="two"))
    assert broker.wait_for(Register).held == {"r1": 1}


def test_a_cancelled_request_sends_nothing_more_and_frees_its_place_in_the_engine(
    broker: Broker, worker: object
) -> None:
    broker.wait_for(Register)
    broker.say(run("r1", max_tokens=100_000))
    broker.wait_for(Forward)
    broker.say(Cancel(request_id="r1"))
    broker.wait_for(Heartbeat, lambda beat: beat.active == 0)
    broker.bodies.clear()
    broker.wait_for(Heartbeat)
    assert broker.bodies == []


def test_an_attempt_that_does_not_join_the_unacked_log_replaces_the_request(
    broker: Broker, worker: object
) -> None:
    broker.wait_for(Register)
    broker.say(run("r1", max_tokens=100_000))
    broker.wait_for(Forward)
    behind = run("r1", attempt=2, max_tokens=3, held=[[1] * 5000])
    broker.say(behind)
    broker.wait_for(Forward, lambda forward: forward.ended == {"r1": 2})
    attempts = [delta.attempt for delta in broker.bodies]
    assert attempts == sorted(attempts) and attempts.count(2) == 1


def test_a_draining_worker_completes_running_requests_refuses_new_ones_and_exits_cleanly(
    broker: Broker, worker: "subprocess.Popen[bytes]"
) -> None:
    broker.wait_for(Register)
    broker.say(run("r1", max_tokens=20))
    broker.wait_for(Forward)
    broker.say(Drain())
    broker.say(run("r2"))
    assert broker.wait_for(Failed).request_id == "r2"
    broker.wait_for(Forward, lambda forward: forward.ended == {"r1": 1})
    broker.wait_for(Bye)
    assert worker.wait(DEADLINE) == 0


def test_sigterm_drains_a_worker(broker: Broker, worker: "subprocess.Popen[bytes]") -> None:
    broker.wait_for(Register)
    broker.say(run("r1", max_tokens=10))
    broker.wait_for(Forward)
    worker.send_signal(signal.SIGTERM)
    broker.wait_for(Forward, lambda forward: forward.ended == {"r1": 1})
    assert worker.wait(DEADLINE) == 0


def until_refused(broker: Broker) -> None:
    """Until the worker has handled a signal: two pending signals of one kind are one."""
    while not isinstance(message := broker.hear(), Failed):
        if isinstance(message, Forward):
            broker.say(run("late", max_tokens=1))


def test_a_second_sigterm_ends_a_worker_without_waiting_for_running_requests(
    broker: Broker, worker: "subprocess.Popen[bytes]"
) -> None:
    broker.wait_for(Register)
    broker.say(run("r1", max_tokens=10_000))
    broker.wait_for(Forward)
    worker.send_signal(signal.SIGTERM)
    until_refused(broker)
    assert worker.poll() is None
    worker.send_signal(signal.SIGTERM)
    broker.wait_for(Bye)
    assert worker.wait(DEADLINE) == 0


@pytest.mark.slow
def test_a_worker_that_does_not_understand_its_broker_finishes_and_leaves(
    broker: Broker, worker: "subprocess.Popen[bytes]"
) -> None:
    broker.wait_for(Register)
    broker.say(run("r1", max_tokens=20))
    broker.wait_for(Forward)
    broker.socket.send_multipart([broker.worker, b"\x81\xa4type\xa4what"])
    broker.wait_for(Forward, lambda message: message.ended == {"r1": 1})
    broker.wait_for(Bye)
    assert worker.wait(DEADLINE) == 0


def test_goodbye_makes_a_worker_leave(broker: Broker, worker: "subprocess.Popen[bytes]") -> None:
    broker.wait_for(Register)
    broker.say(Goodbye(reason="wrong token"))
    assert worker.wait(DEADLINE) == 0


def test_a_worker_without_a_broker_exits_after_the_orphan_grace(tmp_path: Path) -> None:
    (tmp_path / "worker.token").write_text("secret")
    process = start(tmp_path, orphan_grace="0.5")
    assert process.wait(DEADLINE) == 0


def test_a_worker_without_a_token_file_logs_it_and_exits(tmp_path: Path) -> None:
    process = start(tmp_path)
    assert process.wait(DEADLINE) == os.EX_CONFIG


def test_a_new_attempt_resumes_and_is_sent_the_deltas_it_lacks_again(broker: Broker, worker: object) -> None:
    broker.wait_for(Register)
    broker.say(run("r1", max_tokens=40))
    while len(broker.bodies) < 5:
        broker.wait_for(Forward)
    broker.say(run("r1", attempt=2, max_tokens=40, held=[[delta.ids[0] for delta in broker.bodies[:3]]]))
    broker.wait_for(Forward, lambda forward: forward.ended == {"r1": 2})
    second = [delta for delta in broker.bodies if delta.attempt == 2]
    assert [delta.index for delta in second] == list(range(3, 40))
    first = [delta for delta in broker.bodies if delta.attempt == 1]
    assert second[: len(first) - 3] == [d.model_copy(update={"attempt": 2}) for d in first[3:]]


def test_an_ended_request_is_retained_until_the_api_is_done_with_it(broker: Broker, worker: object) -> None:
    broker.wait_for(Register)
    broker.say(run("r1", max_tokens=4))
    broker.wait_for(Forward, lambda forward: forward.ended == {"r1": 1})
    broker.say(run("r1", attempt=2, max_tokens=4, held=[[delta.ids[0] for delta in broker.bodies[:3]]]))
    assert broker.wait_for(Forward).ended == {"r1": 2}
    assert (broker.bodies[-1].index, broker.bodies[-1].finish is not None) == (3, True)
    broker.say(Pong(epoch="new"))
    assert broker.wait_for(Register).held == {"r1": 2}
    broker.say(Done(request_id="r1"))
    broker.say(Pong(epoch="newer"))
    assert broker.wait_for(Register).held == {}


@pytest.mark.slow
def test_a_worker_that_was_suspended_does_not_count_that_time_against_its_broker(
    tmp_path: Path, broker: Broker
) -> None:
    process = start(tmp_path, orphan_grace="2")
    broker.wait_for(Register)
    broker.say(Pong(epoch="one"))
    broker.wait_for(Register)
    process.send_signal(signal.SIGSTOP)
    stopped = time.monotonic()
    while time.monotonic() < stopped + 2.5:
        broker.socket.poll(50)
    process.send_signal(signal.SIGCONT)
    for _ in range(3):
        broker.wait_for(Heartbeat)
        broker.say(Pong(epoch="one"))
    assert process.poll() is None
    process.kill()
    process.wait()


@pytest.fixture
def slow(tmp_path: Path, broker: Broker) -> "Iterator[subprocess.Popen[bytes]]":
    """A worker that prepares prompts with the text "slow" for a minute, longer than its limit."""
    process = start(tmp_path, "--prepare", "60", prepare_timeout="1")
    broker.wait_for(Register)
    yield process
    process.kill()
    process.wait()


def test_requests_in_preparation_are_counted_apart_and_delay_no_other_request(
    broker: Broker, slow: object
) -> None:
    broker.say(run("r1", "slow"))
    broker.wait_for(Heartbeat, lambda beat: (beat.active, beat.preparing) == (1, 1))
    broker.say(run("r2", max_tokens=2))
    broker.wait_for(Forward, lambda forward: forward.ended == {"r2": 1})


@pytest.mark.slow
def test_a_preparation_that_does_not_end_is_refused_and_delays_no_drain(
    broker: Broker, slow: "subprocess.Popen[bytes]"
) -> None:
    broker.say(run("r1", "slow"))
    broker.say(Drain())
    failed = broker.wait_for(Failed)
    assert (failed.request_id, failed.failure.status, failed.failure.param) == ("r1", 400, "prompt")
    broker.wait_for(Bye)
    assert slow.wait(DEADLINE) == 0


def test_a_worker_with_too_many_stuck_preparations_drains_and_exits(
    broker: Broker, slow: "subprocess.Popen[bytes]"
) -> None:
    for i in range(MOST_STUCK):
        broker.say(run(f"r{i}", "slow"))
    assert {broker.wait_for(Failed).request_id for _ in range(MOST_STUCK)} == {
        f"r{i}" for i in range(MOST_STUCK)
    }
    broker.wait_for(Bye)
    assert slow.wait(DEADLINE) == 0


def test_a_request_cancelled_before_its_preparation_is_dropped(broker: Broker, slow: object) -> None:
    for i in range(6):
        broker.say(run(f"r{i}", "slow"))
    for i in range(6):
        broker.say(Cancel(request_id=f"r{i}"))
    broker.wait_for(Heartbeat, lambda beat: (beat.active, beat.preparing) == (0, 0))
    broker.say(run("next", max_tokens=1))
    broker.wait_for(Forward, lambda forward: forward.ended == {"next": 1})


@pytest.mark.slow
def test_a_body_that_cannot_be_decoded_fails_only_its_own_request(broker: Broker, worker: object) -> None:
    broker.wait_for(Register)
    broker.say(run("good", max_tokens=40))
    header, _ = wire.frames(run("bad"))
    broker.socket.send_multipart([broker.worker, header, b"\xc1 no msgpack"])
    broker.socket.send_multipart([broker.worker, wire.frames(run("none"))[0]])
    failures = [broker.wait_for(Failed) for _ in range(2)]
    assert {failed.request_id for failed in failures} == {"bad", "none"}
    assert all("cannot decode this request" in failed.failure.message for failed in failures)
    broker.wait_for(Forward, lambda forward: "good" in forward.ended)


def test_the_link_thread_resumes_a_request_without_decoding_its_body(broker: Broker, worker: object) -> None:
    broker.wait_for(Register)
    broker.say(run("r1", max_tokens=40))
    broker.wait_for(Forward)
    header, _ = wire.frames(run("r1", attempt=2, max_tokens=40))
    broker.socket.send_multipart([broker.worker, header, b"\xc1 no msgpack"])
    while not any(delta.attempt == 2 and delta.finish for delta in broker.bodies):
        assert not isinstance(broker.hear(), Failed)


def test_a_lease_is_confirmed_at_once_by_its_serial_number_and_told_to_the_next_broker(
    broker: Broker, worker: object
) -> None:
    broker.wait_for(Register)
    broker.say(Lease(size=1000, serial=7))
    beat = broker.wait_for(Heartbeat, lambda beat: beat.memory.serial == 7)
    assert beat.memory.obeyed == 1000
    assert beat.memory.footprint > 10_000_000
    broker.say(Pong(epoch="another"))
    assert broker.wait_for(Register, lambda word: word.epoch == "another").lease == 1000


def test_a_worker_confirms_that_it_has_forgotten_what_it_kept(broker: Broker, worker: object) -> None:
    broker.wait_for(Register)
    broker.say(ForgetPrompts(query="q", namespace="one"))
    assert broker.wait_for(PromptsForgotten) == PromptsForgotten(query="q")
