"""Whatever can be said arrives as it was said; whatever else arrives is a ProtocolError and nothing worse."""

import time
from enum import Enum
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, TypeAdapter

from shared import wire
from shared.errors import CannotBePassedOn
from shared.protocol import (
    ApiToBroker,
    BrokerToApi,
    BrokerToWorker,
    Cancel,
    ChatPrompt,
    Chunks,
    Delta,
    EncodingBody,
    Generation,
    Part,
    Ping,
    Run,
    RunHeader,
    Sampling,
    Submit,
    SubmitBody,
    TextPrompt,
    TokenLogprob,
    TokenPrompt,
    WorkerToBroker,
)
from shared.wire import (
    BODY,
    FROM_API,
    MAX_HEADER,
    TO_API,
    TO_WORKER,
    ProtocolError,
    decode,
    encode,
    frames,
    opened,
)
from tests.marks import examples

Direction = TypeAdapter[Any]


def members(union: Any) -> tuple[type[Part], ...]:
    found: tuple[type[Part], ...] = get_args(get_args(union)[0])
    return found


DIRECTIONS: list[tuple[str, Direction, tuple[type[Part], ...]]] = [
    ("from an api", wire.FROM_API, members(ApiToBroker)),
    ("to an api", wire.TO_API, members(BrokerToApi)),
    ("to a worker", wire.TO_WORKER, members(BrokerToWorker)),
    ("from a worker", wire.FROM_WORKER, members(WorkerToBroker)),
    ("behind a header", wire.BODY, (SubmitBody, EncodingBody)),
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

INTEGERS = st.integers(-(2**63), 2**64 - 1) | st.sampled_from([2**64, -(2**80), 10**30, 10**4299])
LEAVES: dict[Any, st.SearchStrategy[Any]] = {
    str: st.text(max_size=8),
    int: INTEGERS,
    float | int | str: st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text(max_size=8),
    float: st.floats(allow_nan=False),
    bytes: st.binary(max_size=8),
    bool: st.booleans(),
    NoneType: st.none(),
    Any: st.recursive(
        st.none() | st.booleans() | INTEGERS | st.floats(allow_nan=False) | st.text(max_size=8),
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
@examples(12)
@given(data=st.data())
def test_every_message_arrives_as_it_was_sent(
    direction: Direction, type: type[Part], data: st.DataObject
) -> None:
    message = data.draw(values(type))
    assert decode(direction, encode(message)) == message


TEXT_UTF8_CANNOT_HOLD = st.text(st.characters() | st.characters(categories=["Cs"]), min_size=1, max_size=8)


def saying(text: str, value: Any) -> Any:
    """The same value with ``text`` for each of its strs, in whatever depth; what types and choices are called stays."""
    if isinstance(value, BaseModel):
        free = [
            name for name, field in type(value).model_fields.items() if "Literal" not in str(field.annotation)
        ]
        return value.model_copy(update={name: saying(text, getattr(value, name)) for name in free})
    if isinstance(value, dict):
        return {saying(text, key): saying(text, inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [saying(text, inner) for inner in value]
    return text if type(value) is str else value


@pytest.mark.parametrize(("direction", "type"), MESSAGES)
@examples(12)
@given(data=st.data(), text=TEXT_UTF8_CANNOT_HOLD)
def test_every_message_is_encoded_and_decoded_whatever_text_it_has(
    direction: Direction, type: type[Part], data: st.DataObject, text: str
) -> None:
    message = saying(text, data.draw(values(type)))
    assert decode(direction, encode(message)) == saying(replaced(text), message)


def replaced(text: str) -> str:
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


@pytest.mark.parametrize(
    ("said", "heard"),
    [
        ("\ud83d", "\ufffd"),
        ("a\ude00b", "a\ufffdb"),
        ("\ud83d\ude00", "\U0001f600"),
        ("\ud83d\ud83d", "\ufffd" * 2),
    ],
)
def test_what_utf8_cannot_hold_is_replaced_and_a_pair_of_halves_becomes_its_character(
    said: str, heard: str
) -> None:
    delta = Delta(request_id="r", attempt=1, index=0, text=said)
    assert decode(TO_API, encode(Chunks(deltas=[delta]))).deltas[0].text == heard


UNSAYABLE: dict[str, Any] = {
    "a number of 5,000 digits": 10**5000,
    "what JSON has not": {1, 2},
    "lists too deep": None,
}


@pytest.mark.parametrize("value", UNSAYABLE.values(), ids=UNSAYABLE.keys())
def test_a_value_that_cannot_be_encoded_is_the_requests_own_error(value: Any) -> None:
    if value is None:
        for _ in range(100_000):
            value = [value]
    prompt = ChatPrompt(messages=[]).model_copy(update={"messages": [{"role": "user", "x": value}]})
    with pytest.raises(CannotBePassedOn, match="cannot be passed on"):
        frames(submit(prompt))


def submit(prompt: Any, **fields: Any) -> Submit:
    generation = Generation(prompt=prompt, sampling=Sampling(seed=1))
    return Submit(request_id="r", attempt=1, model="m", task=generation, **fields)


@given(data=st.data())
def test_a_worker_gets_the_request_that_the_api_sent_though_the_broker_reads_its_header_only(
    data: st.DataObject,
) -> None:
    sent = data.draw(values(Submit))
    header, body = frames(sent)
    heard = decode(FROM_API, header)
    told = decode(TO_WORKER, encode(RunHeader(api="api-1", submit=heard)))
    assert opened(told, body) == Run(api="api-1", submit=sent)


@given(body=st.binary(max_size=200))
def test_a_body_that_is_no_message_is_a_protocol_error(body: bytes) -> None:
    header = decode(FROM_API, frames(submit(TextPrompt(text="x")))[0])
    with pytest.raises(ProtocolError):
        opened(RunHeader(api="a", submit=header), body)


def test_a_header_has_no_text_of_its_request() -> None:
    header, _ = frames(submit(ChatPrompt(messages=[{"role": "user", "content": "secret"}])))
    assert b"secret" not in header


@pytest.mark.parametrize(
    "ids", [[], [0, 5, 2**32 - 1], [-1], [2**32], [10**30]], ids=["none", "ids", "negative", "large", "huge"]
)
def test_token_ids_arrive_whether_a_model_has_them_or_not(ids: list[int]) -> None:
    sent = SubmitBody(generation=Generation(prompt=TokenPrompt(ids=ids), sampling=Sampling(seed=1)))
    assert decode(BODY, encode(sent)) == sent


def test_a_million_ids_are_four_million_bytes() -> None:
    body = SubmitBody(generation=Generation(prompt=TokenPrompt(ids=[7] * 10**6), sampling=Sampling(seed=1)))
    assert len(encode(body)) < 4 * 10**6 + 1000


def wide(header: bytes, containers: int) -> bytes:
    return (
        header[:1].replace(b"\x81", b"\x82")
        + header[1:]
        + b"\xa1x\xdd"
        + containers.to_bytes(4)
        + b"\x90" * containers
    )


@pytest.mark.parametrize("containers", [20_000, MAX_HEADER - 50, 16 << 20])
def test_a_header_of_many_containers_is_refused_before_they_are_built(containers: int) -> None:
    frame = wide(encode(Ping()), containers)
    begun = time.process_time()
    with pytest.raises(ProtocolError, match="header of"):
        decode(FROM_API, frame)
    assert time.process_time() - begun < 0.5


def test_unknown_fields_with_many_containers_are_ignored() -> None:
    assert decode(FROM_API, wide(encode(Ping()), 1000)) == Ping()


def test_absent_and_null_inside_a_prompt_stay_apart() -> None:
    """A template may ask whether a key is there."""
    messages = [{"role": "assistant", "content": None}]
    _, body = frames(submit(ChatPrompt(messages=messages)))
    heard = decode(BODY, body)
    assert isinstance(heard, SubmitBody) and isinstance(prompt := heard.generation.prompt, ChatPrompt)
    assert prompt.messages == messages


def test_unknown_fields_of_a_newer_peer_are_ignored() -> None:
    frame = msgpack.packb({"type": "cancel", "request_id": "r", "urgent": True})
    assert decode(wire.FROM_API, frame) == Cancel(request_id="r")


def test_half_a_character_survives_as_bytes() -> None:
    half = TokenLogprob(id=1, bytes="ä".encode()[:1], logprob=-0.5)
    chunks = Chunks(deltas=[Delta(request_id="r", attempt=1, index=0, ids=[1], logprobs=[half])])
    assert decode(wire.TO_API, encode(chunks)) == chunks


# ---------------------------------------------------------------- what cannot


@pytest.mark.parametrize(("direction", "type"), STRANGERS)
@examples(5)
@given(data=st.data())
def test_a_message_of_another_direction_is_refused(
    direction: Direction, type: type[Part], data: st.DataObject
) -> None:
    with pytest.raises(ProtocolError):
        decode(direction, encode(data.draw(values(type))))


def msgpacked(value: Any) -> bytes:
    packed: bytes = msgpack.packb(value, default=str)
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
    "no type": msgpacked({}),
    "an unknown type": msgpacked({"type": "obey"}),
    "a type that is no string": msgpacked({"type": ["ping"]}),
    "a field missing": msgpacked({"type": "cancel"}),
    "a field of the wrong type": msgpacked({"type": "cancel", "request_id": 7}),
    "a huge number": msgpacked({"type": "ack", "request_id": "r", "choice": 0, "next_index": "9" * 5000}),
    "pickled": b"\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00\x8c\x02os\x94\x8c\x06system\x94\x93\x94.",
}


@pytest.mark.parametrize(
    "direction", [direction for _, direction, _ in DIRECTIONS], ids=[d[0] for d in DIRECTIONS]
)
@pytest.mark.parametrize("frame", GARBAGE.values(), ids=GARBAGE.keys())
def test_garbage_is_a_protocol_error(direction: Direction, frame: bytes) -> None:
    with pytest.raises(ProtocolError):
        decode(direction, frame)


@given(frame=st.binary(max_size=200) | LEAVES[Any].map(msgpacked))
def test_random_bytes_raise_nothing_but_protocol_errors(frame: bytes) -> None:
    for _, direction, _ in DIRECTIONS:
        with pytest.raises(ProtocolError):
            decode(direction, frame)


@pytest.mark.parametrize(("direction", "type"), MESSAGES)
@examples(30)
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
