"""What the schemas of every dialect have in common.

Rule 1: requests are strict in type and range and deaf to unknown fields, at every depth; an explicit null is an
absent field.
Rule 2: responses carry exactly the keys clients rely on; a key that may be null is there with null.
"""

from typing import Any

from pydantic import BaseModel, ConfigDict, Discriminator, model_validator

MAX_TOKENS = 128_000
MAX_ITEMS = 2048  # messages, prompts or parts in one list
MAX_TOOLS = 512  # an agent with a few MCP servers brings more than the 128 that OpenAI allows


class Request(BaseModel):
    model_config = ConfigDict(
        extra="ignore", strict=True, frozen=True, allow_inf_nan=False, protected_namespaces=()
    )

    @model_validator(mode="before")
    @classmethod
    def _null_is_absent(cls, data: Any) -> Any:
        if isinstance(data, dict):
            return {key: value for key, value in data.items() if value is not None}
        return data


class Response(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


def either(other: str, kind: type) -> Discriminator:
    """Tells ``string`` from ``other``, so that one mistake gives one error and not one per branch."""

    def tag(value: Any) -> str | None:
        return "string" if isinstance(value, str) else other if isinstance(value, (kind, BaseModel)) else None

    return Discriminator(
        tag,
        custom_error_type=f"string_or_{other}_type",
        custom_error_message=f"Input should be a string or a {other}",
    )


def by_type(*known: str, default: str | None = None, **tags: str) -> Discriminator:
    """Tells objects apart by their ``type``: the tag of a known one is its name, that of any other ``other``.

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
    """For a key that is left out rather than null."""
    return value is None
