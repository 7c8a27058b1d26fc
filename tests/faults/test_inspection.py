"""The real workers' program looks at models before any is asked for: a broken one is known, and its size of each."""

from pathlib import Path

import pytest

from tests.e2e.stack import Stack
from tests.tiny_model import make_tiny_llama


@pytest.mark.slow
def test_a_broken_folder_is_shown_as_failed_with_its_reason_before_anybody_asks_for_it(
    tmp_path: Path,
) -> None:
    good, broken = make_tiny_llama(tmp_path / "good"), make_tiny_llama(tmp_path / "broken")
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    stack = Stack({"available_models": f"good={good},broken={broken}"})
    try:
        stack.until(lambda: state(stack, "broken") == "failed", "found broken")
        shown = stack.http.get("/v1/models/broken").json()
        assert "not a whole safetensors file" in shown["reason"]
        assert str(tmp_path) not in shown["reason"]
        assert stack.status()["workers"] == []
        assert state(stack, "good") == "loadable"
        refused = stack.http.post("/v1/completions", json={"model": "broken", "prompt": "x", "max_tokens": 1})
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "model_unavailable")
    finally:
        stack.close()


def state(stack: Stack, model: str) -> str:
    found: str = stack.http.get(f"/v1/models/{model}").json()["status"]
    return found
