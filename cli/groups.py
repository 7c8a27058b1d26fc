"""The options of the groups ``config``, ``service``, ``prompts`` and ``keys``; commands are imported when called."""

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


service = typer.Typer(
    no_args_is_help=True, help="Let the system start the server: launchd on macOS, systemd on Linux."
)
Personal = Annotated[bool, typer.Option("--user", help="Of this user alone, without root.")]
RunAs = Annotated[
    str | None,
    typer.Option(
        help="Who runs the system's server; who called sudo, else who asks.",
        envvar="SUDO_USER",
        show_default=False,
        show_envvar=False,
    ),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print files and commands, and do nothing.")]


@service.command("install", context_settings={"ignore_unknown_options": True})
def service_install(
    words: Annotated[
        list[str] | None, typer.Argument(help="Options of `serve`: --port 9000 --config FILE …")
    ] = None,
    user: Personal = False,
    run_as: RunAs = None,
    dry_run: DryRun = False,
) -> None:
    """Start the server now, at each boot, and again when it falls over."""
    from cli.service.manage import install

    raise typer.Exit(install(user, run_as, words or [], dry_run=dry_run))


@service.command("status")
def service_status(user: Personal = False, run_as: RunAs = None) -> None:
    """Say what the system knows of the service, and whether the server is ready."""
    from cli.service.manage import status

    raise typer.Exit(status(user, run_as))


@service.command("logs")
def service_logs(
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as they grow.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", help="So many.", min=0)] = 50,
    user: Personal = False,
    run_as: RunAs = None,
) -> None:
    """Show what `serve` printed as a service."""
    from cli.service.manage import logs

    raise typer.Exit(logs(user, run_as, follow=follow, lines=lines))


@service.command("restart")
def service_restart(user: Personal = False, run_as: RunAs = None, dry_run: DryRun = False) -> None:
    """Read the settings, then stop the server in order, start it, and wait until it is ready."""
    from cli.service.manage import restart

    raise typer.Exit(restart(user, run_as, dry_run=dry_run))


@service.command("uninstall")
def service_uninstall(user: Personal = False, run_as: RunAs = None, dry_run: DryRun = False) -> None:
    """Stop the server, and let the system forget it."""
    from cli.service.manage import uninstall

    raise typer.Exit(uninstall(user, run_as, dry_run=dry_run))


prompts = typer.Typer(no_args_is_help=True, help="Forget the prompts that outlive their workers.")


@prompts.command("delete")
def prompts_delete(
    key: Annotated[
        str | None, typer.Option(help="Those of the key of this name.", show_default=False)
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Those of all keys, and of clients without one.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Delete prompts on disk, and have the workers of the running server forget them too."""
    from cli.prompts import delete

    raise typer.Exit(delete(key, everything=everything, as_json=as_json))


keys = typer.Typer(no_args_is_help=True, help="Make, list and revoke the API keys that clients must show.")


@keys.command("create")
def keys_create(
    name: Annotated[str, typer.Argument(help="Whose key it is: letters, digits, '.', '_', '-'.")],
    admin: Annotated[
        bool, typer.Option("--admin", help="It may load and unload models and see the status.")
    ] = False,
    models: Annotated[str, typer.Option(help="The models it may use: names or patterns; all.")] = "",
    expires: Annotated[
        str | None, typer.Option(help="How long it holds: 12h, 30d, 8w.", show_default=False)
    ] = None,
    priority: Annotated[
        str,
        typer.Option(help="Which requests go first: high, normal or low. Low ones wait, but not for ever."),
    ] = "normal",
    concurrency: Annotated[
        int, typer.Option(min=0, help="Requests at a time, running or waiting; 0: any number.")
    ] = 0,
    tokens_per_minute: Annotated[
        int, typer.Option(min=0, help="Tokens of prompts and answers in a minute; 0: any number.")
    ] = 0,
) -> None:
    """Make a key and print it once. From then on every client must show one."""
    from cli.keys import create

    raise typer.Exit(
        create(
            name,
            admin=admin,
            models=models,
            expires=expires,
            priority=priority,
            concurrency=concurrency,
            tokens_per_minute=tokens_per_minute,
        )
    )


@keys.command("list")
def keys_list(as_json: Json = False) -> None:
    """List the keys by name; the keys themselves are stored nowhere."""
    from cli.keys import listed

    raise typer.Exit(listed(as_json=as_json))


@keys.command("revoke")
def keys_revoke(name: Annotated[str, typer.Argument(help="The key's name.")]) -> None:
    """Revoke a key; a running server obeys at once."""
    from cli.keys import revoke

    raise typer.Exit(revoke(name))
