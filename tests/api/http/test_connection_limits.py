"""Which connection is cut for a new one."""

from api.http.connection_limits import GRACE, ConnectionLimits


class LimitedConnection:
    def __init__(self, address: str = "one") -> None:
        self.address = address
        self.was_cut = False

    def cut(self) -> None:
        self.was_cut = True


def entered(
    limits: ConnectionLimits, count: int, now: float = 0.0, address: str = "one"
) -> list[LimitedConnection]:
    guests = [LimitedConnection(address) for _ in range(count)]
    assert all(limits.add(connection, now) for connection in guests)
    return guests


def test_many_connections_that_open_at_once_are_all_accepted() -> None:
    assert not any(connection.was_cut for connection in entered(ConnectionLimits(100, 4), 50))


def test_too_many_incomplete_connections_of_an_address_cut_its_oldest_only() -> None:
    limits = ConnectionLimits(100, 4)
    other, ours = entered(limits, 4, address="other"), entered(limits, 4)
    [new] = entered(limits, 1, GRACE)
    assert [connection.was_cut for connection in (*other, *ours, new)] == [False] * 4 + [
        True,
        False,
        False,
        False,
        False,
    ]


def test_running_answers_do_not_count_towards_an_addresss_connections() -> None:
    limits = ConnectionLimits(100, 4)
    for connection in (running := entered(limits, 50)):
        limits.end_request(connection)
    entered(limits, 4, GRACE)
    assert not any(connection.was_cut for connection in running)


def test_at_the_connection_limit_incomplete_then_idle_connections_are_cut_and_running_ones_never() -> None:
    limits = ConnectionLimits(3, 100)
    served, resting, owing = entered(limits, 3)
    limits.end_request(served)
    limits.end_request(resting)
    limits.idle(resting, 0)
    first, second = LimitedConnection(), LimitedConnection()
    assert limits.add(first, GRACE)
    assert owing.was_cut
    limits.end_request(first)
    assert limits.add(second, GRACE)
    assert resting.was_cut
    limits.end_request(second)
    assert not limits.add(LimitedConnection(), 2 * GRACE)
    assert not served.was_cut


def test_a_closed_connection_makes_room_for_another() -> None:
    limits = ConnectionLimits(1, 1)
    [connection] = entered(limits, 1)
    limits.remove(connection)
    limits.remove(connection)
    entered(limits, 1)
