"""Requests that Codex CLI 0.169 and Claude Code 2.1 send in the middle of a task, with other texts."""

import copy
from typing import Any

import pytest

from api.generation.schemas import MAX_TOOLS
from api.messages.request import message_generation
from api.messages.schemas import MessagesRequest
from api.responses.request import response_generation
from api.responses.schemas import INPUT_ITEMS, ResponsesRequest
from shared.errors import InvalidRequest
from shared.protocol import ChatPrompt, FinishReason, Generation, Submit, ToolUse
from tests.api.conftest import Stack
from tests.api.fake_broker import PROMPT_TOKENS, call, saying
from tests.client import chunks

CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
FORECAST = "mcp__weather__forecast"
EPHEMERAL = {"type": "ephemeral"}

# ---------------------------------------------------------------- Codex

CODEX: dict[str, Any] = {
    "model": "tiny",
    "stream": True,
    "input": [
        {
            "type": "message",
            "id": "msg_65e0ba4b-08da-585e-b352-76123bd1571c",
            "role": "developer",
            "content": [
                {"type": "input_text", "text": "Be a coder."},
                {"type": "input_text", "text": " Ask before you write."},
            ],
        },
        {
            "type": "message",
            "id": "msg_01a20d72-4f2e-7cb1-86ea-723223fa370b",
            "role": "user",
            "content": [{"type": "input_text", "text": "What is here, and how is the weather?"}],
        },
        {
            "type": "message",
            "status": "completed",
            "id": "msg_307649455fc8628a6c54eb2ca37d665f0000",
            "role": "assistant",
            "content": [{"type": "output_text", "text": "Let me look.", "annotations": [], "logprobs": []}],
        },
        {
            "type": "function_call",
            "status": "completed",
            "id": "fc_307649455fc8628a6c54eb2ca37d665f0001",
            "name": "exec_command",
            "arguments": '{"cmd": "ls"}',
            "call_id": "call_1",
        },
        {
            "type": "function_call",
            "status": "completed",
            "id": "fc_307649455fc8628a6c54eb2ca37d665f0002",
            "name": "forecast",
            "namespace": "mcp__weather",
            "arguments": '{"city": "Oslo"}',
            "call_id": "call_2",
        },
        {
            "type": "function_call_output",
            "id": "fco_01a20d72-507c-7501-8489-c31f61d7e62b",
            "call_id": "call_1",
            "output": "Process exited with code 0\nOutput:\na.txt\n",
        },
        {
            "type": "function_call_output",
            "id": "fco_01a20d81-51a3-7011-b094-3426e0b66cbb",
            "call_id": "call_2",
            "output": [{"type": "input_text", "text": "Output:"}, {"type": "input_text", "text": "rain"}],
        },
    ],
    "tools": [
        {
            "type": "function",
            "name": "exec_command",
            "description": "Runs a command.",
            "strict": False,
            "parameters": {
                "type": "object",
                "properties": {
                    "cmd": {"type": "string"},
                    "prefix_rule": {"type": "array", "items": {"type": "string"}},
                    "sandbox_permissions": {"type": "string", "enum": ["use_default", "require_escalated"]},
                },
                "required": ["cmd"],
                "additionalProperties": False,
            },
        },
        {
            "type": "namespace",
            "name": "mcp__weather",
            "description": "The weather.",
            "tools": [
                {
                    "type": "function",
                    "name": "forecast",
                    "description": "Of tomorrow.",
                    "strict": False,
                    "parameters": CITY,
                }
            ],
        },
        {"type": "web_search", "external_web_access": True},
    ],
    "tool_choice": "auto",
    "parallel_tool_calls": True,
    "reasoning": {"summary": "auto"},
    "store": False,
    "include": ["reasoning.encrypted_content"],
    "prompt_cache_key": "01a20d81-4350-7dd3-a5f0-298737a527ca",
    "client_metadata": {"turn_id": "01a20d72-0171-7811-a3e0-ddc9433dba65", "x-codex-turn-metadata": "{}"},
}


def codex(**fields: Any) -> Generation:
    request = ResponsesRequest.model_validate({**CODEX, **fields})
    return response_generation(request, INPUT_ITEMS.validate_python(CODEX["input"]))


def codex_tools(count: int) -> list[dict[str, Any]]:
    return [{"type": "function", "name": f"f{i}"} for i in range(count)]


def prompt_of(generation: Generation) -> ChatPrompt:
    assert isinstance(generation.prompt, ChatPrompt)
    return generation.prompt


