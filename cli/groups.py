"""The groups of commands ``config`` and ``service``: their options. Each command is imported when it is called."""

from pathlib import Path
from typing import Annotated

import typer

from cli.options import Json, only_given

config = typer.Typer(no_args_is_help=True, help="Show the settings, and write or check their file.")
ConfigFile = Annotated[
    Path | None,
    typer.Argument(help="The file; else mlx-server.toml here, or the one at home.", show_default=False),
]


@config.command("show")
def config_show(
    config: Annotated[
        str | None, typer.Option(help="File with settings and models, mlx-server.toml.", show_default=False)
    ] = None,
    as_json: Json = False,
) -> None:
    """Print each setting, its value and where that is from."""
    from cli.config import show

    raise typer.Exit(show(only_given({"config": config}), as_json=as_json))


@config.command("check")
def config_check(file: ConfigFile = None) -> None:
    """Say what is wrong with a file, by line and key."""
    from cli.config import check

    raise typer.Exit(check(file))


@config.command("init")
def config_init(
    file: Annotated[
        Path | None, typer.Argument(help="Where to; mlx-server.toml here.", show_default=False)
    ] = None,
) -> None:
    """Write a file in which each setting stands as a comment."""
    from cli.config import init

    raise typer.Exit(init(file))
