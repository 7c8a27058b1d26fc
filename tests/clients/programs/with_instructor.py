"""Instructor: a chat, objects by tool call and by json_schema, an object that grows in a stream."""

import json
import sys
from typing import Literal

import instructor
from openai import OpenAI
from pydantic import BaseModel, ConfigDict

_, URL, MODEL = sys.argv
ASKED = [{"role": "user", "content": "What is the capital of France?"}]


class Place(BaseModel):
    """Closed: a small model fills an open object until its tokens are used up."""

    model_config = ConfigDict(extra="forbid")

    name: Literal["Paris", "Rome"]
    is_city: bool


client = OpenAI(base_url=URL, api_key="none", max_retries=0)
ours = {"model": MODEL, "messages": ASKED, "temperature": 0, "max_tokens": 60}
places = {
    mode.name: instructor.from_openai(client, mode=mode)
    .create(response_model=Place, max_retries=0, **ours)
    .model_dump()
    for mode in (instructor.Mode.TOOLS, instructor.Mode.JSON_SCHEMA)
}
growing = instructor.from_openai(client, mode=instructor.Mode.TOOLS).create_partial(
    response_model=Place, max_retries=0, **ours
)
plain = instructor.from_openai(client).create(response_model=None, **ours)
print(
    json.dumps(
        {
            "chat": plain.choices[0].message.content,
            "places": places,
            "grown": [place.model_dump() for place in growing],
        }
    )
)
