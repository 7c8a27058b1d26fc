"""The bytes each token adds to the text, read once from a tokenizer and checked against its decoder.

Three tables are tried: byte-level BPE (each character of a token stands for a byte), SentencePiece ("▁" is a space,
"<0x0A>" a byte), and the text a token decodes to behind another token. The first table that spells all samples as the
tokenizer does is used. If none does, the tokenizer itself decodes at run time. Special tokens add nothing.
"""

import json
import logging
import random
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Any

from workers.output.detokenizer import TokenizerDecoder, Vocabulary

log = logging.getLogger(__name__)

SAMPLES = (
    "Hello world",
    "hello, world. It's 3.14 (or so)! don't; we'll",
    " two  blanks   three\n\n\tand a tab\r\n",
    "def f(x: int) -> str:\n    return f'{x:>8}' # <b>&amp;</b> a_b == c*d",
    "0123456789 1,234 2025-01-31",
    "naïve café Über ŠŽ — “quoted” … €",
    "日本語のテキスト 中文，标点。 한국어 문장",
    "русский язык ελληνικά עברית العربية हिन्दी ไทย தமிழ்",
    "🐝 👩‍👩‍👧 🇯🇵 👍🏽 e\u0301 \u200b\u00a0𝒳",
)
RANDOM_SAMPLES = 300
_BROKEN = "Ġ"  # a byte-level space in decoded text: transformers chose a class whose decoder does not fit


def token_bytes(tokenizer: Any) -> Vocabulary:
    """``tokenizer`` is a Hugging Face tokenizer or mlx-lm's wrapper of one. The result is indexed by token id."""
    tokens = _Tokens(tokenizer)
    for guess in (tokens.byte_level, tokens.sentencepiece, tokens.behind_another):
        table = guess()
        for strips in (False, True):
            vocabulary = Vocabulary(table, strips)
            if tokens.agrees(vocabulary):
                return vocabulary
    log.info("the text of this tokenizer's tokens depends on their neighbours: its own decoder is used")
    return Vocabulary(table, own=tokens.own())


class _Tokens:
    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._tokens: list[str | None] = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
        self._added = {int(id): token for id, token in tokenizer.added_tokens_decoder.items()}
        self._anchor = (_encode(tokenizer, "a") or [0])[-1]
        self._before = self._decode([self._anchor])
        self._expected = list(self._read_samples())

    def _read_samples(self) -> Iterator[tuple[list[int], str]]:
        """Ids and their text: of each sample, of each sample reversed (which splits words), and of random ids.

        Where the decoder does not fit the vocabulary, the sample itself is the expected text.
        """
        samples = [*SAMPLES, *(sample[::-1] for sample in SAMPLES)]
        ids_of = {sample: ids for sample in samples if (ids := _encode(self._tokenizer, sample))}
        texts = {sample: self._decode(ids) for sample, ids in ids_of.items()}
        if any(_BROKEN in text for text in texts.values()):
            yield from ((ids, sample) for sample, ids in ids_of.items())
            return
        yield from ((ids, texts[sample]) for sample, ids in ids_of.items())
        seen = [id for ids in ids_of.values() for id in ids]
        rng = random.Random(0)
        for _ in range(RANDOM_SAMPLES if seen else 0):
            ids = rng.choices(seen, k=4)
            if "\ufffd" not in (text := self._decode(ids)):
                yield ids, text

    def agrees(self, vocabulary: Vocabulary) -> bool:
        return all(_decoded(vocabulary, ids) == text for ids, text in self._expected)

    def byte_level(self) -> list[bytes]:
        return self._table(lambda id, token: _from_byte_level(token))

    def sentencepiece(self) -> list[bytes]:
        return self._table(lambda id, token: _from_sentencepiece(token))

    def behind_another(self) -> list[bytes]:
        texts = self._behind_anchor(range(len(self._tokens)))
        falls_back = _falls_back_to_bytes(self._tokenizer)

        def added(id: int, token: str) -> bytes:
            if falls_back and (byte := _byte_of(token)) is not None:
                return byte
            return texts[id].encode("utf-8", "replace")

        return self._table(added)

    def own(self) -> TokenizerDecoder:
        silent = frozenset(id for id, token in self._added.items() if token.special)
        return TokenizerDecoder(self._decode, self._anchor, silent)

    def _table(self, decode: Callable[[int, str], bytes]) -> list[bytes]:
        table = []
        for id, token in enumerate(self._tokens):
            if id in self._added:
                table.append(self._added_texts.get(id, "").encode("utf-8", "replace"))
            else:
                table.append(b"" if token is None else decode(id, token))
        return table

    @cached_property
    def _added_texts(self) -> dict[int, str]:
        """The texts of the added tokens that are not special, as the decoder spells them ("▁▁" may be two spaces).

        A byte-level decoder takes "ß" for an incomplete character: such a token's text is its content.
        """
        ids = [id for id, token in self._added.items() if not token.special]
        texts = zip(ids, self._behind_anchor(ids), strict=True)
        return {id: self._added[id].content if "\ufffd" in text else text for id, text in texts}

    def _behind_anchor(self, ids: Sequence[int]) -> list[str]:
        """The text that each of these ids adds behind the anchor."""
        return [text[len(self._before) :] for text in self._decode_all([[self._anchor, id] for id in ids])]

    def _decode(self, ids: Sequence[int]) -> str:
        """Without the clean-up of spaces, which needs the whole text and changes code (``a . b``)."""
        text: str = self._tokenizer.decode(
            list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return text

    def _decode_all(self, sequences: list[list[int]]) -> list[str]:
        backend = getattr(self._tokenizer, "backend_tokenizer", None)
        if backend is None:  # a slow tokenizer (implemented in Python)
            return [self._decode(ids) for ids in sequences]
        texts: list[str] = backend.decode_batch(sequences, skip_special_tokens=True)
        return texts


def _encode(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer.encode(text, add_special_tokens=False))


def _decoded(vocabulary: Vocabulary, ids: list[int]) -> str:
    spelling = vocabulary.detokenizer(continues=False)
    return "".join(map(spelling.push, ids)) + spelling.flush()


def _falls_back_to_bytes(tokenizer: Any) -> bool:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    return backend is not None and '"ByteFallback"' in json.dumps(json.loads(backend.to_str()).get("decoder"))


def _byte_level_alphabet() -> dict[str, int]:
    """GPT-2's table: printable bytes map to themselves, the others to characters from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    return {chr(b): b for b in printable} | {chr(0x100 + i): b for i, b in enumerate(others)}


_ALPHABET = _byte_level_alphabet()


def _from_byte_level(token: str) -> bytes:
    if all(character in _ALPHABET for character in token):
        return bytes(_ALPHABET[character] for character in token)
    return token.encode()


def _from_sentencepiece(token: str) -> bytes:
    byte = _byte_of(token)
    return token.replace("▁", " ").encode() if byte is None else byte


def _byte_of(token: str) -> bytes | None:
    if len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
        try:
            return bytes([int(token[3:5], 16)])
        except ValueError:
            return None
    return None
