"""A process that imports everything and then waits for a model: ``python -m workers --spare NAME``.

Its standard input is a socket of the broker's. On it the process says that it is ready, and hears which worker of which
model it becomes; see SpareReady and Assignment.
Rule 1: when the broker closes the socket, or ends, this process ends.
Rule 2: an assignment says names only. The settings, those of the model too, are read when it has come, so a worker that
    was a spare serves as one that starts then. Only what is used before MLX is imported, the BLAS, is of the start.
"""

import os
import socket
from contextlib import suppress

from shared.protocol import Assignment, SpareReady
from workers.footprint import footprint
from workers.model.load import import_libraries

STDIN = 0
_LONGEST = 1 << 12  # bytes of a line


def await_assignment() -> Assignment | None:
    """Imports, says so, and waits; None: there is no broker any more."""
    broker = socket.socket(fileno=STDIN)
    import_libraries()
    assignment = _told(broker)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, broker.detach())  # which closes the socket
    os.close(nothing)
    return assignment


def _told(broker: socket.socket) -> Assignment | None:
    line = b""
    # A broker that has told its model meanwhile has closed the socket, and the model is still there to be read.
    with suppress(OSError):
        broker.sendall(SpareReady(footprint=footprint()).model_dump_json().encode() + b"\n")
    try:
        while not line.endswith(b"\n") and len(line) < _LONGEST:
            if not (more := broker.recv(_LONGEST)):
                return None
            line += more
    except OSError:
        return None
    return Assignment.model_validate_json(line)
