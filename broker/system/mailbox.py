"""One ROUTER socket: messages to and from peers by name; it never blocks and never drops a message unreported.

Rule 1: a message for a peer that reads slowly is parked, in order, within bounds; beyond them the peer is lost.
Rule 2: a message that can never be sent is reported with its peer's name.
"""

from collections import deque
from dataclasses import dataclass, field
from pathlib import Path

import zmq

from shared.sockets import QUEUED_FRAMES, Context, router

_PARKED_MESSAGES = 4096
_PARKED_BYTES = 32 << 20


@dataclass(slots=True)
class _Parked:
    messages: deque[tuple[bytes, ...]] = field(default_factory=deque)
    size: int = 0

    def add(self, frames: tuple[bytes, ...]) -> bool:
        """Whether it is within the bounds."""
        self.messages.append(frames)
        self.size += sum(map(len, frames))
        return len(self.messages) <= _PARKED_MESSAGES and self.size <= _PARKED_BYTES


class Mailbox:
    def __init__(self, context: Context, path: Path, frames: int = QUEUED_FRAMES) -> None:
        self.socket = router(context, path, frames)
        self._parked: dict[bytes, _Parked] = {}

    @property
    def waits(self) -> bool:
        """Whether something is parked and has to be tried again soon."""
        return bool(self._parked)

    def receive(self) -> list[bytes] | None:
        """The sender's name and its frames; None when no message has come."""
        try:
            return self.socket.recv_multipart(zmq.NOBLOCK)
        except zmq.Again:
            return None

    def send(self, peer: str, *frames: bytes) -> bool:
        """False: the message is lost, because the peer is unknown, gone or too slow."""
        return self.send_raw(peer.encode(), *frames)

    def send_raw(self, name: bytes, *frames: bytes) -> bool:
        """For a peer whose name is not text."""
        if parked := self._parked.get(name):
            return parked.add(frames) or self._drop(name)
        try:
            self._send_now(name, frames)
        except zmq.Again:
            self._parked[name] = _Parked(deque([frames]), sum(map(len, frames)))
        except zmq.ZMQError as error:
            return self._lost(error)
        return True

    def forget(self, peer: str) -> None:
        """Drops what is parked for the peer."""
        self._parked.pop(peer.encode(), None)

    def flush(self) -> list[str]:
        """Sends parked messages as far as possible; returns the names of peers that are lost.

        A peer that left with its queue full is known as lost only after ``receive`` has returned None.
        """
        return [name.decode(errors="replace") for name in list(self._parked) if not self._flush_one(name)]

    def close(self, linger: float) -> None:
        self.socket.close(linger=int(linger * 1000))

    def _flush_one(self, name: bytes) -> bool:
        parked = self._parked[name]
        try:
            while parked.messages:
                self._send_now(name, parked.messages[0])
                parked.size -= sum(map(len, parked.messages.popleft()))
        except zmq.Again:
            return True
        except zmq.ZMQError as error:
            return self._lost(error) or self._drop(name)
        del self._parked[name]
        return True

    def _send_now(self, name: bytes, frames: tuple[bytes, ...]) -> None:
        """libzmq may refuse the first frame only: once it has taken the name, it takes the rest."""
        self.socket.send_multipart([name, *frames], zmq.NOBLOCK)

    def _drop(self, name: bytes) -> bool:
        del self._parked[name]
        return False

    def _lost(self, error: zmq.ZMQError) -> bool:
        if error.errno != zmq.EHOSTUNREACH:
            raise error
        return False
