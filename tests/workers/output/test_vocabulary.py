"""The streamed text of a choice is what the tokenizer decodes all its ids to, for every kind of tokenizer."""

import random
from collections.abc import Callable

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from tests.tiny_model import byte_tokenizer
from workers.output.detokenizer import Vocabulary
from workers.output.text import TextFilter
from workers.output.vocabulary import SAMPLES, token_bytes

BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
LETTERS = sorted({letter for sample in SAMPLES for letter in sample if letter != " "})
TEXTS = (*SAMPLES, "the end of the inn", "", " ", "a\x00\x7f", "<0x41> ▁ Ġ ##", "x" * 50 + "🐝")


def sentencepiece(*decoding: decoders.Decoder) -> Tokenizer:
    """BPE over known letters, with byte tokens for all others."""
    tokens = ["<unk>", "</s>", *BYTES, "▁", *[letter for letter in LETTERS if letter.isascii()]]
    merges = [("▁", "t"), ("h", "e"), ("▁t", "he"), ("▁", "w")]
    tokens += ["".join(pair) for pair in merges]
    model = models.BPE(
        vocab={token: i for i, token in enumerate(tokens)},
        merges=merges,
        unk_token="<unk>",
        fuse_unk=True,
        byte_fallback=True,
    )
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *decoding]
    )
    tokenizer.add_special_tokens([AddedToken("</s>", special=True)])
    return tokenizer


def unigram() -> Tokenizer:
    scores = [("<unk>", 0.0), *((letter, -2.0) for letter in ["▁", *LETTERS]), ("▁the", -1.0), ("▁wor", -1.0)]
    tokenizer = Tokenizer(models.Unigram(scores, unk_id=0, byte_fallback=False))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    return tokenizer


def wordpiece() -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.train_from_iterator(
        SAMPLES, trainers.WordPieceTrainer(special_tokens=["[UNK]", "[SEP]"], vocab_size=300)
    )
    tokenizer.decoder = decoders.WordPiece()
    return tokenizer


