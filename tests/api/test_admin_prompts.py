"""POST /admin/prompts/forget: what is asked of the broker, and what a client reads."""

from collections.abc import Iterator

import pytest

from shared.protocol import ForgetPrompts
from tests.api.conftest import Stack, run_stack

DIGEST = "0a" * 32


@pytest.fixture(scope="module")
def running() -> Iterator[Stack]:
    with run_stack() as stack:
        yield stack


@pytest.fixture
def stack(running: Stack) -> Stack:
    running.broker.reset()
    return running


@pytest.mark.parametrize(("said", "namespace"), [({"namespace": DIGEST}, DIGEST), ({"all": True}, None)])
def test_the_prompts_of_a_key_or_of_all_are_forgotten_and_the_answer_says_how_much_and_by_whom(
    stack: Stack, said: dict[str, object], namespace: str | None
) -> None:
    answer = stack.client.post("/admin/prompts/forget", json=said)
    assert (answer.status_code, answer.json()) == (
        200,
        {"models": ["tiny"], "memory_bytes": 3, "disk_bytes": 4, "failed": ""},
    )
    assert stack.broker.wait_for(ForgetPrompts).namespace == namespace


@pytest.mark.parametrize(
    "said", [{}, {"all": True, "namespace": DIGEST}, {"namespace": "anna"}, {"all": False}, {"key": "anna"}]
)
def test_without_a_clear_word_of_whose_prompts_nothing_is_forgotten(
    stack: Stack, said: dict[str, object]
) -> None:
    assert stack.client.post("/admin/prompts/forget", json=said).status_code == 400
    assert not [one for one in stack.broker.received if isinstance(one, ForgetPrompts)]
