"""What MLX holds is what is counted: in a process of its own, as MLX counts the arrays of all tests together."""

import pytest

from tests.inner_pytest import passes

ACCOUNTS = "tests/workers/engine/memory_accounts.py"


def test_at_rest_mlx_holds_a_model_with_full_attention_and_its_kept_prompts() -> None:
    passes([ACCOUNTS, "-k", "llama or buffer"])


@pytest.mark.slow
def test_at_rest_mlx_holds_a_model_of_any_kind_and_its_kept_prompts() -> None:
    passes([ACCOUNTS, "-m", "slow or not slow", "-k", "not llama"])
