"""The context length of a model, from its config; pure.

Rule 1: the length in the config counts, at its top level or in its text part, scaled where its rope scaling says so.
Rule 2: without one, the tokenizer's limit counts, then the default of the family's class in transformers.
The tokenizer's limit does not bound a stated length: DeepSeek-R1's is 16,384 tokens, and its model reads 163,840.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any

DEFAULT_CONTEXT_LENGTH = 4096
LONGEST = 1 << 31

_KEYS = (
    "max_position_embeddings",
    "n_positions",
    "n_ctx",
    "max_seq_len",
    "max_seq_length",
    "max_sequence_length",
    "seq_length",
    "seq_len",
)
_TEXT_PARTS = ("text_config", "language_config", "llm_config", "thinker_config")
_LEARNED = (
    "n_positions",
    "n_ctx",
)  # the length of a table of position embeddings, which rope scaling does not extend
_SCALED_ALREADY = (
    "gemma3",
    "gemma3_text",
)  # their 131,072 already includes the factor of 8 (vLLM treats them alike)


def stated_context(config: Mapping[str, Any]) -> int | None:
    """The length stated by the first part that states one."""
    for part in _parts(config):
        if length := _stated(part):
            return length
    return None


def _parts(config: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The config, then its text parts."""
    yield config
    for name in _TEXT_PARTS:
        part = config.get(name)
        if isinstance(part, Mapping):
            yield part
            inner = part.get("text_config")
            if isinstance(inner, Mapping):
                yield inner


def _stated(part: Mapping[str, Any]) -> int | None:
    """The smallest of several lengths; ``model_max_length`` overrides them, as Command R's config intends."""
    lengths = {key: length for key in _KEYS if (length := as_length(part.get(key)))}
    learned = [lengths[key] for key in _LEARNED if key in lengths]
    if command := as_length(part.get("model_max_length")):
        return min([command, *learned])
    if not lengths:
        return None
    least = min(lengths.values())
    return least if learned or part.get("model_type") in _SCALED_ALREADY else _scaled(least, part)


def _scaled(length: int, part: Mapping[str, Any]) -> int:
    """``length`` after rope scaling.

    linear and dynamic multiply the stated length. yarn and longrope multiply the original length, and the stated one
    may be the result. All others (llama3, su, mrope, proportional) state the result.
    """
    rope = _rope(part)
    factor = rope.get("factor")
    if not isinstance(factor, int | float) or isinstance(factor, bool) or not 1 < factor < LONGEST:
        return length
    original = as_length(rope.get("original_max_position_embeddings"))
    original = original or as_length(part.get("original_max_position_embeddings")) or length
    match str(rope.get("rope_type") or rope.get("type")):
        case "linear" | "dynamic":
            stretched = length * factor
        case "yarn" | "deepseek_yarn" | "telechat3-yarn" | "longrope":
            stretched = max(length, original * factor)
        case _:
            stretched = length
    return min(math.floor(stretched), LONGEST)


def _rope(part: Mapping[str, Any]) -> Mapping[str, Any]:
    """The rope parameters under their old or new name; those of full attention where kinds of layers differ."""
    for name in ("rope_scaling", "rope_parameters"):
        rope = part.get(name)
        if isinstance(rope, Mapping):
            full = rope.get("full_attention")
            return full if isinstance(full, Mapping) else rope
    return {}


def as_length(value: object) -> int | None:
    """``value`` as a length, or None. Tokenizers without a limit have 10**30."""
    whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    if not whole or isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return int(value) if 0 < value < LONGEST else None
