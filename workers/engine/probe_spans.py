"""Context lengths of a model's parts (windows, chunks, block budgets, rope switches), cut to a few tokens for a probe.

A window or a budget changes nothing in a sequence that is shorter, and published ones are longer than a probe can
afford. They are plain numbers in modules, in arguments and in dictionaries there. mlx-lm has no table of them, so they
are found by the words in their names. Most arguments are read at construction only: ``span_reads`` notes whether a
forward pass reads any.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FunctionType, MethodType, ModuleType
from typing import Any

import mlx.core as mx

FEW = 4  # tokens, or entries of whatever a module counts
BLOCK = 2  # tokens of a block, or blocks; odd numbers of padding tokens then shift the block limits

_TOKENS = re.compile(
    r"window|chunk|span|look_?back|mem(ory)?_len|local_(size|context|attn)|floor_scale"
    r"|max_(position|seq)|context_len|seq_len|top_?k"
)
_BLOCKS = re.compile(r"block_?(size|len|stride)|blocks$|vert_stride|sparse_stride")
# Numbers of layers, of experts, of a convolution's inputs; blocks of residuals.
_OTHERS = re.compile(
    r"pattern|layer|interval|freq|conv|expert|moe|mlp|ffn|group|rout|gate|res_block|in_blocks|vocab"
)
_CHOOSES_TOKENS = re.compile(r"attention|attn|index", re.IGNORECASE)  # elsewhere a bare top_k counts experts
_LEAVES = (mx.array, str, bytes, int, float, bool, type, FunctionType, MethodType, ModuleType, type(None))

Put = Callable[[Any], None]


@dataclass(frozen=True)
class _Span:
    """``holder``, ``attribute``: the object with attributes that leads to it, through dictionaries and lists or not."""

    name: str
    value: Any
    few: Any
    put: Put
    holder: Any
    attribute: str


@contextmanager
def few_tokens(model: Any) -> Iterator[set[str]]:
    """Cuts every span until the end; gives their names. Compilation is off meanwhile: it would outlast the probe."""
    changed: list[_Span] = []
    names, compiled = set(), _compiles()
    mx.disable_compile()
    try:
        for span in _spans(model):
            changed.append(span)
            span.put(span.few)
            names.add(span.name)
        yield names
    finally:
        for span in reversed(changed):
            span.put(span.value)
        if compiled:
            mx.enable_compile()


@contextmanager
def span_reads(model: Any) -> Iterator[set[str]]:
    """Gives a set that fills with the names of the spans that are read until the end.

    The holders' classes are replaced by subclasses that note reads. Where Python refuses that, the span counts as read.
    """
    noted: set[str] = set()
    watched: dict[int, tuple[Any, dict[str, set[str]]]] = {}
    for span in _spans(model):
        _, names = watched.setdefault(id(span.holder), (span.holder, {}))
        names.setdefault(span.attribute, set()).add(span.name)
    classes: list[tuple[Any, type]] = []
    try:
        for holder, names in watched.values():
            kind = type(holder)
            try:
                object.__setattr__(holder, "__class__", _noting(kind, names, noted))
                classes.append((holder, kind))
            except TypeError:
                noted.update(*names.values())
        yield noted
    finally:
        for holder, kind in classes:
            object.__setattr__(holder, "__class__", kind)


def _noting(kind: Any, names: dict[str, set[str]], noted: set[str]) -> type:
    """A subclass whose instances note reads of these attributes; ``__dict__`` gives all of them."""

    def read(self: Any, attribute: str) -> Any:
        if attribute in names:
            noted.update(names[attribute])
        elif attribute == "__dict__":
            noted.update(*names.values())
        return kind.__getattribute__(self, attribute)

    def read_item(self: Any, name: Any) -> Any:  # of an nn.Module, which is a dictionary too
        noted.update(names.get(name, ()))
        return kind.__getitem__(self, name)

    members = {"__slots__": (), "__getattribute__": read, "__module__": kind.__module__}
    items = {"__getitem__": read_item} if issubclass(kind, dict) else {}
    subclass: type = type(kind)(kind.__name__, (kind,), members | items)
    return subclass


def _compiles() -> bool:
    """Whether MLX compiles, which an operator may have turned off: a compiled function runs in Python only once."""
    runs = []

    def run(x: mx.array) -> mx.array:
        runs.append(x)
        return x + 1

    compiled = mx.compile(run)
    for _ in range(2):
        compiled(mx.array(1))
    return len(runs) == 1


def fewer(name: str, value: Any, owner: str) -> Any:
    """The number, or the numbers, that a probe puts in place of ``value``, which has that name in a class ``owner``.

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


def _spans(model: Any) -> list[_Span]:
    """A span in a dictionary that several objects hold is there once for each of them."""
    found, seen, waiting = list[_Span](), set[tuple[int, ...]](), [(model, model, "")]
    while waiting:
        owner, holder, attribute = waiting.pop()
        has_attributes = hasattr(owner, "__dict__")
        key = (id(owner),) if has_attributes else (id(owner), id(holder), hash(attribute))
        if key in seen:
            continue
        seen.add(key)
        for name, value, put in _parts(owner):
            where = (owner, name) if has_attributes else (holder, attribute)
            few = fewer(name, value, type(owner).__name__)
            if few is not value:
                found.append(_Span(name, value, few, put, *where))
            elif not isinstance(value, _LEAVES):
                waiting.append((value, *where))
    return found


def _parts(owner: Any) -> Iterator[tuple[str, Any, Put]]:
    """The name, the value and a setter of everything in an object; entries of lists have no name."""
    if isinstance(owner, dict):
        for name, value in list(owner.items()):
            yield str(name), value, lambda new, name=name: owner.__setitem__(name, new)  # type: ignore[misc]
    if isinstance(owner, (list, tuple)):
        for value in owner:
            yield "", value, lambda new: None
    for name, value in list(getattr(owner, "__dict__", {}).items()):
        # Works for frozen dataclasses, and past nn.Module's own __setattr__.
        yield name, value, lambda new, name=name: object.__setattr__(owner, name, new)  # type: ignore[misc]