def test_a_request_of_codex_is_read_completely() -> None:
    generation = codex()
    assert prompt_of(generation).messages == [
        {"role": "system", "content": "Be a coder. Ask before you write."},
        {"role": "user", "content": "What is here, and how is the weather?"},
        {
            "role": "assistant",
            "content": "Let me look.",
            "tool_calls": [
                {
                    "id": "call_1",
                    "type": "function",
                    "function": {"name": "exec_command", "arguments": '{"cmd": "ls"}'},
                },
                {
                    "id": "call_2",
                    "type": "function",
                    "function": {"name": FORECAST, "arguments": '{"city": "Oslo"}'},
                },
            ],
        },
        {
            "role": "tool",
            "tool_call_id": "call_1",
            "content": "Process exited with code 0\nOutput:\na.txt\n",
        },
        {"role": "tool", "tool_call_id": "call_2", "content": "Output:\nrain"},
    ]
    assert generation.tool_use == ToolUse(names=["exec_command", FORECAST])


def test_a_function_in_a_namespace_is_offered_under_a_longer_name() -> None:
    function = {"name": FORECAST, "description": "Of tomorrow.", "parameters": CITY}
    assert (prompt_of(codex()).tools or [])[1] == {"type": "function", "function": function}


def test_tool_choice_may_name_a_function_in_a_namespace() -> None:
    space, _, name = FORECAST.rpartition("__")
    chosen = {"type": "function", "name": name, "namespace": space}
    assert codex(tool_choice=chosen).tool_use == ToolUse(mode="required", names=[FORECAST], parallel=False)
    allowed = {"type": "allowed_tools", "mode": "auto", "tools": [chosen]}
    use = codex(tool_choice=allowed).tool_use
    assert use is not None and use.names == [FORECAST]
    with pytest.raises(InvalidRequest):
        codex(tool_choice={"type": "function", "name": name})


def test_an_error_in_a_namespaces_function_names_its_field() -> None:
    tools = copy.deepcopy(CODEX["tools"])
    tools[1]["tools"][0]["parameters"] = {"$ref": "http://elsewhere/"}
    with pytest.raises(InvalidRequest) as caught:
        codex(tools=tools)
    assert caught.value.param == "tools[1].tools[0].parameters"


def test_namespaces_do_not_lift_the_limit_on_functions() -> None:
    space = {"type": "namespace", "name": "a", "tools": codex_tools(MAX_TOOLS - 5)}
    assert len(prompt_of(codex(tools=[space, *codex_tools(5)])).tools or []) == MAX_TOOLS
    with pytest.raises(InvalidRequest) as caught:
        codex(tools=[space, *codex_tools(6)])
    assert caught.value.param == "tools"


@pytest.mark.parametrize("kind", ["input_image", "input_file"])
def test_pictures_in_codexs_tool_outputs_are_left_out_and_the_model_is_told(kind: str) -> None:
    shown = {"type": kind, "image_url": "data:image/png;base64,iVBO", "detail": "high"}
    output = {"type": "function_call_output", "call_id": "c1", "output": [shown]}
    items = INPUT_ITEMS.validate_python([output])
    told = prompt_of(response_generation(ResponsesRequest.model_validate(CODEX), items)).messages
    assert told[0]["content"] == f"[{kind} left out: this model reads text only]"


def test_codex_is_told_the_namespace_of_a_call(stack: Stack) -> None:
    stack.broker.script = saying(
        *call("c1", FORECAST, '{"city": ', '"Rome"}'),
        *call("c2", "exec_command", "{}", index=1),
        reason=FinishReason.TOOL_CALLS,
    )
    response = stack.client.post("/v1/responses", json=CODEX)
    assert response.status_code == 200
    sent = list(chunks([response.content]))
    added = [one["item"] for one in sent if one["type"] == "response.output_item.added"]
    done = [one["item"] for one in sent if one["type"] == "response.output_item.done"]
    named = [(item.get("namespace"), item["name"]) for item in [*added, *done]]
    assert named == [("mcp__weather", "forecast"), (None, "exec_command")] * 2
    assert [one["name"] for one in sent if one["type"].endswith("arguments.done")] == [
        "forecast",
        "exec_command",
    ]
    assert "namespace" not in done[1]
    assert sent[-1]["response"]["output"] == done
    assert [tool["type"] for tool in sent[-1]["response"]["tools"]] == ["function", "namespace"]


