"""The real broker process on a run directory of its own, and peers that speak to it over raw sockets."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import psutil
import zmq
from pydantic import BaseModel, TypeAdapter

from shared.protocol import (
    BrokerToApi,
    BrokerToWorker,
    Chunks,
    Delta,
    Heartbeat,
    ModelStatus,
    Ping,
    Pong,
    Register,
    Status,
    StatusReport,
)
from shared.wire import TO_API, TO_WORKER, decode, frames
from tests.broker.plays import submit

M = TypeVar("M", bound=BaseModel)

ROOT = Path(__file__).parent.parent.parent
DEADLINE = 60.0  # for what should be a matter of milliseconds, and is on a quiet machine


def until(condition: Callable[[], object], deadline: float = DEADLINE) -> float:
    """Waits for it; returns how long that took."""
    begun = time.monotonic()
    while not condition():
        assert time.monotonic() < begun + deadline, "did not happen"
        time.sleep(0.002)
    return time.monotonic() - begun


def ended(process: psutil.Process) -> bool:
    """A zombie has ended; whether it was reaped is another question."""
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


class Peer:
    def __init__(self, path: Path, name: str | bytes, direction: TypeAdapter[Any]) -> None:
        self.name = name if isinstance(name, str) else name.decode("latin-1")
        self.direction = direction
        self.socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.DEALER)
        self.socket.set(zmq.ROUTING_ID, name.encode() if isinstance(name, str) else name)
        self.socket.set(zmq.LINGER, 0)
        self.socket.set(zmq.RECONNECT_IVL, 20)
        self.socket.connect(f"ipc://{path}")

    def say(self, message: BaseModel, *body: bytes) -> None:
        self.socket.send_multipart([*frames(message), *body])

    def say_frames(self, *frames: bytes) -> None:
        self.socket.send_multipart(frames)

    def hear(self, kind: type[M], deadline: float = DEADLINE) -> M:
        """The next message of that kind; what comes before it is dropped. An api says meanwhile that it lives."""
        others = []
        end = time.monotonic() + deadline
        while time.monotonic() < end:
            if not self.socket.poll(100):
                if self.direction is TO_API and kind is not Pong:
                    self.say(Ping())
                continue
            message: BrokerToApi | BrokerToWorker = decode(self.direction, self.socket.recv_multipart()[0])
            if isinstance(message, kind):
                return message
            if not isinstance(message, Pong):
                others.append(message)
        raise AssertionError(f"{self.name} heard no {kind.__name__}, but {others}")

    def generate(self, request_id: str, model: str = "a", attempt: int = 1) -> list[Delta]:
        """Asks, and reads to the end."""
        self.say(submit(request_id, model, attempt))
        deltas: list[Delta] = []
        while not deltas or not deltas[-1].finish:
            deltas += [d for d in self.hear(Chunks).deltas if d.request_id == request_id]
        return deltas

    def status(self) -> StatusReport:
        self.say(Status(query=str(time.monotonic())))
        return self.hear(StatusReport)

    def model(self, id: str = "a") -> ModelStatus:
        [found] = [model for model in self.status().models if model.id == id]
        return found


class Stack:
    def __init__(self, run_dir: Path, *worker_options: str, **settings: object) -> None:
        self.run_dir = run_dir
        command = [sys.executable, "-m", "tests.programs.minimal_worker", *worker_options]
        wanted = {
            "run_dir": run_dir,
            "available_models": "a=/nowhere,b=/nowhere",
            "worker_command": json.dumps(command),
            "heartbeat_interval": 0.1,
            "heartbeat_timeout": 5.0,
        } | settings
        ours = {f"MLX_SERVER_{key.upper()}": str(value) for key, value in wanted.items()}
        self.environment = {**os.environ, **ours, "PYTHONPATH": str(ROOT)}
        self.peers: list[Peer] = []
        self.orphans: list[psutil.Process] = []
        self.log = run_dir.parent / "broker.log"
        self.process = self.start()

    def start(self) -> "subprocess.Popen[bytes]":
        """A broker, or one more."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "broker"], env=self.environment, stderr=log, cwd=self.run_dir.parent
            )
        return self.process

    def api(self, name: str | bytes = "api-1") -> Peer:
        """Connected: it has heard the epoch."""
        api = Peer(self.run_dir / "api.sock", name, TO_API)
        self.peers.append(api)
        api.say(Ping())
        api.hear(Pong)
        return api

    def peer(self, name: str | bytes, socket: str) -> Peer:
        peer = Peer(self.run_dir / f"{socket}.sock", name, TO_API if socket == "api" else TO_WORKER)
        self.peers.append(peer)
        return peer

    def worker(self, name: str = "worker-static", model: str = "a") -> Peer:
        """One that the test plays itself, registered."""
        worker = self.peer(name, "worker")
        worker.say(Register(token=self.token, model=model, pid=os.getpid(), digest="d", context_length=4096))
        worker.say(Heartbeat(epoch="", step=0, active=0))
        worker.hear(Pong)
        return worker

    @property
    def token(self) -> str:
        return (self.run_dir / "worker.token").read_text().strip()

    def children(self) -> list[psutil.Process]:
        """The workers of this broker, zombies too."""
        found = psutil.Process(self.process.pid).children()
        self.orphans += found
        return found

    def signal(self, number: int) -> None:
        self.children()
        self.process.send_signal(number)

    def wait(self) -> int:
        return self.process.wait(DEADLINE)

    def printed(self) -> str:
        return self.log.read_text()

    def close(self) -> None:
        for log in (self.log, *(self.run_dir / "log").glob("*")):
            print(f"--- {log.name}\n{log.read_text()}")  # pytest shows it when the test failed
        for peer in self.peers:
            peer.socket.close()
        if self.process.poll() is None:
            self.children()
            self.process.kill()
            self.process.wait()
        for orphan in self.orphans:
            if not ended(orphan):
                orphan.kill()
