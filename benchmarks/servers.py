"""The servers that are compared: how each is started, asked and ended; everything else is the same for both."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from random import Random
from tempfile import mkdtemp

import httpx
import psutil

from benchmarks.client import Failed, Played, Reply, complete, play
from benchmarks.workloads import Ask, Plan, long_ask
from shared.settings import PREFIX
from tests.client import HOST

ROOT = Path(__file__).resolve().parent.parent
READY = 120.0  # seconds to answer for the first time
END = 10.0  # seconds to end in order


class Child:
    """``python -m module``, in a session of its own: Ctrl-C reaches us alone, and we end the children in order."""

    def __init__(
        self,
        module: str,
        *arguments: str,
        folder: Path,
        settings: Mapping[str, str] | None = None,
        stop_with: signal.Signals = signal.SIGTERM,
    ) -> None:
        self.module = module
        self.log = folder / f"{module}.log"
        self._stop_with = stop_with
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", module, *arguments],
                cwd=folder,  # not where a developer's .env is
                env=environment(settings or {}),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def last_words(self, lines: int = 3) -> str:
        return " | ".join(self.log.read_text(errors="replace").strip().splitlines()[-lines:])

    def stop(self) -> None:
        """Ends it and whatever it started; nothing is left when this returns."""
        family = self._family()
        if self.alive:
            self.process.send_signal(self._stop_with)
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(END)
        _, left = psutil.wait_procs(family, timeout=0.5)
        for process in left:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self.process.wait()

    def _family(self) -> list[psutil.Process]:
        """Found before the end: afterwards the system does not tell whose children they were."""
        try:
            parent = psutil.Process(self.process.pid)
            return [*parent.children(recursive=True), parent]
        except psutil.NoSuchProcess:
            return []


def environment(settings: Mapping[str, str]) -> dict[str, str]:
    """Ours without the operator's settings of the server, and with these; no prompt is found from a run before."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    given = {f"{PREFIX}PROMPT_DISK_GB": "0"} | {
        PREFIX + name.upper(): value for name, value in settings.items()
    }
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return kept | given | {"PYTHONPATH": path}


Spawn = Callable[[Path, int], list[Child]]  # in this folder, to listen on this port


class Server:
    """``models``: the names that requests give; the first is loaded at the start."""

    def __init__(self, spawn: Spawn, models: tuple[str, ...], ready_path: str, folder: Path) -> None:
        self.port = 0
        self.children: list[Child] = []
        self._spawn = spawn
        self._models = models
        self._ready_path = ready_path
        self._folder = folder

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    @property
    def alive(self) -> bool:
        return bool(self.children) and all(child.alive for child in self.children)

    async def start(self) -> None:
        """Until it answers, warm. Raises Failed."""
        self.port = free_port()
        self.children = self._spawn(Path(mkdtemp(dir=self._folder)), self.port)
        try:
            async with asyncio.timeout(READY):
                await self._ready()
                await self.answer(long_ask(Random("warm-up"), 20, max_tokens=4))
        except TimeoutError:
            raise Failed(f"not ready in {READY:.0f} s: {self.last_words()}") from None

    async def play(self, plan: Plan, seed: str) -> Played:
        return await play(plan, seed, self.answer)

    async def answer(
        self, ask: Ask, *, keep_text: bool = False, on_first: Callable[[], None] | None = None
    ) -> Reply:
        return await complete(self.port, ask.body(self._models), keep_text=keep_text, on_first=on_first)

    def stop(self) -> None:
        """The last started first. Also when it was never started, or has died."""
        while self.children:
            self.children[-1].stop()
            self.children.pop()

    def last_words(self) -> str:
        return "; ".join(f"{child.module}: {child.last_words()}" for child in self.children)

    async def _ready(self) -> None:
        async with httpx.AsyncClient(base_url=self.url) as http:
            while True:
                with suppress(httpx.TransportError):
                    if (await http.get(self._ready_path)).status_code == 200:
                        return
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

    def spawn(run_dir: Path, port: int) -> list[Child]:
        given = {
            **(settings or {}),
            "host": HOST,
            "port": str(port),
            "run_dir": str(run_dir),
            "cache_dir": str(run_dir / "cache"),
            "available_models": ",".join(f"{path.name}={path}" for path in folders),
            "log_level": "warning",
        }
        if worker_command:
            given["worker_command"] = json.dumps(list(worker_command))
        broker = Child("broker", folder=run_dir, settings=given, stop_with=signal.SIGINT)  # with its workers
        return [broker, Child("api", folder=run_dir, settings=given)]

    return Server(spawn, tuple(path.name for path in folders), "/ready", folder)


def their_server(folders: Sequence[Path], folder: Path, more: Sequence[str] = ()) -> Server:
    """mlx_lm.server takes a model's folder for a name, and holds one model at a time. ``more``: options."""
    models = tuple(map(str, folders))

    def spawn(run_dir: Path, port: int) -> list[Child]:
        options = ["--model", models[0], "--host", HOST, "--port", str(port), "--log-level", "WARNING", *more]
        return [Child("workers.self_check.mlx_lm_server", *options, folder=run_dir)]

    return Server(spawn, models, "/health", folder)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port
