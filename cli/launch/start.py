"""``mlx-server launch PROGRAM``: starts a coding agent or another client with a model of a running server.

Rule 1: nothing is written anywhere: variables and flags hold for this run. ``--print`` shows them and starts nothing.
Rule 2: what cannot work (no server, no tools, too short a context) is said before the program starts, not by it.
"""

import json
import os
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from http import HTTPStatus
from pathlib import Path
from typing import Any, NoReturn, TypeVar
from urllib.parse import quote

from cli import probe
from cli.client_key import Key, client_key
from cli.launch.programs import PROGRAMS, Program, Target, Telling
from cli.models.chat_models import chat_models
from cli.models.orders import PATIENCE
from cli.refusal import Refused, nothing_answers, refuse, something_else_answers
from shared import exits
from shared.certificate import file_to_trust
from shared.commands import for_others, typed
from shared.settings import Settings, load_settings

T = TypeVar("T")
ROOM = 2  # times of what a program begins with: less leaves no conversation


def launch(
    options: Mapping[str, Any],
    name: str,
    model: str | None,
    words: Sequence[str],
    *,
    key_file: Path | None,
    only_print: bool,
    anyway: bool,
) -> int:
    """Returns the exit code, if the program is not started: it then takes the place of this process."""
    if (program := PROGRAMS.get(name)) is None:
        refuse(_unknown(name))
        return exits.UNUSABLE
    settings = load_settings(**options)
    try:
        key = client_key(settings, key_file)
        info = _model(settings, model or settings.default_model, key.value)
        _check(program, info, anyway)
        target = Target(probe.address(settings), info["id"], info["context_length"], key.value)
        telling = _trusting(program, program.tell(target), file_to_trust(settings))
        if only_print:
            print(_shell(program, telling, key, words))
            return 0
        path = _path(program)
    except Refused as refusal:
        return refuse(refusal)
    print(_sentence(program, target), file=sys.stderr, flush=True)
    return _become(path, [program.command, *telling.flags, *words], _environment(telling))


def _trusting(program: Program, telling: Telling, certificate: Path | None) -> Telling:
    if certificate is None:
        return telling
    return replace(telling, variables={**telling.variables, program.trusts: str(certificate)})


def _become(path: str, arguments: list[str], environment: dict[str, str]) -> NoReturn:
    os.execve(path, arguments, environment)  # noqa: S606


def _check(program: Program, info: Mapping[str, Any], anyway: bool) -> None:
    wrong = " ".join(objections(program, info))
    if wrong and not anyway:
        raise Refused(f"{wrong} --anyway starts it all the same.")
    if wrong:
        refuse(wrong)


def _path(program: Program) -> str:
    if (path := shutil.which(program.command)) is None:
        raise Refused(f"{program.title} (`{program.command}`) is not installed: {program.install}.")
    return path


def _unknown(name: str) -> str:
    near = get_close_matches(name.lower(), PROGRAMS, 1)
    known = f"it knows {', '.join(PROGRAMS)}"
    return f"`launch` knows no program {name!r}; {f'did you mean {near[0]}?' if near else known}"


def _ask(settings: Settings, path: str, key: str, read: Callable[[Any], T]) -> T:
    """``read`` raises what a dictionary or list of another form does where the answer is not what was asked for."""
    answer = probe.get(settings, path, key=key)
    if answer is None:
        raise Refused(nothing_answers(settings))
    if answer.status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        raise Refused(
            f"{probe.address(settings)} asks for an API key: --key-file FILE. On its machine "
            f"`{typed('mlx-server')} keys create NAME > FILE` makes one."
        )
    try:
        found = json.loads(answer.body)
        if answer.status == HTTPStatus.OK:
            return read(found)
        message = found["error"]["message"]
    except (ValueError, LookupError, TypeError, AttributeError):
        raise Refused(something_else_answers(settings)) from None
    raise Refused(message)


def _model(settings: Settings, wanted: str | None, key: str) -> dict[str, Any]:
    """The model of this name or alias, else the only one; loaded, if nothing is known of it yet."""
    info = _ask(settings, f"/v1/models/{quote(wanted or _the_only(settings, key))}", key, _known)
    can = info["capabilities"] or {}
    if info["status"] == "failed" or (can and info["context_length"]) or can.get("endpoints"):
        return info
    print(f"Loading {info['id']}, to see what it can do …", file=sys.stderr, flush=True)
    probe.post(settings, f"/admin/models/{quote(info['id'])}/load", {"wait": True}, PATIENCE)
    return _ask(settings, f"/v1/models/{quote(info['id'])}", key, _known)


def _known(said: Any) -> dict[str, Any]:
    return {name: said[name] for name in ("id", "status", "capabilities", "context_length", "reason")}


def _the_only(settings: Settings, key: str) -> str:
    chats = _ask(settings, "/v1/models", key, chat_models)
    if len(chats) != 1:
        raise Refused(f"Say with --model which one it is to use: {', '.join(chats) or 'there is none'}.")
    return chats[0]


def objections(program: Program, info: Mapping[str, Any]) -> Iterator[str]:
    model, can, context = info["id"], info["capabilities"] or {}, info["context_length"]
    if info["status"] == "failed":
        yield f"{model} cannot be loaded: {info['reason']}"
    elif can.get("kind", "chat") != "chat" and "chat" not in can.get("endpoints", ()):
        yield f"{model} is no chat model."
    elif program.needs_tools and can.get("tools") == "none":
        yield f"{model} cannot call tools, and {program.title} does its work with them."
    if context is not None and context < ROOM * program.begins_with:
        yield (
            f"{model} has a context of {context:,} tokens. {program.title} takes {program.begins_with:,} before a word "
            f"is said, and needs {ROOM * program.begins_with:,}; `context_length` in mlx-server.toml may hold it back."
        )


def _sentence(program: Program, target: Target) -> str:
    context = f", {target.context:,} tokens of context" if target.context else ""
    return (
        f"{program.title} with {target.model} at {target.address}{context}. This holds for this run: none of its files "
        "is changed, and --print shows what it is told."
    )


def _environment(telling: Telling) -> dict[str, str]:
    mine = {name: value for name, value in os.environ.items() if name not in telling.without}
    return {**for_others(mine), **telling.variables}


def _shell(program: Program, telling: Telling, key: Key, words: Sequence[str]) -> str:
    """The same as a command for a shell, without the key in it."""
    unset = [f"-u {name}" for name in telling.without]
    given = [
        f"{name}={key.shell if name == telling.secret else shlex.quote(value)}"
        for name, value in telling.variables.items()
    ]
    command = shlex.join([program.command, *telling.flags, *words])
    return " \\\n  ".join(["env", *unset, *given, command])
