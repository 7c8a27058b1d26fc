"""LangChain: a chat, a stream with usage, a tool call and its result, structured output, the legacy LLM."""

import json
import sys
from typing import Literal

from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAI
from pydantic import BaseModel

_, URL, MODEL = sys.argv
QUESTION = "What is the capital of France?"


class Place(BaseModel):
    """A place."""

    name: Literal["Paris", "Rome"]
    is_city: bool


@tool
def weather(city: Literal["Paris", "Rome"]) -> str:
    """The weather in a city."""
    return f"sunny in {city}"


chat = ChatOpenAI(base_url=URL, api_key="none", model=MODEL, temperature=0, max_tokens=40, max_retries=0)
plain = chat.invoke([("system", "You are helpful."), ("user", QUESTION)])
chunks = list(chat.stream([("system", "You are helpful."), ("user", QUESTION)], stream_usage=True))
called = chat.bind_tools([weather], tool_choice="required").invoke(QUESTION)
assert isinstance(called, AIMessage)
[call] = called.tool_calls
after = chat.bind_tools([weather]).invoke(
    [HumanMessage(QUESTION), called, ToolMessage(weather.invoke(call["args"]), tool_call_id=call["id"])]
)
place = chat.with_structured_output(Place, method="json_schema").invoke("Describe Paris.")
assert isinstance(place, Place)
legacy = OpenAI(base_url=URL, api_key="none", model=MODEL, temperature=0, max_tokens=5, max_retries=0)
print(
    json.dumps(
        {
            "chat": plain.content,
            "stream": [chunk.content for chunk in chunks],
            "usage": plain.usage_metadata,
            "stream_usage": [chunk.usage_metadata for chunk in chunks if chunk.usage_metadata],
            "call": call,
            "after": after.content,
            "place": place.model_dump(),
            "texts": [one[0].text for one in legacy.generate(["The sky is", "The sea is"]).generations],
        }
    )
)
