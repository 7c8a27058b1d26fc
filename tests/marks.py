"""What is left to the slow lane."""

from typing import Any

import pytest
from hypothesis import settings

THOROUGH = "thorough"
"""The hypothesis profile of the slow lane, which tries the quick suite's properties again: tests/test_properties.py."""


def quick_and_slow(quick: tuple[Any, ...], slow: tuple[Any, ...]) -> list[Any]:
    return [*quick, *(pytest.param(value, marks=pytest.mark.slow) for value in slow)]


def examples(many: int) -> settings:
    """A property is tried so many times in the slow lane, and a fifth of them in the quick suite."""
    return settings(max_examples=many if settings.get_current_profile_name() == THOROUGH else many // 5)
