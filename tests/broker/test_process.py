"""The broker as a process: sockets, children, signals and the run directory."""

import os
import random
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import msgpack
import psutil
import pytest
import zmq
from pydantic import BaseModel

from shared.protocol import (
    Ack,
    Bye,
    Cancel,
    Chunks,
    Forward,
    Goodbye,
    Heartbeat,
    LoadFailed,
    Loading,
    Ping,
    Pong,
    Refused,
    Register,
    Resubmit,
    RunHeader,
)
from shared.wire import MAX_FRAME, decode, encode, frames
from tests.broker.plays import header, submit
from tests.broker.stack import DEADLINE, ROOT, Peer, Stack, until

Start = Callable[..., Stack]


# ---------------------------------------------------------------- workers


def test_one_worker_is_spawned_for_many_requests_and_answers_them_all(start: Start) -> None:
    stack = start()
    api = stack.api()
    for number in range(20):
        api.say(submit(f"r{number}"))
    texts = dict.fromkeys((f"r{number}" for number in range(20)), "")
    while any(text != "Hello world" for text in texts.values()):
        for delta in api.hear(Chunks).deltas:
            texts[delta.request_id] += delta.text
    assert len(stack.children()) == 1
    assert api.status().in_flight == 0


@pytest.mark.slow
def test_worker_is_in_a_session_of_its_own_and_writes_to_its_log(start: Start) -> None:
    stack = start()
    stack.api().generate("r1")
    [worker] = stack.children()
    assert os.getsid(worker.pid) == worker.pid
    assert worker.open_files() == [] or all(str(stack.run_dir / "log") in f.path for f in worker.open_files())
    [log] = (stack.run_dir / "log").iterdir()
    assert log.stat().st_mode & 0o777 == 0o600


def test_kill_9_is_noticed_at_once_and_leaves_no_zombie(start: Start) -> None:
    stack = start(heartbeat_timeout=60)  # silence would be noticed long after this test has given up
    api = stack.api()
    api.generate("r1")
    [worker] = stack.children()
    worker.send_signal(signal.SIGSTOP)
    api.say(submit("r2"))
    until(lambda: api.status().in_flight == 1)
    worker.kill()
    resubmit = api.hear(Resubmit)
    assert (resubmit.request_id, resubmit.attempt) == ("r2", 1)
    assert "SIGKILL" in resubmit.reason
    assert "Hello" in api.generate("r2", attempt=2)[0].text
    assert worker.pid not in [child.pid for child in stack.children()]


@pytest.mark.slow
def test_request_that_kills_its_worker_three_times_is_given_up(start: Start) -> None:
    api = start("--die-after", "0").api()
    for attempt in (1, 2, 3):
        api.say(submit("r1", attempt=attempt, losses=attempt - 1))
        assert "SIGKILL" in api.hear(Resubmit).reason
    api.say(submit("r1", attempt=4, losses=3))
    failure = api.hear(Refused).failure
    assert (failure.status, failure.code) == (500, "worker_lost")


@pytest.mark.slow
def test_a_silent_worker_is_noticed_and_ended(start: Start) -> None:
    stack = start("--silent", heartbeat_timeout=0.5)
    api = stack.api()
    api.say(submit("r1"))
    until(stack.children)
    [worker] = stack.children()
    until(lambda: api.status().in_flight == 1)
    assert "silent for 0.5 s" in api.hear(Resubmit).reason
    until(lambda: not worker.is_running())


def test_an_exit_at_start_is_refused_with_its_code_and_logged_with_its_log(start: Start) -> None:
    stack = start("--exit-on-start", "7")
    api = stack.api()
    api.say(submit("r1"))
    failure = api.hear(Refused).failure
    assert (failure.status, failure.code) == (503, "model_unavailable")
    assert "exited with code 7 before it was ready" in failure.message
    assert str(stack.run_dir) not in failure.message
    [line] = [line for line in stack.printed().splitlines() if "ended: 7" in line]
    assert str(stack.run_dir / "log") in line
    assert api.model().state == "failed"
    assert stack.children() == []


@pytest.mark.slow
def test_a_worker_command_that_is_not_there_is_named(start: Start) -> None:
    api = start(worker_command='["/no/such/program"]').api()
    api.say(submit("r1"))
    message = api.hear(Refused).failure.message
    assert "'program': No such file or directory" in message
    assert "/no/such" not in message, "clients need not know the server's folders"


