"""Bytes <-> messages. The only module that knows the encoding: msgpack, validated by pydantic.

A socket accepts the messages of its direction and nothing else. No pickle, ever.
"""

from typing import Any, Final, TypeVar

import msgpack
from pydantic import BaseModel, TypeAdapter, ValidationError

from shared.protocol import ApiToBroker, BrokerToApi, BrokerToWorker, WorkerToBroker

T = TypeVar("T")

FROM_API: Final[TypeAdapter[Any]] = TypeAdapter(ApiToBroker)
TO_API: Final[TypeAdapter[Any]] = TypeAdapter(BrokerToApi)
TO_WORKER: Final[TypeAdapter[Any]] = TypeAdapter(BrokerToWorker)
FROM_WORKER: Final[TypeAdapter[Any]] = TypeAdapter(WorkerToBroker)

MAX_FRAME = 64 << 20  # bytes; the sockets refuse larger frames, and the api refuses to make them
_MAX_ITEMS = 4 << 20  # a list of token ids; each costs 8 bytes and more once unpacked


class ProtocolError(Exception):
    """The peer sent bytes that are not a message of its direction."""


def encode(message: BaseModel) -> bytes:
    packed: bytes = msgpack.packb(message.model_dump(exclude_none=True))
    return packed


def decode(direction: TypeAdapter[T], data: bytes) -> T:
    """Raises ProtocolError, whatever is wrong with ``data``."""
    try:
        raw = msgpack.unpackb(
            data, max_array_len=_MAX_ITEMS, max_map_len=1 << 16, strict_map_key=False, max_ext_len=0
        )
        return direction.validate_python(raw)
    except ValidationError as error:
        raise ProtocolError(f"{error.error_count()} errors, the first: {error.errors()[0]['loc']}") from error
    except (
        ValueError,
        TypeError,
        msgpack.exceptions.UnpackException,
        RecursionError,
        OverflowError,
    ) as error:
        raise ProtocolError(f"not msgpack: {type(error).__name__}") from error
