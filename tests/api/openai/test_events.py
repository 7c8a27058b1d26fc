"""The events of chat and completion streams, compared with the schemas."""

import json
from typing import Any

import pytest

from api.generation.blocks import Blocks
from api.generation.usage import Identity
from api.openai.events import ChatEvents, CompletionEvents
from api.openai.logprobs import chat_logprobs
from api.openai.schemas import ChatCompletionChunk, CompletionResponse
from shared.deltas import Predicted
from shared.protocol import Alternative, CallPiece, Delta, Finish, FinishReason, Start, TokenLogprob
from tests import client
from tests.api.fake_broker import logprob

IDENTITY = Identity("chatcmpl-1", 1_700_000_000, 'org/"näme"')
AWKWARD = ["plain", "", '\n\r\t"\\', "é✓🎉", "\x00\x1f\x7f", "\u2028\u2029", "data: [DONE]\n\n", "</script>"]


def delta(text: str = "", choice: int = 0, index: int = 0, **fields: Any) -> Delta:
    return Delta(request_id="r", attempt=1, choice=choice, index=index, ids=[1], text=text, **fields)


def end(reason: FinishReason = FinishReason.STOP, tokens: int = 3) -> Finish:
    return Finish(reason=reason, completion_tokens=tokens)


def events(body: bytes) -> list[str]:
    """Each event is one data line and a blank one."""
    found = [event.data.decode() for event in client.events(body)]
    assert body.decode() == "".join(f"data: {data}\n\n" for data in found)
    return found


def chat(*batches: list[Delta], n: int = 1, usage: bool = False) -> list[dict[str, Any]]:
    stream = ChatEvents(IDENTITY, n, usage)
    *chunks, done = events(b"".join([*map(stream.render, batches), stream.end()]))
    assert done == "[DONE]"
    return [json.loads(chunk) for chunk in chunks]


def choices(chunks: list[dict[str, Any]]) -> list[tuple[int, dict[str, Any], str | None]]:
    return [(c["index"], c["delta"], c["finish_reason"]) for chunk in chunks for c in chunk["choices"]]


@pytest.mark.parametrize("usage", [False, True])
@pytest.mark.parametrize("scores", [None, [logprob(5, 2)]])
def test_every_chat_chunk_is_what_the_schema_dumps(usage: bool, scores: list[TokenLogprob] | None) -> None:
    deltas = [delta(text, choice=i % 2, logprobs=scores) for i, text in enumerate(AWKWARD)]
    ends = [delta(choice=i, start=Start(prompt_tokens=4), finish=end()) for i in range(2)]
    for chunk in chat(deltas, ends, n=2, usage=usage):
        assert ChatCompletionChunk.model_validate(chunk).model_dump(exclude_unset=True) == chunk
        assert ("usage" in chunk) == usage


@pytest.mark.parametrize("usage", [False, True])
def test_every_completion_chunk_is_what_the_schema_dumps(usage: bool) -> None:
    stream = CompletionEvents(IDENTITY, 1, usage)
    batch = [delta(text, logprobs=[logprob(i, 2)]) for i, text in enumerate(AWKWARD)]
    *chunks, done = events(stream.render(batch) + stream.render([delta(finish=end())]) + stream.end())
    assert done == "[DONE]"
    for chunk in map(json.loads, chunks):
        assert CompletionResponse.model_validate(chunk).model_dump(exclude_unset=True) == chunk


def test_any_text_survives_a_chat_stream() -> None:
    chunks = chat([delta(text) for text in AWKWARD])
    assert "".join(d.get("content") or "" for _, d, _ in choices(chunks)) == "".join(AWKWARD)


def test_a_chat_stream_begins_with_the_roles_of_its_choices_in_order() -> None:
    chunks = chat([delta("b", choice=1), delta("a", choice=0)], [delta("c", choice=0)], n=2)
    role = {"role": "assistant", "content": "", "refusal": None}
    assert choices(chunks) == [
        (0, role, None),
        (1, role, None),
        (1, {"content": "b"}, None),
        (0, {"content": "a"}, None),
        (0, {"content": "c"}, None),
    ]


def test_a_chat_choice_ends_with_an_empty_delta() -> None:
    chunks = chat([delta("a", finish=end(FinishReason.LENGTH))])
    assert choices(chunks)[1:] == [(0, {"content": "a"}, None), (0, {}, "length")]


