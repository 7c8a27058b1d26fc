"""What the quick suite tries with a few random examples is tried with many; runs pytest in a subprocess."""

import pytest

from tests.inner_pytest import passes
from tests.marks import THOROUGH


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_properties_of_the_quick_suite_hold_for_many_examples() -> None:
    passes(["-m", "hypothesis and not slow", "--hypothesis-profile", THOROUGH, "tests"])
