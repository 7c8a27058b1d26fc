"""How many tokens a model's parts look back at or choose from, made few for the time of a probe.

A window, a chunk, a budget of blocks or a switch of its rotation changes nothing in a sequence that is shorter, and the
published ones are longer than a model can be asked to read when it is loaded. They are plain numbers in its parts, in
its arguments and in dictionaries there. mlx-lm has one table of names for none of them, so they are known by the words
that their names are made of.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FunctionType, MethodType, ModuleType
from typing import Any

import mlx.core as mx

FEW = 4  # tokens, or whatever there are most of
BLOCK = 2  # tokens of a block, or blocks; odd numbers of padding tokens then cut blocks elsewhere

_TOKENS = re.compile(
    r"window|chunk|span|look_?back|mem(ory)?_len|local_(size|context|attn)|floor_scale"
    r"|max_(position|seq)|context_len|seq_len|top_?k"
)
_BLOCKS = re.compile(r"block_?(size|len|stride)|blocks$|vert_stride|sparse_stride")
# Numbers of layers, of experts, of a convolution's inputs; blocks of residuals.
_OTHERS = re.compile(
    r"pattern|layer|interval|freq|conv|expert|moe|mlp|ffn|group|rout|gate|res_block|in_blocks|vocab"
)
_CHOOSES_TOKENS = re.compile(
    r"attention|attn|index", re.IGNORECASE
)  # where a bare top_k is not one of experts
_LEAVES = (mx.array, str, bytes, int, float, bool, type, FunctionType, MethodType, ModuleType, type(None))

Put = Callable[[Any], None]


@contextmanager
def few_tokens(model: Any) -> Iterator[set[str]]:
    """Gives the names of what is made few until the end. Nothing is compiled meanwhile: that would stay as it is."""
    changed: list[tuple[Put, Any]] = []
    names, compiled = set(), _compiles()
    mx.disable_compile()
    try:
        for name, value, few, put in _spans(model):
            changed.append((put, value))
            put(few)
            names.add(name)
        yield names
    finally:
        for put, value in reversed(changed):
            put(value)
        if compiled:
            mx.enable_compile()


def _compiles() -> bool:
    """Whether MLX does, which an operator may have turned off: it runs what is compiled only once."""
    runs = []

    def run(x: mx.array) -> mx.array:
        runs.append(x)
        return x + 1

    compiled = mx.compile(run)
    for _ in range(2):
        compiled(mx.array(1))
    return len(runs) == 1


def fewer(name: str, value: Any, owner: str) -> Any:
    """What a probe is to see in place of a number, or of several, that is called so in an object of that class.

    The same object where it may stay.
    """
    few = _few(name.lower(), owner)
    if few and isinstance(value, (list, tuple)):
        shorter = type(value)(few if _is_number(each) and each > few else each for each in value)
        return value if shorter == value else shorter
    return few if few and _is_number(value) and value > few else value


def _few(name: str, owner: str) -> int | None:
    if _OTHERS.search(name):
        return None
    if _BLOCKS.search(name):
        return BLOCK
    if name in ("top_k", "topk") and not _CHOOSES_TOKENS.search(owner):
        return None
    return FEW if _TOKENS.search(name) else None


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _spans(model: Any) -> list[tuple[str, Any, Any, Put]]:
    """Of each its name, its value, a smaller one, and how to set it."""
    found, seen, waiting = [], {id(model)}, [model]
    while waiting:
        owner = waiting.pop()
        for name, value, put in _parts(owner):
            few = fewer(name, value, type(owner).__name__)
            if few is not value:
                found.append((name, value, few, put))
            elif not isinstance(value, _LEAVES) and id(value) not in seen:
                seen.add(id(value))
                waiting.append(value)
    return found


def _parts(owner: Any) -> Iterator[tuple[str, Any, Put]]:
    """What an object holds by name; what is in a list has none."""
    if isinstance(owner, dict):
        for name, value in list(owner.items()):
            yield str(name), value, lambda new, name=name: owner.__setitem__(name, new)  # type: ignore[misc]
    if isinstance(owner, (list, tuple)):
        for value in owner:
            yield "", value, lambda new: None
    for name, value in list(getattr(owner, "__dict__", {}).items()):
        # Also of a frozen dataclass, and past what a module makes of an attribute.
        yield name, value, lambda new, name=name: object.__setattr__(owner, name, new)  # type: ignore[misc]
