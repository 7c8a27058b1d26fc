"""What the scheduler is shown of passes that have ended, and of those that still run."""

import pytest

from tests.scheduler.views import row, task
from workers.engine.scheduling.pass_costs import PassCosts
from workers.engine.scheduling.pass_history import PassHistory
from workers.engine.scheduling.plan import Costs


def history() -> PassHistory:
    return PassHistory(PassCosts(0.2, Costs(decode=0.02)))


def test_a_prefill_pass_counts_as_what_it_is_believed_to_take_until_it_has_ended() -> None:
    seen = history()
    ended = seen.prefill_launched([task("a", priority="low"), task("b")], 0.1, stalled=True)
    assert (seen.read, seen.read_for, seen.passes, seen.used(0.0)) == (0.1, "normal", 1, ())
    ended(0.3)
    assert seen.read == 0.3
    assert dict(seen.used(0.0)) == pytest.approx({"a": 0.15, "b": 0.15})


def test_a_prefill_pass_that_ends_behind_the_launch_of_the_next_does_not_count_as_the_last_one() -> None:
    seen = history()
    ended = seen.prefill_launched([task("a")], 0.1, stalled=True)
    seen.prefill_launched([task("a")], 0.2, stalled=True)
    ended(0.5)
    assert seen.read == 0.2


def test_a_decode_pass_counts_from_its_launch_and_not_for_the_prefill_pass_launched_behind_it() -> None:
    seen = history()
    before = seen.decode_launched(["x"])
    assert seen.decoded == 0.02
    seen.prefill_launched([task("a")], 0.1, stalled=True)
    before(0.05)
    assert seen.decoded == 0.0
    after = seen.decode_launched(["x"])
    after(0.05)
    assert seen.decoded == pytest.approx(0.05)
    assert dict(seen.used(0.0)) == pytest.approx({"x": 0.1})


def test_a_pass_that_stalled_no_sequence_leaves_no_decode_time_owed() -> None:
    seen = history()
    seen.prefilled([task("a")], 0.3, stalled=False)
    assert (seen.read, seen.passes) == (0.0, 1)
    seen.decoded_for([row("r", "x")], 0.04)
    assert seen.decoded == 0.04
