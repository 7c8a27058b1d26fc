"""Blocks -> Anthropic's content, usage and stop reason. Pure."""

from pydantic_core import from_json

from api.generation.blocks import Block, Blocks
from api.generation.usage import Identity, TokenCounter
from api.messages.schemas import (
    Content,
    Message,
    OutputTokensDetails,
    StopReason,
    TextContent,
    ThinkingContent,
    ToolUseContent,
    Usage,
)
from shared.protocol import Finish, FinishReason

_REASONS: dict[FinishReason, StopReason] = {
    FinishReason.STOP: "end_turn",
    FinishReason.LENGTH: "max_tokens",
    FinishReason.TOOL_CALLS: "tool_use",
}


def message(identity: Identity, blocks: Blocks) -> Message:
    return Message(
        id=identity.id,
        model=identity.model,
        content=[content(block) for block in blocks.all],
        stop_reason=stop_reason(blocks.finish),
        stop_sequence=blocks.finish.stop_sequence if blocks.finish else None,
        usage=usage(blocks.counter),
    )


def content(block: Block) -> Content:
    match block.kind:
        case "text":
            return TextContent(text=block.text)
        case "thinking":
            return ThinkingContent(thinking=block.text)
        case "call":
            return ToolUseContent(id=block.id, name=block.name, input=_input(block.text))


def _input(arguments: str) -> dict[str, object]:
    """Arguments that were cut off at max_tokens are no object: their complete part is kept."""
    try:
        value = from_json(arguments, allow_partial=True)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def stop_reason(finish: Finish | None) -> StopReason | None:
    if finish is None:
        return None
    return "stop_sequence" if finish.stop_sequence is not None else _REASONS[finish.reason]


def usage(counter: TokenCounter) -> Usage:
    return Usage(
        input_tokens=counter.prompt_tokens - counter.cached_tokens,
        output_tokens=counter.completion_tokens,
        cache_read_input_tokens=counter.cached_tokens,
        output_tokens_details=OutputTokensDetails(
            thinking_tokens=counter.reasoning_tokens,
            accepted_prediction_tokens=counter.accepted_prediction_tokens,
            rejected_prediction_tokens=counter.rejected_prediction_tokens,
        ),
    )
