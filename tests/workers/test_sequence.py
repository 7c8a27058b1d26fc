"""The part of a choice that each of its tokens belongs to: thinking, call or content."""

from typing import Any

import pytest

from shared.deltas import Predicted
from tests.golden.test_calls import family
from tests.jobs import job
from workers.output.reasoning import ThinkingDelimiters
from workers.output.tool_calls import ToolPolicy
from workers.sequence import Guess, TokenLogprobs, TokenRules, TokenSequence

PIECES = [
    "",
    "<think>",
    "</think>",
    "<tool_call>",
    "</tool_call>",
    "\n\n",
    "hm",
    "Yes",
    ".",
    '{"name": "f", ',
    '"arguments": {}}',
]
MARKS = {piece: id for id, piece in enumerate(PIECES) if piece.startswith("<")}
RULES = TokenRules([b"" if piece in MARKS else piece.encode() for piece in PIECES], frozenset({0}), MARKS)


def parts(text: list[str], held: int = 0, *, open: bool = False) -> list[str | None]:
    """The part of each token behind the held ones."""
    ids = [PIECES.index(piece) for piece in text]
    policy = ToolPolicy(family("json_tools"), frozenset({"f"}))
    thinking = ThinkingDelimiters("<think>", "</think>", open=open)
    asked = job(max_tokens=40, logprobs=0, thinking=thinking, tool_policy=policy, held=[ids[:held]])
    row = TokenSequence(asked, 0, RULES)
    row.replay()
    scores = [row.push(id, TokenLogprobs(-1.0, [])).delta.logprobs for id in ids[held:]]
    return [entry.part for entries in scores for entry in entries or []]


TEXT = [
    "<think>",
    "\n\n",
    "hm",
    "</think>",
    "\n\n",
    "Yes",
    ".",
    "<tool_call>",
    PIECES[9],
    PIECES[10],
    "</tool_call>",
]
PARTS = [*["thinking"] * 5, None, None, *["call"] * 4]


@pytest.mark.parametrize("held", range(len(TEXT)))
def test_thinking_calls_and_content_are_told_apart_also_behind_held_tokens(held: int) -> None:
    assert parts(TEXT, held) == PARTS[held:]


def test_thinking_opened_by_the_prompt_includes_the_first_token() -> None:
    assert parts(TEXT[1:7], open=True) == PARTS[1:7]


def test_an_answer_without_thinking_is_content() -> None:
    assert parts(["Yes", "."]) == [None, None]


def test_the_first_delta_tells_the_temperature_in_use() -> None:
    row = TokenSequence(job(max_tokens=2, temperature=0.25, top_p=0.5), 0, RULES)
    first, second = (row.push(PIECES.index("hm"), TokenLogprobs(-1.0, [])).delta for _ in range(2))
    assert first.start is not None and second.start is None
    assert (first.start.temperature, first.start.top_p) == (0.25, 0.5)


@pytest.mark.parametrize(
    ("stop", "text", "reasoning", "called"),
    [
        ("hm", "Yes.", "hm", True),
        ('"name"', "Yes.", "hm", True),
        ("Yes", "", "hm", False),
        ("s.", "Ye", "hm", False),
        (".", "Yes", "hm", False),
    ],
)
def test_a_stop_string_ends_the_answer_and_neither_thinking_nor_a_call(
    stop: str, text: str, reasoning: str, called: bool
) -> None:
    policy = ToolPolicy(family("json_tools"), frozenset({"f"}))
    asked = job(
        max_tokens=40, thinking=ThinkingDelimiters("<think>", "</think>"), tool_policy=policy, stop=[stop]
    )
    row = TokenSequence(asked, 0, RULES)
    shown = []
    for piece in [*TEXT, PIECES[0]]:
        shown.append(row.push(PIECES.index(piece), None).delta)
        if row.ended:
            break
    assert "".join(delta.text for delta in shown) == text
    assert "".join(delta.reasoning for delta in shown) == reasoning
    assert bool([call for delta in shown for call in delta.calls]) is called
    finish = shown[-1].finish
    assert finish is not None
    assert finish.stop_sequence == (None if called else stop)


def test_text_that_may_become_a_stop_string_is_shown_at_the_end_of_an_answer_with_thinking() -> None:
    asked = job(max_tokens=5, thinking=ThinkingDelimiters("<think>", "</think>"), stop=["Yes!"])
    row = TokenSequence(asked, 0, RULES)
    shown = [row.push(PIECES.index(piece), None).delta for piece in ("<think>", "hm", "</think>", "Yes", ".")]
    assert "".join(delta.text for delta in shown) == "Yes."


def test_a_call_in_the_token_of_a_stop_string_is_no_call() -> None:
    """The finish says stop, so no client would answer it."""
    pieces = ["", "Yes! <tool_call>" + "".join(PIECES[9:]) + "</tool_call>"]
    policy = ToolPolicy(family("json_tools"), frozenset({"f"}))
    rules = TokenRules([piece.encode() for piece in pieces], frozenset({0}))
    delta = TokenSequence(job(max_tokens=5, tool_policy=policy, stop=["!"]), 0, rules).push(1, None).delta
    assert (delta.text, delta.calls) == ("Yes", [])
    assert delta.finish is not None and delta.finish.stop_sequence == "!"


def predicted(pushed: list[int], guesses: list[Guess], **options: Any) -> list[tuple[int, int]]:
    """Accepted and rejected ids of a prediction, in the output of each token of one pass over ``guesses``."""
    row = TokenSequence(job(max_tokens=8, **options), 0, RULES)
    row.expect(guesses)
    told = [row.push(id, None).delta.predicted for id in pushed]
    return [(each.accepted, each.rejected) if each else (0, 0) for each in told]


def test_ids_of_a_prediction_are_counted_with_the_token_that_accepts_or_rejects_them() -> None:
    assert predicted([6, 7], [(6, True), (7, True)]) == [(1, 0), (1, 0)]
    assert predicted([6, 8], [(6, True), (7, True), (7, True)]) == [(1, 0), (0, 2)]
    assert predicted([6, 7, 8], [(6, False), (7, True), (8, False)]) == [(0, 0), (1, 0), (0, 0)]
    assert predicted([8], [(6, False), (7, True)]) == [(0, 1)]
    assert predicted([6, 7], []) == [(0, 0), (0, 0)]


def test_what_is_left_of_a_prediction_when_the_answer_ends_is_rejected() -> None:
    assert predicted([7], [(7, True), (8, True), (6, False)], stop=["Yes"]) == [(1, 1)]


def test_held_ids_count_for_no_prediction() -> None:
    row = TokenSequence(job(max_tokens=8, held=[[6, 7]]), 0, RULES)
    row.replay()
    row.expect([(8, True)])
    assert row.push(8, None).delta.predicted == Predicted(accepted=1)
