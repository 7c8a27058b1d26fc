"""The operator's command, ``mlx-server``: what can be typed. What is done is imported when it is asked for."""

from importlib.metadata import PackageNotFoundError, version
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

INSTEAD = {
    "run": "serve it, and ask it with curl or any client: mlx-server serve --models MODEL",
    "pull": "a model is downloaded when it is first asked for: mlx-server serve --models MODEL",
    "download": "a model is downloaded when it is first asked for: mlx-server serve --models MODEL",
    "list": "what a running server has: mlx-server status",
    "ls": "what a running server has: mlx-server status",
    "ps": "what a running server does: mlx-server status",
    "stop": "Ctrl-C where `mlx-server serve` runs stops it",
    "start": "mlx-server serve",
    "chat": "serve it, and ask it with curl or any client: mlx-server serve --models MODEL",
}


class Commands(TyperGroup):
    """Names what was meant by a command of another server."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0].startswith("-") and args[0] not in ("--help", "--version"):
            ctx.fail(f"Options such as {args[0]} come behind a command: mlx-server serve {' '.join(args)}")
        rest: list[str] = super().parse_args(ctx, args)
        return rest

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and args[0] in INSTEAD:
            ctx.fail(f"There is no command '{args[0]}'; {INSTEAD[args[0]]}.")
        return super().resolve_command(ctx, args)


app = typer.Typer(
    cls=Commands,
    help="An OpenAI-compatible server for MLX models.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Host = Annotated[str | None, typer.Option(help="Address of the api.", show_default=False)]
Port = Annotated[int | None, typer.Option(help="Port of the api.", show_default=False)]


def _version(wanted: bool) -> None:
    if wanted:
        try:
            print(version("mlx-server"))
        except PackageNotFoundError:
            print("not installed")
        raise typer.Exit


@app.callback()
def _all(
    version: Annotated[bool, typer.Option("--version", callback=_version, help="Print the version.")] = False,
) -> None:
    """Every setting can also be given as MLX_SERVER_… in the environment or in .env; options win."""


@app.command()
def serve(
    host: Host = None,
    allow_anyone: Annotated[
        bool,
        typer.Option("--allow-anyone", help="Listen beyond this machine, though nobody checks who asks."),
    ] = False,
    port: Port = None,
    models: Annotated[
        str | None,
        typer.Option(
            help="Models that may be asked for: ID, /folder or ID=/folder, comma-separated.",
            show_default=False,
        ),
    ] = None,
    config: Annotated[
        str | None, typer.Option(help="File with settings and models, mlx-server.toml.", show_default=False)
    ] = None,
    default_model: Annotated[
        str | None, typer.Option(help="Serves requests that name no model.", show_default=False)
    ] = None,
    api_processes: Annotated[
        int | None, typer.Option(help="Api processes that share the port.", show_default=False)
    ] = None,
    run_dir: Annotated[
        str | None, typer.Option(help="Folder for sockets, locks and logs.", show_default=False)
    ] = None,
    log_level: Annotated[
        str | None, typer.Option(help="debug, info, warning or error.", show_default=False)
    ] = None,
    ready_timeout: Annotated[
        float, typer.Option(help="Give up if it is not ready after so many seconds.")
    ] = 60.0,
) -> None:
    """Serve until Ctrl-C."""
    from cli.serve import serve

    given = {
        "host": host,
        "allow_anyone": allow_anyone or None,
        "port": port,
        "available_models": models,
        "config": config,
        "default_model": default_model,
        "api_processes": api_processes,
        "run_dir": run_dir,
        "log_level": log_level,
    }
    raise typer.Exit(serve(_only_given(given), ready_timeout))


@app.command()
def status(
    host: Host = None,
    port: Port = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Show what a running server does."""
    from cli.status import status

    raise typer.Exit(status(_only_given({"host": host, "port": port}), as_json))


def _only_given(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def main() -> None:
    app()


if __name__ == "__main__":
    main()
