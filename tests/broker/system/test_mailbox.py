"""The mailbox over real sockets: slow peers get every frame in order, and an unknown peer is reported as lost."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq

from broker.system.mailbox import Mailbox


@pytest.fixture
def mailbox(folder: Path) -> Iterator[Mailbox]:
    """Its queues inside libzmq hold four frames."""
    with zmq.Context() as context:
        mailbox = Mailbox(context, folder / "s", frames=4)
        yield mailbox
        mailbox.close(0)


@pytest.fixture
def peer(folder: Path, mailbox: Mailbox) -> Iterator[zmq.Socket[bytes]]:
    with zmq.Context() as context, context.socket(zmq.DEALER) as peer:
        peer.set(zmq.ROUTING_ID, b"p")
        peer.set(zmq.RCVHWM, 4)
        peer.set(zmq.LINGER, 0)
        peer.connect(f"ipc://{folder}/s")
        peer.send(b"hello")
        assert mailbox.socket.poll(60_000)
        assert mailbox.receive() == [b"p", b"hello"]
        yield peer


def fill(mailbox: Mailbox, size: int) -> int:
    """Sends numbered frames until one is parked; returns how many."""
    sent = 0
    while not mailbox.waits:
        assert mailbox.send("p", str(sent).encode().ljust(size))
        sent += 1
    return sent


def test_receive_gives_none_when_nothing_has_come(mailbox: Mailbox) -> None:
    assert mailbox.receive() is None


@pytest.mark.parametrize("name", ["nobody", "", "not ascii: \u00e9", "x" * 300])
def test_unknown_peer_is_lost(mailbox: Mailbox, name: str) -> None:
    assert not mailbox.send(name, b"x")


def test_slow_peer_gets_every_frame_in_order_in_the_end(mailbox: Mailbox, peer: zmq.Socket[bytes]) -> None:
    sent = fill(mailbox, 100_000)
    for number in range(sent, sent + 20):
        assert mailbox.send("p", str(number).encode())
    got: list[int] = []
    while len(got) < sent + 20:
        assert mailbox.flush() == []
        if peer.poll(10):
            got.append(int(peer.recv()))
    assert got == list(range(sent + 20))
    assert not mailbox.waits


def test_a_peer_whose_parked_messages_pass_their_bound_is_lost(
    mailbox: Mailbox, peer: zmq.Socket[bytes]
) -> None:
    fill(mailbox, 1 << 20)
    sent = [mailbox.send("p", bytes(1 << 20)) for _ in range(40)]
    assert sent.index(False) == 31
    assert mailbox.waits  # what came after waits anew


def test_what_was_parked_for_a_forgotten_peer_is_not_sent(mailbox: Mailbox, peer: zmq.Socket[bytes]) -> None:
    fill(mailbox, 100_000)
    mailbox.forget("p")
    assert not mailbox.waits


def test_slow_peer_that_goes_is_lost_with_what_was_parked(mailbox: Mailbox, peer: zmq.Socket[bytes]) -> None:
    fill(mailbox, 100_000)
    for _ in range(100):
        mailbox.send("p", bytes(100_000))
    peer.close()
    lost: list[str] = []
    while not lost:
        assert mailbox.receive() is None  # libzmq gives a full queue up once its reader has seen the end
        lost = mailbox.flush()
    assert lost == ["p"]
    assert not mailbox.waits
