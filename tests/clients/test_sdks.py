"""OpenAI's and Anthropic's own packages against the embedded model."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

import pytest
from openai.types.chat import ChatCompletionMessageParam, ChatCompletionToolParam
from pydantic import BaseModel, ConfigDict

from tests.clients.conftest import SMOLLM
from tests.e2e.stack import Stack

if TYPE_CHECKING:  # each process of the tests reads this file, and the package takes two seconds
    from anthropic import Anthropic

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

QUESTION = "What is the capital of France?"
ASKED: list[ChatCompletionMessageParam] = [{"role": "user", "content": QUESTION}]
CITY = {
    "type": "object",
    "properties": {"city": {"type": "string", "enum": ["Paris", "Rome"]}},
    "required": ["city"],
    "additionalProperties": False,
}
GREEDY = {"temperature": 0}  # Anthropic's package has no word for it any more
WEATHER: ChatCompletionToolParam = {"type": "function", "function": {"name": "weather", "parameters": CITY}}


class Place(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: Literal["Paris", "Rome"]
    is_city: bool


@pytest.fixture
def claude(stack: Stack) -> "Iterator[Anthropic]":
    from anthropic import Anthropic

    url = f"http://127.0.0.1:{stack.port}"
    with Anthropic(base_url=url, api_key="none", max_retries=0, timeout=60) as client:
        yield client


def test_openai_streams_what_it_says_whole_and_counts_it_once(stack: Stack) -> None:
    ask = stack.openai.chat.completions.create
    whole = ask(model=SMOLLM, messages=ASKED, temperature=0, max_tokens=40)
    chunks = list(
        ask(
            model=SMOLLM,
            messages=ASKED,
            temperature=0,
            max_tokens=40,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content and "Paris" in text
    [usage] = [chunk.usage for chunk in chunks if chunk.usage]
    assert whole.usage and usage.completion_tokens == whole.usage.completion_tokens > 0


def test_openai_parses_an_object(stack: Stack) -> None:
    answer = stack.openai.chat.completions.parse(
        model=SMOLLM, messages=ASKED, response_format=Place, temperature=0, max_tokens=60
    )
    assert answer.choices[0].message.parsed == Place(name="Paris", is_city=True)


def test_openai_streams_a_call(stack: Stack) -> None:
    with stack.openai.chat.completions.stream(
        model=SMOLLM, messages=ASKED, tools=[WEATHER], tool_choice="required", temperature=0, max_tokens=60
    ) as stream:
        message = stream.get_final_completion().choices[0].message
    assert message.tool_calls
    [call] = message.tool_calls
    assert call.function.name == "weather"
    assert call.function.arguments.replace(" ", "") in ('{"city":"Paris"}', '{"city":"Rome"}')


def test_openai_continues_a_response(stack: Stack) -> None:
    first = stack.openai.responses.create(model=SMOLLM, input=QUESTION, temperature=0, max_output_tokens=40)
    second = stack.openai.responses.create(
        model=SMOLLM,
        input="And of Italy?",
        previous_response_id=first.id,
        temperature=0,
        max_output_tokens=40,
    )
    assert "Paris" in first.output_text and first.usage and second.usage
    assert second.usage.input_tokens > first.usage.input_tokens + first.usage.output_tokens


def test_anthropic_streams_what_it_says_whole(claude: "Anthropic") -> None:
    whole = claude.messages.create(
        model=SMOLLM, max_tokens=40, extra_body=GREEDY, messages=[{"role": "user", "content": QUESTION}]
    )
    with claude.messages.stream(
        model=SMOLLM, max_tokens=40, extra_body=GREEDY, messages=[{"role": "user", "content": QUESTION}]
    ) as stream:
        text = "".join(stream.text_stream)
        usage = stream.get_final_message().usage
    assert whole.content[0].type == "text" and whole.content[0].text == text and "Paris" in text
    assert usage.output_tokens == whole.usage.output_tokens > 0


def test_anthropic_counts_the_tokens_it_will_be_charged(claude: "Anthropic") -> None:
    counted = claude.messages.count_tokens(
        model=SMOLLM, messages=[{"role": "user", "content": "A new text."}]
    )
    answer = claude.messages.create(
        model=SMOLLM, max_tokens=1, messages=[{"role": "user", "content": "A new text."}]
    )
    usage = answer.usage
    assert counted.input_tokens == usage.input_tokens + (usage.cache_read_input_tokens or 0)


def test_anthropic_gets_a_call(claude: "Anthropic") -> None:
    answer = claude.messages.create(
        model=SMOLLM,
        max_tokens=60,
        extra_body=GREEDY,
        messages=[{"role": "user", "content": QUESTION}],
        tools=[{"name": "weather", "input_schema": CITY}],
        tool_choice={"type": "any"},
    )
    [call] = [block for block in answer.content if block.type == "tool_use"]
    assert answer.stop_reason == "tool_use" and call.name == "weather"
    assert call.input in ({"city": "Paris"}, {"city": "Rome"})
