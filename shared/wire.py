"""Bytes <-> messages. The only module that knows the encoding: msgpack, validated by pydantic.

Rule 1: a socket accepts the messages of its direction and nothing else. No pickle, ever.
Rule 2: ``encode`` raises CannotBePassedOn and nothing else, ``decode`` ProtocolError and nothing else.
Rule 3: text that UTF-8 has no form for becomes U+FFFD, and an integer beyond 64 bits travels as digits.
Rule 4: a header is short and has few containers; both are checked before an object is made.
"""

import codecs
import gc
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import blake2b
from typing import Any, Final, TypeVar

import msgpack
from pydantic import BaseModel, TypeAdapter, ValidationError

from shared.errors import CannotBePassedOn
from shared.prefix_path import path_of
from shared.protocol import (
    ApiToBroker,
    BrokerToApi,
    BrokerToWorker,
    ChangesReport,
    Chunks,
    EncodingBody,
    Generation,
    Prompt,
    Run,
    RunHeader,
    StatusReport,
    Submit,
    SubmitBody,
    SubmitHeader,
    Task,
    TextPrompt,
    TokenPrompt,
    WorkerToBroker,
)

T = TypeVar("T")

FROM_API: Final[TypeAdapter[Any]] = TypeAdapter(ApiToBroker)
TO_API: Final[TypeAdapter[Any]] = TypeAdapter(BrokerToApi)
TO_WORKER: Final[TypeAdapter[Any]] = TypeAdapter(BrokerToWorker)
FROM_WORKER: Final[TypeAdapter[Any]] = TypeAdapter(WorkerToBroker)
BODY: Final[TypeAdapter[SubmitBody | EncodingBody]] = TypeAdapter(SubmitBody | EncodingBody)

MAX_FRAME = 64 << 20  # bytes; the sockets refuse larger frames
MAX_HEADER = 1 << 20  # of a message that the broker or a worker's link reads
_MAX_CONTAINERS = 16 << 10  # of a header; its other values cost little
_MAX_ITEMS = 1 << 20  # of one container: more than a context has tokens
_CONTAINERS: Final = bytes(
    [*range(0x80, 0xA0), *range(0xDC, 0xE0)]
)  # the first bytes of maps and arrays in msgpack
_LONG: Final = (TO_API, BODY)  # directions of messages that may fill a frame
_FILLS_A_FRAME: Final = (SubmitBody, EncodingBody, Chunks, StatusReport, ChangesReport)  # if it has to
_REPLACED = "mlx-server.replaced"


class ProtocolError(Exception):
    """The peer sent bytes that are not a message of its direction."""


# ---------------------------------------------------------------- encode


def frames(message: BaseModel) -> list[bytes]:
    """The message as it is sent: a Submit and a Run are two frames, all else is one. Raises CannotBePassedOn."""
    match message:
        case Submit():
            body = encode(_body_of(message))
            return [encode(header_of(message)), body]
        case Run(api=api, submit=submit):
            body = encode(_body_of(submit))
            return [encode(RunHeader(api=api, submit=header_of(submit))), body]
    return [encode(message)]


def encode(message: BaseModel) -> bytes:
    """Raises CannotBePassedOn for a value without a form in msgpack, or a message longer than its receiver reads."""
    limit = MAX_FRAME if isinstance(message, _FILLS_A_FRAME) else MAX_HEADER
    try:
        packed = _pack(message.model_dump(exclude_none=True))
    except (ValueError, TypeError, OverflowError, RecursionError, MemoryError) as error:
        raise CannotBePassedOn(f"A value in it cannot be passed on: {error}") from error
    if len(packed) > limit:
        raise CannotBePassedOn(f"It is too large to be passed on: {len(packed)} bytes; {limit} are allowed.")
    return packed


def _body_of(submit: Submit) -> SubmitBody | EncodingBody:
    if isinstance(submit.task, Generation):
        return SubmitBody(generation=submit.task, held=submit.held)
    return EncodingBody(encoding=submit.task, held=submit.held)


