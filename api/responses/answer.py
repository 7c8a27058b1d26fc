"""Blocks -> output items and the response object around them. Pure."""

from collections.abc import Sequence
from typing import Any, Literal

from api.generation.blocks import Block, Blocks
from api.generation.logprobs import entries
from api.generation.usage import Identity, TokenCounter
from api.responses.schemas import (
    ErrorDetails,
    FunctionCallOutput,
    IncompleteDetails,
    InputTokensDetails,
    ItemStatus,
    Logprob,
    MessageOutput,
    OutputItem,
    OutputText,
    OutputTokensDetails,
    ReasoningOutput,
    ReasoningText,
    ResponseObject,
    ResponsesRequest,
    Usage,
)
from api.responses.tools import called, shown
from shared.errors import ContextLengthExceeded, ServingError
from shared.protocol import FinishReason, TokenLogprob

PREFIX = "resp_"
_ITEM_PREFIX = {"text": "msg_", "thinking": "rs_", "call": "fc_"}


def in_progress(identity: Identity, request: ResponsesRequest) -> ResponseObject:
    return _response(identity, request, "in_progress")


def ended(identity: Identity, request: ResponsesRequest, blocks: Blocks, at: int) -> ResponseObject:
    cut = _was_cut(blocks)
    return _response(
        identity,
        request,
        "incomplete" if cut else "completed",
        **_used(blocks),
        completed_at=None if cut else at,
        incomplete_details=IncompleteDetails() if cut else None,
        output=[item(identity, request, block, status(block, blocks)) for block in blocks.all],
        usage=usage(blocks.counter),
    )


def failed(
    identity: Identity, request: ResponsesRequest, blocks: Blocks, error: ServingError
) -> ResponseObject:
    return _response(
        identity,
        request,
        "failed",
        **_used(blocks),
        error=ErrorDetails(code=_failure_code(error), message=error.message),
        output=[item(identity, request, block, "incomplete") for block in blocks.all],
    )


def _failure_code(error: ServingError) -> str:
    """OpenAI's code, by which clients decide whether to retry."""
    if error.code == ContextLengthExceeded.code:
        return error.code
    return "invalid_prompt" if error.status < 500 else "server_error"


def _response(
    identity: Identity,
    request: ResponsesRequest,
    status: Literal["in_progress", "completed", "incomplete", "failed"],
    **known: Any,
) -> ResponseObject:
    nothing_yet: dict[str, Any] = {
        "completed_at": None,
        "error": None,
        "incomplete_details": None,
        "output": [],
        "usage": None,
    }
    return ResponseObject(
        id=identity.id,
        created_at=identity.created,
        model=identity.model,
        status=status,
        **{**_echoed_fields(request), **nothing_yet, **known},
    )


def _echoed_fields(request: ResponsesRequest) -> dict[str, Any]:
    again = (
        "instructions max_output_tokens max_tool_calls metadata parallel_tool_calls previous_response_id"
        " presence_penalty frequency_penalty prompt_cache_key safety_identifier store temperature top_logprobs"
        " top_p truncation"
    )
    choice = request.tool_choice
    return {
        **{name: getattr(request, name) for name in again.split()},
        "reasoning": request.reasoning.model_dump(),
        "text": request.text.model_dump(by_alias=True, exclude_none=True),
        "tool_choice": choice if isinstance(choice, str) else choice.model_dump(),
        "tools": shown(request),
    }


def _used(blocks: Blocks) -> dict[str, float]:
    """The sampling parameters in use: the model's own where the request left them open."""
    start = blocks.start
    said = {"temperature": start.temperature, "top_p": start.top_p} if start is not None else {}
    return {name: value for name, value in said.items() if value is not None}


# ---------------------------------------------------------------- items


def item_id(identity: Identity, block: Block) -> str:
    """It contains the id of the response."""
    return f"{_ITEM_PREFIX[block.kind]}{identity.id.removeprefix(PREFIX)}{block.index:04x}"


def item(identity: Identity, request: ResponsesRequest, block: Block, status: ItemStatus) -> OutputItem:
    """An item that has just begun is empty: its content follows as parts."""
    id, began = item_id(identity, block), status == "in_progress"
    match block.kind:
        case "text":
            return MessageOutput(id=id, status=status, content=[] if began else [text_part(block)])
        case "thinking":
            thoughts = [] if began else [ReasoningText(text=block.text)]
            return ReasoningOutput(id=id, status=status, content=thoughts)
        case "call":
            namespace, name = called(request, block.name)
            return FunctionCallOutput(
                id=id,
                call_id=block.id,
                name=name,
                namespace=namespace,
                arguments="" if began else block.text,
                status=status,
            )


def text_part(block: Block) -> OutputText:
    return OutputText(text=block.text, logprobs=logprobs(block.logprobs))


def logprobs(tokens: Sequence[TokenLogprob]) -> list[Logprob]:
    return [Logprob.model_validate(entry) for entry in entries(tokens)]


def status(block: Block, blocks: Blocks) -> ItemStatus:
    return "incomplete" if block is blocks.all[-1] and _was_cut(blocks) else "completed"


def _was_cut(blocks: Blocks) -> bool:
    return blocks.finish is not None and blocks.finish.reason is FinishReason.LENGTH


def usage(counter: TokenCounter) -> Usage:
    return Usage(
        input_tokens=counter.prompt_tokens,
        input_tokens_details=InputTokensDetails(cached_tokens=counter.cached_tokens),
        output_tokens=counter.completion_tokens,
        output_tokens_details=OutputTokensDetails(
            reasoning_tokens=counter.reasoning_tokens,
            accepted_prediction_tokens=counter.accepted_prediction_tokens,
            rejected_prediction_tokens=counter.rejected_prediction_tokens,
        ),
        total_tokens=counter.prompt_tokens + counter.completion_tokens,
    )
