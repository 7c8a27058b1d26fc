"""The operator's command ``mlx-server``: its subcommands and options. Each subcommand is imported when it is called."""

import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from cli.groups import config, keys, prompts, service
from cli.launch.programs import PROGRAMS
from cli.options import (
    AllowAnyone,
    ApiProcesses,
    AvailableModels,
    ConfigPath,
    DefaultModel,
    Host,
    InBackground,
    Json,
    KeysPath,
    LogLevel,
    Port,
    ReadyTimeout,
    RunDir,
    SocketsOf,
    only_given,
)

INSTEAD = {
    "download": "{command} pull MODEL",
    "start": "{command} serve",
}


def _command() -> str:
    from shared.commands import typed

    return typed("mlx-server")


class Commands(TyperGroup):
    """Suggests the right command to users of other servers."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        known = {option for parameter in self.get_params(ctx) for option in parameter.opts}
        if args and args[0].startswith("-") and args[0] not in known:
            ctx.fail(f"Options such as {args[0]} come behind a command: {_command()} serve {' '.join(args)}")
        rest: list[str] = super().parse_args(ctx, args)
        return rest

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and args[0] in INSTEAD:
            instead = INSTEAD[args[0]].format(command=_command())
            ctx.fail(f"There is no command '{args[0]}'; {instead}.")
        return super().resolve_command(ctx, args)


app = typer.Typer(
    cls=Commands,
    help="An OpenAI-compatible server for MLX models.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


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
    allow_anyone: AllowAnyone = None,
    port: Port = None,
    available_models: AvailableModels = None,
    config: ConfigPath = None,
    keys_file: KeysPath = None,
    default_model: DefaultModel = None,
    api_processes: ApiProcesses = None,
    run_dir: RunDir = None,
    log_level: LogLevel = None,
    ready_timeout: ReadyTimeout = 60.0,
    in_background: InBackground = False,
) -> None:
    """Serve until Ctrl-C, or in the background."""
    # A parameter that is a setting has its name: ``service`` reads them so.
    from cli.serve import serve

    given = {
        "host": host,
        "allow_anyone": allow_anyone,
        "port": port,
        "available_models": available_models,
        "config": config,
        "keys_file": keys_file,
        "default_model": default_model,
        "api_processes": api_processes,
        "run_dir": run_dir,
        "log_level": log_level,
    }
    if in_background:
        from cli.background import detach

        arguments = [each for each in sys.argv[2:] if each not in ("--detach", "-d")]
        raise typer.Exit(detach(only_given(given), arguments, ready_timeout))
    raise typer.Exit(serve(only_given(given), ready_timeout))


@app.command()
def stop(
    port: Port = None,
    run_dir: SocketsOf = None,
) -> None:
    """Stop a server, in the background or in another terminal, and wait for its end."""
    from cli.background import stop

    raise typer.Exit(stop(only_given({"port": port, "run_dir": run_dir})))


@app.command()
def logs(
    names: Annotated[
        list[str] | None, typer.Argument(help="Of these processes: api, broker, worker-…; of all.")
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as they grow.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", help="So many of each.", min=0)] = 20,
    port: Port = None,
    run_dir: SocketsOf = None,
) -> None:
    """Show the end of the server's logs."""
    from cli.background import logs

    options = only_given({"port": port, "run_dir": run_dir})
    raise typer.Exit(logs(options, names or [], follow=follow, lines=lines))


@app.command()
def status(
    host: Host = None,
    port: Port = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Look again each second, until Ctrl-C.")
    ] = False,
) -> None:
    """Show what a running server does."""
    from cli.status import status

    raise typer.Exit(status(only_given({"host": host, "port": port}), as_json=as_json, watch=watch))


@app.command()
def ps(host: Host = None, port: Port = None, as_json: Json = False) -> None:
    """Show the models that are in memory, and how much of it they take."""
    from cli.status import ps

    raise typer.Exit(ps(only_given({"host": host, "port": port}), as_json=as_json))


Model = Annotated[str, typer.Argument(help="A model's name or alias.")]
NoWait = Annotated[bool, typer.Option("--no-wait", help="Do not wait until it is done.")]


@app.command()
def load(model: Model, no_wait: NoWait = False, host: Host = None, port: Port = None) -> None:
    """Load a model of a running server into memory."""
    _order("load", model, host, port, wait=not no_wait)


@app.command()
def unload(
    model: Model,
    no_wait: NoWait = False,
    force: Annotated[bool, typer.Option("--force", help="Also a pinned model.")] = False,
    host: Host = None,
    port: Port = None,
) -> None:
    """Free the memory of a model, once it has answered what it runs."""
    _order("unload", model, host, port, wait=not no_wait, force=force)


@app.command()
def reload(model: Model, no_wait: NoWait = False, host: Host = None, port: Port = None) -> None:
    """Load a model anew, for instance after its files were changed."""
    _order("reload", model, host, port, wait=not no_wait)


@app.command()
def pull(
    model: Model,
    cancel: Annotated[
        bool, typer.Option("--cancel", help="End the server's download; what has arrived is kept.")
    ] = False,
    host: Host = None,
    port: Port = None,
) -> None:
    """Fetch a model of the hub, by the running server or without one."""
    from cli.models import pull as command

    options = only_given({"host": host, "port": port})
    raise typer.Exit(command.cancel(model, options) if cancel else command.pull(model, options))


