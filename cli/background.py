"""``serve --detach``, ``stop`` and ``logs``: a server without a terminal.

The server in the background is the same ``mlx-server serve``; its run directory's lock says whether it runs, and as
which process.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from cli import claim
from cli.messages import STOPS
from cli.refusal import FAILED, refuse
from cli.serve import STOP_TIMEOUT
from shared import exits
from shared.commands import typed
from shared.files import NotPrivate, make_private
from shared.settings import load_settings

_LOOK = 0.1  # seconds between looks


def detach(options: Mapping[str, Any], arguments: Sequence[str], ready_timeout: float) -> int:
    """Starts ``serve`` with these arguments and returns when it is ready, with its exit code if it is not."""
    settings = load_settings(**options)
    try:
        make_private(settings.sockets_dir)
        settings.log_dir.mkdir(mode=0o700, exist_ok=True)
    except (NotPrivate, OSError) as error:
        refuse(f"MLX_SERVER_RUN_DIR: {error}.")
        return exits.UNUSABLE
    said = settings.log_dir / "serve.out"
    with said.open("wb") as output:
        server = subprocess.Popen(
            [sys.executable, "-P", "-m", "cli", "serve", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    deadline = time.monotonic() + ready_timeout + STOP_TIMEOUT
    while server.poll() is None and time.monotonic() < deadline:
        if STOPS in (text := said.read_text(errors="replace")):
            command = typed("mlx-server")
            print(
                text.replace(
                    STOPS, f"`{command} stop` stops the server, `{command} logs -f` follows its logs."
                ),
                end="",
            )
            return 0
        time.sleep(_LOOK)
    print(said.read_text(errors="replace"), file=sys.stderr, end="")
    if server.returncode is None:
        server.terminate()
    return server.returncode or FAILED


def stop(options: Mapping[str, Any]) -> int:
    """Ends a server in order, and waits for that. Returns the exit code: 0 also when none runs."""
    run_dir = load_settings(**options).sockets_dir
    pid = claim.holder(run_dir)
    if pid is None:
        print(f"No server runs in {run_dir}.")
        return 0
    try:
        os.kill(pid, signal.SIGTERM)
    except OSError as error:
        return refuse(f"Process {pid} cannot be stopped: {error.strerror}.")
    deadline = time.monotonic() + STOP_TIMEOUT + 10
    while claim.holder(run_dir) == pid:
        if time.monotonic() > deadline:
            return refuse(f"Process {pid} has not ended; `kill -9 {pid}` ends it at once.")
        time.sleep(_LOOK)
    print("The server has stopped.")
    return 0


def logs(options: Mapping[str, Any], names: Sequence[str], *, follow: bool, lines: int) -> int:
    """Runs ``tail`` on all logs, or on those whose names begin so. Returns the exit code."""
    folder = load_settings(**options).log_dir
    found = sorted(folder.glob("*.log"), key=_changed)
    wanted = [path for path in found if not names or path.name.startswith(tuple(names))]
    tail = shutil.which("tail")
    if not wanted or not tail:
        there = ", ".join(path.stem for path in found) or "none"
        return refuse(f"No such logs in {folder}; there: {there}.")
    with suppress(KeyboardInterrupt):
        return subprocess.call([tail, "-n", str(lines), *(["-F"] if follow else []), *map(str, wanted)])
    return 0


def _changed(path: Path) -> float:
    return path.stat().st_mtime
