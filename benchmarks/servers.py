"""The servers that are compared: how each is started and named; everything else is the same for all."""

import asyncio
import json
import signal
import socket
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from random import Random
from tempfile import mkdtemp

from benchmarks import client
from benchmarks.child import Child
from benchmarks.client import Address
from benchmarks.failures import Failed
from benchmarks.plans import Ask, Plan, long_ask
from benchmarks.play import play
from benchmarks.replies import Played, Reply

PATIENCE = 120.0  # seconds to answer for the first time

Spawn = Callable[[Path, int], list[Child]]  # in this folder, to listen on this port


class Server:
    """``models``: the names that requests give; the first is loaded at the start."""

    def __init__(self, spawn: Spawn, models: tuple[str, ...], ready_path: str, folder: Path) -> None:
        self.address = Address(0)
        self.children: list[Child] = []
        self._spawn = spawn
        self._models = models
        self._ready_path = ready_path
        self._folder = folder

    @property
    def alive(self) -> bool:
        return bool(self.children) and all(child.alive for child in self.children)

    async def start(self) -> None:
        self.address = Address(_free_port())
        self.children = self._spawn(Path(mkdtemp(dir=self._folder)), self.address.port)
        try:
            async with asyncio.timeout(PATIENCE):
                await self._ready()
                await self.answer(long_ask(Random("warm-up"), 20, max_tokens=4))
        except TimeoutError:
            raise Failed(f"not ready in {PATIENCE:.0f} s: {self.last_words()}") from None

    async def play(self, plan: Plan, seed: str) -> Played:
        return await play(plan, seed, self.answer)

    async def answer(
        self, ask: Ask, *, keep_text: bool = False, on_first: Callable[[], None] | None = None
    ) -> Reply:
        body = ask.body(self._models)
        return await client.complete(self.address, body, keep_text=keep_text, on_first=on_first)

    def stop(self) -> None:
        """The last started first."""
        while self.children:
            self.children[-1].stop()
            self.children.pop()

    def last_words(self) -> str:
        return "; ".join(f"{child.module}: {child.last_words()}" for child in self.children)

    async def _ready(self) -> None:
        while await client.status(self.address, self._ready_path) != 200:
            if not self.alive:
                raise Failed(f"it ended: {self.last_words()}")
            await asyncio.sleep(0.1)


def our_server(
    folders: Sequence[Path],
    folder: Path,
    worker_command: Sequence[str] = (),
    settings: Mapping[str, str] | None = None,
) -> Server:
    """``worker_command``: another worker than the real one."""
    models = tuple(path.name for path in folders)

    def spawn(run_dir: Path, port: int) -> list[Child]:
        given = {
            **(settings or {}),
            "host": Address.host,
            "port": str(port),
            "run_dir": str(run_dir),
            "cache_dir": str(run_dir / "cache"),
            "available_models": ",".join(f"{path.name}={path}" for path in folders),
            "log_level": "warning",
        }
        if worker_command:
            given["worker_command"] = json.dumps(list(worker_command))
        return [
            # SIGINT: with its workers
            Child("broker", folder=run_dir, settings=given, stop_with=signal.SIGINT),
            Child("api", folder=run_dir, settings=given),
        ]

    return Server(spawn, models, "/ready", folder)


def their_server(folders: Sequence[Path], folder: Path) -> Server:
    """It takes a model's folder for a name, and holds one model at a time."""
    models = tuple(map(str, folders))

    def spawn(run_dir: Path, port: int) -> list[Child]:
        options = [
            "--model",
            models[0],
            "--host",
            Address.host,
            "--port",
            str(port),
            "--log-level",
            "WARNING",
        ]
        return [Child("benchmarks.their_server", *options, folder=run_dir)]

    return Server(spawn, models, "/health", folder)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((Address.host, 0))
        port: int = probe.getsockname()[1]
        return port
