"""What is fuzzed: each target reads damaged input, and may raise nothing but the error that it documents."""

import contextlib
import json
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypothesis import strategies as st
from pydantic import BaseModel

from api.embeddings.request import embedding, ranking
from api.embeddings.schemas import EmbeddingsRequest, RerankRequest
from api.generation.parse import parse
from api.messages.request import message_generation, message_prompt
from api.messages.schemas import CountTokensRequest, MessagesRequest
from api.openai.request import chat_generation, completion_generations
from api.openai.schemas import (
    ApplyTemplateRequest,
    ChatCompletionRequest,
    CompletionRequest,
    DetokenizeRequest,
    TokenizeRequest,
)
from api.ops.models import ModelOrder
from api.ops.prompts import ForgetOrder
from api.responses.conversations import own_items
from api.responses.request import response_generation
from api.responses.schemas import ResponsesRequest
from shared.api_keys import KeyFile, KeysUnusable
from shared.errors import ServingError
from shared.models import ModelSource
from shared.protocol import Submit
from shared.settings import read_settings
from shared.settings_errors import SettingsError
from shared.wire import ProtocolError, decode, encode, frames
from tests.fuzz import samples
from tests.fuzz.damage import damaged_bytes, damaged_json
from tests.shared.test_protocol import DIRECTIONS, values

Input = tuple[Any, bytes]


@dataclass(frozen=True)
class Target:
    """``inputs``: which part of the target, and the bytes. ``read`` raises for a fault, and else returns whether the
    input was taken.
    """

    inputs: st.SearchStrategy[Input]
    read: Callable[[Path, Any, bytes], bool]


# ---------------------------------------------------------------- the wire decoder


def _messages() -> st.SearchStrategy[Input]:
    valid = st.one_of(
        [
            st.tuples(st.just(at), values(type).map(encode))
            for at, (_, _, types) in enumerate(DIRECTIONS)
            for type in types
        ]
    )
    damaged = valid.flatmap(lambda found: st.tuples(st.just(found[0]), damaged_bytes(st.just(found[1]))))
    return damaged | st.tuples(st.integers(0, len(DIRECTIONS) - 1), st.binary(max_size=300))


def _decode(folder: Path, direction: int, data: bytes) -> bool:
    try:
        decode(DIRECTIONS[direction][1], data)
    except ProtocolError:
        return False
    return True


# ---------------------------------------------------------------- requests

_TRANSLATED: dict[type[BaseModel], Callable[[Any], Any]] = {
    ChatCompletionRequest: chat_generation,
    CompletionRequest: completion_generations,
    ResponsesRequest: lambda request: response_generation(request, own_items(request)),
    MessagesRequest: message_generation,
    CountTokensRequest: message_prompt,
    EmbeddingsRequest: embedding,
    RerankRequest: ranking,
    TokenizeRequest: lambda request: [],
    DetokenizeRequest: lambda request: [],
    ApplyTemplateRequest: lambda request: [],
    ForgetOrder: lambda request: [],
    ModelOrder: lambda request: [],
}


_OWN: list[tuple[type[BaseModel], list[int]]] = [
    (ChatCompletionRequest, [0]),
    (CompletionRequest, [1, 2]),
    (MessagesRequest, [3]),
    (CountTokensRequest, [3]),
    (ResponsesRequest, [4]),
    (EmbeddingsRequest, [5]),
    (RerankRequest, [6]),
    (DetokenizeRequest, [7]),
    (TokenizeRequest, [0]),
    (ApplyTemplateRequest, [0]),
    (ForgetOrder, [8]),
    (ModelOrder, [8]),
]  # and which of the samples are its own


def _requests() -> st.SearchStrategy[Input]:
    own = [
        st.tuples(st.just(schema), damaged_json([samples.REQUESTS[at] for at in numbers]))
        for schema, numbers in _OWN
    ]
    return st.one_of(*own, st.tuples(st.sampled_from(list(_TRANSLATED)), damaged_json(samples.REQUESTS)))


def _parse(folder: Path, schema: type[BaseModel], data: bytes) -> bool:
    """And what the broker is sent of it."""
    try:
        found = _TRANSLATED[schema](parse(data, schema))
        for task in found if isinstance(found, list) else [found]:
            if schema is not CountTokensRequest:
                frames(Submit(request_id="r", attempt=1, model="m", task=task))
    except ServingError as error:
        if not 400 <= error.status < 500:
            raise
        error.message.encode()
        return False
    return True


# ---------------------------------------------------------------- model folders


def _folders() -> st.SearchStrategy[Input]:
    whole = [_weights(json.dumps(header).encode()) for header in samples.HEADERS]
    texts = [st.tuples(st.just(name), damaged_json([sample])) for name, sample in samples.MODEL_FILES.items()]
    headers = damaged_json(samples.HEADERS).map(_weights) | damaged_bytes(st.sampled_from(whole))
    return st.one_of(*texts, st.tuples(st.just("model.safetensors"), headers))


def _weights(header: bytes) -> bytes:
    return struct.pack("<Q", len(header)) + header + bytes(64)


def _inspect(folder: Path, name: str, data: bytes) -> bool:
    """As the broker's child does; whatever is wrong with a folder is its reason."""
    from workers.model.inspection import inspected

    if not (folder / "model").exists():
        samples.write_model(folder / "model")
    file = folder / "model" / name
    before = file.read_bytes() if file.exists() else None
    file.write_bytes(data)
    try:
        found = inspected(ModelSource("m", "folder", str(folder / "model")), folder / "cache")
    finally:
        file.unlink() if before is None else file.write_bytes(before)
    assert not (found.reason and found.weights), found
    assert str(folder) not in found.reason
    return not found.reason


# ---------------------------------------------------------------- files of the operator


def _read_keys(folder: Path, _: None, data: bytes) -> bool:
    path = folder / "keys.json"
    path.write_bytes(data)
    path.chmod(0o600)
    try:
        for key in KeyFile(path).read():
            key.terms.model_dump()
            key.may_use("m")
    except KeysUnusable as error:
        str(error).encode()
        return False
    return True


def _read_config(folder: Path, found_here: bool, data: bytes) -> bool:
    path = folder / "mlx-server.toml"
    path.write_bytes(data)
    with contextlib.chdir(folder):
        try:
            settings = read_settings(**({} if found_here else {"config": str(path)}))
        except SettingsError as error:
            "\n".join(error.lines).encode()
            return False
        settings.registry.resolve("gpt-4o")
    return True


TARGETS = {
    "wire": Target(_messages(), _decode),
    "requests": Target(_requests(), _parse),
    "folders": Target(_folders(), _inspect),
    "keys": Target(st.tuples(st.none(), damaged_json(samples.KEYS)), _read_keys),
    "config": Target(
        st.tuples(st.booleans(), damaged_bytes(st.sampled_from(samples.CONFIG_FILES))), _read_config
    ),
}
