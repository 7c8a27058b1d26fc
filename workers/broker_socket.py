"""The worker's DEALER socket to the broker: encodes, sends, receives and decodes headers. Decides nothing."""

import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import zmq

from shared import wire
from shared.errors import CannotBePassedOn
from shared.protocol import Chunks, Forward, Part
from shared.sockets import dealer

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class WorkerIdentity:
    """``id`` is also the ZeroMQ routing id and is never reused."""

    id: str
    model: str
    token: str


class BrokerSocket:
    def __init__(self, identity: WorkerIdentity, path: Path) -> None:
        self._socket = dealer(zmq.Context.instance(), path, identity.id)
        self._waked, self._waker = os.pipe()
        for end in (self._waked, self._waker):
            os.set_blocking(end, False)
        self._poller = zmq.Poller()
        self._poller.register(self._socket, zmq.POLLIN)
        self._poller.register(self._waked, zmq.POLLIN)

    def send(self, message: Part) -> None:
        """Sends a message; one that cannot be encoded is logged and dropped."""
        try:
            self._socket.send(wire.encode(message))
        except CannotBePassedOn as error:
            log.error("a %s cannot be sent: %s", type(message).__name__, error.message)

    def send_chunks(self, header: Forward, chunks: Chunks) -> None:
        """Raises CannotBePassedOn, and then sends nothing."""
        body = wire.encode(chunks)
        self._socket.send_multipart([wire.encode(header), body])

    def received(self) -> Iterator[tuple[Any, bytes]]:
        """(message, undecoded body) of all that has arrived. Yields a ProtocolError in place of a bad message."""
        while True:
            try:
                header, *body = self._socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            try:
                message = wire.decode(wire.TO_WORKER, header)
            except wire.ProtocolError as error:
                yield error, b""
            else:
                yield message, body[0] if body else b""

    def wait(self, seconds: float) -> None:
        """Returns when a message has arrived, after ``wake``, or after so many seconds."""
        self._poller.poll(int(1000 * max(0.0, seconds)) + 1)
        try:
            while os.read(self._waked, 4096):
                pass
        except BlockingIOError:
            pass

    def wake(self) -> None:
        """Ends ``wait``; may be called on any thread and in a signal handler."""
        try:
            os.write(self._waker, b"\0")
        except BlockingIOError:
            pass  # the pipe is full, so ``wait`` will return

    def close(self) -> None:
        self._socket.close(linger=200)
        zmq.Context.instance().term()  # waits until lingering messages are sent
