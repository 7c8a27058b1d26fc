"""OpenAI requests -> ``Generation``, the one inner request. Pure.

Rule 1: what does not work yet is refused by name, never ignored.
Rule 2: nothing is tokenized, folded or guessed here: the worker knows the model.
"""

import secrets
from typing import Any

from api.errors import MAX_KEY
from shared.errors import InvalidRequest, UnsupportedParameter
from shared.openai import (
    ChatCompletionRequest,
    ChatMessage,
    CompletionRequest,
    MediaPart,
    RefusalPart,
)
from shared.protocol import ChatPrompt, Generation, Prompt, Sampling, Stopping, TextPrompt, TokenPrompt

TEMPLATE_KWARGS = {"enable_thinking": bool, "reasoning_effort": str}


def chat_generation(request: ChatCompletionRequest) -> Generation:
    _refuse_tools(request)
    if request.response_format is not None and request.response_format.type != "text":
        raise _unsupported("response_format", "only {'type': 'text'} works yet")
    return Generation(
        prompt=ChatPrompt(
            messages=[_message(message, f"messages[{i}]") for i, message in enumerate(request.messages)],
            template_kwargs=_template_kwargs(request.chat_template_kwargs),
        ),
        sampling=_sampling(request),
        stopping=_stopping(request, request.max_completion_tokens or request.max_tokens),
        n=request.n,
        logprobs=(request.top_logprobs or 0) if request.logprobs else None,
    )


def completion_generations(request: CompletionRequest) -> list[Generation]:
    """One for each prompt, in the order of the prompts."""
    _refuse_completion_extras(request)
    sampling, stopping = _sampling(request), _stopping(request, request.max_tokens)
    return [
        Generation(
            prompt=prompt,
            sampling=sampling,
            stopping=stopping,
            n=request.n,
            logprobs=request.logprobs,
            echo=request.echo,
        )
        for prompt in _prompts(request.prompt)
    ]


def _prompts(prompt: str | list[str] | list[int] | list[list[int]]) -> list[Prompt]:
    if isinstance(prompt, str):
        return [TextPrompt(text=prompt)]
    if ids := [item for item in prompt if isinstance(item, int)]:  # all of them, or none
        return [TokenPrompt(ids=ids)]
    many = [item for item in prompt if not isinstance(item, int)]
    return [TextPrompt(text=item) if isinstance(item, str) else TokenPrompt(ids=item) for item in many]


def _sampling(request: ChatCompletionRequest | CompletionRequest) -> Sampling:
    return Sampling(
        seed=secrets.randbits(63) if request.seed is None else request.seed,
        temperature=request.temperature,
        top_p=request.top_p,
        top_k=max(request.top_k, 0),
        min_p=request.min_p,
        repetition_penalty=request.repetition_penalty,
        presence_penalty=request.presence_penalty,
        frequency_penalty=request.frequency_penalty,
        logit_bias={int(id): bias for id, bias in request.logit_bias.items()},
    )


def _stopping(request: ChatCompletionRequest | CompletionRequest, max_tokens: int | None) -> Stopping:
    if max_tokens is not None and request.min_tokens > max_tokens:
        raise InvalidRequest(
            f"'min_tokens' must not be larger than max_tokens ({max_tokens}).", param="min_tokens"
        )
    return Stopping(
        max_tokens=max_tokens,
        min_tokens=request.min_tokens,
        stop=request.stop_strings,
        ignore_eos=request.ignore_eos,
    )


def _message(message: ChatMessage, path: str) -> dict[str, Any]:
    role = {"developer": "system", "function": "tool"}.get(message.role, message.role)
    out: dict[str, Any] = {"role": role, "content": _text(message, f"{path}.content")}
    if message.name is not None:
        out["name"] = message.name
    if message.tool_call_id is not None:
        out["tool_call_id"] = message.tool_call_id
    if message.role == "assistant" and message.tool_calls:
        out["tool_calls"] = [call.model_dump() for call in message.tool_calls]
    if message.role == "assistant" and message.reasoning_content is not None:
        out["reasoning_content"] = message.reasoning_content
    return out


def _text(message: ChatMessage, path: str) -> str:
    if message.content is None or isinstance(message.content, str):
        return message.content or ""
    texts = []
    for i, part in enumerate(message.content):
        if isinstance(part, MediaPart):
            raise _unsupported(f"{path}[{i}]", f"this model reads text only, not {part.type}")
        texts.append(part.refusal if isinstance(part, RefusalPart) else part.text)
    return "".join(texts)


def _template_kwargs(kwargs: dict[str, Any]) -> dict[str, Any]:
    given = {key: value for key, value in kwargs.items() if value is not None}
    for key, value in given.items():
        wanted = TEMPLATE_KWARGS.get(key)
        if wanted is None:
            raise _unsupported(
                f"chat_template_kwargs.{key[:MAX_KEY]}", f"allowed: {', '.join(TEMPLATE_KWARGS)}"
            )
        if not isinstance(value, wanted):
            raise InvalidRequest(f"'{key}' must be a {wanted.__name__}.", param=f"chat_template_kwargs.{key}")
    return given


def _refuse_tools(request: ChatCompletionRequest) -> None:
    if request.tools and request.tool_choice != "none":
        raise _unsupported("tools", "tools do not work yet; send no tools or tool_choice 'none'")
    if request.functions and request.function_call != "none":
        raise _unsupported(
            "functions", "functions do not work yet; send no functions or function_call 'none'"
        )


def _refuse_completion_extras(request: CompletionRequest) -> None:
    if request.suffix is not None:
        raise _unsupported("suffix", "no model here fills in a middle")
    if request.max_tokens == 0:
        raise _unsupported("max_tokens", "0 does not work yet; at least 1")
    if request.echo and request.logprobs is not None:
        raise _unsupported("logprobs", "it does not work together with echo yet")
    if request.best_of is not None and request.best_of > request.n:
        raise _unsupported("best_of", f"only best_of equal to n ({request.n}) works")


def _unsupported(param: str, why: str) -> UnsupportedParameter:
    return UnsupportedParameter(f"Unsupported parameter: '{param}': {why}.", param=param)
