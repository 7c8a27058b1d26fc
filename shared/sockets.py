"""The ZeroMQ sockets of all processes: a ROUTER for each side of the broker, and a DEALER for each of its peers.

Rule 1: no socket lingers by itself; its owner says at ``close`` how long what is unsent may take.
Rule 2: a DEALER queues without bound, because its owner bounds how long it does without a broker.
"""

from pathlib import Path
from typing import Final

import zmq

from shared.wire import MAX_FRAME

Context = zmq.Context[zmq.Socket[bytes]]
Socket = zmq.Socket[bytes]

QUEUED_FRAMES: Final = 4096  # per peer, inside libzmq
_HANDSHAKE = 5000  # milliseconds, as all times here
_HEARTBEAT, _HEARTBEAT_TIMEOUT = 2000, 6000
_BACKLOG = 1024  # connections that wait to be accepted
_RECONNECT, _RECONNECT_MAX = 50, 1000


def router(context: Context, path: Path, queued_frames: int = QUEUED_FRAMES) -> Socket:
    """Bound to ``path``. A message for a peer that is not there raises EHOSTUNREACH, one for a slow peer EAGAIN."""
    socket = context.socket(zmq.ROUTER)
    socket.set(zmq.ROUTER_MANDATORY, 1)
    socket.set(zmq.MAXMSGSIZE, MAX_FRAME)
    socket.set(zmq.LINGER, 0)
    socket.set(zmq.HANDSHAKE_IVL, _HANDSHAKE)
    socket.set(zmq.HEARTBEAT_IVL, _HEARTBEAT)
    socket.set(zmq.HEARTBEAT_TIMEOUT, _HEARTBEAT_TIMEOUT)
    socket.set(zmq.BACKLOG, _BACKLOG)
    socket.set(zmq.SNDHWM, queued_frames)
    socket.set(zmq.RCVHWM, queued_frames)
    socket.bind(f"ipc://{path}")
    return socket


def dealer(context: Context, path: Path, name: str, unread_frames: int | None = None) -> Socket:
    """Connects to ``path`` as ``name``, and again after each loss.

    ``unread_frames`` bounds what has been received and not read; None: nothing does.
    """
    socket = context.socket(zmq.DEALER)
    socket.set(zmq.ROUTING_ID, name.encode())
    socket.set(zmq.LINGER, 0)
    socket.set(zmq.RECONNECT_IVL, _RECONNECT)
    socket.set(zmq.RECONNECT_IVL_MAX, _RECONNECT_MAX)
    socket.set(zmq.MAXMSGSIZE, MAX_FRAME)
    socket.set(zmq.SNDHWM, 0)
    socket.set(zmq.RCVHWM, unread_frames or 0)
    socket.connect(f"ipc://{path}")
    return socket
