"""A model under names of the operator's choice: the broker is asked for the model, the client reads its own name."""

from collections.abc import Iterator
from typing import Any

import pytest

from api.generation.catalog import Catalog
from shared.errors import ModelNotFound
from shared.model_table import ModelTable
from shared.protocol import ModelStatus, Submit
from shared.settings import Settings
from tests.api.conftest import Stack, run_stack

TABLES = {"tiny": ModelTable(aliases=("gpt-4o", "claude-*"))}
MESSAGES = [{"role": "user", "content": "Hi"}]


@pytest.fixture(scope="module")
def named() -> Iterator[Stack]:
    with run_stack(models=TABLES, default_model="gpt-4o") as stack:
        yield stack


def submits(stack: Stack) -> list[Submit]:
    return [message for message in stack.broker.received if isinstance(message, Submit)]


@pytest.mark.parametrize("name", ["gpt-4o", "claude-haiku-4-5", None])
@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/v1/chat/completions", {"messages": MESSAGES}),
        ("/v1/completions", {"prompt": "Hi"}),
        ("/v1/messages", {"messages": MESSAGES, "max_tokens": 5}),
        ("/v1/responses", {"input": "Hi"}),
    ],
)
def test_each_dialect_answers_with_the_name_that_was_asked_for(
    named: Stack, path: str, fields: dict[str, Any], name: str | None
) -> None:
    body = {**fields, **({"model": name} if name else {})}
    if name is None and path == "/v1/messages":
        return  # where the model is required
    named.broker.reset()
    answer = named.client.post(path, json=body)
    assert (answer.status_code, answer.json()["model"]) == (200, name or "gpt-4o")
    assert {submit.model for submit in submits(named)} == {"tiny"}
    streamed = named.client.post(path, json={**body, "stream": True}).text
    assert f'"model":"{name or "gpt-4o"}"' in streamed
    assert '"model":"tiny"' not in streamed


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/tokenize", {"prompt": "Hi"}),
        ("/detokenize", {"tokens": [72]}),
        ("/apply-template", {"messages": MESSAGES}),
    ],
)
def test_tokens_are_those_of_the_model_that_the_name_stands_for(
    named: Stack, path: str, fields: dict[str, Any]
) -> None:
    named.broker.reset()
    assert named.client.post(path, json={"model": "claude-x", **fields}).status_code == 200
    assert [submit.model for submit in submits(named)] == ["tiny"]


def test_models_list_an_alias_as_what_it_is_and_patterns_with_their_model(named: Stack) -> None:
    named.broker.models = [ModelStatus(id="tiny", state="hot", context_length=2048)]
    listed = {one["id"]: one for one in named.client.get("/v1/models").json()["data"]}
    told = {
        id: (one["alias_of"], one["aliases"], one["status"], one["context_length"])
        for id, one in listed.items()
    }
    assert told == {
        "tiny": (None, ["gpt-4o", "claude-*"], "hot", 2048),
        "gpt-4o": ("tiny", [], "hot", 2048),
        "org/name": (None, [], "loadable", None),
    }
    one = named.client.get("/v1/models/claude-opus").json()
    assert (one["id"], one["alias_of"]) == ("claude-opus", "tiny")


@pytest.mark.parametrize("name", ["gpt-4", "claude", "GPT-4o", "", "*"])
def test_an_unknown_name_is_refused_with_all_that_can_be_written_out(name: str) -> None:
    catalog = Catalog(Settings(available_models=("tiny", "org/name"), models=TABLES))
    with pytest.raises(ModelNotFound, match="gpt-4o") as refusal:
        catalog.resolve(name)
    assert "tiny" in refusal.value.message