def suffixes() -> Tokenizer:
    """A token's space is shown only if another token follows, which no table can express."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", end_of_word_suffix="</w>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.BpeTrainer(special_tokens=["<unk>"], end_of_word_suffix="</w>", vocab_size=400)
    tokenizer.train_from_iterator(SAMPLES, trainer)
    tokenizer.decoder = decoders.BPEDecoder()
    return tokenizer


def tekken() -> Tokenizer:
    """The decoder has a byte fallback, although the vocabulary is byte-level and has no byte tokens."""
    tokenizer = byte_tokenizer()
    tokenizer.decoder = decoders.Sequence(
        [decoders.ByteFallback(), decoders.Sequence([decoders.ByteLevel()])]
    )
    return tokenizer


def digits_apart() -> Tokenizer:
    tokenizer = byte_tokenizer()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=True)]
    )
    return tokenizer


KINDS: dict[str, Callable[[], Tokenizer]] = {
    "byte-level": byte_tokenizer,
    "byte-level with a blank in front": digits_apart,
    "sentencepiece": lambda: sentencepiece(),
    "sentencepiece that strips": lambda: sentencepiece(decoders.Strip(" ", 1, 0)),
    "unigram": unigram,
    "wordpiece": wordpiece,
    "suffixes": suffixes,
    "tekken": tekken,
}


@pytest.fixture(params=KINDS, scope="module")
def tokenizer(request: pytest.FixtureRequest) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(tokenizer_object=KINDS[request.param]())


@pytest.fixture(scope="module")
def vocabulary(tokenizer: PreTrainedTokenizerFast) -> Vocabulary:
    return token_bytes(tokenizer)


def streamed(vocabulary: Vocabulary, ids: list[int]) -> str:
    text = TextFilter(vocabulary)
    return "".join(text.push(id).text for id in ids) + text.flush().text


@pytest.mark.parametrize("text", TEXTS)
def test_streamed_text_is_what_the_tokenizer_decodes_all_ids_to(
    tokenizer: PreTrainedTokenizerFast, vocabulary: Vocabulary, text: str
) -> None:
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert streamed(vocabulary, ids) == tokenizer.decode(ids, skip_special_tokens=True)


def test_streamed_text_of_any_texts_in_a_row_is_what_the_tokenizer_decodes(
    tokenizer: PreTrainedTokenizerFast, vocabulary: Vocabulary
) -> None:
    seed = random.randrange(1 << 32)
    print("seed", seed)
    dice = random.Random(seed)
    for _ in range(100):
        text = "".join(dice.choices("ab the,.\n\t'0123é日🐝  world", k=dice.randint(1, 60)))
        ids = tokenizer.encode(text, add_special_tokens=False)
        assert streamed(vocabulary, ids) == tokenizer.decode(ids, skip_special_tokens=True)


def test_a_text_that_continues_a_prompt_keeps_the_space_before_its_first_word(
    tokenizer: PreTrainedTokenizerFast, vocabulary: Vocabulary
) -> None:
    def encode(text: str) -> list[int]:
        return list(tokenizer.encode(text, add_special_tokens=False))

    whole, beginning = encode("Hello world"), encode("Hello")
    assert whole[: len(beginning)] == beginning
    text = TextFilter(vocabulary, continues=True)
    assert (
        "".join(text.push(id).text for id in whole[len(beginning) :]) + text.flush().text
        == (tokenizer.decode(whole)[len(tokenizer.decode(beginning)) :])
    )


@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"suffixes", "wordpiece"}))
def test_a_byte_table_serves_all_tokenizers_but_those_whose_tokens_depend_on_neighbours(kind: str) -> None:
    assert token_bytes(PreTrainedTokenizerFast(tokenizer_object=KINDS[kind]())).own is None


def test_a_byte_level_vocabulary_is_read_as_such_though_its_decoder_is_another() -> None:
    tokenizer = byte_tokenizer()
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    vocabulary = token_bytes(PreTrainedTokenizerFast(tokenizer_object=tokenizer))
    assert streamed(vocabulary, tokenizer.encode("Hello wörld").ids) == "Hello wörld"


@pytest.mark.parametrize("kind", KINDS)
def test_special_tokens_add_no_text_unless_they_are_delimiters(kind: str) -> None:
    tokenizer = KINDS[kind]()
    tokenizer.add_special_tokens([AddedToken("<|end|>", special=True)])
    end = tokenizer.token_to_id("<|end|>")
    assert end is not None
    vocabulary = token_bytes(PreTrainedTokenizerFast(tokenizer_object=tokenizer))
    ids = tokenizer.encode("the world").ids
    assert streamed(vocabulary, [*ids, end]) == streamed(vocabulary, ids)
    assert (
        streamed(vocabulary.showing({"<|end|>": end}), [*ids, end]) == streamed(vocabulary, ids) + "<|end|>"
    )


@pytest.mark.parametrize("normalized", [True, False])
def test_an_added_token_of_sentencepiece_blanks_is_shown_as_spaces(normalized: bool) -> None:
    tokenizer = sentencepiece()
    tokenizer.add_tokens([AddedToken("▁▁▁", normalized=normalized)])
    blanks = tokenizer.token_to_id("▁▁▁")
    assert blanks is not None
    vocabulary = token_bytes(PreTrainedTokenizerFast(tokenizer_object=tokenizer))
    assert vocabulary.own is None
    ids = [*tokenizer.encode("x").ids, blanks, *tokenizer.encode("x").ids]
    assert streamed(vocabulary, ids) == tokenizer.decode(ids)


def test_an_added_token_that_a_byte_level_decoder_cannot_read_is_shown_as_it_is() -> None:
    tokenizer = byte_tokenizer()
    tokenizer.add_tokens([AddedToken("ß")])
    added = tokenizer.token_to_id("ß")
    assert added is not None
    assert streamed(token_bytes(PreTrainedTokenizerFast(tokenizer_object=tokenizer)), [added]) == "ß"


@pytest.mark.parametrize("kind", KINDS)
def test_a_tokenizer_that_cleans_up_spaces_streams_the_spaces_of_its_tokens(kind: str) -> None:
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=KINDS[kind](), clean_up_tokenization_spaces=True)
    plain = PreTrainedTokenizerFast(tokenizer_object=KINDS[kind]())
    vocabulary = token_bytes(tokenizer)
    assert (vocabulary.own is None) == (token_bytes(plain).own is None)
    ids = tokenizer.encode("do n't a . b , c ! we 've", add_special_tokens=False)
    assert streamed(vocabulary, ids) == tokenizer.decode(ids, clean_up_tokenization_spaces=False)
