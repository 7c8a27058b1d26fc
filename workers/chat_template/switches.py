"""Finds which variables switch a template's thinking, by rendering it with each variable and value."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from jinja2 import nodes

from workers.chat_template.environment import Json, Rendering
from workers.chat_template.probes import user
from workers.chat_template.thinking import ThinkingMarks

State = Literal["open", "closed", "free"]  # how a prompt leaves the thinking

_ABOUT = re.compile("think|reason|effort|budget")
_STRENGTH = re.compile("effort|strength")
BUDGETS = {"low": 512, "medium": 2048}  # tokens; more effort has no budget
SCALE = ("minimal", "low", "medium", "high", "xhigh", "max")  # efforts as clients name them
COMMON = ("low", "medium", "high")  # what templates know that write any word
_NAMED = re.compile(f"({'|'.join(SCALE)})_effort")  # a switch that is on or off
VALUES: tuple[Json, ...] = (
    True,
    False,
    "none",
    *SCALE,
    "enabled",
    "disabled",
    "on",
    "off",
    0,
    1024,
)
ONES = (
    "enable_thinking",
    "thinking",
    "reasoning_effort",
)  # what clients say, in the order in which it is asked


@dataclass(frozen=True)
class Switch:
    """``changes``: values under which the prompt differs; ``off``, ``on``: what closes or opens the thinking.

    ``efforts``: those of the scale that the template knows, if it may refuse or overhear others.
    """

    changes: tuple[Json, ...]
    off: Json = None
    on: Json = None
    efforts: tuple[str, ...] = ()


def find_switches(rendering: Rendering, marks: ThinkingMarks | None) -> tuple[State, dict[str, Switch]]:
    """How the thinking stands without any switch, and the switches by name."""
    plain = rendering.render([user()], None, prompt=True)
    if not isinstance(plain, str):
        return "free", {}
    state = state_of(plain, marks)
    found = {}
    for name in sorted(filter(_ABOUT.search, rendering.undeclared)):
        prompts = [
            (value, rendering.render([user()], None, prompt=True, **{name: value})) for value in VALUES
        ]
        changed = [
            (value, prompt) for value, prompt in prompts if isinstance(prompt, str) and prompt != plain
        ]
        if changed:
            off = _first(changed, "closed", marks) if state != "closed" else None
            on = _first(changed, "open", marks) if state != "open" else None
            if off is None and state == "open":
                off = _first(changed, "free", marks)
            if on is None and state == "closed":
                on = _first(changed, "free", marks)
            changes = tuple(value for value, _ in changed)
            taken = [value for value, prompt in prompts if isinstance(prompt, str)]
            efforts = _efforts(rendering, changes, taken) if _STRENGTH.search(name) else ()
            found[name] = Switch(changes, off, on, efforts)
    return state, found


def _efforts(rendering: Rendering, changes: Sequence[Json], taken: Sequence[Json]) -> tuple[str, ...]:
    """Efforts that the template names or that change the prompt; of those that it takes."""
    if "enabled" in changes and "on" in changes:  # it writes whatever it is told
        return COMMON
    named = {node.value for node in rendering.tree.find_all(nodes.Const) if isinstance(node.value, str)}
    return tuple(effort for effort in SCALE if effort in taken and (effort in changes or effort in named))


def state_of(prompt: str, marks: ThinkingMarks | None) -> State:
    if marks is None:
        return "free"
    end = prompt.rstrip()
    if end.endswith(marks.close) or (marks.answer and end.endswith(marks.answer)):
        return "closed"
    return "open" if end.endswith(marks.open) else "free"


def _first(prompts: Sequence[tuple[Json, str]], state: State, marks: ThinkingMarks | None) -> Json:
    return next((value for value, prompt in prompts if state_of(prompt, marks) == state), None)


def heard(said: Mapping[str, Json], switches: Mapping[str, Switch]) -> dict[str, Json]:
    """What a request says of its thinking, under the names that the template listens to.

    ``said``: template arguments as clients name them. What the template knows itself goes through as it is. Else an
    effort is said by the switch that takes it, then on and off by the switch that has them, and off by the least
    effort where nothing turns thinking off.
    """
    told = {**said, **_effort(said.get("reasoning_effort"), switches)}
    wish = _wish(said)
    if wish is None or any(name in switches for name in ("enable_thinking", "thinking") if name in said):
        return told
    for name, switch in switches.items():
        value = switch.on if wish else switch.off
        if value is None and name in ONES and wish in switch.changes:
            value = wish
        if value is not None and name not in told:
            return {**told, name: value}
    lessens = {name: switch for name, switch in switches.items() if switch.on is None}
    return told if wish or not lessens else {**told, **_effort("low", lessens)}


def _effort(effort: Json, switches: Mapping[str, Switch]) -> dict[str, Json]:
    """The nearest effort that the template knows, under its name."""
    if effort not in SCALE:
        return {}
    for name in sorted(switches, key=lambda name: name != "reasoning_effort"):
        switch = switches[name]
        if named := _NAMED.fullmatch(name):
            if SCALE.index(effort) <= SCALE.index(named[1]):
                return {name: True}
            continue
        known = switch.efforts or [each for each in SCALE if each in switch.changes]
        if _STRENGTH.search(name) and known:
            return {name: _nearest(effort, known)}
        if "budget" in name and effort in BUDGETS and any(type(value) is int for value in switch.changes):
            return {name: BUDGETS[effort]}
    return {} if switches else {"reasoning_effort": _nearest(effort, COMMON)}


def _nearest(effort: str, known: Sequence[str]) -> str:
    """Of two that are as near, the one that thinks more."""
    at = SCALE.index(effort)
    return min(known, key=lambda each: (abs(SCALE.index(each) - at), -SCALE.index(each)))


def _wish(said: Mapping[str, Json]) -> bool | None:
    """Whether thinking is wanted; None: nothing is said."""
    for name in ONES:
        value = said.get(name)
        if isinstance(value, bool):
            return value
        if name == "reasoning_effort" and value == "none":
            return False
    return None
