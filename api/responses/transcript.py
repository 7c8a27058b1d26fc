"""Input items -> the inner messages. Pure.

Rule 1: the thinking, text and calls of the model between two messages to it are one turn.
Rule 2: items of unknown types are left out. A part that is not text is refused by name, but for an image in a message
to a model that ``sees``; in a tool's output it is left out, and the model is told.
"""

from collections.abc import Sequence
from typing import Any

from api.generation.images import image_part, with_images
from api.generation.refusals import left_out, unsupported
from api.responses.schemas import (
    FunctionCallItem,
    FunctionCallOutputItem,
    ImagePart,
    InputItem,
    MessageItem,
    Part,
    ReasoningItem,
    RefusalPart,
    TextPart,
)
from api.responses.tools import long_name

BETWEEN_OUTPUTS = "\n"  # between the parts of a tool's output


def messages(items: Sequence[InputItem], sees: bool = False) -> list[dict[str, Any]]:
    transcript = _Transcript(sees)
    for i, item in enumerate(items):
        transcript.add(item, f"input[{i}]")
    return transcript.messages


class _Transcript:
    def __init__(self, sees: bool) -> None:
        self._sees = sees
        self.messages: list[dict[str, Any]] = []
        self._turn: dict[str, Any] | None = None

    def add(self, item: InputItem, path: str) -> None:
        match item:
            case MessageItem(role="assistant"):
                self._fresh_turn()["content"] = _text(item.content, f"{path}.content")
            case MessageItem():
                role = "system" if item.role == "developer" else item.role
                self._tell({"role": role, "content": self._content(item, f"{path}.content")})
            case FunctionCallItem():
                name = long_name(item.namespace, item.name)
                function = {"name": name, "arguments": item.arguments}
                calls = self._open_turn().setdefault("tool_calls", [])
                calls.append({"id": item.call_id, "type": "function", "function": function})
            case FunctionCallOutputItem():
                text = _output(item.output)
                self._tell({"role": "tool", "tool_call_id": item.call_id, "content": text})
            case ReasoningItem():
                thoughts = _text(item.content or item.summary, f"{path}.content")
                if thoughts:
                    self._fresh_turn()["reasoning_content"] = thoughts
            case _:
                pass

    def _content(self, item: MessageItem, path: str) -> str | list[dict[str, Any]]:
        if not self._sees or isinstance(item.content, str):
            return _text(item.content, path)
        parts = [
            _image(part, f"{path}[{i}]") if isinstance(part, ImagePart) else _words(part, f"{path}[{i}]")
            for i, part in enumerate(item.content)
        ]
        return with_images(parts, "")

    def _tell(self, message: dict[str, Any]) -> None:
        self.messages.append(message)
        self._turn = None

    def _open_turn(self) -> dict[str, Any]:
        if self._turn is None:
            self._turn = {"role": "assistant", "content": ""}
            self.messages.append(self._turn)
        return self._turn

    def _fresh_turn(self) -> dict[str, Any]:
        """The open turn if it has neither text nor calls, else a new one."""
        if self._turn is not None and (self._turn["content"] or "tool_calls" in self._turn):
            self._turn = None
        return self._open_turn()


def _image(part: ImagePart, path: str) -> dict[str, Any]:
    if not part.image_url:
        raise unsupported(path, "an image is given by its 'image_url'")
    return image_part(part.image_url, **({"detail": part.detail} if part.detail else {}))


def _output(output: str | Sequence[Part]) -> str:
    if isinstance(output, str):
        return output
    texts = (_part_text(part) for part in output)
    return BETWEEN_OUTPUTS.join(
        left_out(part.type) if text is None else text for part, text in zip(output, texts, strict=True)
    )


def _text(content: str | Sequence[Part], path: str) -> str:
    if isinstance(content, str):
        return content
    return "".join(_words(part, f"{path}[{i}]") for i, part in enumerate(content))


def _words(part: Part, path: str) -> str:
    text = _part_text(part)
    if text is None:
        raise unsupported(path, f"this model reads text only, not {part.type[:64]}")
    return text


def _part_text(part: Part) -> str | None:
    """None if it is not text."""
    match part:
        case TextPart():
            return part.text
        case RefusalPart():
            return part.refusal
        case _:
            return None
