"""What is left to the slow lane."""

from typing import Any

import pytest


def quick_and_slow(quick: tuple[Any, ...], slow: tuple[Any, ...]) -> list[Any]:
    return [*quick, *(pytest.param(value, marks=pytest.mark.slow) for value in slow)]
