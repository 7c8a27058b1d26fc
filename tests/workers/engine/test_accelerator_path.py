"""What the engine does for a GPU, done on a CPU: the same tests pass, and answers are resumed with it."""

import pytest

from tests.inner_pytest import passes
from workers.device import FORCED

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

ENGINE = "tests/workers/engine"


@pytest.mark.parametrize(
    "tests",
    [
        [f"{ENGINE}/test_engine.py"],
        [f"{ENGINE}/test_prefix_reuse.py", f"{ENGINE}/test_admission.py", f"{ENGINE}/disk"],
        [f"{ENGINE}/kv", f"{ENGINE}/sampling", f"{ENGINE}/speculation"],
        ["tests/workers/grammars"],
    ],
    ids=["parity", "prefixes, memory and disk", "keys, draws and guesses", "grammars"],
)
def test_the_engines_tests_pass_with_the_code_for_an_accelerator(tests: list[str]) -> None:
    passes(["-m", "not slow", *tests], **{FORCED: "1"})


def test_answers_that_were_cut_go_on_with_the_code_for_an_accelerator() -> None:
    """All of them: greedy, sampled, with penalties, log-probabilities, several choices; cut by a killed process."""
    passes(["tests/faults/test_resume.py"], **{FORCED: "1"})
