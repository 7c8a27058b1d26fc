"""Makes ``session.json``: the prompts of two coding agents as a server saw them, turn by turn.

A turn is its messages; each is stored once and named by its number. ``python -m tests.workers.engine.disk.session``.
"""

import json
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("session.json")

RULES = "You are a careful engineer. Read before you write, run the tests after each change, and say what you did."
TOOLS = (
    "# Tools\n"
    '{"name": "read_file", "parameters": {"path": "string", "from": "integer", "to": "integer"}}\n'
    '{"name": "edit_file", "parameters": {"path": "string", "old": "string", "new": "string"}}\n'
    '{"name": "run", "parameters": {"command": "string", "seconds": "integer"}}'
)
SOURCE = (
    "def total(orders):\n    sum = 0\n    for order in orders:\n        sum += order.price * order.count\n"
    "    return sum\n\ndef discount(orders, rate):\n    return total(orders) * (1 - rate)\n"
)
FAILED = "FAILED test_discount: assert 89.99999 == 90\n1 failed, 11 passed in 0.42s"


def call(name: str, **arguments: object) -> str:
    return f"assistant: <tool_call>{json.dumps({'name': name, 'arguments': arguments})}</tool_call>"


def recorded() -> dict[str, Any]:
    messages: list[str] = []
    turns: list[dict[str, Any]] = []

    def turn(what: str, agent: str, said: list[str]) -> None:
        numbers = []
        for message in said:
            if message not in messages:
                messages.append(message)
            numbers.append(messages.index(message))
        turns.append({"what": what, "agent": agent, "messages": numbers})

    one = [f"system: {RULES}\n{TOOLS}", "user: The discount test fails on CI. Find out why and mend it."]
    two = [f"system: {RULES}\n{TOOLS}", "user: Write a page for the guide on how prices are rounded."]
    turn("a cold start", "one", one)
    turn("the other agent has the same system message", "two", two)
    one += [call("read_file", path="shop/prices.py"), f"tool: {SOURCE}"]
    turn("a tool has answered", "one", one)
    two += [call("run", command="ls docs", seconds=5), "tool: index.md\nprices.md\ntaxes.md\nreturns.md"]
    turn("the other agent in turns", "two", two)
    one += [call("run", command="pytest -q tests/test_prices.py", seconds=60), f"tool: {FAILED}"]
    turn("a second tool has answered", "one", one)
    branch = [*one, "user: Before you change anything: is it a matter of floats, or of the order of the sum?"]
    turn("a branch", "one", branch)
    one += [call("edit_file", path="shop/prices.py", old="sum = 0", new="sum = Decimal(0)"), "tool: done"]
    turn("the trunk goes on behind the branch", "one", one)
    edited = [one[0], one[1], one[2], "tool: (the file was long and has been cut)", *one[4:]]
    turn("an edit in the middle", "one", edited)
    two += [call("read_file", path="docs/prices.md"), "tool: # Prices\nAll prices are in cents, and whole."]
    turn("the other agent again", "two", two)
    turn("the same prompt once more", "two", two)
    return {"messages": messages, "turns": turns}


if __name__ == "__main__":
    FILE.write_text(json.dumps(recorded(), indent=1) + "\n")
