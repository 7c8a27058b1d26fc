"""Input items -> the inner messages. Pure.

Rule 1: what the model did between two things it was told is one turn: its thinking, its text, its calls.
Rule 2: items of types that are not known here are left out; a part that cannot be read is refused by name; one
that a tool gave back is left out, and the model told so.
"""

from collections.abc import Sequence
from typing import Any

from api.generation.refusals import left_out, unsupported
from api.responses.schemas import (
    FunctionCallItem,
    FunctionCallOutputItem,
    InputItem,
    MessageItem,
    Part,
    ReasoningItem,
    RefusalPart,
    TextPart,
)
from api.responses.tools import long_name

BETWEEN_OUTPUTS = "\n"  # parts of a tool's output, each a text of its own


def messages(items: Sequence[InputItem]) -> list[dict[str, Any]]:
    transcript = _Transcript()
    for i, item in enumerate(items):
        transcript.add(item, f"input[{i}]")
    return transcript.messages


class _Transcript:
    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []
        self._turn: dict[str, Any] | None = None

    def add(self, item: InputItem, path: str) -> None:
        match item:
            case MessageItem(role="assistant"):
                self._fresh_turn()["content"] = _text(item.content, f"{path}.content")
            case MessageItem():
                role = "system" if item.role == "developer" else item.role
                self._tell({"role": role, "content": _text(item.content, f"{path}.content")})
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

    def _tell(self, message: dict[str, Any]) -> None:
        self.messages.append(message)
        self._turn = None

    def _open_turn(self) -> dict[str, Any]:
        if self._turn is None:
            self._turn = {"role": "assistant", "content": ""}
            self.messages.append(self._turn)
        return self._turn

    def _fresh_turn(self) -> dict[str, Any]:
        """One in which nothing was said and nothing called yet."""
        if self._turn is not None and (self._turn["content"] or "tool_calls" in self._turn):
            self._turn = None
        return self._open_turn()


def _output(output: str | Sequence[Part]) -> str:
    if isinstance(output, str):
        return output
    texts = (_said(part) for part in output)
    return BETWEEN_OUTPUTS.join(
        left_out(part.type) if text is None else text for part, text in zip(output, texts, strict=True)
    )


def _text(content: str | Sequence[Part], path: str) -> str:
    if isinstance(content, str):
        return content
    texts = []
    for i, part in enumerate(content):
        text = _said(part)
        if text is None:
            raise unsupported(f"{path}[{i}]", f"this model reads text only, not {part.type[:64]}")
        texts.append(text)
    return "".join(texts)


def _said(part: Part) -> str | None:
    """None: it is not text."""
    match part:
        case TextPart():
            return part.text
        case RefusalPart():
            return part.refusal
        case _:
            return None
