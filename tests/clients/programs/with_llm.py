"""llm, as configured in its extra-openai-models.yaml: a chat, a stream with usage, a schema, tools and results."""

import json
import os
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

_, URL, MODEL = sys.argv
QUESTION = "What is the capital of France?"
SCHEMA = {
    "type": "object",
    "properties": {"name": {"enum": ["Paris", "Rome"]}, "is_city": {"type": "boolean"}},
    "required": ["name", "is_city"],
    "additionalProperties": False,
}


def weather(city: str) -> str:
    """The weather in a city."""
    return f"sunny in {city}"


with TemporaryDirectory() as folder:
    os.environ["LLM_USER_PATH"] = folder
    entry = f"model_name: {MODEL}\n  api_base: {URL}\n  supports_schema: true\n  supports_tools: true\n"
    Path(folder, "extra-openai-models.yaml").write_text(f"- model_id: ours\n  {entry}")
    import llm

    model = llm.get_model("ours")
    model.key = "none"
    plain = model.prompt(QUESTION, stream=False, temperature=0, max_tokens=40)
    streamed = model.prompt(QUESTION, stream=True, temperature=0, max_tokens=40)
    pieces = list(streamed)
    place = model.prompt(QUESTION, schema=SCHEMA, stream=False, temperature=0, max_tokens=60)
    talk = model.conversation(tools=[weather])
    first = talk.prompt(QUESTION, temperature=0, max_tokens=40)
    first.text()
    second = talk.prompt(
        "And the weather?",
        tool_results=[llm.ToolResult(name="weather", output="sunny", tool_call_id="call_1")],
        temperature=0,
        max_tokens=40,
    )
    print(
        json.dumps(
            {
                "chat": plain.text(),
                "stream": pieces,
                "usage": [plain.usage().input, plain.usage().output],
                "stream_usage": [streamed.usage().input, streamed.usage().output],
                "place": json.loads(place.text()),
                "after": second.text(),
            }
        )
    )
