"""Grammars that are enforced token by token: compiled with llguidance, with one guide per choice.

Rule 1: a grammar is compiled on a preparing thread, under limits. What cannot be enforced in full is refused there.
Rule 2: a guide's state is a function of the ids it has consumed, so a resumed choice replays its ids here.
Rule 3: a guide that fails allows every token and ends the choice with the next one, so no other sequence is affected.
"""

import json
import logging
import re
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as TookTooLong
from dataclasses import dataclass, replace
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from llguidance import LLMatcher, LLParserLimits, LLTokenizer
from llguidance.gbnf_to_lark import gbnf_to_lark

from shared.errors import InvalidRequest
from shared.protocol import Grammar
from workers.grammars.tool_grammar import ANYTHING, ToolGrammar, tool_of
from workers.output.tool_calls import ToolPolicy
from workers.output.tool_formats import CallSyntax, Channels

if TYPE_CHECKING:
    from llguidance._lib import JsonCompileOptions

log = logging.getLogger(__name__)

CACHED = 64  # compiled grammars
LONGEST_HEADER = 128  # bytes that the end of thinking may have
THREADS = 4  # compile at once, so that a slow grammar does not use up the time of the next one
SECONDS = 5.0  # per compilation
SCHEMA_BYTES = 64 << 10
SCHEMA_DEPTH = 32
_GBNF = re.compile(r"(?m)^[ \t]*[\w-]+\s*::=")  # the beginning of a rule in GBNF, llama.cpp's grammars
# Small models at high temperatures repeat whitespace without end, so one space, or a newline and an indent, is enough.
_JSON_OPTIONS: "JsonCompileOptions" = {"whitespace_pattern": r"( |\n[ \t]{0,16})?"}

Mask = npt.NDArray[np.uint8]  # one bit per token, lowest first


@dataclass(frozen=True)
class CompiledGrammar:
    """A compiled grammar, shared by the guides of all choices.

    ``after``: the bytes that end the thinking; the grammar applies behind them. ``unless``: the token that opens the
    thinking; if the first token is another one, the grammar applies from that token on. ``header``: what to wait for
    in place of ``after``, where it may be written in several ways.
    """

    matcher: LLMatcher
    eos: Sequence[int] = ()
    after: bytes = b""
    unless: int | None = None
    header: re.Pattern[bytes] | None = None

    def guide(self, vocabulary: Sequence[bytes]) -> "Guide":
        return Guide(self, vocabulary)


