"""Pydantic AI: a chat, a stream, output by tools and by json_schema, and the same over Responses."""

import json
import sys
from typing import Literal

from pydantic import BaseModel
from pydantic_ai import Agent, NativeOutput, ToolOutput
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.openai import OpenAIProvider
from pydantic_ai.settings import ModelSettings

_, URL, MODEL = sys.argv
QUESTION = "What is the capital of France?"
PROVIDER = OpenAIProvider(base_url=URL, api_key="none")
CHAT = OpenAIChatModel(MODEL, provider=PROVIDER)
RESPONSES = OpenAIResponsesModel(MODEL, provider=PROVIDER)
SETTINGS = ModelSettings(temperature=0, max_tokens=60)


class Place(BaseModel):
    """A place."""

    name: Literal["Paris", "Rome"]
    is_city: bool


class River(BaseModel):
    """A river."""

    name: Literal["Seine", "Tiber"]


talker = Agent(CHAT, system_prompt=("You are helpful.", "You are brief."), model_settings=SETTINGS)
plain = talker.run_sync(QUESTION)
pieces = list(talker.run_stream_sync(QUESTION).stream_text(delta=True, debounce_by=None))
chooser = Agent(CHAT, output_type=[ToolOutput(Place), ToolOutput(River)], model_settings=SETTINGS, retries=0)
native = Agent(CHAT, output_type=NativeOutput(Place), model_settings=SETTINGS, retries=0)
responses = Agent(RESPONSES, model_settings=SETTINGS)
described = Agent(RESPONSES, output_type=NativeOutput(Place), model_settings=SETTINGS, retries=0)
chosen = chooser.run_sync(QUESTION).output
print(
    json.dumps(
        {
            "chat": plain.output,
            "stream": pieces,
            "output_tokens": plain.usage.output_tokens,
            "chosen": [type(chosen).__name__, chosen.model_dump()],
            "place": native.run_sync(QUESTION).output.model_dump(),
            "responses": responses.run_sync(QUESTION).output,
            "responses_place": described.run_sync(QUESTION).output.model_dump(),
        }
    )
)