def header_of(submit: Submit) -> SubmitHeader:
    task = submit.task
    return SubmitHeader(
        request_id=submit.request_id,
        attempt=submit.attempt,
        model=submit.model,
        losses=submit.losses,
        caller=submit.caller,
        group=submit.group,
        digest=submit.digest,
        key=submit.key,
        prompt=task.prompt.kind if isinstance(task, Generation) else task.kind,
        size=task_size(task),
        max_tokens=task.stopping.max_tokens if isinstance(task, Generation) else None,
        n=task.n,
        lengths=[len(ids) for ids in submit.held],
        fingerprint=fingerprint(submit.model, task),
        path=path_of(task) if isinstance(task, Generation) else b"",
    )


_NOT_SAID: Final[dict[str, Any]] = {"cache_namespace": True, "cache_key": True, "sampling": {"seed"}}


def fingerprint(model: str, task: Task) -> bytes:
    """A digest of the request without caller and seed."""
    said = task.model_dump(exclude_none=True, exclude=_NOT_SAID)
    return blake2b(_pack([model, said]), digest_size=16).digest()


def task_size(task: Task) -> int:
    """Of its words, in token ids or in characters."""
    return prompt_size(task.prompt) if isinstance(task, Generation) else task.size


def prompt_size(prompt: Prompt) -> int:
    """In token ids, or in characters."""
    match prompt:
        case TokenPrompt(ids=ids):
            return len(ids)
        case TextPrompt(text=text):
            return len(text)
    return sum(len(str(message.get("content") or "")) for message in prompt.messages)


def _pack(value: object) -> bytes:
    try:
        packed: bytes = msgpack.packb(value, default=_digits)
    except UnicodeEncodeError:
        packed = msgpack.packb(value, default=_digits, unicode_errors=_REPLACED)
    return packed


def _digits(value: object) -> str:
    """For integers beyond 64 bits; pydantic reads an int from its digits. Raises TypeError for anything else."""
    if isinstance(value, int):
        return str(value)
    raise TypeError(f"a {type(value).__name__}")


def _replaced(error: UnicodeError) -> tuple[bytes, int]:
    """Two surrogates that belong together become their character, a single one U+FFFD."""
    assert isinstance(error, UnicodeEncodeError)
    halves = error.object[error.start : error.end].encode("utf-16-le", "surrogatepass")
    return halves.decode("utf-16-le", "replace").encode(), error.end


codecs.register_error(_REPLACED, _replaced)

# ---------------------------------------------------------------- decode


def decode(direction: TypeAdapter[T], data: bytes) -> T:
    """Raises ProtocolError, whatever is wrong with ``data``."""
    if direction not in _LONG:
        _check_header(data)
    try:
        with _without_collector():
            return direction.validate_python(_unpack(data))
    except ValidationError as error:
        raise ProtocolError(f"{error.error_count()} errors, the first: {error.errors()[0]['loc']}") from error
    except (
        ValueError,
        TypeError,
        msgpack.exceptions.UnpackException,
        RecursionError,
        OverflowError,
        MemoryError,
    ) as error:
        raise ProtocolError(f"not msgpack: {type(error).__name__}") from error


def opened(run: RunHeader, body: bytes) -> Run:
    """The Run of a header and its body. Raises ProtocolError."""
    read = decode(BODY, body)
    header = run.submit
    submit = Submit(
        request_id=header.request_id,
        attempt=header.attempt,
        model=header.model,
        task=read.task,
        held=read.held,
        losses=header.losses,
        caller=header.caller,
        group=header.group,
        digest=header.digest,
        key=header.key,
    )
    return Run(api=run.api, submit=submit)


def _check_header(data: bytes) -> None:
    """Counts the bytes that may begin a container; text has some too, but a header has little text."""
    if len(data) > MAX_HEADER:
        raise ProtocolError(f"a header of {len(data)} bytes; {MAX_HEADER} are allowed")
    if len(data) - len(data.translate(None, _CONTAINERS)) > _MAX_CONTAINERS:
        raise ProtocolError(f"a header of more than {_MAX_CONTAINERS} containers")


def _unpack(data: bytes) -> object:
    return msgpack.unpackb(
        data, max_array_len=_MAX_ITEMS, max_map_len=1 << 16, strict_map_key=False, max_ext_len=0
    )


@contextmanager
def _without_collector() -> Iterator[None]:
    """Without it most of the time goes into collections that find nothing, because every object is in use."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
