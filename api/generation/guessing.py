"""The fields by which every dialect's requests say how next tokens may be guessed; they change no answer.

``prediction`` is OpenAI's of chat completions; elsewhere both are ours.
"""

from typing import Any, Literal

from api.generation.schemas import Request


class PredictedPart(Request):
    type: Literal["text"]
    text: str


class Prediction(Request):
    """What most of the answer is expected to be."""

    type: Literal["content"]
    content: str | list[PredictedPart] = ""

    @property
    def text(self) -> str:
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class Guessed(Request):
    prediction: Prediction | None = None
    speculation: bool = True


def guessing(request: Guessed) -> dict[str, Any]:
    """The fields of ``Generation`` for it."""
    return {
        "prediction": request.prediction.text if request.prediction else "",
        "speculate": request.speculation,
    }


def is_zero(value: object) -> bool:
    """For a count that a dialect does not know, and that is left out where it says nothing."""
    return value == 0
