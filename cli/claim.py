"""Claims the run directory and the port before anything is started.

Each refusal is one sentence for the operator. Exit code 75 means that another process holds the resource now, and a
later attempt may succeed.
"""

import errno
import fcntl
import os
import socket
import stat
from contextlib import suppress
from pathlib import Path
from typing import IO

from shared import exits


class Refusal(Exception):
    """Nothing was started; the message says why."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def claim_run_dir(run_dir: Path) -> IO[str]:
    """Creates the directory with mode 0700 and locks it; the lock is held while the returned file is open."""
    _make_private(run_dir)
    lock = _open_private(run_dir / "serve.lock")
    if (holder := _lock(lock)) is not None:
        lock.close()
        raise Refusal(
            f"Another mlx-server{_named(holder)} uses {run_dir}. Stop it, or choose another --port or --run-dir.",
            exits.TAKEN,
        )
    if (broker_lock := run_dir / "broker.lock").exists():
        with _open_private(broker_lock) as file:
            holder = _lock(file)
        if holder is not None:
            lock.close()
            raise Refusal(
                f"A broker{_named(holder)} still runs in {run_dir}, without the `mlx-server serve` that started it."
                f" Stop it{_how_to_stop(run_dir)}, or choose another --port or --run-dir.",
                exits.TAKEN,
            )
    with suppress(OSError):  # only the lock matters; the disk may be full
        os.pwrite(lock.fileno(), f"{os.getpid():<10}\n".encode(), 0)
    return lock


def holder(run_dir: Path) -> int | None:
    """The process that serves from this directory; None: there is none."""
    text = _held(run_dir / "serve.lock")
    return int(text) if text is not None and text.isdigit() else None


def broker_runs(run_dir: Path) -> bool:
    return _held(run_dir / "broker.lock") is not None


def _held(path: Path) -> str | None:
    """What the holder of a lock wrote into its file; None: nobody holds it."""
    try:
        with path.open("r+") as lock:
            return _lock(lock)
    except OSError:
        return None


def check_port(host: str, port: int) -> None:
    """Raises Refusal if the port cannot be listened on."""
    if ":" in host:
        raise Refusal(f"MLX_SERVER_HOST: {host} is IPv6; give an IPv4 address or a name.", exits.UNUSABLE)
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            probe.listen(1)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise Refusal(
                    f"Port {port} on {host} is in use; choose another with --port.", exits.TAKEN
                ) from None
            raise Refusal(
                f"MLX_SERVER_HOST, MLX_SERVER_PORT: cannot listen on {host}:{port}: {error.strerror}.",
                exits.UNUSABLE,
            ) from None


def _make_private(run_dir: Path) -> None:
    try:
        run_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = run_dir.lstat()
    except OSError as error:
        raise Refusal(
            f"MLX_SERVER_RUN_DIR: cannot use {run_dir}: {error.strerror}.", exits.UNUSABLE
        ) from None
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise Refusal(
            f"MLX_SERVER_RUN_DIR: {run_dir} is not a directory of yours; name another with --run-dir.",
            exits.UNUSABLE,
        )
    if found.st_mode & 0o077:
        raise Refusal(
            f"MLX_SERVER_RUN_DIR: others may enter {run_dir}; `chmod 700` it or name another with --run-dir.",
            exits.UNUSABLE,
        )


def _open_private(path: Path) -> IO[str]:
    """Opens a file without following links and readable for its owner only, as broker/system/rundir.py does."""
    try:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        os.fchmod(file, 0o600)
    except OSError as error:
        raise Refusal(f"MLX_SERVER_RUN_DIR: cannot open {path}: {error.strerror}.", exits.UNUSABLE) from None
    return os.fdopen(file, "r+")


def _lock(file: IO[str]) -> str | None:
    """Takes the lock and returns None, or returns what its holder wrote into the file."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        return file.read(32).strip()
    return None


def _named(holder: str) -> str:
    return f" (pid {holder})" if holder.isdigit() else ""


def _how_to_stop(run_dir: Path) -> str:
    """The command that ends supervisord, which would restart the broker if only that were ended."""
    try:
        pid = (run_dir / "supervisord.pid").read_text().strip()
    except OSError:
        return ""
    return f" (`kill {pid}`)" if pid.isdigit() else ""
