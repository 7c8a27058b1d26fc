"""The one normaliser: any history, as a template was found to demand it.

Rule 1: no word is lost in silence. What the template cannot show is named in ``left_out``.
Rule 2: what a template takes as it is stays as it is.
Rule 3: idempotent; the caller's messages are never changed.
"""

import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from workers.chat_template.demands import Demands
from workers.chat_template.histories import in_words, paired, readable
from workers.chat_template.schemas import plain_tools

Json = Any
Message = dict[str, Json]

START = "(The conversation begins with the answer.)"
GO_ON = "(Understood.)"
NO_RESULT = "(no result)"
_INLINE = re.compile("<think>(.*?)</think>", re.DOTALL)


@dataclass
class Normalized:
    """``left_out``: what a template does not show, each with its kind."""

    messages: list[Message]
    tools: list[Json] | None
    left_out: list[tuple[str, str]] = field(default_factory=list)


def normalize(messages: Sequence[Message], tools: Sequence[Json] | None, demands: Demands) -> Normalized:
    """``messages``: in OpenAI's shape, with roles system, developer, user, assistant and tool."""
    left_out: list[tuple[str, str]] = []
    turns = readable(messages, left_out)
    if demands.calls != "kept" or demands.results != "kept" or not (tools or demands.untold == "kept"):
        turns = [in_words(turn) for turn in turns]
    else:
        turns = _calls(paired(turns), demands, left_out)
    turns = _with_user(_systems(_without_empty(turns, demands), demands), demands)
    turns = _alternating(turns, demands)
    turns = [_thoughts(turn, demands, left_out) for turn in turns]
    if demands.text != "kept" and demands.parts == "kept":
        turns = [_in_parts(turn) for turn in turns]
    return Normalized(turns, _tools(tools, demands), left_out)


def _tools(tools: Sequence[Json] | None, demands: Demands) -> list[Json] | None:
    if not tools:
        return None if demands.no_tools is None else []
    return plain_tools(tools) if demands.plain_schemas else list(tools)


# ---------------------------------------------------------------- calls and results


def _calls(turns: Sequence[Message], demands: Demands, left_out: list[tuple[str, str]]) -> list[Message]:
    done: list[Message] = []
    blocks = _blocks(turns)
    for block in blocks:
        calls = bool(block[0].get("tool_calls"))
        done += _block(block, demands, left_out, block is blocks[-1]) if calls else block
    return _with_ids(done, demands)


def _blocks(turns: Iterable[Message]) -> list[list[Message]]:
    """Each turn by itself, a turn that calls together with the results behind it."""
    blocks: list[list[Message]] = []
    for turn in turns:
        if turn["role"] == "tool" and blocks and blocks[-1][0].get("tool_calls"):
            blocks[-1].append(turn)
        else:
            blocks.append([turn])
    return blocks


def _block(
    block: list[Message], demands: Demands, left_out: list[tuple[str, str]], last: bool
) -> list[Message]:
    turn, results = block[0], block[1:]
    if not results and demands.unanswered != "kept" and not last:
        results = [_result(call, NO_RESULT) for call in turn["tool_calls"]]
    calls = list(turn["tool_calls"])
    text = turn.get("content") or ""
    before: list[Message] = []
    if text and demands.beside != "kept":
        if demands.assistants == "kept":
            before = [{**_without(turn, "tool_calls"), "content": text}]
        else:
            left_out.append(("text beside a call", text))
        text = ""
    turn = {**turn, "content": text or demands.nothing}
    if len(calls) == 1 or demands.several == "kept":
        return [*before, turn, *results]
    split: list[Message] = []
    for i, call in enumerate(calls):
        own = [each for each in results if each.get("tool_call_id") == call["id"]] or [
            _result(call, NO_RESULT)
        ]
        first = turn if i == 0 else {"role": "assistant", "content": demands.nothing}
        split += [{**first, "tool_calls": [call]}, *own]
    return [*before, *split]


def _result(call: Json, content: str) -> Message:
    return {"role": "tool", "content": content, "tool_call_id": call["id"], "name": call["function"]["name"]}


def _with_ids(turns: list[Message], demands: Demands) -> list[Message]:
    """Gives calls and their results matching ids of the demanded form."""
    if demands.ids == "any":
        return [_arguments(turn, demands) for turn in turns]
    names: dict[str, str] = {}
    for turn in turns:
        for call in turn.get("tool_calls") or ():
            if call["id"] not in names:
                names[call["id"]] = _id(call, len(names), demands)
    return [_arguments(_renamed(turn, names), demands) for turn in turns]


def _id(call: Json, number: int, demands: Demands) -> str:
    id: str = call["id"]
    if demands.ids == "functions":
        return f"functions.{call['function']['name']}:{number}"
    return id if len(id) == 9 and id.isascii() and id.isalnum() else f"call{number:05d}"


def _renamed(turn: Message, names: dict[str, str]) -> Message:
    if calls := turn.get("tool_calls"):
        return {**turn, "tool_calls": [{**call, "id": names[call["id"]]} for call in calls]}
    if turn["role"] == "tool":
        return {**turn, "tool_call_id": names.get(turn["tool_call_id"], turn["tool_call_id"])}
    return turn


def _arguments(turn: Message, demands: Demands) -> Message:
    if not demands.as_text or not turn.get("tool_calls"):
        return turn
    calls = [
        {
            **call,
            "function": {
                **call["function"],
                "arguments": json.dumps(call["function"]["arguments"], ensure_ascii=False),
            },
        }
        for call in turn["tool_calls"]
    ]
    return {**turn, "tool_calls": calls}


