"""The bytes each token adds to the text, read once from a tokenizer.

Three kinds of decoder are known: byte-level BPE (each character of a token stands for a byte), SentencePiece with byte
fallback ("▁" is a space, "<0x0A>" a byte) and, for the rest, what the tokenizer itself decodes the token to.
Special tokens (end of turn, padding …) add nothing.
"""

import json
from typing import Any


def token_bytes(tokenizer: Any) -> list[bytes]:
    """``tokenizer`` is a Hugging Face one (or mlx-lm's wrapper of it). Indexed by token id."""
    size = len(tokenizer)
    tokens: list[str | None] = tokenizer.convert_ids_to_tokens(list(range(size)))
    added = {int(id): token for id, token in tokenizer.added_tokens_decoder.items()}
    decode = _decoder(tokenizer)
    table = []
    for id, token in enumerate(tokens):
        if id in added:
            table.append(b"" if added[id].special else added[id].content.encode())
        else:
            table.append(b"" if token is None else decode(id, token))
    return table


def _decoder(tokenizer: Any) -> Any:
    kinds = _decoder_kinds(tokenizer)
    if "ByteLevel" in kinds:
        return lambda id, token: _from_byte_level(token)
    if "ByteFallback" in kinds:
        return lambda id, token: _from_sentencepiece(token)
    return lambda id, token: tokenizer.decode([id]).encode()


def _decoder_kinds(tokenizer: Any) -> set[str]:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:  # a slow tokenizer, written in Python
        return set()
    decoder = json.loads(backend.to_str()).get("decoder") or {}
    return {part.get("type", "") for part in [decoder, *decoder.get("decoders", [])]}


def _byte_level_alphabet() -> dict[str, int]:
    """Printable bytes stand for themselves, the others for characters from U+0100 on (GPT-2's table)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    return {chr(b): b for b in printable} | {chr(0x100 + i): b for i, b in enumerate(others)}


_ALPHABET = _byte_level_alphabet()


def _from_byte_level(token: str) -> bytes:
    if all(character in _ALPHABET for character in token):
        return bytes(_ALPHABET[character] for character in token)
    return token.encode()


def _from_sentencepiece(token: str) -> bytes:
    if len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
        return bytes([int(token[3:5], 16)])
    return token.replace("▁", " ").encode()
