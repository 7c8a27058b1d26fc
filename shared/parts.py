"""What every message is made of: the base class of its parts, and values that travel as JSON text or as bytes.

Rule 1: what a client may say freely (schemas, messages, arguments) travels as JSON text, which has values that msgpack
lacks. Rule 2: token ids travel as bytes. Both keep the number of objects made from a frame small, however long it is.
"""

import json
import sys
from array import array
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, PlainSerializer


class Part(BaseModel):
    """A piece of a message. Unknown fields are ignored, so that a newer peer can talk to an older one."""

    model_config = ConfigDict(frozen=True, extra="ignore", protected_namespaces=())


T = TypeVar("T")


def _to_json(value: Any) -> str | None:
    return None if value is None else json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _from_json(value: Any) -> Any:
    """Takes the value itself too."""
    return json.loads(value) if isinstance(value, str) else value


def _to_bytes(ids: list[int]) -> bytes | list[int]:
    """Numbers that cannot be token ids travel as they are, for the worker to refuse them."""
    try:
        packed = array("I", ids)
    except (OverflowError, TypeError):
        return ids
    if sys.byteorder == "big":
        packed.byteswap()
    return packed.tobytes()


def _from_bytes(value: Any) -> Any:
    if not isinstance(value, bytes):
        return value
    ids = array("I")
    ids.frombytes(value)
    if sys.byteorder == "big":
        ids.byteswap()
    return ids.tolist()


AsJson = Annotated[T, BeforeValidator(_from_json), PlainSerializer(_to_json)]  # not of a str
Ids = Annotated[list[int], BeforeValidator(_from_bytes), PlainSerializer(_to_bytes)]  # four bytes each
