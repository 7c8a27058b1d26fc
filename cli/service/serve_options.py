"""The options of ``mlx-server serve`` as words of another command's line: read by their own parser, and written anew.

Rule: a word that ``serve`` would refuse is refused here, before anything is written or started.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import typer
from typer.exceptions import TyperException
from typer.main import get_command

from cli.refusal import Refused
from shared.models import parse_source
from shared.settings import Settings

_FILES = ("config", "keys_file", "run_dir")


def read(words: Sequence[str]) -> dict[str, Any]:
    """The settings among them, by name. Raises Refused."""
    context = _parsed(words)
    if context.params["in_background"]:
        raise Refused("--detach is not for a service: the system keeps it in the background.")
    return {
        name: value
        for name, value in context.params.items()
        if value is not None and name in Settings.model_fields
    }


def absolute(words: Sequence[str], options: Mapping[str, Any], settings: Settings) -> list[str]:
    """The same options for a server that is started in another folder."""
    return list(_absolute(_parsed(words), options, settings))


def _absolute(context: typer.Context, options: Mapping[str, Any], settings: Settings) -> Iterator[str]:
    for parameter in context.command.params:
        name = str(parameter.name)
        value = context.params.get(name)
        if value == parameter.default or value is None:
            continue
        yield parameter.opts[0]
        if value is True:
            continue
        if name == "available_models":
            value = ",".join(map(_model, settings.available_models))
        yield str(getattr(settings, name) if name in _FILES else value)


def _model(entry: str) -> str:
    source = parse_source(entry)
    return f"{source.id}={source.location}" if source.kind == "folder" else entry


def _parsed(words: Sequence[str]) -> typer.Context:
    from cli.__main__ import app

    commands: Any = get_command(app)
    try:
        context: typer.Context = commands.commands["serve"].make_context("serve", [*words])
    except TyperException as error:
        raise Refused(f"`serve` does not take these options: {error.format_message()}") from None
    return context
