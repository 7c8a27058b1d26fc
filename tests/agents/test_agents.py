"""Coding agents against scripted texts of several families: two turns in one session, each with a real call of a tool.

The agents are programs of npm, a gigabyte together, so CI does not install them: ``make agents`` does.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.cli.command import ROOT
from tests.e2e.stack import Stack
from tests.faults.stack import FaultStack
from tests.programs.parrot_worker import ANSWER, CONTEXT_LENGTH, NAMES
from tests.workers.output.family_templates import HARMONY

PROGRAMS = ROOT / ".venv" / "agents" / "node_modules" / ".bin"
PLAYED = (
    HARMONY,
    "Qwen 3 Coder, Qwen 3.5, MiMo V2",
    "Devstral, Ministral 3, Magistral",
    "Llama 3.1, 3.2, 3.3, 4",
    "DeepSeek V3.1",
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


class Session(NamedTuple):
    """One agent's way to be started. ``first`` and ``again``: its arguments, before what it is told."""

    environment: dict[str, str]
    first: list[str]
    again: list[str]
    tool: str
    argument: str
    more: dict[str, str] = {}


def codex(base_url: str, model: str) -> Session:
    settings = {
        "model": model,
        "model_provider": "here",
        "model_context_window": CONTEXT_LENGTH,
        "web_search": "disabled",
        "model_providers.here.name": "here",
        "model_providers.here.base_url": f"{base_url}/v1",
        "model_providers.here.wire_api": "responses",
    }
    options = [part for name, value in settings.items() for part in ("-c", f"{name}={json.dumps(value)}")]
    options += ["--skip-git-repo-check", "--dangerously-bypass-approvals-and-sandbox"]
    return Session({}, ["exec", *options], ["exec", *options, "resume", "--last"], "exec_command", "cmd")


def claude(base_url: str, model: str) -> Session:
    environment = {
        "ANTHROPIC_BASE_URL": base_url,
        "ANTHROPIC_AUTH_TOKEN": "unused",
        "ANTHROPIC_MODEL": model,
        "CLAUDE_CODE_MAX_CONTEXT_TOKENS": str(CONTEXT_LENGTH),
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        "IS_SANDBOX": "1",  # else it refuses to run unasked as root
    }
    for size in ("HAIKU", "SONNET", "OPUS", "FABLE"):
        environment[f"ANTHROPIC_DEFAULT_{size}_MODEL"] = model
    options = ["-p", "--dangerously-skip-permissions"]
    return Session(environment, options, [*options, "-c"], "Bash", "command")


def opencode(base_url: str, model: str) -> Session:
    provider = {
        "npm": "@ai-sdk/openai-compatible",
        "options": {"baseURL": f"{base_url}/v1"},
        "models": {model: {"limit": {"context": CONTEXT_LENGTH, "output": 8000}}},
    }
    names = {"model": f"here/{model}", "small_model": f"here/{model}"}
    config = {**names, "permission": "allow", "provider": {"here": provider}}
    environment = {"OPENCODE_CONFIG_CONTENT": json.dumps(config)}
    more = {"description": "Writes a file"}
    return Session(environment, ["run"], ["run", "-c"], "bash", "command", more)


AGENTS: dict[str, Callable[[str, str], Session]] = {"codex": codex, "claude": claude, "opencode": opencode}


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    command = json.dumps([sys.executable, "-m", "tests.programs.parrot_worker"])
    models = ",".join(f"{NAMES.index(family)}=/none" for family in PLAYED)
    patience = {"heartbeat_timeout": 10, "stall_timeout": 30, "first_token_silence": 60}
    stack = FaultStack(available_models=models, worker_command=command, **patience)
    try:
        yield stack
    finally:
        stack.close()


@pytest.mark.parametrize("family", PLAYED)
@pytest.mark.parametrize("agent", AGENTS)
def test_an_agent_calls_its_tool_in_two_turns_of_a_session(
    stack: Stack, tmp_path: Path, agent: str, family: str
) -> None:
    if not (program := PROGRAMS / agent).exists():
        pytest.skip("the agents are not installed: `make agents`")
    session = AGENTS[agent](f"http://127.0.0.1:{stack.port}", str(NAMES.index(family)))
    work, home = tmp_path / "work", tmp_path / "home"
    for folder in (work, home / ".codex"):
        folder.mkdir(parents=True)
    homes = {"HOME": str(home), "CODEX_HOME": str(home / ".codex"), "PWD": str(work)}
    subprocess.run(["git", "init", "--quiet"], cwd=work, check=True)
    for turn, options in (("one", session.first), ("two", session.again)):
        call = {session.argument: f"echo {turn} > {turn}.txt", **session.more}
        ended = subprocess.run(
            [program, *options, f"call {session.tool} with {json.dumps(call)} now"],
            cwd=work,
            env={**os.environ, **homes, **session.environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert (ended.returncode, ended.stdout.strip()) == (0, ANSWER), ended.stderr[-3000:]
        assert (work / f"{turn}.txt").read_text() == f"{turn}\n"
