"""The text filter: which text may be shown, and when."""

import random

import pytest

from workers.output.text import TextFilter

WORDS = [
    b"hel",
    b"lo",
    b" wor",
    b"ld",
    b" STOP",
    b"ST",
    b"OP",
    b"\xf0\x9f",
    b"\x90",
    b"\x9d",
    b"",
    b"aa",
    b"b",
]


def play(ids: list[int], stops: list[str]) -> tuple[list[str], str | None]:
    text = TextFilter(WORDS, stops)
    shown = []
    for id in ids:
        piece = text.push(id)
        shown.append(piece.text)
        if piece.stopped:
            return shown, piece.stopped
    last = text.flush()
    return [*shown, last.text], last.stopped


def test_each_token_is_shown_as_text_at_once() -> None:
    assert play([0, 1, 2, 3], []) == (["hel", "lo", " wor", "ld", ""], None)


def test_an_incomplete_character_waits_for_its_last_byte() -> None:
    assert play([7, 8, 9], [])[0] == ["", "", "🐝", ""]


def test_an_incomplete_character_at_the_end_is_shown_as_a_replacement() -> None:
    assert play([0, 7], [])[0] == ["hel", "", "\ufffd"]


def test_a_stop_string_ends_the_text_and_is_not_shown() -> None:
    assert play([0, 1, 4, 2], ["STOP"]) == (["hel", "lo", " "], "STOP")


def test_a_stop_string_is_found_across_tokens() -> None:
    assert play([0, 5, 6, 2], ["STOP"]) == (["hel", "", ""], "STOP")


def test_text_held_back_as_a_possible_stop_string_is_shown_if_it_is_none() -> None:
    assert play([5, 0], ["STOP"]) == (["", "SThel", ""], None)


def test_held_back_text_is_shown_at_the_end() -> None:
    assert play([0, 5], ["STOP"]) == (["hel", "", "ST"], None)


def test_the_stop_string_that_begins_first_wins() -> None:
    assert play([2, 3], ["ld", "wor"]) == ([" "], "wor")


def test_a_stop_string_that_overlaps_itself_is_found() -> None:
    assert play([11, 11, 12], ["aab"]) == (["", "aa", ""], "aab")


def test_stop_strings_are_ignored_before_min_tokens() -> None:
    text = TextFilter(WORDS, ["lo"])
    assert text.push(1, may_stop=False).stopped is None
    assert text.push(1).stopped == "lo"


def test_ids_outside_the_vocabulary_add_no_text() -> None:
    assert TextFilter(WORDS).push(10_000).text == ""


@pytest.mark.parametrize("seed", range(50))
def test_the_shown_text_is_the_whole_text_up_to_the_earliest_stop_string(seed: int) -> None:
    rng = random.Random(seed)
    ids = [rng.choice([0, 1, 2, 3, 5, 6, 11, 12]) for _ in range(30)]
    stops = rng.sample(["STOP", "aab", "lo wo", "hello", "ld"], 2)
    whole = b"".join(WORDS[id] for id in ids).decode()
    shown, stopped = play(ids, stops)
    cut = min((whole.find(stop) for stop in stops if stop in whole), default=len(whole))
    assert "".join(shown) == whole[:cut]
    assert (stopped is None) == (cut == len(whole))
