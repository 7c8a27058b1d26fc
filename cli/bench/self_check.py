"""``mlx-server bench --self``: measures this machine unattended and writes two files that can be sent to others.

The engine is measured in a process of its own, then our server and mlx_lm.server with the same model and the same kind
of requests, one after the other. Everything that is started is ended, also by Ctrl-C.
"""

import asyncio
import json
import platform
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

import httpx
import psutil
from rich.console import Console

from cli import probe
from cli.bench.figures import Answered, level, percentile
from cli.bench.measure import Load, Server, ask, play
from cli.bench.self_report import OURS, THEIRS, MeasuredServer, Report, Stall, markdown, public_name
from cli.client_key import NO_KEY, Key, client_key
from cli.refusal import INTERRUPTED, Refused, refuse
from shared import exits
from shared.models import EMBEDDED_MODEL, parse_source
from shared.settings import Settings, load_settings

HOST = "127.0.0.1"
NAME = "mlx-server-self-check"
PACKAGES = ("mlx-server", "mlx", "mlx-lm", "numpy")
END = 30.0  # seconds to end in order
STREAMS = 4  # that are answered when the long prompt comes


@dataclass(frozen=True)
class Size:
    clients: tuple[int, ...]
    words: int
    max_tokens: int
    long_words: int
    patience: float  # seconds for each measurement
    load: float  # seconds, for a start and for the first answer


FULL = Size((1, 8, 32), 100, 64, 2000, patience=120.0, load=600.0)
QUICK = Size((1, 4), 20, 8, 150, patience=30.0, load=60.0)


def self_check(options: Mapping[str, Any], model: str | None, folder: Path, *, quick: bool) -> int:
    """Writes the files into ``folder``. Returns the exit code."""
    name, size = model or EMBEDDED_MODEL, QUICK if quick else FULL
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends in order, as by Ctrl-C
    try:
        report = _measured(load_settings(**options), name, size, quick=quick)
        said = markdown(report)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{NAME}.json").write_text(json.dumps(report.json(), indent=1) + "\n")
        (folder / f"{NAME}.md").write_text(said)
    except Refused as refusal:
        return refuse(refusal)
    except OSError as error:
        return refuse(f"{error.filename or folder}: {error.strerror}.")
    except KeyboardInterrupt:
        return INTERRUPTED
    finally:
        signal.signal(signal.SIGTERM, before)
    print(said)
    print(f"Written: {folder / NAME}.md and .json. They name no host, user, path or prompt.")
    return exits.STOPPED


def _measured(settings: Settings, name: str, size: Size, *, quick: bool) -> Report:
    try:
        source = settings.sources.get(name) or parse_source(name)
    except ValueError as error:
        raise Refused(f"--model: {error}") from None
    machine = _machine()  # its load, before there is one of ours
    with Console(stderr=True).status("The engine …") as status, tempfile.TemporaryDirectory() as folder:
        engine = _engine(name, quick=quick)
        servers = []
        for title, starts in ((OURS, _ours), (THEIRS, _theirs)):
            status.update(f"{title} …")
            with starts(settings, name, engine["folder"], Path(folder), size.load) as started:
                servers.append(_served(title, started, size))
    return Report(machine, dict(_versions()), public_name(source), quick, engine, servers)


def _engine(name: str, *, quick: bool) -> dict[str, Any]:
    """Raises Refused."""
    command = [*_python("workers.self_check"), name, *(["--quick"] if quick else [])]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    if ran.returncode:
        lines = ran.stderr.strip().splitlines()
        raise Refused(f"{name} cannot be measured: {lines[-1] if lines else f'exit code {ran.returncode}'}")
    found: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
    return found


@dataclass(frozen=True)
class Started:
    server: Server
    model: str
    process: "subprocess.Popen[bytes]"
    ready: str  # the path that answers 200


@contextmanager
def _ours(
    settings: Settings, name: str, model_folder: str, folder: Path, patience: float
) -> Iterator[Started]:
    port, run_dir = _free_port(), folder / "run"
    given = ["--models", name] if name not in settings.sources else []
    words = ["serve", "--host", HOST, "--port", str(port), "--run-dir", str(run_dir), *given]
    here = load_settings(host=HOST, port=port, run_dir=run_dir)
    with _process([*_python("cli"), *words], None) as process:  # with the settings of this folder
        server = Server(f"{probe.address(here)}/v1", Key(NO_KEY, NO_KEY), probe.trust(here) or True)
        started = Started(server, name, process, "/health")
        if _until_ready(started, patience):
            started = Started(Server(server.url, client_key(here, None), server.trusted), name, process, "")
        yield started