def test_a_past_call_keeps_its_namespace_in_the_next_request(stack: Stack) -> None:
    stack.broker.script = saying(*call("c1", FORECAST, "{}"), reason=FinishReason.TOOL_CALLS)
    first = stack.client.post("/v1/responses", json={**CODEX, "stream": False, "store": True}).json()
    stack.client.post(
        "/v1/responses", json={"model": "tiny", "input": "And?", "previous_response_id": first["id"]}
    )
    told = [one for one in stack.broker.received if isinstance(one, Submit)][-1]
    assert prompt_of(told.generation).messages[-2]["tool_calls"][0]["function"]["name"] == FORECAST


def test_codexs_request_for_a_summary_without_tools_is_accepted(stack: Stack) -> None:
    response = stack.client.post("/v1/responses", json={**CODEX, "tools": [], "parallel_tool_calls": False})
    assert list(chunks([response.content]))[-1]["type"] == "response.completed"


# ---------------------------------------------------------------- Claude Code

PLACEHOLDER = {
    "name": "DeferredToolPlaceholder",
    "description": "Never call this.",
    "input_schema": {"type": "object", "properties": {}},
    "defer_loading": True,
}
DEFERRED = {"name": FORECAST, "description": "Of tomorrow.", "input_schema": CITY, "defer_loading": True}
BASH = {
    "name": "Bash",
    "description": "Runs a command.",
    "input_schema": {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "properties": {"command": {"type": "string"}, "timeout": {"type": "number"}},
        "required": ["command"],
        "additionalProperties": False,
    },
}
REFERENCE = {"type": "tool_reference", "tool_name": FORECAST}

CLAUDE: dict[str, Any] = {
    "model": "tiny",
    "messages": [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "<system-reminder>\nBe kind.\n</system-reminder>\n"},
                {"type": "text", "text": "How is the weather?"},
            ],
        },
        {
            "role": "system",
            "content": [{"type": "text", "text": "# Environment", "cache_control": EPHEMERAL}],
        },
        {
            "role": "assistant",
            "content": [
                {"type": "text", "text": "Let me look.", "citations": None},
                {
                    "type": "tool_use",
                    "id": "call_1",
                    "name": "ToolSearch",
                    "input": {"query": f"select:{FORECAST}", "max_results": 5},
                    "caller": {"type": "direct"},
                },
                {
                    "type": "tool_use",
                    "id": "call_2",
                    "name": "Bash",
                    "input": {"command": "pwd"},
                    "caller": {"type": "direct"},
                },
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "call_1", "content": [REFERENCE]},
                {
                    "tool_use_id": "call_2",
                    "type": "tool_result",
                    "content": "/home",
                    "is_error": False,
                    "cache_control": EPHEMERAL,
                },
                {"type": "text", "text": "Tool loaded."},
            ],
        },
    ],
    "system": [
        {
            "type": "text",
            "text": "x-anthropic-billing-header: cc_version=2.1.331.5ba; cc_entrypoint=sdk-cli;",
        },
        {"type": "text", "text": "You are an agent.", "cache_control": EPHEMERAL},
        {"type": "text", "text": "\nBe brief.\n", "cache_control": EPHEMERAL},
    ],
    "tools": [BASH, PLACEHOLDER, DEFERRED, {**BASH, "name": "ToolSearch"}],
    "metadata": {"user_id": '{"device_id":"0","account_uuid":"","session_id":"1"}'},
    "max_tokens": 32000,
    "thinking": {"type": "adaptive", "display": "omitted"},
    "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
    "output_config": {"effort": "high"},
    "stream": True,
}


def claude(**fields: Any) -> Generation:
    return message_generation(MessagesRequest.model_validate({**CLAUDE, **fields}))


def names_shown(*messages: dict[str, Any], tools: Any = CLAUDE["tools"]) -> list[str]:
    generation = claude(messages=[{"role": "user", "content": "Hi"}, *messages], tools=tools)
    names = [tool["function"]["name"] for tool in prompt_of(generation).tools or []]
    assert names == (generation.tool_use.names if generation.tool_use else [])
    return names


def changed(kind: str, tool: dict[str, Any]) -> dict[str, Any]:
    return {"role": "system", "content": [{"type": kind, "tool": tool}]}


def test_a_request_of_claude_code_is_read_completely() -> None:
    messages = prompt_of(claude()).messages
    assert [(one["role"], one["content"]) for one in messages] == [
        ("system", "You are an agent.\n\n\nBe brief.\n"),
        ("user", "<system-reminder>\nBe kind.\n</system-reminder>\n\n\nHow is the weather?"),
        ("system", "# Environment"),
        ("assistant", "Let me look."),
        ("tool", f"The tool {FORECAST} is now available."),
        ("tool", "/home"),
        ("user", "Tool loaded."),
    ]
    assert [one["function"]["name"] for one in messages[3]["tool_calls"]] == ["ToolSearch", "Bash"]


