"""Options that several commands have, as typer reads them."""

from typing import Annotated, Any

import typer

Host = Annotated[str | None, typer.Option(help="Address of the api.", show_default=False)]
Port = Annotated[int | None, typer.Option(help="Port of the api.", show_default=False)]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def only_given(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}