@pytest.mark.slow
def test_a_load_without_a_message_is_given_up(start: Start) -> None:
    stack = start("--never-ready", load_timeout=1.0)
    api = stack.api()
    api.say(submit("r1"))
    assert "no progress" in api.hear(Refused).failure.message
    until(lambda: not stack.children())


def test_model_id_that_is_a_path_stays_a_name(start: Start) -> None:
    stack = start(available_models="a/../../b=/nowhere")
    assert stack.api().generate("r1", model="a/../../b")
    [log] = (stack.run_dir / "log").iterdir()
    assert log.name.startswith("worker-a-..-..-b-")


# ---------------------------------------------------------------- peers


def test_body_of_a_forward_reaches_the_api_unopened(start: Start) -> None:
    stack = start()
    api, worker = stack.api(), stack.worker()
    worker.say(Forward(api="api-1"), b"anything at all")
    assert api.socket.poll(1000 * int(DEADLINE))
    assert api.socket.recv() == b"anything at all"


def test_api_that_is_gone_has_its_requests_cancelled(start: Start) -> None:
    stack = start()
    api, worker = stack.api("api-short"), stack.worker()
    api.say(submit("r1"))
    worker.hear(RunHeader)
    api.socket.close()
    begun = time.monotonic()
    while not worker.socket.poll(0):
        worker.say(Forward(api="api-short"), b"")
        assert time.monotonic() < begun + DEADLINE
        worker.socket.poll(10)
    assert worker.hear(Cancel).request_id == "r1"


def test_a_forward_to_an_api_that_never_was_does_no_harm(start: Start) -> None:
    stack = start()
    api, worker = stack.api(), stack.worker()
    worker.say(Forward(api="api-nobody"), b"x")
    worker.say(Forward(api="not äscii"), b"x")
    worker.say(Forward(api=""), b"x")
    assert api.status().workers[0].id == "worker-static"


def test_cancel_frees_the_slot_of_a_stuck_run(start: Start) -> None:
    stack = start()
    api, worker = stack.api(), stack.worker()
    api.say(submit("r1"))
    worker.hear(RunHeader)
    api.say(Cancel(request_id="r1"))
    assert worker.hear(Cancel).request_id == "r1"
    assert api.status().in_flight == 0


GARBAGE = [
    [b""],
    [b"\xc1"],
    [b"\x90" * 100_000],
    [b"\x91" * 100_000],
    [b"\xdd\xff\xff\xff\xff"],
    [encode(Ping()), b"more", b"and more"],
    [b"{}", b"{}"],
    [encode(Forward(api="api-1"))],
    [encode(Heartbeat(epoch="", step=0, active=0)), b"a body"],
    [encode(RunHeader(api="api-1", submit=header("r1")))],
    [encode(header("r1")), b"a body", b"another"],
]


@pytest.mark.parametrize("side", ["api", "worker"])
def test_garbage_is_survived_and_logged_once_for_each_peer(start: Start, side: str) -> None:
    stack = start()
    api = stack.api("api-good")
    peers = [stack.peer(name, side) for name in (f"{side}-bad", "\u00e9".encode(), b"\x01\n")]
    for peer in peers:
        for garbage in GARBAGE * 20:
            peer.say_frames(*garbage)
        peer.say(Ping() if side == "api" else Heartbeat(epoch="", step=0, active=0))
    peers[0].hear(Pong)
    until(lambda: stack.printed().count("no message") >= 3)
    assert stack.printed().count("sent what is no message") == 3
    assert api.status().queued == 0
    if side == "worker":
        peers[1].hear(Goodbye)


@pytest.mark.slow
def test_too_large_a_frame_cuts_its_sender_only(start: Start) -> None:
    stack = start()
    api, bad = stack.api(), stack.api("api-bad")
    bad.say_frames(b"x" * (MAX_FRAME + 1))
    assert api.generate("r1")


def damaged(rng: random.Random, frame: bytes) -> bytes:
    data = bytearray(frame)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(data) + 1)
        data[at : at + rng.randint(0, 3)] = rng.randbytes(rng.randint(0, 4))
    return bytes(data)


