"""The reasoning filter separates thinking from the answer, wherever the text is cut."""

import random

import pytest

from workers.output.reasoning import ReasoningFilter, ThinkingDelimiters, thinking_of

CLOSED, OPEN = ThinkingDelimiters("<think>", "</think>"), ThinkingDelimiters("<think>", "</think>", open=True)
ANSWER = ThinkingDelimiters("<think>", "</think>", answer="<response>", answer_end="</response>")
TURNS = ThinkingDelimiters("<|think|>", "<|end|>", answer="<|begin|>assistant<|content|>")
LINES = ThinkingDelimiters("<think>", "</think>", open=True, calls=("<call>", "</"))


def play(parts: list[str], thinking: ThinkingDelimiters = CLOSED) -> tuple[str, str]:
    """(reasoning, text)"""
    each = ReasoningFilter(thinking)
    splits = [each.push(part) for part in parts] + [each.flush()]
    return "".join(split.reasoning for split in splits), "".join(split.text for split in splits)


CASES = [
    (CLOSED, "<think>\nhm, 1 < 2\n</think>\n\nYes.", ("hm, 1 < 2\n", "Yes.")),
    (OPEN, "\nhm</think>\nYes.", ("hm", "Yes.")),
    (OPEN, "never an end </thin", ("never an end </thin", "")),
    (CLOSED, "no thinking, a <thin line", ("", "no thinking, a <thin line")),
    (CLOSED, "<think></think>Yes </think> no", ("", "Yes </think> no")),
    (CLOSED, "a<think>b</think>c<think>d", ("b", "ac<think>d")),
    (CLOSED, "<think>a<think>b</think>c", ("a<think>b", "c")),
    (CLOSED, "<<think>a<</think>", ("a<", "<")),
    (ANSWER, "<think>a</think>\n<response>\nb\n</response>\n", ("a", "b")),
    (ANSWER, "<think>a</think>\nb </response> c", ("a", "b </response> c")),
    (ANSWER, "<think>a</think><response>b</respon", ("a", "b</respon")),
    (ANSWER, "<response>b</response></response>", ("", "b</response>")),
    (TURNS, "<|think|>a<|end|><|begin|>assistant<|content|>b", ("a", "b")),
    (TURNS, "<|think|>a<|end|><|begin|>assistant<|calls|>b", ("a", "<|calls|>b")),
    (LINES, "a\n<call>b", ("a\n", "<call>b")),
    (LINES, "a <call>b</think>\n<call>", ("a <call>b", "<call>")),
]


@pytest.mark.parametrize(("thinking", "text", "expected"), CASES)
def test_thinking_is_split_off_wherever_the_text_is_cut(
    thinking: ThinkingDelimiters, text: str, expected: tuple[str, str]
) -> None:
    assert play([text], thinking) == expected
    assert play(list(text), thinking) == expected
    for at in range(len(text)):
        assert play([text[:at], text[at:]], thinking) == expected


@pytest.mark.parametrize("seed", range(20))
def test_no_cut_changes_what_is_shown(seed: int) -> None:
    rng = random.Random(seed)
    text = "".join(rng.choice(["<think>", "</think>", "<", "think>", "a", " ", "\n"]) for _ in range(20))
    cuts = sorted(rng.sample(range(len(text)), 5))
    parts = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    assert play(parts) == play([text]) == play(list(text))


def test_text_before_any_marker_is_not_held() -> None:
    assert ReasoningFilter(CLOSED).push("hello ").text == "hello "
    assert ReasoningFilter(OPEN).push("hello ").reasoning == "hello "


@pytest.mark.parametrize(
    ("prompt", "inside"),
    [
        ("<|im_start|>assistant\n", False),
        ("<|im_start|>assistant\n<think>\n", True),
        ("<|im_start|>assistant\n<think>\n\n</think>\n\n", False),
        ("user: what is <think>?\nassistant: ", False),
    ],
)
def test_a_prompt_that_opens_the_thinking_is_seen(prompt: str, inside: bool) -> None:
    assert thinking_of("<think>", "</think>", prompt).open is inside
