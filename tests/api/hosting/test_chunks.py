"""The stream of another server's chat completions as deltas, with what servers leave out."""

import itertools
import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.generation.blocks import Blocks
from api.hosting.chunks import BadChunk, Chunks
from api.hosting.passing import Tokens
from shared.protocol import FinishReason
from shared.wire import encode


def event(delta: Any, reason: str | None = None, **fields: Any) -> bytes:
    chunk = {"choices": [{"index": 0, "delta": delta, "finish_reason": reason}], **fields}
    return b"data: " + json.dumps(chunk).encode() + b"\n\n"


DONE = b"data: [DONE]\n\n"


def read(data: bytes, cuts: list[int] | None = None) -> Blocks:
    chunks, blocks = Chunks(Tokens()), Blocks()
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts or []), len(data)]
    deltas = [d for a, b in itertools.pairwise(edges) for d in chunks.take(data[a:b])]
    for delta in [*deltas, chunks.end()]:
        for _ in blocks.take(delta):
            pass
    return blocks


@given(st.lists(st.text(min_size=1), min_size=1, max_size=6), st.lists(st.integers(0, 999)))
def test_text_is_the_same_however_the_stream_is_cut(texts: list[str], cuts: list[int]) -> None:
    data = b"".join(event({"content": text}) for text in texts) + event({}, "stop") + DONE
    assert read(data, cuts).text() == "".join(texts)


def test_thinking_is_read_under_both_of_its_names() -> None:
    data = event({"reasoning_content": "a"}) + event({"reasoning": "b"}) + event({"content": "c"}) + DONE
    blocks = read(data)
    assert (blocks.text("thinking"), blocks.text()) == ("ab", "c")


def test_a_call_in_pieces_and_one_without_id_and_index_are_calls() -> None:
    first = {"index": 0, "id": "one", "function": {"name": "f", "arguments": '{"a"'}}
    rest = {"index": 0, "function": {"arguments": ":1}"}}
    other = {"function": {"name": "g", "arguments": "{}"}}
    blocks = read(
        event({"tool_calls": [first]})
        + event({"tool_calls": [rest]})
        + event({"tool_calls": [other]}, "stop")
        + DONE
    )
    one, two = blocks.calls
    assert (one.id, one.name, one.text) == ("one", "f", '{"a":1}')
    assert two.name == "g"
    assert two.id
    assert blocks.finish
    assert blocks.finish.reason is FinishReason.TOOL_CALLS


def test_usage_counts_and_without_one_each_piece_is_a_token() -> None:
    usage = {"prompt_tokens": 9, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": 4}}
    told = read(event({"content": "a"}, "length", usage=usage) + DONE)
    assert told.start
    assert told.finish
    assert (told.start.prompt_tokens, told.start.cached_tokens, told.finish.completion_tokens) == (9, 4, 5)
    assert told.finish.reason is FinishReason.LENGTH
    untold = read(event({"content": "a"}) + event({"content": "b"}) + DONE)
    assert untold.finish
    assert untold.finish.completion_tokens == 2


@pytest.mark.parametrize(
    "bad",
    [
        b"data: {\n\n",
        b"data: 7\n\n",
        b'data: {"error": {"message": "no memory"}}\n\n',
        b'data: {"error": "no memory"}\n\n',
        event({"content": "a"}),
    ],
    ids=["no JSON", "no chunk", "error", "error as text", "cut"],
)
def test_what_is_no_answer_is_bad(bad: bytes) -> None:
    with pytest.raises(BadChunk):
        read(bad)


@given(
    st.recursive(
        st.none() | st.integers() | st.text(max_size=3),
        lambda inner: (
            st.lists(inner, max_size=2)
            | st.dictionaries(
                st.sampled_from(
                    ["choices", "delta", "content", "tool_calls", "function", "index", "usage", "error"]
                ),
                inner,
                max_size=3,
            )
        ),
        max_leaves=12,
    )
)
def test_any_json_is_read_or_bad_and_raises_nothing_else(value: Any) -> None:
    for chunk in (value, {"choices": [value]}, {"choices": [{"delta": value}]}):
        try:
            read(b"data: " + json.dumps(chunk).encode() + b"\n\n" + DONE)
        except BadChunk:
            pass


_ANY: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.sampled_from(["", "stop", "f", "\ud83d", "{}", "c1"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["index", "id", "function", "name", "arguments", "content", "delta", "usage"]),
            inner,
        )
    ),
    max_leaves=12,
)
_EVENT = st.fixed_dictionaries(
    {},
    optional={
        "choices": _ANY
        | st.lists(
            st.fixed_dictionaries(
                {},
                optional={
                    "index": _ANY,
                    "finish_reason": _ANY,
                    "delta": st.fixed_dictionaries(
                        {}, optional=dict.fromkeys(("content", "reasoning_content", "tool_calls"), _ANY)
                    ),
                },
            ),
            max_size=2,
        ),
        "usage": _ANY,
        "error": _ANY,
        "model": _ANY,
    },
)


@given(st.lists(_EVENT, max_size=4))
def test_whatever_is_in_an_event_it_becomes_deltas_with_bytes_or_one_error(events: list[Any]) -> None:
    chunks = Chunks(Tokens())
    said = "".join(f"data: {json.dumps(event)}\n\n" for event in events)
    with suppress(BadChunk):
        deltas = [*chunks.take(said.encode()), chunks.end()]
        assert all(encode(delta) for delta in deltas)
        assert [delta.finish is not None for delta in deltas] == [False] * (len(deltas) - 1) + [True]