@app.command("remove", hidden=True)
@app.command("rm")
def rm(
    model: Model,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Also one that is loaded or pinned.")] = False,
    host: Host = None,
    port: Port = None,
) -> None:
    """Remove a model of the hub from this disk."""
    from cli.models.remove import remove

    raise typer.Exit(remove(model, only_given({"host": host, "port": port}), yes=yes, force=force))


@app.command()
def show(
    model: Model,
    as_json: Json = False,
    host: Host = None,
    port: Port = None,
) -> None:
    """Show what is known of a model."""
    from cli.models.show import show

    raise typer.Exit(show(model, only_given({"host": host, "port": port}), as_json=as_json))


@app.command("chat", hidden=True)
@app.command("run")
def run(
    model: Annotated[str, typer.Argument(help="A model's name or alias.")],
    prompt: Annotated[
        str | None, typer.Argument(help="What to ask; else standard input, or a conversation.")
    ] = None,
    system: Annotated[str, typer.Option(help="What the model is told first.")] = "",
    temperature: Annotated[
        float | None, typer.Option(help="0: always the likeliest word; the model's own.", show_default=False)
    ] = None,
    max_tokens: Annotated[
        int | None, typer.Option(help="Longest answer; what is left of the context.", show_default=False)
    ] = None,
    host: Host = None,
    port: Port = None,
) -> None:
    """Talk to a model of a running server; `chat` is the same."""
    from cli.chat import chat

    sampling = only_given({"temperature": temperature, "max_tokens": max_tokens})
    raise typer.Exit(chat(only_given({"host": host, "port": port}), model, prompt, system, sampling))


@app.command("ls", hidden=True)
@app.command("models", hidden=True)
@app.command("list")
def listing(
    host: Host = None,
    port: Port = None,
    as_json: Json = False,
) -> None:
    """List the models that may be asked for, also of a server that does not run."""
    from cli.models.listing import listing

    raise typer.Exit(listing(only_given({"host": host, "port": port}), as_json=as_json))


@app.command()
def doctor(
    host: Host = None,
    port: Port = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
) -> None:
    """Look at this machine and these settings, and say what would keep a server from serving."""
    from cli.doctor import doctor

    raise typer.Exit(doctor(only_given({"host": host, "port": port}), as_json=as_json))


@app.command()
def bench(
    url: Annotated[
        str | None, typer.Argument(help="Address of an API, up to /v1; this server's.", show_default=False)
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="The model to ask; needed where there are several.", show_default=False)
    ] = None,
    clients: Annotated[str, typer.Option(help="How many ask at a time, one measurement each.")] = "1,4,16",
    requests: Annotated[
        int | None,
        typer.Option(help="Requests of each measurement; 4 of each client.", min=1, show_default=False),
    ] = None,
    words: Annotated[int, typer.Option(help="Words of each prompt, about as many tokens.", min=1)] = 100,
    max_tokens: Annotated[int, typer.Option(help="Longest answer.", min=1)] = 64,
    key_file: Annotated[
        Path | None, typer.Option(help="File with the API key to show.", show_default=False)
    ] = None,
    as_json: Json = False,
    host: Host = None,
    port: Port = None,
    itself: Annotated[
        bool,
        typer.Option(
            "--self", help="Measure this machine and mlx_lm.server on it, and write a report to send."
        ),
    ] = False,
    quick: Annotated[bool, typer.Option("--quick", help="Of --self: one minute instead of ten.")] = False,
    output: Annotated[Path, typer.Option(help="Of --self: the folder of its two files.")] = Path(),
) -> None:
    """Measure a server: requests and tokens per second, first tokens and gaps, with several clients at a time."""
    if itself:
        from cli.bench.self_check import self_check

        raise typer.Exit(self_check({}, model, output, quick=quick))
    from cli.bench.measure import bench

    raise typer.Exit(
        bench(
            only_given({"host": host, "port": port}),
            url,
            model,
            clients=clients,
            requests=requests,
            words=words,
            max_tokens=max_tokens,
            key_file=key_file,
            as_json=as_json,
        )
    )


@app.command(context_settings={"ignore_unknown_options": True})
def launch(
    program: Annotated[
        str,
        typer.Argument(
            help="codex, claude, opencode, qwen, goose or aider.", autocompletion=lambda: [*PROGRAMS]
        ),
    ],
    words: Annotated[
        list[str] | None,
        typer.Argument(help="Arguments of the program; behind `--` also those that `launch` has."),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="The model it is to use; needed where there are several.", show_default=False),
    ] = None,
    key_file: Annotated[
        Path | None, typer.Option(help="File with the API key it is to show.", show_default=False)
    ] = None,
    only_print: Annotated[bool, typer.Option("--print", help="Show the command, and start nothing.")] = False,
    anyway: Annotated[bool, typer.Option("--anyway", help="Though the model does not suit it.")] = False,
    host: Host = None,
    port: Port = None,
) -> None:
    """Start a coding agent with a model of a running server; none of its files is changed."""
    from cli.launch.start import launch

    options = only_given({"host": host, "port": port})
    raise typer.Exit(
        launch(options, program, model, words or [], key_file=key_file, only_print=only_print, anyway=anyway)
    )


app.add_typer(config, name="config")
app.add_typer(service, name="service")
app.add_typer(keys, name="keys")
app.add_typer(prompts, name="prompts")


def _order(
    action: str, model: str, host: str | None, port: int | None, *, wait: bool, force: bool = False
) -> None:
    from cli.models.orders import order

    raise typer.Exit(order(action, model, only_given({"host": host, "port": port}), wait=wait, force=force))


def main() -> None:
    app(prog_name="mlx-server")


if __name__ == "__main__":
    main()
