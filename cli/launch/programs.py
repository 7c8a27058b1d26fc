"""What each program that ``mlx-server launch`` knows must be told of a server: variables and flags of one run. Pure.

Rule 1: nothing here writes a file; a program whose server can only be named in a file is not here.
Rule 2: a key stands in a variable, never in a flag, because other users of a machine can read flags.
Names of variables are from the programs' own documents; docs/clients.md says which were run against this server.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass

KEY = "MLX_CLIENT_KEY"  # the variable that holds the key, for programs that let us choose its name


@dataclass(frozen=True)
class Target:
    """``address``: of the server, without ``/v1``. ``context``: of the model, in tokens; None: it is not known."""

    address: str
    model: str
    context: int | None
    key: str


@dataclass(frozen=True)
class Telling:
    """``without``: variables that would send the program elsewhere. ``secret``: those of ``variables`` with the key."""

    variables: Mapping[str, str]
    secret: str
    flags: tuple[str, ...] = ()
    without: tuple[str, ...] = ()


@dataclass(frozen=True)
class Program:
    """``begins_with``: tokens of its prompt before its user has said a word, rounded up; measured where it was run.

    ``trusts``: the variable that names a file of certificates to trust; for the two whose HTTP is not Node's and that
    have none of their own it is OpenSSL's, and then they trust no other.
    """

    title: str
    command: str
    tell: Callable[[Target], Telling]
    begins_with: int
    install: str
    needs_tools: bool = True
    trusts: str = "NODE_EXTRA_CA_CERTS"


def _codex(target: Target) -> Telling:
    settings: dict[str, object] = {
        "model": target.model,
        "model_provider": "mlx-server",
        "model_providers.mlx-server.name": "mlx-server",
        "model_providers.mlx-server.base_url": f"{target.address}/v1",
        "model_providers.mlx-server.wire_api": "responses",
        "model_providers.mlx-server.env_key": KEY,
        "web_search": "disabled",
        "features.view_image": False,
        "agents.enabled": False,
    }
    if target.context:
        settings["model_context_window"] = target.context
    # JSON's strings, numbers and booleans are TOML's too.
    flags = [word for name, value in settings.items() for word in ("-c", f"{name}={json.dumps(value)}")]
    return Telling({KEY: target.key}, KEY, tuple(flags))


_CLAUDES = (
    "MODEL",
    "DEFAULT_HAIKU_MODEL",
    "DEFAULT_SONNET_MODEL",
    "DEFAULT_OPUS_MODEL",
    "DEFAULT_FABLE_MODEL",
)
_CLAUDE_NEEDS_OUTPUT_BELOW = 32768  # tokens of context; what it asks for by itself would leave no prompt


def _claude(target: Target) -> Telling:
    variables = {
        "ANTHROPIC_BASE_URL": target.address,
        "ANTHROPIC_AUTH_TOKEN": target.key,
        **{f"ANTHROPIC_{name}": target.model for name in _CLAUDES},
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
    }
    if target.context:
        variables["CLAUDE_CODE_MAX_CONTEXT_TOKENS"] = str(target.context)
        if target.context < _CLAUDE_NEEDS_OUTPUT_BELOW:
            variables["CLAUDE_CODE_MAX_OUTPUT_TOKENS"] = str(target.context // 4)
    return Telling(
        variables,
        "ANTHROPIC_AUTH_TOKEN",
        ("--settings", json.dumps({"permissions": {"deny": ["WebSearch"]}})),
        ("ANTHROPIC_API_KEY", "CLAUDE_CODE_USE_BEDROCK", "CLAUDE_CODE_USE_VERTEX", "CLAUDE_CODE_USE_FOUNDRY"),
    )


def _opencode(target: Target) -> Telling:
    model: dict[str, object] = {"name": target.model, "tool_call": True}
    if target.context:
        model["limit"] = {"context": target.context, "output": target.context // 4}
    provider = {
        "npm": "@ai-sdk/openai-compatible",
        "name": "mlx-server",
        "options": {"baseURL": f"{target.address}/v1", "apiKey": f"{{env:{KEY}}}"},
        "models": {target.model: model},
    }
    wanted = f"mlx-server/{target.model}"
    config = {"provider": {"mlx-server": provider}, "model": wanted, "small_model": wanted}
    return Telling({"OPENCODE_CONFIG_CONTENT": json.dumps(config), KEY: target.key}, KEY)


def _qwen(target: Target) -> Telling:
    return Telling(
        _openai(target, "BASE_URL") | {"OPENAI_MODEL": target.model},
        "OPENAI_API_KEY",
        ("--auth-type", "openai"),
    )


def _goose(target: Target) -> Telling:
    variables = {
        "GOOSE_PROVIDER": "openai",
        "GOOSE_MODEL": target.model,
        "OPENAI_HOST": target.address,
        "OPENAI_BASE_PATH": "v1/chat/completions",
        "OPENAI_API_KEY": target.key,
    }
    if target.context:
        variables["GOOSE_CONTEXT_LIMIT"] = str(target.context)
    return Telling(variables, "OPENAI_API_KEY", without=("OPENAI_BASE_URL",))


def _aider(target: Target) -> Telling:
    flags = ("--model", f"openai/{target.model}", "--no-show-model-warnings")
    return Telling(_openai(target, "API_BASE"), "OPENAI_API_KEY", flags)


def _openai(target: Target, base: str) -> dict[str, str]:
    return {f"OPENAI_{base}": f"{target.address}/v1", "OPENAI_API_KEY": target.key}


PROGRAMS = {
    "codex": Program(
        "Codex CLI", "codex", _codex, 9_000, "npm install -g @openai/codex", trusts="CODEX_CA_CERTIFICATE"
    ),
    "claude": Program("Claude Code", "claude", _claude, 16_000, "npm install -g @anthropic-ai/claude-code"),
    "opencode": Program("opencode", "opencode", _opencode, 8_000, "npm install -g opencode-ai"),
    "qwen": Program("Qwen Code", "qwen", _qwen, 16_000, "npm install -g @qwen-code/qwen-code"),
    "goose": Program(
        "goose", "goose", _goose, 8_000, "https://goose-docs.ai says how", trusts="SSL_CERT_FILE"
    ),
    "aider": Program(
        "aider",
        "aider",
        _aider,
        2_000,
        "pipx install aider-chat",
        needs_tools=False,
        trusts="SSL_CERT_FILE",
    ),
}