# ---------------------------------------------------------------- systems and turns


def _systems(turns: list[Message], demands: Demands) -> list[Message]:
    """Messages of the system where the template shows them, else in the first one, or in a user's turn."""
    ends = bool(turns) and turns[-1]["role"] in ("assistant", "tool")
    kept = demands.system == "kept" and (demands.ending == "kept" or not ends)
    front = 0
    while front < len(turns) and turns[front]["role"] == "system":
        front += 1
    leading, rest = turns[:front], turns[front:]
    if demands.late != "kept" and kept:
        leading += [turn for turn in rest if turn["role"] == "system"]
        rest = [turn for turn in rest if turn["role"] != "system"]
    if len(leading) > 1 and demands.second != "kept":
        leading = [{**leading[0], "content": _joined(turn["content"] for turn in leading)}]
    if not kept:
        leading = [_as_user(turn) for turn in leading]
    if demands.late != "kept":
        rest = [_as_user(turn) if turn["role"] == "system" else turn for turn in rest]
    if demands.late != "kept" or not kept:
        return _users_together([*leading, *rest], demands, among=lambda turn: bool(turn.pop("folded", False)))
    return [*leading, *rest]


def _without_empty(turns: list[Message], demands: Demands) -> list[Message]:
    """An answer of no words is left out where the template refuses it, and gets some if it has thinking."""
    if demands.empty == "kept":
        return turns
    kept = []
    for turn in turns:
        if turn["role"] != "assistant" or turn.get("content") or turn.get("tool_calls"):
            kept.append(turn)
        elif turn.get("reasoning_content"):
            kept.append({**turn, "content": GO_ON})
    return kept


def _with_user(turns: list[Message], demands: Demands) -> list[Message]:
    """A template that needs a user gets one: what the system says, if nobody else says anything."""
    if demands.alone == "kept" or any(turn["role"] == "user" for turn in turns):
        return turns
    if all(turn["role"] == "system" for turn in turns):
        return [{"role": "user", "content": _joined(turn["content"] for turn in turns)}]
    front = next(i for i, turn in enumerate(turns) if turn["role"] != "system")
    return [*turns[:front], {"role": "user", "content": START}, *turns[front:]]


def _as_user(turn: Message) -> Message:
    return {"role": "user", "content": turn["content"], "folded": True}


def _users_together(
    turns: Sequence[Message], demands: Demands, among: Callable[[Message], bool]
) -> list[Message]:
    """What was the system's joins a user's turn that stands beside it."""
    done: list[Message] = []
    joining = False
    for turn in map(dict, turns):
        folded = among(turn)
        beside = bool(done) and done[-1]["role"] == turn["role"] == "user"
        if beside and (folded or joining):
            done[-1]["content"] = _joined([done[-1]["content"], turn["content"]])
        else:
            done.append(turn)
        joining = folded
    return done


def _alternating(turns: list[Message], demands: Demands) -> list[Message]:
    done: list[Message] = []
    for turn in turns:
        before = done[-1] if done else None
        role, last = turn["role"], before["role"] if before else ""
        if role == "assistant" and last in ("", "system") and demands.leading != "kept":
            done.append({"role": "user", "content": START})
        elif before and role == last == "user" and demands.users != "kept":
            done[-1] = {**before, "content": _joined([before["content"], turn["content"]])}
            continue
        elif before and role == last == "assistant" and demands.assistants != "kept":
            if not before.get("tool_calls"):
                done[-1] = _one_turn(before, turn, demands)
                continue
            done.append({"role": "user", "content": GO_ON})
        elif role == "user" and last == "tool" and demands.behind_result != "kept":
            done.append({"role": "assistant", "content": GO_ON})
        done.append(turn)
    return done


def _one_turn(before: Message, turn: Message, demands: Demands) -> Message:
    """Two of an assistant's turns, of which the first calls nothing."""
    joined = {**before, **turn, "content": _joined([before.get("content"), turn.get("content")])}
    for name in ("reasoning_content",):
        if thoughts := _joined([before.get(name), turn.get(name)]):
            joined[name] = thoughts
    return joined


def _joined(texts: Iterable[str | None]) -> str:
    return "\n\n".join(text for text in texts if text)


# ---------------------------------------------------------------- fields


def _thoughts(turn: Message, demands: Demands, left_out: list[tuple[str, str]]) -> Message:
    """Past thinking under the name that the template reads."""
    if demands.inline != "kept" and turn["role"] == "assistant":
        left_out += [("thinking", words) for words in _INLINE.findall(str(turn.get("content")))]
    thoughts = turn.get("reasoning_content")
    if not thoughts:
        return turn
    rest = _without(turn, "reasoning_content")
    beside = bool(turn.get("content") and turn.get("tool_calls"))
    if not (demands.thoughts and demands.thoughts_shown):
        left_out.append(("thinking", thoughts))
    if not demands.thoughts or (beside and demands.thoughts_beside == "refused"):
        return rest
    return {**rest, demands.thoughts: thoughts}


def _in_parts(turn: Message) -> Message:
    if not isinstance(turn.get("content"), str):
        return turn
    return {**turn, "content": [{"type": "text", "text": turn["content"]}]}


def _without(turn: Message, name: str) -> Message:
    return {key: value for key, value in turn.items() if key != name}
