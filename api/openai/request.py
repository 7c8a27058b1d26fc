"""Requests of /v1/chat/completions and /v1/completions -> ``Generation``, the one inner request. Pure.

Rule 1: what is not supported is refused by name, never ignored.
Rule 2: nothing is tokenized or fitted to a model here; the worker knows the model.
"""

from typing import Any, Literal

from api.generation.constraints import constraint, grammar_of, json_of, regex_of
from api.generation.grammars import grammar
from api.generation.guessing import guessing
from api.generation.refusals import left_out, unsupported, wrong
from api.generation.sampling import sampling, stopping
from api.generation.schemas import MAX_CHOICES
from api.generation.templates import budget_kwargs, checked_kwargs, effort_kwargs, thinking_kwargs
from api.generation.tools import Tools, names_of, said, tool_use
from api.openai.schemas import (
    ChatCompletionRequest,
    ChatMessage,
    CompletionRequest,
    ContentPart,
    FunctionCall,
    FunctionName,
    MediaPart,
    NamedToolChoice,
    RefusalPart,
    ResponseFormat,
    TextPart,
    ThinkingPart,
    Tool,
    ToolChoice,
)
from shared.protocol import (
    ChatPrompt,
    Generation,
    Grammar,
    Prompt,
    TextPrompt,
    TokenPrompt,
    ToolUse,
)


def chat_generation(request: ChatCompletionRequest) -> Generation:
    tools = _tools(request)
    choice = _choice(request)
    use = _tool_use(choice, tools, False if request.legacy else said(request, "parallel_tool_calls"))
    return Generation(
        prompt=chat_prompt(
            request.messages,
            [] if choice == "none" else tools,
            _reasoning(request) | effort_kwargs(request.reasoning_effort) | _thinking(request),
            request.chat_template_kwargs,
        ),
        sampling=sampling(request, request.temperature, request.top_p),
        stopping=stopping(request, request.max_completion_tokens or request.max_tokens),
        n=request.n,
        logprobs=(request.top_logprobs or 0) if request.logprobs else None,
        grammar=constraint(request, _grammar(request.response_format), use),
        tool_use=use,
        split_reasoning=True,
        cache_key=request.prompt_cache_key or "",
        **guessing(request),
    )


def _reasoning(request: ChatCompletionRequest) -> dict[str, Any]:
    if (wanted := request.reasoning) is None:
        return {}
    if wanted.exclude:
        raise unsupported("reasoning.exclude", "thinking is always shown apart")
    switch = {} if wanted.enabled is None else thinking_kwargs(wanted.enabled)
    return effort_kwargs(wanted.effort) | budget_kwargs(wanted.max_tokens) | switch


def _thinking(request: ChatCompletionRequest) -> dict[str, Any]:
    if (wanted := request.thinking) is not None:
        budget = None if wanted.type == "disabled" else wanted.budget_tokens
        return thinking_kwargs(wanted.type != "disabled") | budget_kwargs(budget)
    return {} if request.enable_thinking is None else thinking_kwargs(request.enable_thinking)


def chat_prompt(
    messages: list[ChatMessage], tools: list[dict[str, Any]], effort: dict[str, Any], kwargs: dict[str, Any]
) -> ChatPrompt:
    """``kwargs``, which the client sets for the template, win over those of its effort."""
    return ChatPrompt(
        messages=[_message(message, f"messages[{i}]") for i, message in enumerate(messages)],
        tools=tools or None,
        template_kwargs={**effort, **checked_kwargs(kwargs)},
    )


def prompt_tools(tools: list[Tool]) -> list[dict[str, Any]]:
    made = Tools()
    return [
        made.make(
            one.function.name,
            one.function.description,
            one.function.parameters,
            f"tools[{i}].function.parameters",
        )
        for i, one in enumerate(tools)
    ]


def completion_generations(request: CompletionRequest) -> list[Generation]:
    """One for each prompt, in their order; each has ``best_of`` choices."""
    if request.suffix and request.echo:
        raise unsupported("echo", "it does not go together with 'suffix'")
    if request.stream and request.choices > request.n:
        raise unsupported("best_of", "which choices are the best is known at their end: not in a stream")
    prompts = _prompts(request.prompt, request.suffix or None)
    if len(prompts) * request.choices > MAX_CHOICES:
        many = "n" if len(prompts) == 1 else "prompt"
        raise wrong(
            many,
            f"{len(prompts)} prompts with {request.choices} choices each are more than {MAX_CHOICES} answers:"
            " ask for them in several requests",
        )
    drawn, ends = sampling(request, request.temperature, request.top_p), stopping(request, request.max_tokens)
    judged = 0 if request.choices > request.n else None
    return [
        Generation(
            prompt=prompt,
            sampling=drawn,
            stopping=ends,
            n=request.choices,
            logprobs=judged if request.logprobs is None else request.logprobs,
            echo=request.echo,
            grammar=constraint(request, _grammar(request.response_format), None),
            cache_key=request.prompt_cache_key or "",
            **guessing(request),
        )
        for prompt in prompts
    ]