@pytest.mark.parametrize("kind", ["image", "document"])
def test_pictures_in_claude_codes_tool_results_are_left_out_and_the_model_is_told(kind: str) -> None:
    shown = {"type": kind, "source": {"type": "base64", "media_type": "image/png", "data": "iVBO"}}
    parts = [{"type": "text", "text": "Read."}, shown]
    result = {"type": "tool_result", "tool_use_id": "call_1", "content": parts}
    told = prompt_of(claude(messages=[{"role": "user", "content": [result]}])).messages[-1]
    assert told["content"] == f"Read.\n\n[{kind} left out: this model reads text only]"


def test_a_deferred_tool_is_offered_after_the_others_once_a_search_found_it() -> None:
    assert names_shown() == ["Bash", "ToolSearch"]
    assert names_shown(*CLAUDE["messages"][2:]) == ["Bash", "ToolSearch", FORECAST]


def test_a_message_may_add_and_remove_a_tool() -> None:
    by_name = {"type": "tool_reference", "name": FORECAST}
    added, removed = changed("tool_addition", by_name), changed("tool_removal", by_name)
    assert FORECAST in names_shown(added)
    assert FORECAST not in names_shown(added, removed)
    assert FORECAST in names_shown(added, removed, added)
    told = prompt_of(claude(messages=[CLAUDE["messages"][0], added, removed])).messages[-2:]
    assert [one["content"] for one in told] == [
        f"The tool {FORECAST} is now available.",
        f"The tool {FORECAST} is no longer available.",
    ]


def test_a_message_may_define_a_new_tool() -> None:
    new = {"type": "tool_definition", "definition": {**BASH, "name": "New"}}
    assert names_shown(changed("tool_addition", new), tools=[BASH]) == ["Bash", "New"]
    new["definition"] = {**BASH, "name": "New", "input_schema": {"$ref": "http://elsewhere/"}}
    with pytest.raises(InvalidRequest) as caught:
        names_shown(changed("tool_addition", new))
    assert caught.value.param == "messages[1].content[0].tool.definition.input_schema"


def test_a_tool_can_be_removed_by_its_definition() -> None:
    whole = changed("tool_removal", {"type": "tool_definition", "definition": BASH})
    assert names_shown(whole, tools=[BASH]) == []
    told = prompt_of(claude(messages=[CLAUDE["messages"][0], whole])).messages[-1]
    assert told["content"] == "The tool Bash is no longer available."


def test_added_and_removed_tools_of_other_servers_are_ignored() -> None:
    theirs = changed("tool_addition", {"type": "mcp_toolset_reference", "server_name": "s"})
    unknown = changed("tool_addition", {"type": "tool_reference", "name": "nobody's"})
    assert names_shown(theirs, unknown, tools=[BASH]) == ["Bash"]


def test_all_tools_are_offered_when_the_request_leaves_the_search_to_the_server() -> None:
    search = {"type": "tool_search_tool_regex_20251119", "name": "tool_search_tool_regex"}
    assert names_shown(tools=[search, BASH, DEFERRED]) == ["Bash", FORECAST]


def test_claude_code_may_send_hundreds_of_tools() -> None:
    tools = [{**BASH, "name": f"mcp__s__{i}"} for i in range(300)]
    assert len(names_shown(tools=tools)) == 300


def test_claude_code_may_ask_for_more_tokens_than_the_context_has() -> None:
    stopping = claude(max_tokens=1_000_000).stopping
    assert stopping.max_tokens == 1_000_000


def test_claude_code_gets_a_tool_call(stack: Stack) -> None:
    stack.broker.script = saying(
        {"text": "So:"}, *call("c1", FORECAST, '{"city": ', '"Rome"}'), reason=FinishReason.TOOL_CALLS
    )
    response = stack.client.post(
        "/v1/messages?beta=true", json=CLAUDE, headers={"anthropic-beta": "effort-2025-11-24"}
    )
    assert response.status_code == 200
    begun = [
        one["content_block"]
        for one in list(chunks([response.content]))
        if one["type"] == "content_block_start"
    ]
    assert [block["type"] for block in begun] == ["text", "tool_use"]
    assert (begun[1]["id"], begun[1]["name"], begun[1]["input"]) == ("c1", FORECAST, {})


def test_claude_code_may_count_the_tokens_of_one_tool(stack: Stack) -> None:
    body = {"model": "tiny", "messages": [{"role": "user", "content": "foo"}], "tools": [BASH]}
    response = stack.client.post("/v1/messages/count_tokens?beta=true", json=body)
    assert response.json() == {"input_tokens": PROMPT_TOKENS}
