"""Clients in common use, each as its users write it, against the embedded model.

They need versions of libraries that the server does not, so each is a program in an environment of its own
(``make test-slow`` makes it) and says in one JSON object what it got.
"""

import json
import os
import subprocess
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import pytest

from tests.cli.command import ROOT
from tests.clients.conftest import MINILM, SMOLLM
from tests.e2e.stack import Stack

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

PYTHON = ROOT / ".venv" / "clients" / "bin" / "python"
PROGRAMS = ROOT / "tests" / "clients" / "programs"
ALONE = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LANGSMITH_TRACING": "false"}
"""They ask no other host than the server."""

PARIS = {"name": "Paris", "is_city": True}
"""The only object in these tests' schemas that is true; the others are allowed by them as well."""

Said = Mapping[str, Any]


@pytest.fixture(scope="session")
def ask(stack: Stack) -> Callable[[str], Said]:
    @cache
    def ask(client: str) -> Said:
        model = MINILM if client == "embeddings" else SMOLLM
        if not PYTHON.exists():
            pytest.skip("the clients are not installed: `make .venv/clients/stamp`")
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        program = subprocess.run(
            [PYTHON, "-P", PROGRAMS / f"with_{client}.py", f"http://127.0.0.1:{stack.port}/v1", model],
            env={**environment, **ALONE},
            cwd=stack.folder,
            capture_output=True,
            text=True,
            timeout=240,
        )
        assert program.returncode == 0, program.stderr + logs(stack)
        said: Said = json.loads(program.stdout.splitlines()[-1])
        return said

    return ask


def logs(stack: Stack) -> str:
    """What the server's processes said, which is gone with the stack."""
    return "".join(f"\n{log.name}:\n{log.read_text()}" for log in sorted(stack.folder.glob("log/*.log")))


@pytest.mark.parametrize("client", ["langchain", "litellm", "instructor", "pydantic_ai", "llm"])
def test_a_client_gets_an_answer(ask: Callable[[str], Said], client: str) -> None:
    assert "Paris" in ask(client)["chat"]


@pytest.mark.parametrize("client", ["langchain", "litellm", "pydantic_ai", "llm"])
def test_a_stream_says_the_same_in_pieces(ask: Callable[[str], Said], client: str) -> None:
    said = ask(client)
    assert "".join(said["stream"]) == said["chat"]
    assert len([piece for piece in said["stream"] if piece]) > 1


@pytest.mark.parametrize("client", ["langchain", "litellm"])
def test_the_usage_comes_once_in_a_stream(ask: Callable[[str], Said], client: str) -> None:
    said = ask(client)
    assert [tokens(usage) for usage in said["stream_usage"]] == [tokens(said["usage"])]
    assert tokens(said["usage"])[1] > 0


def tokens(usage: Mapping[str, int]) -> tuple[int, int]:
    """Of the prompt and of the answer, in either of two spellings."""
    names = ("prompt_tokens", "completion_tokens")
    ours = names if names[0] in usage else ("input_tokens", "output_tokens")
    return usage[ours[0]], usage[ours[1]]


def test_langchain_calls_a_tool_and_reads_its_result(ask: Callable[[str], Said]) -> None:
    said = ask("langchain")
    assert said["call"]["name"] == "weather" and said["call"]["args"]["city"] in ("Paris", "Rome")
    assert said["after"]


def test_langchain_gets_an_object_for_its_schema(ask: Callable[[str], Said]) -> None:
    assert ask("langchain")["place"] == PARIS


def test_langchain_completes_several_prompts(ask: Callable[[str], Said]) -> None:
    first, second = ask("langchain")["texts"]
    assert first and second and first != second


def test_litellm_calls_a_tool_and_reads_its_result(ask: Callable[[str], Said]) -> None:
    said = ask("litellm")
    assert said["call"]["name"] == "weather" and said["call"]["args"]["city"] in ("Paris", "Rome")
    assert said["after"]


