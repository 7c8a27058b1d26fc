"""The clock of a broker that was stopped leaves out the time in which it stood still."""

import pytest

from broker.clock import AwakeClock
from tests.broker.plays import ManualClock


@pytest.mark.parametrize(
    ("turn", "now"),
    [
        (0.3, 0.3),  # woken early
        (0.5, 0.5),
        (1.4, 1.4),  # a little late: an ordinary turn
        (20.0, 0.5),  # stopped, asleep or starved
    ],
)
def test_time_in_which_the_broker_was_stopped_does_not_count(turn: float, now: float) -> None:
    manual = ManualClock()
    clock = AwakeClock(tolerance=1.0, clock=manual)
    manual.advance(turn)
    assert clock.wake(planned=0.5) == pytest.approx(now)


def test_the_clock_of_a_broker_that_was_stopped_goes_on_from_where_it_was() -> None:
    manual = ManualClock()
    clock = AwakeClock(tolerance=1.0, clock=manual)
    for turn in (0.5, 100.0, 0.5):
        manual.advance(turn)
        now = clock.wake(planned=0.5)
    assert now == pytest.approx(1.5)