def test_a_delta_without_text_makes_no_chunk() -> None:
    assert len(chat([delta("")])) == 1


def test_streamed_usage_comes_last_and_counts_a_prompt_once_for_its_choices() -> None:
    start = Start(prompt_tokens=10, cached_tokens=4)
    ends = [delta(choice=i, start=start, finish=end(tokens=3)) for i in range(2)]
    *chunks, last = chat(ends, n=2, usage=True)
    assert all(chunk["usage"] is None for chunk in chunks)
    assert last["choices"] == []
    assert last["usage"]["prompt_tokens_details"]["cached_tokens"] == 4
    assert [last["usage"][f"{k}_tokens"] for k in ("prompt", "completion", "total")] == [10, 6, 16]


def test_usage_is_summed_over_prompts() -> None:
    stream = CompletionEvents(IDENTITY, 1, True)
    stream.render([delta(choice=i, start=Start(prompt_tokens=5 + i), finish=end()) for i in range(2)])
    assert json.loads(events(stream.end())[0])["usage"]["prompt_tokens"] == 11


def test_text_offsets_continue_across_chunks_and_count_split_characters_once() -> None:
    stream = CompletionEvents(IDENTITY, 1, False)
    pieces = [b"ab", "é".encode()[:1], "é".encode()[1:], b"c"]
    tokens = [TokenLogprob(id=i, bytes=piece, logprob=-0.5) for i, piece in enumerate(pieces)]
    chunks = events(b"".join(stream.render([delta(logprobs=[token])]) for token in tokens))
    scores = [json.loads(chunk)["choices"][0]["logprobs"] for chunk in chunks]
    assert [score["text_offset"] for score in scores] == [[0], [2], [2], [3]]


def test_the_chosen_token_is_among_top_logprobs_with_the_same_number() -> None:
    stream = CompletionEvents(IDENTITY, 1, False)
    token = TokenLogprob(id=9, bytes=b"x", logprob=-3.3, top=logprob(0, 2).top)
    (chunk,) = events(stream.render([delta("x", logprobs=[token])]))
    assert json.loads(chunk)["choices"][0]["logprobs"] == {
        "tokens": ["x"],
        "token_logprobs": [-3.3],
        "top_logprobs": [{"t0": -0.5, "t1": -1.5, "x": -3.3}],
        "text_offset": [0],
    }


def test_a_log_probability_of_minus_infinity_is_a_finite_number() -> None:
    token = TokenLogprob(id=1, bytes=b"x", logprob=float("-inf"))
    assert choices(chat([delta("x", logprobs=[token])]))
    chunk = chat([delta("x", logprobs=[token])])[1]
    assert chunk["choices"][0]["logprobs"]["content"][0]["logprob"] == -9999.0


# ---- calls and thinking


def calls(*pieces: CallPiece, legacy: bool = False) -> list[dict[str, Any]]:
    stream = ChatEvents(IDENTITY, 1, False, legacy)
    batch = [*(delta(calls=[piece]) for piece in pieces), delta(finish=end(FinishReason.TOOL_CALLS))]
    *chunks, _ = events(stream.render(batch) + stream.end())
    for chunk in map(json.loads, chunks):
        assert ChatCompletionChunk.model_validate(chunk).model_dump(exclude_unset=True) == chunk
    return [json.loads(chunk)["choices"][0] for chunk in chunks][1:]


PIECES = (
    CallPiece(index=0, id="call_1", name="f", arguments='{"a'),
    CallPiece(index=0, arguments='": 1}'),
    CallPiece(index=1, id="call_2", name="g"),
)


def test_a_streamed_call_has_its_id_type_and_name_once_and_its_index_always() -> None:
    *pieces, last = [choice["delta"] for choice in calls(*PIECES)]
    assert [piece["tool_calls"][0] for piece in pieces] == [
        {"index": 0, "id": "call_1", "type": "function", "function": {"name": "f", "arguments": ""}},
        {"index": 0, "function": {"arguments": '{"a'}},
        {"index": 0, "function": {"arguments": '": 1}'}},
        {"index": 1, "id": "call_2", "type": "function", "function": {"name": "g", "arguments": ""}},
    ]
    assert last == {}


