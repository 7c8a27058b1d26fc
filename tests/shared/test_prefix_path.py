"""The points by which requests find a worker: which prompts share them, how many there are, what they do not say."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.generation import ChatPrompt, Generation, Prompt, Sampling, TextPrompt, TokenPrompt
from shared.prefix_path import FIRST, LAST, LEAST, POINT, path_of, points_of
from shared.protocol import Submit
from shared.wire import header_of

LONG = "x" * LEAST


def points(prompt: Prompt, **said: Any) -> list[bytes]:
    return points_of(path_of(Generation(prompt=prompt, sampling=Sampling(seed=1), **said)))


def chat(*contents: str, **said: Any) -> ChatPrompt:
    roles = ("user", "assistant")
    messages = [{"role": roles[i % 2], "content": content} for i, content in enumerate(contents)]
    return ChatPrompt(messages=messages, **said)


def shared(one: list[bytes], other: list[bytes]) -> int:
    return len(set(one) & set(other))


def test_the_next_turn_of_a_conversation_has_all_points_of_the_turn_before() -> None:
    first, second = points(chat(LONG, "b", "c")), points(chat(LONG, "b", "c", "d", "e"))
    assert second[: len(first)] == first
    assert (len(first), len(second)) == (3, 5)


@given(
    st.lists(st.text(max_size=5), min_size=1, max_size=6),
    st.lists(st.text(max_size=5), min_size=1, max_size=6),
)
def test_two_chats_share_the_points_of_the_messages_that_both_begin_with(
    one: list[str], other: list[str]
) -> None:
    alike = next(
        (i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other))
    )
    assert shared(points(chat(LONG, *one)), points(chat(LONG, *other))) == 1 + alike


@pytest.mark.parametrize(
    "other",
    [
        points(chat(LONG, "b"), cache_namespace="somebody"),
        points(chat(LONG, "b", tools=[{"type": "function"}])),
        points(chat(LONG, "b", template_kwargs={"enable_thinking": False})),
        points(chat("x" + LONG, "b")),
        points(TextPrompt(text=LONG * 9)),
    ],
    ids=["namespace", "tools", "template", "words", "kind"],
)
def test_prompts_of_others_or_that_begin_otherwise_share_no_point(other: list[bytes]) -> None:
    assert other
    assert shared(points(chat(LONG, "b")), other) == 0


def test_what_is_too_short_to_be_worth_it_has_no_point() -> None:
    assert points(chat("hi")) == points(TextPrompt(text="hi")) == points(TokenPrompt(ids=[1] * 99)) == []


def test_raw_prompts_have_a_point_behind_each_block() -> None:
    text, ids = "word " * 500, list(range(600))
    for prompt, longer, unlike in (
        (TextPrompt(text=text), TextPrompt(text=text + "more " * 300), TextPrompt(text="W" + text)),
        (TokenPrompt(ids=ids), TokenPrompt(ids=ids + ids), TokenPrompt(ids=[7, *ids])),
    ):
        assert len(points(prompt)) == 4
        assert points(longer)[:4] == points(prompt)
        assert shared(points(prompt), points(unlike)) == 0


def test_a_long_conversation_has_so_many_points_and_its_next_turn_shares_the_last() -> None:
    words = [f"{LONG}{number}" for number in range(300)]
    before, after = points(chat(*words[:-2])), points(chat(*words))
    assert len(after) == FIRST + LAST
    assert before[-1] in after


def test_the_cache_key_is_the_first_point_and_of_one_namespace() -> None:
    keyed = points(chat(LONG), cache_key="k")
    assert keyed[1:] == points(chat(LONG))
    assert keyed[0] == points(chat("hi"), cache_key="k")[0]
    assert keyed[0] != points(chat(LONG), cache_key="k", cache_namespace="somebody")[0]


@pytest.mark.parametrize("content", ["\ud800", 2**70, float("nan"), None, [{"type": "text", "text": LONG}]])
def test_whatever_a_message_holds_has_points(content: Any) -> None:
    prompt = ChatPrompt(messages=[{"role": "user", "content": content, "padding": LONG}])
    assert len(points(prompt)) == 1


def test_a_header_carries_the_path_and_no_word_of_the_prompt_and_the_key_does_not_change_its_fingerprint() -> (
    None
):
    def header(**said: Any) -> Any:
        task = Generation(prompt=chat("very secret " * 20), sampling=Sampling(seed=1), **said)
        return header_of(Submit(request_id="r", attempt=1, model="m", task=task))

    plain, keyed = header(), header(cache_key="my key")
    assert len(plain.path) == POINT
    assert plain.fingerprint == keyed.fingerprint
    assert not {b"secret", b"my key"} & {word for word in (b"secret", b"my key") if word in keyed.path}