class Guide:
    """The grammar state of one choice. ``sleeping`` until the bytes in ``after`` have been generated."""

    def __init__(self, compiled: CompiledGrammar, vocabulary: Sequence[bytes]) -> None:
        self._matcher = compiled.matcher.deep_copy()
        self._eos = compiled.eos
        self._vocabulary = vocabulary
        self._after = compiled.header or re.compile(re.escape(compiled.after))
        self._unless = compiled.unless  # None from the first token on
        self._tail = b""
        self.sleeping = bool(compiled.after or compiled.header) and compiled.unless is None
        self.failed = False

    @property
    def complete(self) -> bool:
        """The grammar allows nothing but the end of the text."""
        return not self.sleeping and not self.failed and self._matcher.is_stopped()

    def take(self, id: int) -> None:
        opening, self._unless = self._unless, None
        if id == opening:
            self.sleeping = True
        elif self.sleeping:
            self._listen(id)
        elif not self.failed and not self._matcher.consume_token(id):
            self._fail()

    def mask(self) -> Mask:
        """The tokens that may come next, one bit per token of the vocabulary."""
        if self.sleeping or self.failed:
            return self._all_but_the_end()
        mask = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
        if self._matcher.is_error() or not mask.any():
            self._fail()
            return self._all_but_the_end()
        return mask if self._unless is None else _with(mask, self._unless)

    def forced(self) -> list[int]:
        """The ids of the only text that the grammar allows next, if so; the mask may allow another spelling of it."""
        if self.sleeping or self.failed or self._unless is not None:
            return []
        return self._matcher.compute_ff_tokens()

    def _all_but_the_end(self) -> Mask:
        bits = np.ones(8 * -(-len(self._vocabulary) // 8), dtype=np.uint8)
        bits[list(self._eos)] = 0
        return np.packbits(bits, bitorder="little")

    def _listen(self, id: int) -> None:
        raw = self._vocabulary[id] if id < len(self._vocabulary) else b""
        heard = self._tail + raw
        found = self._after.search(heard)
        if found is None:
            self._tail = heard[-LONGEST_HEADER:]
            return
        self.sleeping = False
        if heard[found.end() :].strip():  # the text began inside this token, where no mask could constrain it
            self._fail()

    def _fail(self) -> None:
        self.failed = True
        log.warning("a grammar cannot be enforced any more: %s", self._matcher.get_error()[:300])


class Grammars:
    """Compiles grammars for one tokenizer and caches them. Called on the preparing threads."""

    def __init__(self, tokenizer: LLTokenizer, seconds: float = SECONDS) -> None:
        """``seconds``: the time limit of one compilation."""
        self._tokenizer = tokenizer
        self._seconds = seconds
        self.eos: Sequence[int] = tokenizer.eos_tokens
        self._limits = LLParserLimits(max_lexer_states=50_000, max_items_in_row=20_000, verbose_errors=False)
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="grammar")
        self._cache_lock = Lock()
        self._cache: OrderedDict[tuple[str, str], LLMatcher] = OrderedDict()

    def text(self, grammar: Grammar) -> LLMatcher:
        """Raises InvalidRequest that names the field of the grammar."""
        if grammar.regex is not None:
            return self.compiled(grammar.regex, LLMatcher.grammar_from_regex, grammar.param)
        if grammar.grammar is not None:
            return self.compiled(grammar.grammar, written_grammar, grammar.param)
        build = json_grammar if grammar.whitespace is None else _with_blanks(grammar.whitespace)
        return self.compiled(checked_schema(schema_of(grammar), grammar.param), build, grammar.param)

    def matcher(
        self, text: Grammar | None, policy: ToolPolicy | None, special: Mapping[str, int]
    ) -> LLMatcher:
        """Compiles the grammar of the text, of the text or a call, or, without ``text``, of a call.

        Raises InvalidRequest that names the text's field, ``tool_choice`` or ``tools``.
        """
        if policy is None:
            return self.text(text or Grammar())
        if text is None:
            return self.calls(policy, special)
        alone = self.text(text)
        if policy.format.syntax is None or not is_json(text):
            return alone
        return self.calls(policy, special, schema_of(text))

    def calls(
        self, policy: ToolPolicy, special: Mapping[str, int], instead: dict[str, Any] | None = None
    ) -> LLMatcher:
        """Compiles a grammar of calls. Parts of a tool's schema that cannot be enforced are left to the model."""
        syntax = policy.format.syntax
        if syntax is None:
            raise InvalidRequest("This model cannot be made to call a tool: use auto.", param="tool_choice")
        tools = [tool_of(each) for each in policy.callable]
        if not tools:
            raise InvalidRequest("None of the tools may be called.", param="tool_choice")
        lenient: JsonCompileOptions = {**_JSON_OPTIONS, "lenient": True}
        without_schemas = [replace(tool, parameters=ANYTHING) for tool in tools]
        refusal: InvalidRequest | None = None
        for candidates, options in [(tools, _JSON_OPTIONS), (tools, lenient), (without_schemas, lenient)]:
            tool_grammar = ToolGrammar(syntax, special, options, _JSON_OPTIONS)
            written = tool_grammar.grammar(candidates, parallel=policy.parallel, instead=instead)
            try:
                return self.compiled(written, LLMatcher.grammar_from_lark, "tools")
            except InvalidRequest as error:
                refusal = refusal or error
        assert refusal
        raise refusal

    def message(self, text: Grammar, channels: Channels, special: Mapping[str, int]) -> LLMatcher | None:
        """Compiles the grammar of a whole answer with its headers; None where the text is not JSON."""
        if not is_json(text):
            return None
        schema = schema_of(text)
        checked_schema(schema, text.param)
        written = ToolGrammar(CallSyntax("", ""), special, _JSON_OPTIONS)
        lark = written.answer(schema, channels.thinking, channels.final)
        return self.compiled(lark, LLMatcher.grammar_from_lark, text.param)

    def compiled(self, text: str, build: Callable[[str], str], param: str) -> LLMatcher:
        """``build`` turns ``text`` into llguidance's form; the name of ``build`` and ``text`` are the cache key."""
        key = build.__qualname__, text
        with self._cache_lock:
            if key in self._cache:
                self._cache.move_to_end(key)
                return self._cache[key]
        matcher = self._compile(
            lambda: LLMatcher(self._tokenizer, build(text), log_level=0, limits=self._limits), param
        )
        if matcher.is_error():
            raise InvalidRequest(
                f"The schema or grammar cannot be enforced: {matcher.get_error()[:500]}", param=param
            )
        with self._cache_lock:
            self._cache[key] = matcher
            if len(self._cache) > CACHED:
                self._cache.popitem(last=False)
        return matcher

    def _compile(self, compile: Callable[[], LLMatcher], param: str) -> LLMatcher:
        """Compilation cannot be interrupted: after a timeout it continues until llguidance's own limits end it."""
        future: Future[LLMatcher] = self._pool.submit(compile)
        try:
            return future.result(timeout=self._seconds)
        except TookTooLong:
            future.cancel()
            raise InvalidRequest(
                f"The schema or grammar took more than {self._seconds:.0f} s to compile: simplify it.",
                param=param,
            ) from None
        except (ValueError, RecursionError) as error:
            raise InvalidRequest(
                f"The schema or grammar cannot be enforced: {str(error)[:500]}", param=param
            ) from error
        except BaseException as error:  # a panic in Rust, which pyo3 raises as a BaseException
            if isinstance(error, KeyboardInterrupt | SystemExit):
                raise
            raise InvalidRequest(
                "The schema or grammar cannot be enforced: the compiler failed on it.", param=param
            ) from error


def grammars_for(tokenizer: Any, vocabulary_size: int) -> Grammars | None:
    """``tokenizer`` is mlx-lm's wrapper; None for tokenizers that llguidance cannot read, as those in Python."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return None
    try:
        text = _without_padding(backend.to_str())
        size = max(vocabulary_size, len(tokenizer))
        return Grammars(LLTokenizer(text, n_vocab=size, eos_token=sorted(tokenizer.eos_token_ids)))
    except ValueError as error:
        log.warning("grammars cannot be enforced with this tokenizer: %s", error)
        return None


def _without_padding(tokenizer: str) -> str:
    return json.dumps(json.loads(tokenizer) | {"padding": None, "truncation": None})


def schema_of(grammar: Grammar) -> dict[str, Any]:
    return {"type": "object"} if grammar.json_schema is None else grammar.json_schema


def _with(mask: Mask, id: int) -> Mask:
    mask = mask.copy()
    mask[id // 8] |= 1 << (id % 8)
    return mask


def json_grammar(schema: str) -> str:
    return LLMatcher.grammar_from_json_schema(schema, overrides=_JSON_OPTIONS)


def _with_blanks(pattern: str) -> Callable[[str], str]:
    """A builder with ``pattern`` as the whitespace between the parts; without whitespace if it is empty."""
    options: JsonCompileOptions = (
        {"whitespace_pattern": pattern} if pattern else {"whitespace_flexible": False}
    )

    def build(schema: str) -> str:
        return LLMatcher.grammar_from_json_schema(schema, overrides=options)

    build.__qualname__ = f"json_grammar with {pattern}"
    return build


def written_grammar(text: str) -> str:
    """llguidance's form of a grammar in Lark or GBNF. Raises ValueError."""
    if _GBNF.search(text) is None:
        return LLMatcher.grammar_from_lark(text)
    try:
        return LLMatcher.grammar_from_lark(gbnf_to_lark(text))
    except Exception as error:
        raise ValueError(f"as GBNF it cannot be read: {error}") from error


def is_json(grammar: Grammar) -> bool:
    return grammar.regex is None and grammar.grammar is None


def checked_schema(schema: dict[str, Any], param: str = "response_format") -> str:
    """The schema as text. Raises InvalidRequest if it is too large or too deep, or refers to another document."""
    if _too_deep(schema):
        raise InvalidRequest(f"The schema is nested deeper than {SCHEMA_DEPTH} levels.", param=param)
    text = json.dumps(schema, ensure_ascii=False, separators=(",", ":"))
    if len(text.encode(errors="replace")) > SCHEMA_BYTES:
        raise InvalidRequest(f"The schema has more than {SCHEMA_BYTES} bytes.", param=param)
    for reference in _references(schema):
        if not reference.startswith("#"):
            raise InvalidRequest(
                f"The schema refers to {reference!r:.200}; only references into itself (#/…) are followed.",
                param=param,
            )
    return text


def _too_deep(value: Any) -> bool:
    level = [value]
    for _ in range(SCHEMA_DEPTH):
        level = [child for each in level for child in _children(each)]
        if not level:
            return False
    return any(isinstance(each, (dict, list)) for each in level)


def _references(value: Any) -> Iterator[str]:
    if isinstance(value, dict) and isinstance(value.get("$ref"), str):
        yield value["$ref"]
    for child in _children(value):
        yield from _references(child)


def _children(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []
