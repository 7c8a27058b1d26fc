"""Events of both servers, as each writes its JSON."""

import pytest

from benchmarks import sse

OURS = b'{"choices":[{"index":0,"delta":{"content":" a"},"logprobs":null,"finish_reason":null}],"usage":null}'
THEIRS = (
    b'{"choices": [{"index": 0, "finish_reason": null, "delta": {"role": "assistant", "content": " a"}}]}'
)
ROLE = b'{"choices":[{"index":0,"delta":{"role":"assistant","content":"","refusal":null}}],"usage":null}'
USAGE = b'{"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 7}}'


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_events_are_whole_however_they_were_cut(size: int) -> None:
    data = b": keep-alive\n\ndata: one\n\ndata:two\n\nevent: x\n\ndata: [DONE]\n\ndata: unfini"
    reader = sse.EventReader()
    events = [event for at in range(0, len(data), size) for event in reader.feed(data[at : at + size])]
    assert events == [b"one", b"two", sse.DONE]


@pytest.mark.parametrize("event", [OURS, THEIRS])
def test_an_event_with_text_counts(event: bytes) -> None:
    assert sse.gives_text(event)
    assert sse.text_of(event) == " a"


@pytest.mark.parametrize("event", [ROLE, USAGE, b'{"choices":[{"delta":{"content":null}}]}'])
def test_an_event_without_text_does_not_count(event: bytes) -> None:
    assert not sse.gives_text(event)
    assert sse.text_of(event) == ""


def test_usage_is_read_where_it_is_not_null() -> None:
    assert sse.usage_of(USAGE) == {"prompt_tokens": 5, "completion_tokens": 7}
    assert sse.usage_of(OURS) is None


def test_an_error_is_told_from_text_that_speaks_of_one() -> None:
    assert sse.error_of(b'{"error": {"message": "gone"}}')
    assert sse.error_of(OURS.replace(b" a", b'{\\"error\\"')) is None
