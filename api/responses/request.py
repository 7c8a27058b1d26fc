"""Requests of /v1/responses -> ``Generation``, the one inner request. Pure.

What is not supported and would change the answer is refused by name.
"""

from typing import Any, Literal

from api.generation.constraints import constraint
from api.generation.grammars import grammar
from api.generation.guessing import guessing
from api.generation.refusals import unsupported, wrong
from api.generation.sampling import sampling, stopping
from api.generation.templates import effort_kwargs
from api.generation.tools import names_of, said, tool_use
from api.responses.schemas import AllowedTools, InputItem, NamedTool, ResponsesRequest, SchemaFormat
from api.responses.tools import long_name, offered
from api.responses.transcript import messages
from shared.protocol import ChatPrompt, Generation, Grammar, ToolUse

LOGPROBS = "message.output_text.logprobs"


def response_generation(
    request: ResponsesRequest, items: list[InputItem], *, sees: bool = False
) -> Generation:
    """``items``: the whole conversation; the request's input is its end.

    ``sees``: images are parts of messages, as chat completions have them.
    """
    prompt = response_prompt(request, items, sees=sees)
    use = _tool_use(request, prompt.tools or [])
    scored = request.top_logprobs or LOGPROBS in request.include
    return Generation(
        prompt=prompt,
        sampling=sampling(request, request.temperature, request.top_p),
        stopping=stopping(request, request.max_output_tokens),
        logprobs=request.top_logprobs if scored else None,
        grammar=constraint(request, _grammar(request), use),
        tool_use=use,
        split_reasoning=True,
        **guessing(request),
        cache_key=request.prompt_cache_key or "",
    )


def response_prompt(request: ResponsesRequest, items: list[InputItem], *, sees: bool = False) -> ChatPrompt:
    _refuse(request)
    system = [] if request.instructions is None else [{"role": "system", "content": request.instructions}]
    said = [*system, *messages(items, sees)]
    if not said:
        raise wrong("input", "it must have at least one item")
    return ChatPrompt(
        param="input",
        messages=said,
        tools=offered(request) or None,
        template_kwargs=effort_kwargs(request.reasoning.effort),
    )


def _refuse(request: ResponsesRequest) -> None:
    if request.background:
        raise unsupported("background", "answers are made while the client waits")
    if request.conversation is not None:
        raise unsupported("conversation", "use 'previous_response_id'")
    if request.prompt is not None:
        raise unsupported("prompt", "there are no stored prompts here")


def _grammar(request: ResponsesRequest) -> Grammar | None:
    wanted = request.text.format
    if isinstance(wanted, SchemaFormat):
        return grammar(wanted.schema_, "text.format.schema")
    return grammar(None, "text.format") if wanted.type == "json_object" else None


def _tool_use(request: ResponsesRequest, tools: list[dict[str, Any]]) -> ToolUse | None:
    choice, parallel = request.tool_choice, said(request, "parallel_tool_calls")
    if choice in ("none", "auto") and not tools:
        return None
    if not tools:
        raise wrong("tool_choice", "it is only allowed when 'tools' has functions")
    if isinstance(choice, NamedTool):
        return tool_use("required", [long_name(choice.namespace, choice.name)], tools, parallel=False)
    if isinstance(choice, AllowedTools):
        return tool_use(
            choice.mode, [long_name(one.namespace, one.name) for one in choice.tools], tools, parallel
        )
    mode: Literal["auto", "required"] = "required" if choice == "required" else "auto"
    return tool_use(mode, names_of(tools), tools, parallel)
