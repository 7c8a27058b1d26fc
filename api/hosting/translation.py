"""``Generation`` -> a request of chat completions, for servers that speak no other dialect. Pure.

What a server of its own kind may not know (top_k, min_p, seeds that the client did not give) is sent only where the
client said it.
"""

from typing import Any

from pydantic_core import to_json

from shared.errors import InvalidRequest
from shared.protocol import ChatPrompt, Generation, Grammar, Sampling, Stopping, ToolUse


def chat_request(generation: Generation, model: str) -> bytes:
    """Raises InvalidRequest for what chat completions have no field for, or what is not read from their answers."""
    prompt = generation.prompt
    _refuse(generation)
    if not isinstance(prompt, ChatPrompt):
        raise InvalidRequest("This model's server takes messages only.", param=generation.param)
    body: dict[str, Any] = {
        "model": model,
        "messages": [_message(message) for message in prompt.messages],
        "stream": True,
        "stream_options": {"include_usage": True},
        **_sampling(generation.sampling),
        **_stopping(generation.stopping),
    }
    if prompt.tools:
        body["tools"] = prompt.tools
        if generation.tool_use:
            body |= _tool_choice(generation.tool_use)
    if generation.grammar:
        body["response_format"] = _response_format(generation.grammar)
    if prompt.template_kwargs:
        body["chat_template_kwargs"] = prompt.template_kwargs
        if effort := prompt.template_kwargs.get("reasoning_effort"):
            body["reasoning_effort"] = effort
    return to_json(body)


def _refuse(generation: Generation) -> None:
    """What would be lost without a word. The seed is not promised, and guesses change no answer."""
    stopping = generation.stopping
    lost = {
        "top_logprobs": generation.logprobs is not None,
        "min_tokens": stopping.min_tokens > 0,
        "stop_token_ids": bool(stopping.stop_token_ids),
        "ignore_eos": stopping.ignore_eos,
        "echo": generation.echo,
        "n": generation.n > 1,
    }
    for name, said in lost.items():
        if said:
            raise InvalidRequest(
                f"{name!r} cannot be asked of this model's server in this dialect, which is translated to its chat "
                "completions; ask at /v1/chat/completions.",
                param=name,
            )


def _message(message: dict[str, Any]) -> dict[str, Any]:
    """Arguments of calls are objects to a template, and JSON text to a server."""
    calls = message.get("tool_calls")
    if not calls:
        return message
    return {**message, "tool_calls": [_call(call) for call in calls]}


def _call(call: dict[str, Any]) -> dict[str, Any]:
    function = call.get("function", {})
    arguments = function.get("arguments", {})
    text = arguments if isinstance(arguments, str) else to_json(arguments).decode()
    return {**call, "type": "function", "function": {**function, "arguments": text}}


def _sampling(sampling: Sampling) -> dict[str, Any]:
    said = {
        name: getattr(sampling, name)
        for name in ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
        if name not in sampling.unsaid
    }
    others = {
        "presence_penalty": sampling.presence_penalty,
        "frequency_penalty": sampling.frequency_penalty,
        "logit_bias": {str(id): bias for id, bias in sampling.logit_bias.items()},
    }
    return {**said, **{name: value for name, value in others.items() if value}}


def _stopping(stopping: Stopping) -> dict[str, Any]:
    body: dict[str, Any] = {} if stopping.max_tokens is None else {"max_tokens": stopping.max_tokens}
    return {**body, "stop": stopping.stop} if stopping.stop else body


def _tool_choice(use: ToolUse) -> dict[str, Any]:
    if use.mode == "auto":
        return {} if use.parallel else {"parallel_tool_calls": False}
    if len(use.names) == 1:
        return {"tool_choice": {"type": "function", "function": {"name": use.names[0]}}}
    return {"tool_choice": "required", "parallel_tool_calls": use.parallel}


def _response_format(grammar: Grammar) -> dict[str, Any]:
    if grammar.regex or grammar.grammar:
        raise InvalidRequest(
            "This model's server is asked for JSON only, not for another grammar.", param=grammar.param
        )
    if grammar.json_schema is None:
        return {"type": "json_object"}
    return {
        "type": "json_schema",
        "json_schema": {"name": "answer", "schema": grammar.json_schema, "strict": True},
    }
