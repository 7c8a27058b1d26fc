"""What the schemas of every dialect have in common.

Rule 1: requests are strict in type and range and deaf to unknown fields, at every depth; an explicit null is an
absent field.
Rule 2: responses carry exactly the keys clients rely on; a key that may be null is there with null.
"""

from typing import Any

from pydantic import BaseModel, ConfigDict, Discriminator, model_validator

MAX_TOKENS = 128_000
MAX_ITEMS = 2048  # messages, prompts or parts in one list
MAX_TOOLS = 128


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


def is_none(value: object) -> bool:
    """For a key that is left out rather than null."""
    return value is None
