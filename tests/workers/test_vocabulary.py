"""The bytes of each token, for the three kinds of decoder."""

import pytest
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from tests.tiny_model import byte_tokenizer
from workers.vocabulary import token_bytes


def table(tokenizer: Tokenizer) -> list[bytes]:
    return token_bytes(PreTrainedTokenizerFast(tokenizer_object=tokenizer))


@pytest.mark.parametrize("text", ["the end of the inn", "naïve 🐝 \n\t x", "日本語", "\x00\x7f\xff"])
def test_the_bytes_of_byte_level_tokens_make_up_the_text(text: str) -> None:
    tokenizer = byte_tokenizer()
    vocabulary = table(tokenizer)
    assert b"".join(vocabulary[id] for id in tokenizer.encode(text).ids).decode() == text


def test_special_tokens_add_nothing() -> None:
    tokenizer = byte_tokenizer()
    end = tokenizer.token_to_id("<|im_end|>")
    assert end is not None
    assert table(tokenizer)[end] == b""


def test_sentencepiece_tokens_stand_for_spaces_and_bytes() -> None:
    tokens = ["<unk>", "▁the", "<0x0A>", "<0xE2>", "in"]
    tokenizer = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=[]))
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    assert table(tokenizer)[1:] == [b" the", b"\n", b"\xe2", b"in"]


def test_tokens_of_other_decoders_are_what_the_tokenizer_decodes() -> None:
    tokenizer = Tokenizer(models.WordLevel(vocab={"<unk>": 0, "hello": 1}, unk_token="<unk>"))
    assert table(tokenizer)[1] == b"hello"