def test_a_chat_stream_for_functions_sends_function_call() -> None:
    first, second, last = calls(CallPiece(index=0, id="c", name="f", arguments="{}"), legacy=True)
    assert first["delta"] == {"function_call": {"name": "f", "arguments": ""}}
    assert second["delta"] == {"function_call": {"arguments": "{}"}}
    assert last["finish_reason"] == "function_call"


def test_streamed_thinking_has_both_names_and_precedes_the_text() -> None:
    chunks = chat([delta(reasoning="hm", text="Hi", logprobs=[logprob(0, 0)])])
    assert [d for _, d, _ in choices(chunks)][1:] == [
        {"reasoning_content": "hm", "reasoning": "hm"},
        {"content": "Hi"},
    ]
    scored = [chunk["choices"][0]["logprobs"] is not None for chunk in chunks]
    assert scored == [False, True, False]


def test_usage_counts_the_tokens_of_thinking() -> None:
    finish = Finish(
        reason=FinishReason.STOP,
        completion_tokens=3,
        reasoning_tokens=2,
    )
    told = [Predicted(accepted=3), Predicted(accepted=1, rejected=5)]
    deltas = [
        delta(reasoning="hm", predicted=told[0]),
        delta(text="Hi", finish=finish, predicted=told[1]),
    ]
    details = chat(deltas, usage=True)[-1]["usage"]["completion_tokens_details"]
    assert details["reasoning_tokens"] == 2
    assert (details["accepted_prediction_tokens"], details["rejected_prediction_tokens"]) == (4, 5)


def test_an_echoed_prompt_is_scored_in_the_first_chunk_of_a_stream() -> None:
    stream = CompletionEvents(IDENTITY, 1, False)
    prompt = [TokenLogprob(id=i, bytes=b"b", logprob=-1.5) for i in range(2)]
    start = Start(prompt_tokens=3, prompt_text="abb", prompt_ids=[0, 1, 2], prompt_logprobs=prompt)
    (chunk,) = events(stream.render([delta("c", start=start, logprobs=[logprob(0, 0)])]))
    choice = json.loads(chunk)["choices"][0]
    assert choice["text"] == "abbc"
    assert choice["logprobs"]["token_logprobs"] == [None, -1.5, -1.5, -0.25]
    assert choice["logprobs"]["text_offset"] == [0, 1, 2, 3]


def test_an_alternative_with_the_chosen_tokens_text_is_named_by_its_id() -> None:
    stream = CompletionEvents(IDENTITY, 1, False)
    top = [Alternative(id=7, bytes=b"\xe2", logprob=-0.1), Alternative(id=8, bytes=b"\xe3", logprob=-2.5)]
    token = TokenLogprob(id=8, bytes=b"\xe3", logprob=-2.5, top=top)
    (chunk,) = events(stream.render([delta("", logprobs=[token])]))
    assert json.loads(chunk)["choices"][0]["logprobs"]["top_logprobs"] == [
        {"token_id:7": -0.1, "\ufffd": -2.5}
    ]


def thinking(index: int, part: Any) -> TokenLogprob:
    return logprob(index, 1).model_copy(update={"part": part})


def test_the_logprobs_of_thinking_are_apart_and_those_of_calls_are_left_out() -> None:
    [thought, said, called] = [thinking(0, "thinking"), thinking(1, None), thinking(2, "call")]
    whole = chat_logprobs([thought, said, called])
    assert [entry.token for entry in whole.content] == [" upon"]
    assert whole.reasoning_content and [entry.token for entry in whole.reasoning_content] == ["Once"]
    assert "reasoning_content" not in chat_logprobs([said]).model_dump()
    first, second = [
        chunk["choices"][0]["logprobs"]
        for chunk in chat([delta("", reasoning="hm", logprobs=[thought])], [delta("a", logprobs=[said])])[1:]
    ]
    assert (len(first["content"]), len(first["reasoning_content"])) == (0, 1)
    assert len(second["content"]) == 1 and "reasoning_content" not in second


def test_a_block_of_text_has_the_logprobs_of_its_own_tokens() -> None:
    blocks = Blocks()
    for one in [
        delta("", reasoning="hm", logprobs=[thinking(0, "thinking")]),
        delta("", logprobs=[thinking(1, "thinking")]),
        delta("a", logprobs=[thinking(2, None)]),
    ]:
        list(blocks.take(one))
    assert [[token.id for token in block.logprobs] for block in blocks.all] == [[], [102]]
