"""Without API keys, the requests of one user or conversation are of one caller, if the client names it."""

from typing import Any

import pytest

from api.generation.end_user import end_user
from shared.protocol import Submit
from tests.api.conftest import Stack


def test_requests_that_name_the_same_user_are_of_one() -> None:
    assert (
        end_user({"user": "ann"})
        == end_user({"user": "ann", "prompt_cache_key": "x"})
        != end_user({"user": "bob"})
    )
    assert end_user({"metadata": {"user_id": "ann"}}) == end_user({"safety_identifier": "ann"})
    assert "ann" not in end_user({"user": "ann"})


@pytest.mark.parametrize(
    "body", [{}, {"user": ""}, {"user": 5}, {"metadata": "ann"}, {"user": None, "metadata": {}}]
)
def test_a_field_of_another_kind_names_nobody_and_is_no_error(body: dict[str, Any]) -> None:
    assert end_user(body) == ""


def groups(stack: Stack) -> list[str]:
    return [message.group for message in stack.broker.received if isinstance(message, Submit)]


def test_the_broker_hears_which_requests_are_of_one_user(stack: Stack) -> None:
    for fields in ({"user": "ann"}, {"user": "ann"}, {"user": "bob"}, {}, {}):
        assert stack.chat(**fields).status_code == 200
    ann, again, bob, *nobody = groups(stack)
    assert ann == again and len({ann, bob, *nobody}) == 4
