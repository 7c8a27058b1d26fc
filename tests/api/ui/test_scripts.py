"""The dashboard's scripts that need no browser, run by node."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from api.docs.reference import FOLDERS
from api.ui.resource import FOLDER

NODE = shutil.which("node")
pytestmark = pytest.mark.skipif(NODE is None, reason="there is no node, which runs scripts without a browser")


def run(program: str, folder: Path = FOLDER) -> Any:
    """What the program prints as JSON; it may import the scripts by name."""
    assert NODE
    done = subprocess.run(
        [NODE, "--input-type=module", "--eval", program],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_every_script_parses() -> None:
    for script in [*FOLDER.glob("*.js"), *FOLDERS[1].glob("*.js")]:
        assert NODE
        done = subprocess.run(
            [NODE, "--input-type=module", "--check"], input=script.read_text(), capture_output=True, text=True
        )
        assert done.returncode == 0, f"{script.name}: {done.stderr}"


def test_events_are_read_however_they_were_cut() -> None:
    stream = ': hello\n\nid: e:1\nevent: model\ndata: {"a":\ndata: 1}\n\r\n\r\ndata: [DONE]\n\n'
    found = run(f"""
        import {{ EventReader }} from "./sse.js";
        const text = {json.dumps(stream)};
        const all = [];
        for (let size = 1; size < text.length; size += 1) {{
          const reader = new EventReader();
          const got = [];
          for (let at = 0; at < text.length; at += size) got.push(...reader.feed(text.slice(at, at + size)));
          all.push(JSON.stringify(got));
        }}
        console.log(JSON.stringify([...new Set(all)]));
    """)
    assert [json.loads(each) for each in found] == [
        [
            {"id": "e:1", "event": "model", "data": '{"a":\n1}'},
            {"id": "", "event": "message", "data": "[DONE]"},
        ]
    ]


def test_markdown_becomes_a_tree_in_which_html_is_text_and_only_web_addresses_are_links() -> None:
    text = "\n".join(
        [
            "# Head `code`",
            "A **bold *both*** text, snake_case_name, 2 * 3 * 4",
            "",
            "- one",
            "  - <img src=x onerror=alert(1)>",
            "```js",
            "**not bold** <script>",
            "```",
            "| a | b |",
            "|---|---|",
            "| 1 | [x](javascript:alert(1)) |",
            "",
            "> [y](https://example.org/z) ![p](data:text/html,x)",
        ]
    )
    tree = run(f"""
        import {{ blocks }} from "./markdown.js";
        console.log(JSON.stringify(blocks({json.dumps(text)})));
    """)
    kinds = [block["kind"] for block in tree]
    assert kinds == ["heading", "paragraph", "list", "code", "table", "quote"]
    assert tree[0]["inside"] == ["Head ", {"kind": "code", "inside": ["code"]}]
    assert tree[1]["inside"][1]["kind"] == "strong"
    assert tree[1]["inside"][-1].endswith(" text, snake_case_name, 2 * 3 * 4")
    assert tree[2]["items"][1] == {"depth": 1, "inside": ["<img src=x onerror=alert(1)>"]}
    assert tree[3]["text"] == "**not bold** <script>"
    assert tree[4]["rows"][0][1] == ["[x](javascript:alert(1))"]
    link = {"kind": "link", "target": "https://example.org/z", "inside": ["y"]}
    assert tree[5]["inside"][0]["inside"] == [link, " ![p](data:text/html,x)"]


def test_markdown_takes_time_by_the_length_of_a_text_whatever_it_says() -> None:
    took = run("""
        import { blocks } from "./markdown.js";
        const most = {};
        const pieces = ["*", "**a ", "_a*", "`", "``a", "[", "[a](", "> ", "- ", "|", "~~", "```", "#", "* *a"];
        for (const piece of [...pieces, "a|b\\n|-|-|\\n", "\\\\"]) {
          const time = (length) => {
            const text = piece.repeat(length / piece.length);
            const before = performance.now();
            blocks(text);
            return performance.now() - before;
          };
          most[piece] = time(100_000);
        }
        console.log(JSON.stringify(most));
    """)
    assert {piece: ms for piece, ms in took.items() if ms > 5_000} == {}


def test_an_answer_is_put_together_of_its_chunks_with_calls_and_thinking_apart() -> None:
    deltas = [
        {"role": "assistant", "content": ""},
        {"reasoning_content": "hm", "reasoning": "hm"},
        {"content": "Hi"},
        {
            "tool_calls": [
                {"index": 0, "id": "c1", "type": "function", "function": {"name": "f", "arguments": ""}}
            ]
        },
        {"tool_calls": [{"index": 0, "function": {"arguments": "{}"}}]},
    ]
    chunks: list[dict[str, Any]] = [
        {"choices": [{"delta": delta, "finish_reason": None}]} for delta in deltas
    ]
    chunks.append({"choices": [{"delta": {}, "finish_reason": "tool_calls"}]})
    chunks.append({"choices": [], "usage": {"completion_tokens": 4, "prompt_tokens": 7}})
    message = run(f"""
        import {{ Answer }} from "./answer.js";
        const answer = new Answer(0);
        {json.dumps(chunks)}.forEach((chunk, at) => answer.add(chunk, 500 * at));
        console.log(JSON.stringify(answer.message));
    """)
    assert message == {
        "role": "assistant",
        "content": "Hi",
        "reasoning": "hm",
        "calls": [{"id": "c1", "name": "f", "arguments": "{}"}],
        "finish": "tool_calls",
        "figures": {"first": 0.5, "rate": 2.0, "tokens": 4, "prompt": 7, "cached": None},
    }


def test_what_is_sent_of_a_conversation_is_what_was_set_and_said() -> None:
    body = run("""
        import { newConversation, request, SETTINGS } from "./conversation.js";
        const own = { system: "Be short.", temperature: "0", thinking: "off", tools: '[{"name": "f"}]' };
        const settings = { ...SETTINGS, ...own };
        const conversation = newConversation("1", "tiny", settings);
        conversation.messages = [
          { role: "user", content: "Hi" },
          { role: "assistant", content: "", error: "no connection" },
          { role: "assistant", content: "", reasoning: "hm", calls: [{ id: "c", name: "f", arguments: "{}" }] },
          { role: "tool", id: "c", content: "4" },
        ];
        console.log(JSON.stringify(request(conversation)));
    """)
    assert body == {
        "model": "tiny",
        "messages": [
            {"role": "system", "content": "Be short."},
            {"role": "user", "content": "Hi"},
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
            },
            {"role": "tool", "tool_call_id": "c", "content": "4"},
        ],
        "stream": True,
        "stream_options": {"include_usage": True},
        "temperature": 0,
        "enable_thinking": False,
        "tools": [{"type": "function", "function": {"name": "f"}}],
    }


def test_a_worker_that_is_gone_leaves_the_page_before_the_next_status() -> None:
    workers = run("""
        import { State } from "./state.js";
        const state = new State();
        const worker = (id) => ({ id, model: "a", state: "ready", engine: { tokens_per_second: 2 } });
        state.apply("snapshot", { workers: [worker("w1"), worker("w2")], models: [] }, 0);
        state.apply("worker", { name: "w1", state: "gone" }, 1);
        state.apply("worker", { name: "w2", state: "draining" }, 2);
        console.log(JSON.stringify([state.report.workers, [...state.rates], state.changes.length]));
    """)
    [left], rates, changes = workers
    assert (left["id"], left["state"], rates, changes) == ("w2", "draining", [["w1", [2]], ["w2", [2]]], 2)


def kept_in(room: int, *sizes: int) -> tuple[bool, list[str]]:
    """Whether all are kept, and which; before them ``old`` was. ``room`` and ``sizes`` are characters."""
    found = run(f"""
        const storage = new Map();
        globalThis.localStorage = {{
          getItem: (key) => storage.get(key) ?? null,
          setItem(key, value) {{
            if (value.length > {room}) throw new Error("QuotaExceededError");
            storage.set(key, value);
          }},
        }};
        const {{ readAll, writeAll }} = await import("./store.js");
        const conversation = (id, size) => ({{ id, settings: {{}}, messages: [{{ content: "x".repeat(size) }}] }});
        writeAll([conversation("old", 1)]);
        const all = writeAll({json.dumps(list(sizes))}.map((size, at) => conversation(String(at), size)));
        console.log(JSON.stringify([all, readAll().map((one) => one.id)]));
    """)
    return found[0], found[1]


def test_a_full_browser_keeps_the_latest_conversations_and_says_that_not_all_are_kept() -> None:
    assert kept_in(10_000, 100, 100, 100) == (True, ["0", "1", "2"])
    assert kept_in(1_000, 600, 600, 600, 600) == (False, ["0"])
    assert kept_in(1_000) == (True, [])


def test_a_conversation_that_has_no_room_takes_nothing_from_those_that_are_kept() -> None:
    assert kept_in(1_000, 2_000) == (False, ["old"])
    assert kept_in(0, 10) == (False, [])