def test_litellm_gets_an_object_for_its_schema(ask: Callable[[str], Said]) -> None:
    assert ask("litellm")["place"] == PARIS


def test_litellm_translates_anthropic_messages(ask: Callable[[str], Said]) -> None:
    assert "Paris" in ask("litellm")["bridged"]


def test_litellm_knows_our_errors(ask: Callable[[str], Said]) -> None:
    said = ask("litellm")
    assert said["too_long"] == "ContextWindowExceededError"
    assert (said["unknown"], said["refused"]) == ("NotFoundError", "BadRequestError")


@pytest.mark.parametrize("mode", ["TOOLS", "JSON_SCHEMA"])
def test_instructor_gets_an_object(ask: Callable[[str], Said], mode: str) -> None:
    assert ask("instructor")["places"][mode] == PARIS


def test_instructor_sees_an_object_grow(ask: Callable[[str], Said]) -> None:
    grown = ask("instructor")["grown"]
    assert grown[-1] == PARIS
    assert {"name": "Paris", "is_city": None} in grown


def test_pydantic_ai_gets_one_of_several_outputs_by_tools(ask: Callable[[str], Said]) -> None:
    kind, output = ask("pydantic_ai")["chosen"]
    assert output["name"] in {"Place": ("Paris", "Rome"), "River": ("Seine", "Tiber")}[kind]


def test_pydantic_ai_gets_an_object_for_its_schema(ask: Callable[[str], Said]) -> None:
    said = ask("pydantic_ai")
    assert said["place"] == PARIS and said["output_tokens"] > 0


def test_pydantic_ai_speaks_responses(ask: Callable[[str], Said]) -> None:
    said = ask("pydantic_ai")
    assert "Paris" in said["responses"] and said["responses_place"] == PARIS


def test_llm_counts_the_same_tokens_in_a_stream(ask: Callable[[str], Said]) -> None:
    said = ask("llm")
    assert said["stream_usage"] == said["usage"] and min(said["usage"]) > 0


def test_llm_gets_an_object_for_its_schema(ask: Callable[[str], Said]) -> None:
    assert ask("llm")["place"] == PARIS


def test_llm_goes_on_with_a_tools_result(ask: Callable[[str], Said]) -> None:
    assert ask("llm")["after"]


@pytest.mark.parametrize("client", ["LangChain", "LlamaIndex", "litellm"])
def test_a_client_gets_the_vectors_that_openais_gets(
    ask: Callable[[str], Said], stack: Stack, client: str
) -> None:
    texts = ["The cat sleeps.", "A cat is asleep.", "Shares fell on Monday."]
    expected = [item.embedding for item in stack.openai.embeddings.create(model=MINILM, input=texts).data]
    assert ask("embeddings")["vectors"][client] == expected


@pytest.mark.parametrize("client", ["LangChain", "LlamaIndex"])
def test_a_query_has_the_vector_of_the_same_text(ask: Callable[[str], Said], client: str) -> None:
    said = ask("embeddings")
    assert said["query"][client] == said["vectors"][client][0]


@pytest.mark.parametrize(
    ("client", "count"), [("litellm", 2), ("Cohere 1", 3), ("Cohere 2", 2)], ids=["litellm", "v1", "v2"]
)
def test_a_client_gets_documents_ranked(ask: Callable[[str], Said], client: str, count: int) -> None:
    ranked = ask("embeddings")["ranked"][client]
    assert set(ranked[:2]) == {0, 1} and len(ranked) == count


def test_openais_client_gets_the_same_numbers_as_base64_and_as_json(stack: Stack) -> None:
    create = stack.openai.embeddings.create
    as_base64 = create(model=MINILM, input=["The cat sleeps.", "Shares fell."])
    as_json = create(model=MINILM, input=["The cat sleeps.", "Shares fell."], encoding_format="float")
    assert [item.embedding for item in as_base64.data] == [item.embedding for item in as_json.data]
    assert as_base64.usage == as_json.usage and as_json.usage.prompt_tokens > 4
