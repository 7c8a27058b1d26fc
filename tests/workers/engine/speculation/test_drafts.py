"""Guesses of the next tokens, from what was said before."""

from hypothesis import given
from hypothesis import strategies as st

from workers.engine.speculation.corpus import GRAM, LATEST, Corpus
from workers.engine.speculation.drafts import Drafter

few = st.lists(st.integers(0, 3), max_size=60)


@given(few, few)
def test_what_a_corpus_finds_reads_like_the_end_that_was_asked_for(ids: list[int], tail: list[int]) -> None:
    end, alike = Corpus(ids).find(tail)
    assert alike == 0 or GRAM <= alike <= len(tail)
    assert ids[end - alike : end] == tail[len(tail) - alike :]
    assert end < len(ids) or not ids


@given(few, few, few)
def test_a_corpus_that_grows_finds_what_one_made_at_once_finds(
    ids: list[int], more: list[int], tail: list[int]
) -> None:
    grown = Corpus(ids)
    grown.extend(more)
    assert grown.find(tail) == Corpus(ids + more).find(tail)


def test_of_many_places_the_latest_are_compared_and_the_longest_match_wins() -> None:
    corpus = Corpus([9, 1, 2, 3, 50, 8, 1, 2, 3, 60])
    assert corpus.find([9, 1, 2, 3]) == (4, 4)
    assert corpus.find([1, 2, 3]) == (9, 3)
    assert Corpus([9, 1, 2, 3, 50, *[8, 1, 2, 3] * (LATEST + 1), 7]).find([9, 1, 2, 3])[1] == 3


def test_an_answer_that_copies_its_prompt_is_guessed_from_it() -> None:
    drafter = Drafter([*range(100), 500])
    assert drafter.draft([40, 41], 4).ids == []
    draft = drafter.draft([40, 41, 42], 4)
    assert (draft.ids, draft.sources) == ([43, 44, 45, 46], ["echo"] * 4)
    assert drafter.draft(list(range(40, 50)), 2).sources == ["copy", "copy"]


def test_text_that_repeats_itself_is_guessed_beyond_its_end() -> None:
    assert Drafter([5, 6, 5, 6, 5, 6]).draft([5], 5).ids == [6, 5, 6, 5, 6]


def test_a_prediction_is_guessed_from_its_beginning_and_found_again_behind_a_change() -> None:
    drafter = Drafter([700, 701], prediction=list(range(20, 40)))
    assert drafter.draft([], 3).ids == [20, 21, 22]
    assert drafter.draft([20, 21], 2).guesses == [(22, True), (23, True)]
    assert drafter.draft([20, 21, 99], 3).ids == []
    assert drafter.draft([20, 21, 99, 30, 31, 32], 20).ids == list(range(33, 40))


def test_what_the_grammar_forces_comes_first_and_the_prediction_goes_on_behind_it() -> None:
    drafter = Drafter([700], prediction=[20, 21, 22, 23])
    draft = drafter.draft([], 3, forced=[20, 21])
    assert (draft.ids, draft.sources) == ([20, 21, 22], ["grammar", "grammar", "prediction"])
    assert drafter.draft([], 3, forced=[55, 56]).ids == [55, 56]
    assert draft.first(1).guesses == [(20, False)]


@given(few, few, few, few, st.integers(0, 9))
def test_a_draft_has_at_most_so_many_ids_and_asking_again_changes_nothing(
    prompt: list[int], prediction: list[int], generated: list[int], forced: list[int], most: int
) -> None:
    drafter = Drafter(prompt, prediction)
    draft = drafter.draft(generated, most, forced)
    assert len(draft.ids) == len(draft.sources) <= most
    assert drafter.draft(generated, most, forced) == draft
    step_by_step = Drafter(prompt, prediction)
    for length in range(len(generated)):
        step_by_step.draft(generated[:length], most)
    assert len(step_by_step.draft(generated, most, forced).ids) <= most
