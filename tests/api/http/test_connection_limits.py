"""Who makes room among the connections."""

from api.http.connection_limits import GRACE, Crowd


class Guest:
    def __init__(self, address: str = "one") -> None:
        self.address = address
        self.was_cut = False

    def cut(self) -> None:
        self.was_cut = True


def entered(crowd: Crowd, count: int, now: float = 0.0, address: str = "one") -> list[Guest]:
    guests = [Guest(address) for _ in range(count)]
    assert all(crowd.enter(guest, now) for guest in guests)
    return guests


def test_many_that_come_at_once_are_all_let_in() -> None:
    assert not any(guest.was_cut for guest in entered(Crowd(100, 4), 50))


def test_beyond_what_an_address_may_owe_its_oldest_is_cut_and_no_other_addresss() -> None:
    crowd = Crowd(100, 4)
    other, ours = entered(crowd, 4, address="other"), entered(crowd, 4)
    [new] = entered(crowd, 1, GRACE)
    assert [guest.was_cut for guest in (*other, *ours, new)] == [False] * 4 + [
        True,
        False,
        False,
        False,
        False,
    ]


def test_running_answers_do_not_count_for_an_address() -> None:
    crowd = Crowd(100, 4)
    for guest in (running := entered(crowd, 50)):
        crowd.paid(guest)
    entered(crowd, 4, GRACE)
    assert not any(guest.was_cut for guest in running)


def test_a_full_house_cuts_who_owes_then_who_rests_and_never_who_is_served() -> None:
    crowd = Crowd(3, 100)
    served, resting, owing = entered(crowd, 3)
    crowd.paid(served)
    crowd.paid(resting)
    crowd.rest(resting, 0)
    first, second = Guest(), Guest()
    assert crowd.enter(first, GRACE)
    assert owing.was_cut
    crowd.paid(first)
    assert crowd.enter(second, GRACE)
    assert resting.was_cut
    crowd.paid(second)
    assert not crowd.enter(Guest(), 2 * GRACE)
    assert not served.was_cut


def test_who_left_makes_room() -> None:
    crowd = Crowd(1, 1)
    [guest] = entered(crowd, 1)
    crowd.leave(guest)
    crowd.leave(guest)
    entered(crowd, 1)
