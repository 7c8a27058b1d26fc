"""Clients that cost much and give nothing, and damaged input: what is served notices neither."""

import subprocess
import sys

import pytest

from benchmarks.hostile import with_crowd
from tests.faults.stack import fault_stack
from tests.faults.test_workers import warm
from tests.fuzz.targets import TARGETS


@pytest.mark.slow
def test_streams_are_whole_among_silent_sockets_slow_readers_and_a_body_without_an_end() -> None:
    """``python -m benchmarks.hostile`` measures it."""
    with fault_stack("--step", "0.02", send_timeout=60, max_in_flight=256) as stack:
        warm(stack)
        warm(stack, "b")
        found = with_crowd(stack, 150)
        assert stack.http.get("/health").status_code == 200
    assert not [answer.wrong for answer in found.answers if answer.wrong]
    assert found.memory < 200 << 20
    assert "413" in found.body


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
def test_damaged_input_raises_nothing_but_the_documented_error(target: str) -> None:
    """``make fuzz`` does it for ten minutes each."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz", target, "--minutes", "0.05"],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
