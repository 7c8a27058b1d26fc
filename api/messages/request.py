"""Requests of /v1/messages -> ``Generation``, the one inner request. Pure.

Blocks and tools of unknown types and redacted thinking are left out. An image is refused by name, but for a model that
``sees``; in a tool's result it is left out, and the model is told.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from pydantic_core import to_json

from api.generation.constraints import constraint
from api.generation.grammars import grammar
from api.generation.guessing import guessing
from api.generation.images import image_part, with_images
from api.generation.refusals import left_out, unsupported, wrong
from api.generation.sampling import sampling, stopping
from api.generation.templates import effort_kwargs
from api.generation.tools import names_of, said, tool_use
from api.messages.schemas import (
    CountTokensRequest,
    DocumentBlock,
    ImageBlock,
    InputBlock,
    InputMessage,
    MessagesRequest,
    ResultPart,
    SearchResultBlock,
    TextBlock,
    ThinkingBlock,
    ToolChangeBlock,
    ToolReferenceBlock,
    ToolResultBlock,
    ToolUseBlock,
)
from api.messages.tools import in_words, offered
from shared.protocol import ChatPrompt, Generation, Grammar, ToolUse

BETWEEN_BLOCKS = "\n\n"
# Claude Code's first system block. It changes with each request, so that no two prompts would share a prefix.
BILLING = "x-anthropic-billing-header:"


def message_generation(request: MessagesRequest, *, sees: bool = False) -> Generation:
    """``sees``: images are parts of messages, as chat completions have them."""
    prompt = message_prompt(request, sees=sees)
    use = _tool_use(request, prompt.tools or [])
    return Generation(
        prompt=prompt,
        sampling=sampling(request, request.temperature, request.top_p),
        stopping=stopping(request, request.max_tokens, request.stop_sequences),
        grammar=constraint(request, _grammar(request), use),
        tool_use=use,
        split_reasoning=True,
        **guessing(request),
    )


def message_prompt(request: CountTokensRequest, *, sees: bool = False) -> ChatPrompt:
    return ChatPrompt(
        messages=[*_system(request), *_messages(request.messages, sees)],
        tools=offered(request) or None,
        template_kwargs=_template_kwargs(request),
    )


def _grammar(request: MessagesRequest) -> Grammar | None:
    if wanted := request.output_config.format:
        return grammar(wanted.schema_, "output_config.format")
    older = request.output_format
    return None if older is None else grammar(older.schema_, "output_format")


def _template_kwargs(request: CountTokensRequest) -> dict[str, Any]:
    kwargs = effort_kwargs(request.output_config.effort)
    if request.thinking is not None:
        kwargs["enable_thinking"] = request.thinking.type != "disabled"
        if request.thinking.type == "enabled" and request.thinking.budget_tokens is not None:
            kwargs["thinking_budget"] = request.thinking.budget_tokens
    return kwargs


# ---------------------------------------------------------------- tools


def _tool_use(request: MessagesRequest, tools: list[dict[str, Any]]) -> ToolUse | None:
    choice = request.tool_choice
    if choice is None or choice.type in ("auto", "none"):
        parallel = choice is None or not choice.disable_parallel_tool_use
        return tool_use("auto", names_of(tools), tools, parallel) if tools else None
    if not tools:
        raise wrong("tool_choice", "it is only allowed when 'tools' are given")
    if choice.type == "any":
        one = said(choice, "disable_parallel_tool_use")
        return tool_use("required", names_of(tools), tools, None if one is None else not one)
    if choice.name is None:
        raise wrong("tool_choice.name", "it must name the tool")
    return tool_use("required", [choice.name], tools, parallel=False)


# ---------------------------------------------------------------- messages


def _system(request: CountTokensRequest) -> list[dict[str, Any]]:
    if isinstance(request.system, str):
        texts = [request.system]
    else:
        texts = [block.text for block in request.system if not block.text.startswith(BILLING)]
    text = BETWEEN_BLOCKS.join(texts)
    return [{"role": "system", "content": text}] if text else []


def _messages(messages: Sequence[InputMessage], sees: bool) -> Iterator[dict[str, Any]]:
    for i, message in enumerate(messages):
        if isinstance(message.content, str):
            yield {"role": message.role, "content": message.content}
        elif message.role == "assistant":
            yield _assistant(message.content)
        else:
            yield from _user_turn(message.role, message.content, f"messages[{i}].content", sees)


def _assistant(blocks: Sequence[InputBlock]) -> dict[str, Any]:
    texts = [block.text for block in blocks if isinstance(block, TextBlock)]
    calls = [_past_call(block) for block in blocks if isinstance(block, ToolUseBlock)]
    thoughts = [block.thinking for block in blocks if isinstance(block, ThinkingBlock)]
    out: dict[str, Any] = {"role": "assistant", "content": BETWEEN_BLOCKS.join(texts)}
    if calls:
        out["tool_calls"] = calls
    if thoughts:
        out["reasoning_content"] = BETWEEN_BLOCKS.join(thoughts)
    return out


def _past_call(block: ToolUseBlock) -> dict[str, Any]:
    function = {"name": block.name, "arguments": to_json(block.input).decode()}
    return {"id": block.id, "type": "function", "function": function}


def _user_turn(role: str, blocks: Sequence[InputBlock], path: str, sees: bool) -> Iterator[dict[str, Any]]:
    """A tool's result is a message of its own; what is between two results is one message."""
    parts: list[str | dict[str, Any]] = []
    empty = True
    for i, block in enumerate(blocks):
        if isinstance(block, ToolResultBlock):
            if parts:
                yield {"role": role, "content": with_images(parts, BETWEEN_BLOCKS)}
            parts, empty = [], False
            yield _result(block)
        elif sees and isinstance(block, ImageBlock):
            parts.append(_image(block, f"{path}[{i}]"))
        else:
            parts += _text(block, f"{path}[{i}]")
    if parts or empty:
        yield {"role": role, "content": with_images(parts, BETWEEN_BLOCKS)}


def _image(block: ImageBlock, path: str) -> dict[str, Any]:
    source = block.source
    if source.type == "base64" and source.data:
        return image_part(f"data:{source.media_type or 'image/png'};base64,{source.data}")
    if source.type == "url" and source.url:
        return image_part(source.url)
    raise unsupported(f"{path}.source", "an image is given as base64 data or as a url")


def _result(block: ToolResultBlock) -> dict[str, Any]:
    if isinstance(block.content, str):
        text = block.content
    else:
        parts = [[left_out(part.type)] if _is_visual(part) else _texts(part) for part in block.content]
        text = BETWEEN_BLOCKS.join(text for texts in parts for text in texts)
    return {"role": "tool", "tool_call_id": block.tool_use_id, "content": text}


def _text(block: InputBlock, path: str) -> list[str]:
    if _is_visual(block):
        raise unsupported(path, f"this model reads text only, no {block.type}")
    return _texts(block)


def _is_visual(block: InputBlock | ResultPart) -> bool:
    """Whether it is an image, or a document that is not text."""
    return isinstance(block, ImageBlock) or (isinstance(block, DocumentBlock) and not block.source.is_text)


def _texts(block: InputBlock | ResultPart) -> list[str]:
    match block:
        case TextBlock():
            return [block.text]
        case ToolReferenceBlock() | ToolChangeBlock():
            return in_words(block)
        case DocumentBlock():
            return ["\n".join(filter(None, (block.title, block.context, block.source.text)))]
        case SearchResultBlock():
            found = (part.text for part in block.content)
            return ["\n".join(filter(None, (block.title, block.source, *found)))]
        case _:
            return []
