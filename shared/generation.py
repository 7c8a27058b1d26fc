"""The inner request that every dialect of the api is translated into: a prompt and how to continue it."""

from typing import Annotated, Any, Literal

from pydantic import Field

from shared.parts import AsJson, Ids, Part


class ChatPrompt(Part):
    """Messages for the model's chat template, already in one dialect: roles system, user, assistant, tool.

    ``param``, here and elsewhere: the client's name of the field, for the code that has to refuse it.
    """

    kind: Literal["chat"] = "chat"
    param: str = "messages"
    messages: AsJson[list[dict[str, Any]]]
    tools: AsJson[list[dict[str, Any]] | None] = None
    template_kwargs: AsJson[dict[str, Any]] = {}


class TextPrompt(Part):
    """``suffix``: the text after the gap that the model fills in."""

    kind: Literal["text"] = "text"
    param: str = "prompt"
    text: str
    suffix: str | None = None


class TokenPrompt(Part):
    kind: Literal["tokens"] = "tokens"
    param: str = "prompt"
    ids: Ids
    suffix: str | None = None


Prompt = Annotated[ChatPrompt | TextPrompt | TokenPrompt, Field(discriminator="kind")]


MODELS_OWN = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
"""The fields of Sampling for which a model may have defaults of its own."""


class Sampling(Part):
    """How each next token is chosen. Random numbers are a function of (seed, choice, index) and nothing else.

    ``unsaid``: the fields of MODELS_OWN that the request left open; the worker puts the model's defaults there.
    """

    seed: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0  # 0: no limit
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: dict[int, float] = {}
    unsaid: list[str] = []


class Stopping(Part):
    """When a choice ends.

    ``max_tokens`` 0: the prompt is prefilled and no token follows. None, or more than the context has left: as many as
    it has left.
    """

    max_tokens: int | None = None
    min_tokens: int = 0
    stop: list[str] = []
    stop_token_ids: list[int] = []
    ignore_eos: bool = False


class Grammar(Part):
    """The language of the text, enforced token by token: JSON, unless ``regex`` or ``grammar`` is set.

    ``json_schema`` None: any JSON object. ``whitespace``: a regular expression of the space between its parts.
    ``grammar`` is in Lark's form, as llguidance reads it, or in llama.cpp's GBNF.
    """

    json_schema: AsJson[dict[str, Any] | None] = None
    whitespace: str | None = None
    regex: str | None = None
    grammar: str | None = None
    param: str = "response_format"


class ToolUse(Part):
    """Which of the prompt's tools may be called. ``mode`` required: the answer is a call of one of ``names``, or of
    several if ``parallel`` and the model's format allow it.
    """

    mode: Literal["auto", "required"] = "auto"
    names: list[str]
    parallel: bool = True


class Generation(Part):
    """One prompt and how to continue it.

    ``logprobs`` k: those of each chosen token and of the k best; None: none. ``echo``: the first delta's ``start`` has
    the prompt's text and, with ``logprobs``, its log-probabilities. ``tool_use`` None: text that looks like a call
    stays text. ``split_reasoning``: thinking goes to the deltas' ``reasoning``. Prompts of different
    ``cache_namespace`` never share a cached prefix; those of one ``cache_key`` go to the same worker where they can.
    ``prediction``: text that the answer may be like; it and ``speculate`` change the time of an answer only.
    """

    prompt: Prompt
    sampling: Sampling
    stopping: Stopping = Stopping()
    n: int = 1
    logprobs: int | None = None
    echo: bool = False
    grammar: Grammar | None = None
    tool_use: ToolUse | None = None
    split_reasoning: bool = False
    cache_namespace: str = ""
    cache_key: str = ""
    prediction: str = ""
    speculate: bool = True

    @property
    def param(self) -> str:
        """The field of the request that holds the prompt."""
        return self.prompt.param
