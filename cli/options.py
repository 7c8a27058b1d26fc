"""Options of ``serve``, and those that several commands have, as typer reads them."""

from typing import Annotated, Any

import typer

Host = Annotated[str | None, typer.Option(help="Address of the api.", show_default=False)]
Port = Annotated[int | None, typer.Option(help="Port of the api.", show_default=False)]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
SocketsOf = Annotated[str | None, typer.Option(help="Folder of the server's sockets.", show_default=False)]

# Of ``serve``.
AllowAnyone = Annotated[
    bool | None,
    typer.Option("--allow-anyone", help="Listen beyond this machine, though nobody checks who asks."),
]
AvailableModels = Annotated[
    str | None,
    typer.Option(
        "--models",
        "--model",
        help="Models that may be asked for: ID, /folder or ID=/folder, comma-separated.",
        show_default=False,
    ),
]
ConfigPath = Annotated[
    str | None, typer.Option(help="File with settings and models, mlx-server.toml.", show_default=False)
]
KeysPath = Annotated[
    str | None,
    typer.Option("--keys", help="File of the API keys that `keys create` made.", show_default=False),
]
DefaultModel = Annotated[
    str | None, typer.Option(help="Serves requests that name no model.", show_default=False)
]
ApiProcesses = Annotated[
    int | None, typer.Option(help="Api processes that share the port.", show_default=False)
]
RunDir = Annotated[str | None, typer.Option(help="Folder for sockets, locks and logs.", show_default=False)]
LogLevel = Annotated[str | None, typer.Option(help="debug, info, warning or error.", show_default=False)]
ReadyTimeout = Annotated[float, typer.Option(help="Give up if it is not ready after so many seconds.")]
InBackground = Annotated[
    bool, typer.Option("--detach", "-d", help="Return when it is ready; `stop` stops it.")
]


def only_given(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}
