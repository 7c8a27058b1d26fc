"""Reads answers that are made of messages with headers: gpt-oss' harmony, and Muse's messages to a recipient.

A message is ``<|start|>``, a header, ``<|message|>``, a body and an end mark; the prompt holds the first start. The
header names a channel (``analysis``, ``commentary``, ``final``) or a recipient (``to=functions.NAME``, ``to=self``).
Rule 1: the same text gives the same output however it is cut.
Rule 2: thinking and headers are never text; a call that cannot be read is text, whole, with its header.
Rule 3: several messages of one kind are paragraphs. Sources: OpenAI's harmony guide, the models' chat templates.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from shared.protocol import CallPiece
from workers.output.almost_json import Scan, parse
from workers.output.call_reader import CallReader, as_json
from workers.output.choice import Shown
from workers.output.reasoning import overlap
from workers.output.tool_calls import ToolPolicy, call_id
from workers.output.tool_formats import CallSyntax, Channels

START, MESSAGE, CHANNEL = "<|start|>", "<|message|>", "<|channel|>"
ENDS = ("<|end|>", "<|call|>", "<|return|>", "<|eom|>", "<|eot|>")
MARKS = (START, MESSAGE, CHANNEL, "<|constrain|>", *ENDS)
LONGEST_MARK = max(map(len, MARKS))
LONGEST_HEADER = 512  # characters; longer ones are text

_BODY_END = re.compile("|".join(map(re.escape, (START, *ENDS))))
_HEADER_END = re.compile("|".join(map(re.escape, (MESSAGE, *ENDS))))
_HEADER_STARTS = (START, CHANNEL, MESSAGE, "<|constrain|>", "to=")
_RECIPIENT = re.compile(r"to=([^\s<]+)")
_CHANNEL = re.compile(r"<\|channel\|>\s*(\w+)")
_PEOPLE = {"user", "assistant", "all"}  # recipients that are no tools

Kind = Literal["thinking", "text", "call"]

HARMONY = Channels(
    re.compile(rb"<\|channel\|>final\s*(?:<\|constrain\|>)?\w*\s*<\|message\|>"),
    "<|channel|>final<|message|>",
    ("<|channel|>analysis<|message|>", "<|end|><|start|>assistant"),
    CallSyntax("<|channel|>commentary to=functions.{name} <|constrain|>json<|message|>", ""),
)
RECIPIENTS = Channels(
    re.compile(rb"to=user\s*<\|message\|>"),
    " to=user<|message|>",
    (" to=self<|message|>", "<|eom|><|start|>assistant"),
)


@dataclass(frozen=True)
class Header:
    """``raw``: as the model wrote it, with its marks; ``tool``: the recipient, if it is none of ``_PEOPLE``."""

    raw: str
    kind: Kind
    tool: str = ""


def header_of(raw: str) -> Header:
    recipient = _RECIPIENT.search(raw)
    channel = _CHANNEL.search(raw)
    name = recipient[1] if recipient else ""
    if name and name not in _PEOPLE and name != "self":
        return Header(raw, "call", name.removeprefix("functions."))
    if name == "self" or (channel and channel[1].startswith("analysis")):
        return Header(raw, "thinking")
    return Header(raw, "text")


def opened_by(prompt: str) -> str:
    """The message that a prompt leaves open: what follows its last start mark."""
    return prompt.rpartition(START)[2]


def answers_in(opened: str) -> bool:
    """Whether the prompt ends in the body of an answer."""
    header, found, _ = opened.rpartition(MESSAGE)
    return bool(found) and header_of(header).kind == "text"


def channels_of(template: object) -> Channels | None:
    """Whether, and how, a chat template writes such messages."""
    if not isinstance(template, str) or START not in template or MESSAGE not in template:
        return None
    return HARMONY if CHANNEL in template else RECIPIENTS


@dataclass
class ChannelFilter:
    """The filter of one choice, like ``ChoiceFilter``. ``opened``: see ``opened_by``; ``key``: names the choice."""

    opened: str
    policy: ToolPolicy | None = None
    key: str = ""
    _rest: str = ""  # undecided text
    _lead: str = ""  # what the prompt has of the first header
    _searched: int = 0  # characters of ``_rest`` in which no end of the body was found
    _scan: Scan | None = None  # of a call's body that is JSON
    _header: Header | None = None  # None: a header is expected
    _spoken: set[Kind] = field(default_factory=set)  # kinds of which a message has begun
    _begun: bool = False  # of the current message something was shown
    _calls: int = 0
    _shown: Shown = field(default_factory=Shown)

    def __post_init__(self) -> None:
        self.push(START + self.opened)
        if self._header is None:
            self._lead, self._rest = self._rest, ""
        self._shown = Shown()

    @property
    def thinking(self) -> bool:
        return self._header is not None and self._header.kind == "thinking"

    @property
    def part(self) -> Literal["thinking", "call"] | None:
        if self._header is None:
            return "thinking"  # a header is never content
        return None if self._header.kind == "text" else self._header.kind

    @property
    def called(self) -> bool:
        return self._calls > 0

    @property
    def satisfied(self) -> bool:
        return self.called and self.policy is not None and not self.policy.parallel

    def push(self, text: str) -> Shown:
        self._rest += text
        while not self.satisfied and self._step():
            pass
        return self._taken()

    def flush(self, *, closed: bool) -> Shown:
        """``closed``: the model ended the turn itself."""
        rest, self._rest = self._rest, ""
        if self.satisfied:
            return self._taken()
        if self._header is not None:
            self._end(rest, "")
        elif not rest.lstrip().startswith("<|"):
            self._show("text", rest)
        return self._taken()

    def _taken(self) -> Shown:
        shown, self._shown = self._shown, Shown()
        return shown

    # ------------------------------------------------------------ messages

    def _step(self) -> bool:
        return self._read_header() if self._header is None else self._read_body(self._header)

    def _read_header(self) -> bool:
        stripped = self._rest.lstrip()
        if not stripped:
            return False
        found = _HEADER_END.search(self._rest)
        if not _may_begin_header(stripped) or (found is None and len(stripped) > LONGEST_HEADER):
            self._header = Header("", "text")
            return True
        if found is None:
            return False
        raw, self._rest = self._rest[: found.end()], self._rest[found.end() :]
        if found[0] == MESSAGE:
            self._header = header_of(self._lead + raw)
        self._lead = ""
        return True

    def _read_body(self, header: Header) -> bool:
        found = self._body_end(header)
        if found is None:
            if header.kind != "call":
                kept = max(overlap(self._rest, mark) for mark in (START, *ENDS))
                size = len(self._rest) - kept
                self._show(header.kind, self._rest[:size])
                self._rest = self._rest[size:]
            return False
        mark = "" if found[0] == START else found[0]
        body, self._rest = self._rest[: found.start()], self._rest[found.start() + len(mark) :]
        self._end(body, mark)
        return True

    def _body_end(self, header: Header) -> re.Match[str] | None:
        """The mark behind the body; one inside of a string of JSON is text of the string."""
        if header.kind != "call":
            return _BODY_END.search(self._rest)
        begin = len(self._rest) - len(self._rest.lstrip())
        if self._rest.startswith("{", begin):
            self._scan = self._scan or Scan(begin)
            self._scan.read(self._rest)
            outside = self._scan.end or self._scan.broken
            if outside is None:
                return None
            self._searched = max(self._searched, outside)
        found = _BODY_END.search(self._rest, self._searched)
        if found is None:
            self._searched = max(self._searched, len(self._rest) - LONGEST_MARK)
        return found

    def _end(self, body: str, mark: str) -> None:
        header, self._header = self._header, None
        self._searched, self._scan = 0, None
        assert header is not None
        if header.kind != "call":
            self._show(header.kind, body)
        elif not self._call(header, body):
            self._show("text", header.raw + body + mark)
        self._begun = False

    def _show(self, kind: Kind, text: str) -> None:
        if not text:
            return
        if not self._begun and kind in self._spoken:
            text = "\n\n" + text
        self._begun = True
        self._spoken.add(kind)
        self._shown += Shown(reasoning=text) if kind == "thinking" else Shown(text=text)

    # ------------------------------------------------------------ calls

    def _call(self, header: Header, body: str) -> bool:
        if self.policy is None:
            return False
        calls = _read_calls(self.policy, header, body)
        for name, arguments in calls if self.policy.parallel else calls[:1]:
            piece = CallPiece(
                index=self._calls, id=call_id(self.key, self._calls), name=name, arguments=arguments
            )
            self._shown += Shown(calls=[piece])
            self._calls += 1
        return bool(calls)


def _read_calls(policy: ToolPolicy, header: Header, body: str) -> Sequence[tuple[str, str]]:
    """The arguments as one JSON object, or in the form that the template shows."""
    if header.tool in policy.names:
        try:
            arguments = parse(body) if body.strip() else {}
            if isinstance(arguments, dict):
                return [(header.tool, as_json(arguments))]
        except ValueError:
            pass
    if policy.format.format is None:
        return []
    reader = CallReader(policy.format.format, policy.callable)
    read = reader.push(header.raw.removeprefix(START).removeprefix("assistant") + body) + reader.flush()
    return [] if read.text.strip() else read.calls


def _may_begin_header(text: str) -> bool:
    return any(text.startswith(start) or start.startswith(text) for start in _HEADER_STARTS)