def _prompts(prompt: str | list[str] | list[int] | list[list[int]], suffix: str | None) -> list[Prompt]:
    """An empty suffix means that there is none."""
    if isinstance(prompt, str):
        return [TextPrompt(text=prompt, suffix=suffix)]
    if ids := [item for item in prompt if isinstance(item, int)]:  # the schema allows all or none
        return [TokenPrompt(ids=ids, suffix=suffix)]
    many = [item for item in prompt if not isinstance(item, int)]
    return [
        TextPrompt(text=item, suffix=suffix)
        if isinstance(item, str)
        else TokenPrompt(ids=item, suffix=suffix)
        for item in many
    ]


# ---------------------------------------------------------------- what it must be


def _grammar(wanted: ResponseFormat | None) -> Grammar | None:
    of = "response_format"
    if wanted is None or wanted.type == "text":
        return None
    if wanted.type == "regex" and wanted.pattern is not None:
        return regex_of(wanted.pattern, of)
    if wanted.type == "grammar" and wanted.grammar is not None:
        return grammar_of(wanted.grammar, of)
    named = wanted.json_schema.schema_ if wanted.json_schema is not None else None
    schema = wanted.schema_ if named is None else named
    return grammar(None, of) if schema is None else json_of(schema, of)


# ---------------------------------------------------------------- tools


def _tools(request: ChatCompletionRequest) -> list[dict[str, Any]]:
    made = Tools("functions")
    return prompt_tools(request.tools) or [
        made.make(one.name, one.description, one.parameters, f"functions[{i}].parameters")
        for i, one in enumerate(request.functions)
    ]


def _choice(request: ChatCompletionRequest) -> ToolChoice | FunctionName | None:
    """``function_call`` is the older name of ``tool_choice``."""
    return request.function_call if request.legacy else request.tool_choice


def _tool_use(
    choice: ToolChoice | FunctionName | None, tools: list[dict[str, Any]], parallel: bool | None
) -> ToolUse | None:
    if not tools or choice == "none":
        return None
    if isinstance(choice, FunctionName):
        return tool_use("required", [choice.name], tools, parallel=False)
    if isinstance(choice, NamedToolChoice):
        return tool_use("required", [choice.function.name], tools, parallel=False)
    if choice is None or isinstance(choice, str):
        mode: Literal["auto", "required"] = "required" if choice == "required" else "auto"
        return tool_use(mode, names_of(tools), tools, parallel)
    allowed = choice.allowed_tools
    return tool_use(allowed.mode, [one.function.name for one in allowed.tools], tools, parallel)


# ---------------------------------------------------------------- messages


def _message(message: ChatMessage, path: str) -> dict[str, Any]:
    role = {"developer": "system", "function": "tool"}.get(message.role, message.role)
    out: dict[str, Any] = {"role": role, "content": _text(message, f"{path}.content")}
    if message.name is not None:
        out["name"] = message.name
    if message.role == "function":
        out["tool_call_id"] = _legacy_id(message.name)
    elif message.tool_call_id is not None:
        out["tool_call_id"] = message.tool_call_id
    if message.role == "assistant":
        out |= _what_it_did(message)
    return out


def _what_it_did(message: ChatMessage) -> dict[str, Any]:
    out: dict[str, Any] = {}
    if message.tool_calls:
        out["tool_calls"] = [call.model_dump() for call in message.tool_calls]
    elif message.function_call is not None:
        out["tool_calls"] = [_legacy_call(message.function_call)]
    parts = message.content if isinstance(message.content, list) else ()
    thoughts = [part.text for part in parts if isinstance(part, ThinkingPart)]
    if message.reasoning_content is not None:
        out["reasoning_content"] = message.reasoning_content
    elif thoughts:
        out["reasoning_content"] = "\n".join(thoughts)
    return out


def _legacy_call(call: FunctionCall) -> dict[str, Any]:
    return {"id": _legacy_id(call.name), "type": "function", "function": call.model_dump()}


def _legacy_id(name: str | None) -> str:
    """Calls of functions have no ids: the name joins a call and its answer."""
    return f"call_{name}"


def _text(message: ChatMessage, path: str) -> str:
    if message.content is None or isinstance(message.content, str):
        return message.content or ""
    return "".join(_part_text(part, message.role, f"{path}[{i}]") for i, part in enumerate(message.content))


def _part_text(part: ContentPart, role: str, path: str) -> str:
    """A picture or a file is refused; in a tool's answer it is left out, as in every dialect."""
    match part:
        case TextPart():
            return part.text
        case RefusalPart():
            return part.refusal
        case ThinkingPart():
            return "" if role == "assistant" else part.text  # an assistant's is told apart
        case MediaPart() if role in ("tool", "function"):
            return left_out(part.kind or part.type)
        case MediaPart():
            raise unsupported(path, f"this model reads text only, not {part.type}")
