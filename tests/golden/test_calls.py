"""One file per model family: the text it generates and the calls parsed from it, wherever the text is cut."""

import importlib
import json
from pathlib import Path
from pkgutil import iter_modules
from typing import Any

import pytest
from mlx_lm import tool_parsers

from workers.output.tool_calls import CallFilter, ToolPolicy, call_id
from workers.output.tool_formats import ToolFormat, tool_format_named

HERE = Path(__file__).parent
GOLDEN = {file.stem: json.loads(file.read_text()) for file in sorted(HERE.glob("*.json"))}
CASES = [(name, i) for name, golden in GOLDEN.items() for i in range(len(golden["cases"]))]


def family(name: str) -> ToolFormat:
    """The format as ``output_format_of`` finds it: some parser modules re-export another's function."""
    module = importlib.import_module(f"mlx_lm.tool_parsers.{name}")
    parse = module.parse_tool_call
    own = parse.__module__.rpartition(".")[2]
    return tool_format_named(own, module.tool_call_start, module.tool_call_end, parse)


def play(name: str, parts: list[str], *, closed: bool, parallel: bool = True) -> tuple[str, list[Any]]:
    """The text, and the calls with their pieces joined."""
    tools = GOLDEN[name]["tools"]
    names = frozenset(tool["function"]["name"] for tool in tools)
    filter = CallFilter(ToolPolicy(family(name), names, tools, parallel), "key")
    found = [filter.push(part) for part in parts] + [filter.flush(closed=closed)]
    calls: list[list[Any]] = []
    for piece in (piece for each in found for piece in each.calls):
        if piece.index == len(calls):
            calls.append([piece.id, piece.name, ""])
        else:
            assert (piece.index, piece.id, piece.name) == (len(calls) - 1, None, None)
        calls[piece.index][2] += piece.arguments
    return "".join(each.text for each in found), calls


def test_every_tool_parser_of_mlx_lm_has_a_golden_file() -> None:
    assert set(GOLDEN) == {module.name for module in iter_modules(tool_parsers.__path__)}


@pytest.mark.parametrize(("name", "case"), CASES)
def test_text_and_calls_are_the_same_wherever_the_text_is_cut(name: str, case: int) -> None:
    golden = GOLDEN[name]["cases"][case]
    text, closed = golden["text"], golden["closed"]
    shown, calls = play(name, [text], closed=closed)
    assert shown == golden["shown"]
    assert [{"name": c[1], "arguments": json.loads(c[2])} for c in calls] == golden["calls"]
    assert [c[0] for c in calls] == [call_id("key", i) for i in range(len(calls))]
    assert play(name, list(text), closed=closed) == (shown, calls)
    for at in range(len(text)):
        assert play(name, [text[:at], text[at:]], closed=closed) == (shown, calls)


@pytest.mark.parametrize("name", GOLDEN)
def test_one_tool_call_is_generated_where_one_is_required(name: str) -> None:
    several = next(case for case in GOLDEN[name]["cases"] if len(case["calls"]) > 1)
    _, calls = play(name, list(several["text"]), closed=True, parallel=False)
    assert [call[1] for call in calls] == [several["calls"][0]["name"]]
    assert play(name, [several["text"]], closed=True, parallel=False)[1] == calls


@pytest.mark.parametrize("name", ["json_tools", "mistral", "kimi_k2"])
def test_arguments_written_as_json_are_streamed(name: str) -> None:
    text = GOLDEN[name]["cases"][0]["text"]
    tools = GOLDEN[name]["tools"]
    filter = CallFilter(ToolPolicy(family(name), frozenset({"get_weather"}), tools), "key")
    pieces = [len(filter.push(character).calls) for character in text]
    assert sum(pieces) > 10


def test_a_call_of_a_tool_that_may_not_be_called_is_text() -> None:
    golden = GOLDEN["json_tools"]["cases"][0]
    filter = CallFilter(ToolPolicy(family("json_tools"), frozenset({"other"})), "key")
    found = filter.push(golden["text"])
    assert (found.text, found.calls) == (golden["text"], [])


def test_tool_call_ids_have_openais_shape() -> None:
    assert call_id("r|0", 0).startswith("call_") and len(call_id("r|0", 0)) == 29
    assert len({call_id("r|0", 0), call_id("r|0", 1), call_id("r|1", 0)}) == 3


@pytest.mark.parametrize("written", [r"\ud83d", r"\ude00 and \ud83d", r"\ud83d\ude00"])
def test_lone_surrogates_in_a_tool_call_are_escaped_and_kept(written: str) -> None:
    call = f'{{"name": "get_weather", "arguments": {{"city": "{written}", "{written}": 1}}}}'
    parse = importlib.import_module("mlx_lm.tool_parsers.json_tools").parse_tool_call
    each = tool_format_named("unnamed", "<t>", "</t>", parse)
    filter = CallFilter(ToolPolicy(each, frozenset({"get_weather"})), "key")
    found = [filter.push(f"<t>{call}</t>"), filter.flush(closed=True)]
    (piece,) = [piece for one in found for piece in one.calls]
    assert piece.arguments.encode() and json.loads(piece.arguments) == json.loads(call)["arguments"]
