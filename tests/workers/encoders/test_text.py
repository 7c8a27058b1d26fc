"""Texts as token ids: nothing is cut in silence, and refusals name the text."""

from pathlib import Path

import pytest

from shared.errors import ContextLengthExceeded, InvalidRequest
from tests.workers.encoders.folders import word_tokenizer
from workers.encoders.text import TextEncoder, read_tokenizer

CLS, SEP = 2, 3


@pytest.fixture
def encoder() -> TextEncoder:
    return TextEncoder(word_tokenizer(), max_length=8, ids=30)


def test_a_text_that_is_too_long_is_refused_with_its_number_of_tokens(encoder: TextEncoder) -> None:
    assert encoder.text("a b c d e f", "input").tokens == 8
    with pytest.raises(
        ContextLengthExceeded, match=r"input\[3\] has 9 tokens, and this model reads 8"
    ) as caught:
        encoder.text("a b c d e f g", "input[3]")
    assert (caught.value.param, caught.value.prompt_tokens, caught.value.context_length) == ("input[3]", 9, 8)


def test_a_text_that_no_tokens_can_hold_is_refused_before_it_is_read(encoder: TextEncoder) -> None:
    with pytest.raises(ContextLengthExceeded, match="has 1000000 characters"):
        encoder.text("a" * 1_000_000, "input")


def test_a_pair_that_no_tokens_can_hold_is_refused_before_it_is_read(encoder: TextEncoder) -> None:
    with pytest.raises(ContextLengthExceeded, match="has 600 characters"):
        encoder.pair("a" * 300, "b" * 300, "documents[0]")


@pytest.fixture
def cutting() -> TextEncoder:
    return TextEncoder(word_tokenizer(), max_length=8, ids=30, truncates=True)


def test_where_an_operator_allows_it_a_long_text_is_cut_before_what_ends_it(
    encoder: TextEncoder, cutting: TextEncoder
) -> None:
    whole = encoder.text("a b c d e f", "input")
    assert cutting.text("a b c d e f", "input") == whole
    assert cutting.text("a b c d e f g h", "input") == whole
    assert cutting.text("a b c d e f" + " g" * 1_000_000, "input") == whole


def test_where_an_operator_allows_it_ids_and_the_longer_text_of_a_pair_are_cut(cutting: TextEncoder) -> None:
    assert cutting.tokens([5] * 9, "input").ids == [5] * 8
    pair = cutting.pair("a", "b c d e f g h", "documents[0]")
    assert (pair.ids[:3], pair.ids[-1], pair.tokens) == ([CLS, 4, SEP], SEP, 8)
    framed = cutting.framed([20, 21], "a b c d e f g h", [22], "documents[0]")
    assert framed.ids == [20, 21, 4, 5, 6, 7, 8, 22]


@pytest.mark.parametrize("ids", [[0, 30], [-1], [2**40]])
def test_an_id_beyond_the_vocabulary_is_refused(encoder: TextEncoder, ids: list[int]) -> None:
    with pytest.raises(InvalidRequest, match="ids are 0 to 29"):
        encoder.tokens(ids, "input[0]")


def test_an_encoder_takes_token_ids_unchanged(encoder: TextEncoder) -> None:
    assert encoder.tokens([5, 6], "input").ids == [5, 6]
    with pytest.raises(InvalidRequest, match="has no tokens"):
        encoder.tokens([], "input")


def test_words_that_spell_a_special_token_stay_words(encoder: TextEncoder) -> None:
    assert encoder.text("[SEP]", "input").ids.count(SEP) == 1


def test_the_prompts_tokens_are_those_that_are_not_pooled(encoder: TextEncoder) -> None:
    prompted = encoder.text("b c", "input", "a ", counts_prompt=False)
    assert (prompted.ids[0], prompted.tokens, prompted.skipped) == (CLS, 5, 2)
    assert encoder.text("b c", "input", "a ").skipped == 0


def test_a_text_is_lower_cased_where_its_makers_did_so() -> None:
    tokenizer = word_tokenizer()
    tokenizer.normalizer = None
    cased = TextEncoder(tokenizer, max_length=8, ids=30)
    assert cased.text("A", "input").ids != cased.text("a", "input").ids
    lower = TextEncoder(tokenizer, max_length=8, ids=30, lower_case=True)
    assert lower.text("A", "input").ids == lower.text("a", "input").ids


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_tokenizer_is_read_with_a_byte_order_mark_too(tmp_path: Path, encoding: str) -> None:
    written = word_tokenizer().to_str()
    (tmp_path / "tokenizer.json").write_bytes(written.encode(encoding))
    assert read_tokenizer(tmp_path).to_str() == written
