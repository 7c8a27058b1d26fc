"""What passes of a hosted server's stream, however it is cut into pieces."""

import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.hosting.passing import PassingEvents, Tokens, passed_object
from shared.hosting import Endpoint

EVENTS: list[dict[str, Any]] = [
    *({"model": "theirs", "choices": [{"delta": {"content": text}}]} for text in ("a\u2028", "é", '"', "")),
    {"model": "theirs", "choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 4}},
]


def stream(end: str = "data: [DONE]\n\n") -> bytes:
    lines = [": a comment", "", *(f"data: {json.dumps(e, ensure_ascii=False)}\n" for e in EVENTS), end]
    return "\n".join(lines).encode()


def passed(data: bytes, cuts: list[int], endpoint: Endpoint = "chat") -> tuple[bytes, PassingEvents]:
    passing = PassingEvents(endpoint, "ours")
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    out = b"".join(passing.take(data[a:b]) for a, b in itertools.pairwise(edges))
    return out + passing.end(), passing


@given(st.lists(st.integers(min_value=0, max_value=2000)))
def test_all_but_the_name_passes_however_it_is_cut(cuts: list[int]) -> None:
    out, passing = passed(stream(), cuts)
    assert out == stream().replace(b'"theirs"', b'"ours"')
    assert passing.complete
    assert (passing.tokens.prompt, passing.tokens.out) == (3, 4)


@given(st.lists(st.integers(min_value=0, max_value=2000)))
def test_a_stream_without_its_last_event_is_not_complete(cuts: list[int]) -> None:
    assert not passed(stream(end=""), cuts)[1].complete


@pytest.mark.parametrize(
    ("endpoint", "last"),
    [
        ("completions", "data: [DONE]"),
        ("responses", 'data: {"type":"response.completed"}'),
        ("messages", 'data: {"type":"message_stop"}'),
        ("chat", 'data: {"error": {"message": "full"}}'),
        ("audio/speech", "data: any"),
    ],
)
def test_each_endpoint_has_its_last_event(endpoint: Endpoint, last: str) -> None:
    assert passed(stream(end=last), [], endpoint)[1].complete


def event(text: str | None = None, reason: str | None = None, index: int = 0, **fields: Any) -> str:
    delta = {} if text is None else {"content": text}
    choice = {"index": index, "delta": delta, "finish_reason": reason}
    return f"data: {json.dumps({'choices': [choice], **fields})}\n\n"


@pytest.mark.parametrize(
    ("events", "complete"),
    [
        (event("a") + event(reason="stop"), True),
        (event("a") + event("b", index=1) + event(reason="stop"), False),
        (event("a") + event("b", index=1) + event(reason="stop") + event(reason="length", index=1), True),
        (event("say [DONE]"), False),
        (event("a", logprobs={"content": [{"token": "error"}]}), False),
        (event("a") + "data: [DONE]", True),
        (event("a") + event(error={"message": "full"}), True),
        (event("a", reason="null") + event(index="0"), True),  # type: ignore[arg-type]
        ("data: [1]\n\ndata: null\n\ndata: {\n\n", False),
    ],
)
def test_a_stream_is_complete_when_all_its_choices_have_told_why_they_ended(
    events: str, complete: bool
) -> None:
    assert passed(events.encode(), [])[1].complete is complete


@pytest.mark.parametrize("end", ["\n\n", "\r\n\r\n"])
def test_a_comment_may_follow_a_whole_event_and_nothing_less(end: str) -> None:
    passing = PassingEvents("chat", "ours")
    found = []
    for piece in (b"data: {}", end[: len(end) // 2].encode(), end[len(end) // 2 :].encode(), b"da"):
        passing.take(piece)
        found.append(passing.between)
    assert found == [False, False, True, False]


DEEP = '{"message":' * 5000 + "1" + "}" * 5000


@pytest.mark.parametrize(
    "answer", [DEEP, '{"a":' + "[" * 100_000 + "]" * 100_000 + "}", "[1]", '"text"', "", "\ud800", '{"a": ']
)
def test_an_answer_that_is_no_object_or_too_deep_is_a_value_error(answer: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        passed_object(answer.encode(errors="surrogatepass"), "ours", Tokens())
    line = b"data: " + answer.encode(errors="surrogatepass") + b"\n\n"
    assert passed(line, [])[0] == line


@pytest.mark.parametrize("count", [10**30, 10**400, -(10**30), 1.5, True])
def test_counts_that_no_machine_can_hold_are_bounded(count: Any) -> None:
    tokens = Tokens()
    passed_object(json.dumps({"usage": {"prompt_tokens": count}}).encode(), "ours", tokens)
    assert 0 <= tokens.prompt <= 1 << 53


@pytest.mark.parametrize(
    ("line", "out"),
    [
        ('{"model": "theirs"}', '{"model": "ours"}'),
        ('{"a": "model", "model" : "theirs"}', '{"a": "model", "model" : "ours"}'),
        ('{"a": {"model": "theirs"}}', '{"a": {"model": "theirs"}}'),
        ('{"response": {"model": "theirs"}}', '{"response": {"model": "ours"}}'),
        (
            '{"response": {"model": "theirs"}, "model": "theirs"}',
            '{"response": {"model": "ours"}, "model": "ours"}',
        ),
        ('{"model": null}', '{"model": null}'),
        ('{"model": "th\\"eirs"}', '{"model": "ours"}'),
        (
            '{"mod\\u0065l": "theirs", "a": "\\"model\\": \\"x\\""}',
            '{"mod\\u0065l": "ours", "a": "\\"model\\": \\"x\\""}',
        ),
        ('{"mod\\u0065l": "theirs", "a": {"model": "x"}}', '{"mod\\u0065l": "ours", "a": {"model": "x"}}'),
    ],
)
def test_only_the_name_of_the_model_is_changed_wherever_it_stands(line: str, out: str) -> None:
    assert passed(f"data: {line}\n\n".encode(), [])[0] == f"data: {out}\n\n".encode()


def test_what_is_before_an_object_and_half_a_surrogate_pair_pass() -> None:
    assert passed_object(b'\xef\xbb\xbf{"model": "x"}', "ours", Tokens()) == b'{"model": "ours"}'
    half = b'{"model": "x", "a": "\\ud83d"}'
    assert passed_object(half, "ours", Tokens()) == half.replace(b'"x"', b'"ours"')


def test_without_a_usage_each_event_with_text_is_a_token() -> None:
    data = b"".join(b"data: %b\n\n" % json.dumps(event).encode() for event in EVENTS[:3])
    assert passed(data, [])[1].tokens.out == 3


@pytest.mark.parametrize(
    "usage",
    [
        {"prompt_tokens": 5, "completion_tokens": 6, "prompt_tokens_details": {"cached_tokens": 2}},
        {"input_tokens": 5, "output_tokens": 6, "input_tokens_details": {"cached_tokens": 2}},
    ],
)
@pytest.mark.parametrize("outer", [None, "response", "message"])
def test_the_tokens_of_every_dialect_are_read(usage: dict[str, Any], outer: str | None) -> None:
    tokens = Tokens()
    answer: dict[str, Any] = {"usage": usage}
    passed_object(json.dumps({outer: answer} if outer else answer).encode(), "ours", tokens)
    assert (tokens.prompt, tokens.cached, tokens.out) == (5, 2, 6)


@pytest.mark.parametrize("usage", [None, [], "many", {"prompt_tokens": "5"}, {"prompt_tokens": -1, "x": {}}])
def test_a_usage_that_is_none_counts_nothing(usage: Any) -> None:
    tokens = Tokens()
    passed_object(json.dumps({"usage": usage}).encode(), "ours", tokens)
    assert (tokens.prompt, tokens.out) == (0, 0)
