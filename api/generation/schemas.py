"""The base of every dialect's schemas.

Rule 1: requests are strict in type and range, and ignore unknown fields at every depth; null means absent.
Rule 2: answers have exactly the keys that clients rely on; a key that may be null is present with null.
Rule 3: with the context LENIENT, which the api uses, requests are read as other servers read them: 1.0 is the integer
1, an empty string in a BLANK field and -1 or null in an ENDLESS field mean absent, and the model's context bounds the
number of tokens instead of MAX_TOKENS.
"""

from typing import Annotated, Any, ClassVar, Final

from pydantic import (
    AfterValidator,
    AliasChoices,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticKnownError

LENIENT: Final = {"lenient": True}
MAX_TOKENS = 128_000
MOST_TOKENS = (1 << 31) - 1  # beyond every context length
MAX_CHOICES = 128  # of all prompts of a request together
MAX_ITEMS = 2048  # messages, prompts or parts in one list
MAX_TOOLS = 512  # agents with several MCP servers have more than the 128 that OpenAI allows


class Request(BaseModel):
    model_config = ConfigDict(
        extra="ignore", strict=True, frozen=True, allow_inf_nan=False, protected_namespaces=()
    )

    BLANK: ClassVar[frozenset[str]] = frozenset()
    ENDLESS: ClassVar[frozenset[str]] = frozenset()

    @model_validator(mode="before")
    @classmethod
    def _as_it_is_meant(cls, data: Any, info: ValidationInfo) -> Any:
        if not isinstance(data, dict):
            return data
        if not info.context:
            return {key: value for key, value in data.items() if value is not None}
        said = {key: _whole(value) for key, value in data.items() if value is not None}
        for key in cls.BLANK & said.keys():
            if said[key] == "":
                del said[key]
        for key in cls.ENDLESS & data.keys():
            if said.get(key, -1) == -1:
                said[key] = None
        return said


def _whole(value: Any) -> Any:
    """JSON Schema has one type of number: 1.0 is an integer."""
    return int(value) if type(value) is float and value.is_integer() else value


def whole_numbers(ids: Any) -> Any:
    """As ``_whole``, for a list of numbers and for lists of them."""
    if not isinstance(ids, list):
        return ids
    if any(type(id) is float for id in ids):
        return [_whole(id) for id in ids]
    return [whole_numbers(id) for id in ids] if ids and isinstance(ids[0], list) else ids


def without_blanks(texts: Any) -> Any:
    return [each for each in texts if each not in ("", None)] if isinstance(texts, list) else texts


def _bounded(tokens: int, info: ValidationInfo) -> int:
    if info.context:
        return min(tokens, MOST_TOKENS)
    if tokens > MAX_TOKENS:
        raise PydanticKnownError("less_than_equal", {"le": MAX_TOKENS})
    return tokens


_DOCUMENTED = {"maximum": MAX_TOKENS}
MaxTokens = Annotated[int, Field(ge=1, json_schema_extra=_DOCUMENTED), AfterValidator(_bounded)]
MaxTokensOrNone = Annotated[int, Field(ge=0, json_schema_extra=_DOCUMENTED), AfterValidator(_bounded)]


class Response(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


def either(other: str, kind: type) -> Discriminator:
    """Tells a string from ``other``, so that a mistake gives one error instead of one for each branch."""

    def tag(value: Any) -> str | None:
        return "string" if isinstance(value, str) else other if isinstance(value, (kind, BaseModel)) else None

    return Discriminator(
        tag,
        custom_error_type=f"string_or_{other}_type",
        custom_error_message=f"Input should be a string or a {other}",
    )


def by_type(*known: str, default: str | None = None, **tags: str) -> Discriminator:
    """Tells objects apart by their ``type``. The tag of a known type is its name, that of any other is ``other``.

    ``default`` is the tag of an object without a type, ``tags`` the tags of types that share one.
    """
    tag_of = {**{name: name for name in known}, **tags}

    def tag(value: Any) -> str | None:
        kind = value.get("type") if isinstance(value, dict) else getattr(value, "type", None)
        if kind is None:
            return default if isinstance(value, dict) else None
        return tag_of.get(kind, "other") if isinstance(kind, str) else None

    return Discriminator(
        tag, custom_error_type="object_type", custom_error_message="Input should be an object with a type"
    )


def is_none(value: object) -> bool:
    """For a key that is left out instead of null."""
    return value is None


INT64 = 1 << 63
TokenIdString = Annotated[str, Field(pattern=r"^[0-9]{1,9}$")]
TokenId = Annotated[int, Field(ge=0, lt=1 << 31)]
TokenIds = Annotated[list[TokenId], Field(min_length=1, max_length=1 << 20, fail_fast=True)]
ModelName = Annotated[str, Field(max_length=512)]
TopLogprobs = Annotated[int, Field(ge=0, le=20)]
StopString = Annotated[str, Field(min_length=1, max_length=256)]
Stop = Annotated[
    Annotated[StopString, Tag("string")] | Annotated[list[StopString], Tag("list"), Field(max_length=16)],
    either("list", list),
]


def _kind_of_prompt(value: Any) -> str:
    first = value[0] if isinstance(value, list) and value else value
    match first:
        case int() | float():
            return "ids"
        case list():
            return "lists of ids"
    return "strings" if isinstance(value, list) else "string"


MANY = Field(min_length=1, max_length=MAX_ITEMS)
TextOrTokens = Annotated[
    Annotated[str, Tag("string")]
    | Annotated[list[str], Tag("strings"), MANY]
    | Annotated[TokenIds, Tag("ids")]
    | Annotated[list[TokenIds], Tag("lists of ids"), MANY],
    Discriminator(_kind_of_prompt),
]


class Sampled(Request):
    """The sampling and stopping parameters that all dialects accept."""

    BLANK: ClassVar = frozenset({"stop"})

    min_tokens: int = Field(0, ge=0, le=MAX_TOKENS)
    top_k: int = Field(0, ge=-1, lt=1 << 31)  # -1 and 0: no limit
    min_p: float = Field(0.0, ge=0, le=1)
    repetition_penalty: float = Field(
        1.0, gt=0, le=2, validation_alias=AliasChoices("repetition_penalty", "repeat_penalty")
    )
    presence_penalty: float = Field(0.0, ge=-2, le=2)
    frequency_penalty: float = Field(0.0, ge=-2, le=2)
    logit_bias: dict[TokenIdString, Annotated[float, Field(ge=-100, le=100)]] = Field({}, max_length=1024)
    seed: int | None = Field(None, ge=-INT64, lt=INT64)
    stop: Stop = []
    stop_token_ids: list[TokenId] = Field([], max_length=1024)
    ignore_eos: bool = False

    @field_validator("stop", mode="before")
    @classmethod
    def _blanks_stop_nothing(cls, stop: Any, info: ValidationInfo) -> Any:
        return without_blanks(stop) if info.context else stop

    @field_validator("stop_token_ids", mode="before")
    @classmethod
    def _stop_ids_are_whole(cls, ids: Any, info: ValidationInfo) -> Any:
        return whole_numbers(ids) if info.context else ids

    @property
    def stop_strings(self) -> list[str]:
        return [self.stop] if isinstance(self.stop, str) else self.stop
