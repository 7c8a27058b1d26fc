"""Whatever can be said arrives as it was said; whatever else arrives is a ProtocolError and nothing worse."""

from enum import Enum
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, TypeAdapter

from shared import wire
from shared.protocol import (
    ApiToBroker,
    BrokerToApi,
    BrokerToWorker,
    Cancel,
    Chunks,
    Delta,
    Part,
    TokenLogprob,
    WorkerToBroker,
)
from shared.wire import ProtocolError, decode, encode

Direction = TypeAdapter[Any]


def members(union: Any) -> tuple[type[Part], ...]:
    found: tuple[type[Part], ...] = get_args(get_args(union)[0])
    return found


DIRECTIONS: list[tuple[str, Direction, tuple[type[Part], ...]]] = [
    ("from an api", wire.FROM_API, members(ApiToBroker)),
    ("to an api", wire.TO_API, members(BrokerToApi)),
    ("to a worker", wire.TO_WORKER, members(BrokerToWorker)),
    ("from a worker", wire.FROM_WORKER, members(WorkerToBroker)),
]


EVERYTHING = sorted({type for _, _, types in DIRECTIONS for type in types}, key=lambda type: type.__name__)
MESSAGES = [
    pytest.param(direction, type, id=f"{type.__name__} {name}")
    for name, direction, types in DIRECTIONS
    for type in types
]
STRANGERS = [
    pytest.param(direction, type, id=f"{type.__name__} {name}")
    for name, direction, types in DIRECTIONS
    for type in EVERYTHING
    if type not in types
]


# ---------------------------------------------------------------- any value of a message's type

LEAVES: dict[Any, st.SearchStrategy[Any]] = {
    str: st.text(max_size=8),
    int: st.integers(-(2**63), 2**64 - 1),  # what msgpack can say
    float: st.floats(allow_nan=False),
    bytes: st.binary(max_size=8),
    bool: st.booleans(),
    NoneType: st.none(),
    Any: st.recursive(
        st.none()
        | st.booleans()
        | st.integers(-(2**63), 2**63)
        | st.floats(allow_nan=False)
        | st.text(max_size=8),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
        max_leaves=5,
    ),
}


def values(annotation: Any) -> st.SearchStrategy[Any]:
    if annotation in LEAVES:
        return LEAVES[annotation]
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return st.sampled_from(annotation)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        fields = {name: values(field.annotation) for name, field in annotation.model_fields.items()}
        return st.builds(annotation, **fields)
    arguments = get_args(annotation)
    origin = get_origin(annotation)
    if origin is Annotated:
        return values(arguments[0])
    if origin is Literal:
        return st.sampled_from(arguments)
    if origin in (Union, UnionType):
        return st.one_of([values(argument) for argument in arguments])
    if origin is list:
        return st.lists(values(arguments[0]), max_size=3)
    if origin is dict:
        return st.dictionaries(values(arguments[0]), values(arguments[1]), max_size=3)
    raise NotImplementedError(annotation)


# ---------------------------------------------------------------- what can be said


@pytest.mark.parametrize(("direction", "type"), MESSAGES)
@given(data=st.data())
def test_every_message_arrives_as_it_was_sent(
    direction: Direction, type: type[Part], data: st.DataObject
) -> None:
    message = data.draw(values(type))
    assert decode(direction, encode(message)) == message


def test_absent_and_null_inside_a_prompt_stay_apart() -> None:
    """A template may ask whether a key is there."""
    submit = {
        "type": "submit", "request_id": "r", "attempt": 1, "model": "m",
        "generation": {
            "prompt": {"kind": "chat", "messages": [{"role": "assistant", "content": None}]},
            "sampling": {"seed": 1},
        },
    }  # fmt: skip
    message = wire.FROM_API.validate_python(submit)
    assert decode(wire.FROM_API, encode(message)).generation.prompt.messages == [
        {"role": "assistant", "content": None}
    ]


def test_a_newer_peer_may_say_more() -> None:
    frame = msgpack.packb({"type": "cancel", "request_id": "r", "urgent": True})
    assert decode(wire.FROM_API, frame) == Cancel(request_id="r")


def test_half_a_character_survives_as_bytes() -> None:
    half = TokenLogprob(id=1, bytes="ä".encode()[:1], logprob=-0.5)
    chunks = Chunks(deltas=[Delta(request_id="r", attempt=1, index=0, ids=[1], logprobs=[half])])
    assert decode(wire.TO_API, encode(chunks)) == chunks


# ---------------------------------------------------------------- what cannot


@pytest.mark.parametrize(("direction", "type"), STRANGERS)
@settings(max_examples=5)
@given(data=st.data())
def test_a_message_of_another_direction_is_refused(
    direction: Direction, type: type[Part], data: st.DataObject
) -> None:
    with pytest.raises(ProtocolError):
        decode(direction, encode(data.draw(values(type))))


def frames(value: Any) -> bytes:
    packed: bytes = msgpack.packb(value)
    return packed


GARBAGE = {
    "nothing": b"",
    "nil": b"\xc0",
    "a number": b"\x01",
    "a list": b"\x90",
    "an unused byte": b"\xc1",
    "a list that goes on": b"\x92\x01",
    "two messages in one frame": encode(Cancel(request_id="r")) * 2,
    "a list of 4 G announced": b"\xdd\xff\xff\xff\xff",
    "a map of 4 G announced": b"\xdf\xff\xff\xff\xff",
    "a string of 4 G announced": b"\xdb\xff\xff\xff\xff",
    "100,000 lists in each other": b"\x91" * 100_000 + b"\xc0",
    "an extension": b"\xc7\x01\x05x",
    "a timestamp": b"\xd6\xff\x00\x00\x00\x00",
    "a map with a list for a key": b"\x81\x90\x01",
    "a string that is not UTF-8": b"\x81\xa4type\xa4\xff\xff\xff\xff",
    "no type": frames({}),
    "an unknown type": frames({"type": "obey"}),
    "a type that is no string": frames({"type": ["ping"]}),
    "a field missing": frames({"type": "cancel"}),
    "a field of the wrong type": frames({"type": "cancel", "request_id": 7}),
    "a huge number": frames({"type": "ack", "request_id": "r", "choice": 0, "next_index": "9" * 5000}),
    "pickled": b"\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00\x8c\x02os\x94\x8c\x06system\x94\x93\x94.",
}


@pytest.mark.parametrize(
    "direction", [direction for _, direction, _ in DIRECTIONS], ids=[d[0] for d in DIRECTIONS]
)
@pytest.mark.parametrize("frame", GARBAGE.values(), ids=GARBAGE.keys())
def test_garbage_is_a_protocol_error(direction: Direction, frame: bytes) -> None:
    with pytest.raises(ProtocolError):
        decode(direction, frame)


@given(frame=st.binary(max_size=200) | LEAVES[Any].map(frames))
def test_random_bytes_raise_nothing_but_protocol_errors(frame: bytes) -> None:
    for _, direction, _ in DIRECTIONS:
        with pytest.raises(ProtocolError):
            decode(direction, frame)


@pytest.mark.parametrize(("direction", "type"), MESSAGES)
@given(data=st.data())
def test_a_damaged_message_is_a_message_or_a_protocol_error(
    direction: Direction, type: type[Part], data: st.DataObject
) -> None:
    frame = bytearray(encode(data.draw(values(type))))
    for place in data.draw(st.lists(st.integers(0, len(frame) - 1), min_size=1, max_size=4)):
        frame[place] = data.draw(st.integers(0, 255))
    try:
        decode(direction, bytes(frame))
    except ProtocolError:
        pass
