"""Ports of this machine for servers that a test starts as processes.

A port that was found free and let go of can be taken before the server listens there: by another test process, or by
an outgoing connection. So a port is locked while this process lives, and lies below those of outgoing connections.
"""

import fcntl
import os
import random
import socket
import tempfile
from pathlib import Path
from typing import IO

_FROM, _TO = 15_000, 30_000  # Linux has outgoing connections from 32,768 on, macOS from 49,152
_locks: list[IO[str]] = []


def free_port() -> int:
    """One that nothing listens at, and that no other test process gets."""
    locks = Path(tempfile.gettempdir()) / f"mlx-server-test-ports-{os.getuid()}"
    locks.mkdir(mode=0o700, exist_ok=True)
    for port in random.SystemRandom().sample(range(_FROM, _TO), _TO - _FROM):
        lock = (locks / str(port)).open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", port))
        except OSError:
            lock.close()
            continue
        _locks.append(lock)
        return port
    raise RuntimeError(f"no port between {_FROM} and {_TO} is free")