@contextmanager
def _theirs(
    settings: Settings, name: str, model_folder: str, folder: Path, patience: float
) -> Iterator[Started]:
    port = _free_port()
    words = ["--model", model_folder, "--host", HOST, "--port", str(port), "--log-level", "ERROR"]
    with _process([*_python("workers.self_check.mlx_lm_server"), *words], folder) as process:
        server = Server(f"http://{HOST}:{port}/v1", Key(NO_KEY, NO_KEY), False)
        started = Started(server, model_folder, process, "/health")
        _until_ready(started, patience)
        yield started


def _python(module: str) -> list[str]:
    return [sys.executable, "-P", "-m", module]


@contextmanager
def _process(command: Sequence[str], folder: Path | None) -> Iterator["subprocess.Popen[bytes]"]:
    """Away from a terminal's Ctrl-C, which reaches us; its family has ended when this returns."""
    process = subprocess.Popen(
        command,
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        family = _family(process.pid)
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(END)
        _, left = psutil.wait_procs(family, timeout=1.0)
        for each in left:
            with suppress(psutil.NoSuchProcess):
                each.kill()
        process.wait()


def _family(pid: int) -> list[psutil.Process]:
    try:
        parent = psutil.Process(pid)
        return [*parent.children(recursive=True), parent]
    except psutil.NoSuchProcess:
        return []


def _until_ready(started: Started, patience: float) -> bool:
    url, deadline = started.server.url.removesuffix("/v1") + started.ready, time.monotonic() + patience
    while started.process.poll() is None and time.monotonic() < deadline:
        with suppress(httpx.TransportError):
            if httpx.get(url, verify=started.server.trusted, trust_env=False, timeout=5.0).is_success:
                return True
        time.sleep(0.2)
    return False


def _free_port() -> int:
    with socket.socket() as found:
        found.bind((HOST, 0))
        port: int = found.getsockname()[1]
        return port


# ---------------------------------------------------------------- what a server gives


def _served(title: str, started: Started, size: Size) -> MeasuredServer:
    """Whatever goes wrong is said in a word of ours: messages of programs may name paths."""
    served, random = MeasuredServer(title), Random()
    load = Load(started.model, size.words, size.max_tokens)
    try:
        first, _ = asyncio.run(_in_time(play(started.server, load, 1, 1, random), size.load))
        if any(answer.failure for answer in first):
            served.failed = "no answer"
            return served
        for clients in size.clients:
            played = play(started.server, load, clients, 2 * clients, random)
            answers, seconds = asyncio.run(_in_time(played, size.patience))
            served.levels.append(level(clients, answers, seconds))
        served.stall = asyncio.run(_in_time(_late_prompt(started, load, size, random), size.patience))
    except TimeoutError:
        served.failed = "too slow"
    return served


async def _in_time(awaited: Any, seconds: float) -> Any:
    async with asyncio.timeout(seconds):
        return await awaited


async def _late_prompt(started: Started, load: Load, size: Size, random: Random) -> Stall:
    """The streams go on until the long prompt has its first token, and are left then."""
    url = f"{started.server.url}/chat/completions"
    short, long = Load(load.model, load.words, 512), Load(load.model, size.long_words, 1)
    streams = [Answered(0.0) for _ in range(STREAMS)]
    async with started.server.client() as client:
        running = [asyncio.create_task(ask(client, url, short.body(random), each)) for each in streams]
        try:
            while any(len(each.arrivals) < 3 for each in streams) and not all(
                task.done() for task in running
            ):
                await asyncio.wait(running, timeout=0.02)
            late = await ask(client, url, long.body(random))
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)
    before = [
        later - sooner for each in streams for sooner, later in pairwise(each.arrivals) if later <= late.sent
    ]
    after = [
        later - sooner for each in streams for sooner, later in pairwise(each.arrivals) if later > late.sent
    ]
    # A stream that was still silent when the long prompt was answered has waited until then.
    after += [late.ended - each.arrivals[-1] for each in streams if each.arrivals and not each.ended]
    return Stall(
        STREAMS,
        size.long_words,
        percentile(before, 50) if before else None,
        max(after, default=None),
        late.arrivals[0] - late.sent if late.arrivals else None,
    )


# ---------------------------------------------------------------- what it ran on


def _machine() -> dict[str, Any]:
    return {
        "system": f"{platform.system()} {platform.mac_ver()[0]} {platform.machine()}".replace("  ", " "),
        "processor": _processor(),
        "cores": psutil.cpu_count() or 0,
        "memory_gb": round(psutil.virtual_memory().total / 1e9),
        "load_before": round(psutil.getloadavg()[0], 1),
    }


def _processor() -> str:
    if platform.system() == "Darwin":
        asked = ["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string"]
        return subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip()
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()


def _versions() -> Iterator[tuple[str, str]]:
    yield "python", platform.python_version()
    for name in PACKAGES:
        with suppress(PackageNotFoundError):
            yield name, version(name)