@pytest.mark.slow
def test_ten_thousand_damaged_frames_do_no_harm(start: Start) -> None:
    stack = start()
    api = stack.api()
    rng = random.Random(36)
    words = {
        "api": [submit("r9"), Ack(request_id="r1", choice=0, next_index=1), Ping()],
        "worker": [
            Loading(token="guess", model="a", pid=1),
            Register(token="guess", model="a", pid=1, digest="d", context_length=1),
            Heartbeat(epoch="", step=0, active=0),
            Forward(api="api-1", ended={"r1": 1}),
        ],
    }
    bad = {side: stack.peer(f"{side}-bad", side) for side in words}
    for _ in range(5000):
        for side, peer in bad.items():
            peer.say_frames(
                *[damaged(rng, frame) for frame in frames(rng.choice(words[side]))],
                *[rng.randbytes(9)] * rng.randint(0, 1),
            )
    bad["api"].say(Ping())
    bad["api"].hear(Pong)
    assert api.generate("r1")
    assert "Traceback" not in stack.printed()


def shakes_hands(peer: Peer) -> None:
    """Connects it anew, and waits until the broker's socket knows it."""
    endpoint = peer.socket.get_string(zmq.LAST_ENDPOINT)
    monitor = peer.socket.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED)
    peer.socket.disconnect(endpoint)
    peer.socket.connect(endpoint)
    assert monitor.poll(1000 * int(DEADLINE))
    peer.socket.disable_monitor()
    monitor.close()


def test_two_workers_of_one_name_never_get_each_others_messages(start: Start) -> None:
    """The second one hears nothing. Real workers have names of their own, and leave when no broker answers."""
    stack = start()
    api, first = stack.api(), stack.worker("worker-twin")
    twin = stack.peer("worker-twin", "worker")
    shakes_hands(twin)
    twin.say(Register(token=stack.token, model="b", pid=1, digest="d", context_length=4096))
    for number in range(5):
        api.say(submit(f"r{number}"))
        assert first.hear(RunHeader).submit.request_id == f"r{number}"
    assert [worker.model for worker in api.status().workers] == ["a"]
    assert not twin.socket.poll(0)


def test_peers_of_other_versions_are_served_or_sent_away(start: Start) -> None:
    """They send fields that we do not know, leave out optional ones, or send messages that we do not know."""
    stack = start()
    api = stack.api()
    newer, newest = stack.peer("worker-newer", "worker"), stack.peer("worker-newest", "worker")
    register = {"type": "register", "token": stack.token, "model": "a", "pid": 1, "digest": "d"}
    newer.say_frames(msgpack.packb({**register, "context_length": 16, "colour": {"of": ["it"]}}))
    until(lambda: api.model().state == "hot")
    api.say_frames(msgpack.packb({**header("r1").model_dump(exclude_none=True), "colour": "red"}), b"body")
    assert newer.hear(RunHeader).submit.request_id == "r1"
    newest.say_frames(msgpack.packb({"type": "telepathy", "token": stack.token}))
    newest.hear(Goodbye)
    assert len(api.status().workers) == 1


def test_a_worker_with_a_wrong_token_is_sent_away_and_never_logged_as_ready(start: Start) -> None:
    stack = start()
    api = stack.api()
    liar = stack.peer("worker-liar", "worker")
    for word in (
        Loading(token="guess", model="a", pid=1),
        Register(token="guess", model="a", pid=1, digest="d", context_length=16),
    ):
        liar.say(word)
        assert liar.hear(Goodbye).reason == "wrong token"
    liar.say(LoadFailed(reason="lies", permanent=True))
    liar.say(Bye(reason="lies"))
    assert api.status().workers == []
    assert not re.search(r"worker-liar (is ready|leaves|cannot load)", stack.printed())


@pytest.mark.slow
def test_a_slow_api_holds_no_other_up_and_is_dropped_in_the_end(start: Start) -> None:
    """It is connected and reads nothing; what is sent to it fills its buffers, ours, and then its patience."""
    stack = start(heartbeat_timeout=20)
    slow, api, worker = stack.api("api-slow"), stack.api(), stack.worker()
    slow.socket.set(zmq.RCVHWM, 1)
    slow.say(submit("r1"))
    worker.hear(RunHeader)
    body = b"x" * 20_000
    sent = 0
    while not worker.socket.poll(0):
        for _ in range(100):
            worker.say(Forward(api="api-slow"), body)
        sent += 100
        assert api.status().pid == stack.process.pid
        assert sent < 50_000, "never dropped"
    assert worker.hear(Cancel).request_id == "r1"


@pytest.mark.slow
def test_a_worker_that_does_not_read_holds_no_other_up_and_is_given_up_in_the_end(start: Start) -> None:
    stack = start(heartbeat_timeout=20)
    api, other, slow = stack.api(), stack.api("api-2"), stack.worker("worker-slow")
    api.say(submit("r1"))
    slow.hear(RunHeader)
    ack, longest, sent = Ack(request_id="r1", choice=0, next_index=1), 0.0, 0
    while not [reply for reply in heard(api) if isinstance(reply, Resubmit)]:
        for _ in range(200):
            api.say(ack)
        sent += 200
        assert sent < 500_000, "never given up"
        began = time.monotonic()
        assert other.status().pid == stack.process.pid
        longest = max(longest, time.monotonic() - began)
    assert longest < 5, "a broker that waits for one peer answers nobody else"
    assert other.generate("r2")


def heard(peer: Peer) -> list[BaseModel]:
    """What has come so far."""
    messages = []
    while peer.socket.poll(0):
        messages.append(decode(peer.direction, peer.socket.recv()))
    return messages


# ---------------------------------------------------------------- the run directory


def test_too_few_files_are_refused_in_one_line(folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "broker"],
        env={**os.environ, "PYTHONPATH": str(ROOT), "MLX_SERVER_RUN_DIR": str(folder / "run")},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256)),
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert done.returncode == 78
    [line] = done.stderr.splitlines()
    assert "256 files" in line and "1024" in line


@pytest.mark.slow
def test_second_broker_names_the_first_and_leaves(start: Start) -> None:
    stack = start()
    api = stack.api()
    first = stack.process
    second = stack.start()
    assert second.wait(DEADLINE) == 75
    stack.process = first
    [line] = [line for line in stack.printed().splitlines() if "another broker" in line]
    assert f"(pid {first.pid})" in line
    assert "Traceback" not in stack.printed()
    assert api.generate("r1")


def test_broker_starts_over_the_remains_of_a_killed_one(start: Start) -> None:
    stack = start()
    first = stack.api()
    token = stack.token
    stack.process.kill()
    stack.process.wait()
    assert (stack.run_dir / "api.sock").is_socket()
    stack.start()
    first.say(Ping())
    first.hear(Pong)
    assert stack.token == token


def test_run_directory_that_cannot_be_trusted_is_refused_in_one_line(start: Start) -> None:
    stack = start()
    stack.api()
    stack.process.kill()
    stack.process.wait()
    stack.run_dir.rename(stack.run_dir.with_name("elsewhere"))
    stack.run_dir.symlink_to(stack.run_dir.with_name("elsewhere"))
    stack.log.unlink()
    stack.start()
    assert stack.wait() == 78
    assert len(stack.printed().splitlines()) == 1


# ---------------------------------------------------------------- what it costs


def test_broker_imports_no_machine_learning() -> None:
    program = "import sys, broker.__main__; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    heavy = {"mlx", "mlx_lm", "transformers", "huggingface_hub", "numpy", "falcon"}
    assert not heavy & set(done.stdout.split())


def test_broker_stays_small(start: Start) -> None:
    stack = start()
    stack.api()
    assert psutil.Process(stack.process.pid).memory_info().rss < 80 << 20


@pytest.mark.slow
def test_a_broker_that_was_stopped_judges_no_peer_silent(start: Start) -> None:
    """Its workers and apis spoke in vain while it could not listen."""
    stack = start(heartbeat_timeout=0.5)
    api = stack.api()
    api.generate("r1")
    [worker] = stack.children()
    stack.process.send_signal(signal.SIGSTOP)
    stopped = time.monotonic()
    until(lambda: time.monotonic() - stopped > 1.2)
    stack.process.send_signal(signal.SIGCONT)
    assert api.generate("r2")
    assert [child.pid for child in stack.children()] == [worker.pid]
    assert "silent" not in stack.printed()
