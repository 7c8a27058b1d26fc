"""``mlx-server keys``: makes, lists and revokes API keys. A running server obeys the change at once."""

import json
import re
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, get_args

from rich.console import Console
from rich.table import Table

from cli.refusal import refuse
from cli.status import known_report
from shared.api_keys import ApiKey, KeyFile, KeysUnusable
from shared.key_terms import Priority
from shared.protocol import KeyUsage
from shared.settings import Settings, load_settings

_SPAN = re.compile(r"([1-9][0-9]{0,4})([hdw])")
_UNITS = {"h": timedelta(hours=1), "d": timedelta(days=1), "w": timedelta(weeks=1)}


def create(
    name: str,
    *,
    admin: bool,
    models: str,
    expires: str | None,
    priority: str,
    concurrency: int,
    tokens_per_minute: int,
) -> int:
    """Prints the key alone on standard output. Returns the exit code, as all of these."""
    settings = load_settings()
    until = None
    if expires is not None:
        if not (found := _SPAN.fullmatch(expires)):
            return refuse(
                f"--expires is a number of hours, days or weeks such as 12h, 30d or 8w, and not {expires!r}."
            )
        until = datetime.now(UTC) + int(found[1]) * _UNITS[found[2]]
    rank = next((each for each in get_args(Priority) if each == priority), None)
    if rank is None:
        return refuse(f"--priority is one of {', '.join(get_args(Priority))}, and not {priority!r}.")
    wanted = [each.strip() for each in models.split(",") if each.strip()]
    try:
        key = _file(settings).add(
            name,
            admin=admin,
            models=wanted,
            expires=until,
            priority=rank,
            concurrency=concurrency,
            tokens_per_minute=tokens_per_minute,
        )
    except KeysUnusable as error:
        return refuse(f"{error}.")
    print(key)
    for line in (
        f"That is the key {name!r}; it is not shown again. Clients send it as `Authorization: Bearer KEY`.",
        *_of_no_model(settings, wanted),
    ):
        print(line, file=sys.stderr)
    return 0


def listed(*, as_json: bool) -> int:
    """With what each has used, if a server runs here."""
    settings = load_settings()
    try:
        keys = _file(settings).read()
    except KeysUnusable as error:
        return refuse(f"{error}.")
    used = _usage(settings)
    if as_json:
        print(json.dumps([_as_json(key, used.get(key.name)) for key in keys]))
    elif keys:
        Console(highlight=False, markup=False).print(_table(keys, used))
    else:
        print(f"There are no keys in {settings.keys_file}: any client on this machine is served.")
    return 0


def revoke(name: str) -> int:
    try:
        _file(load_settings()).revoke(name)
    except KeysUnusable as error:
        return refuse(f"{error}.")
    print(f"The key {name!r} holds no more.")
    return 0


def _usage(settings: Settings) -> dict[str, KeyUsage]:
    """By name, as the running server has counted since its broker started; empty if none runs."""
    report = known_report(settings)
    return {usage.name: usage for usage in report.keys} if report else {}


def _as_json(key: ApiKey, used: KeyUsage | None) -> dict[str, Any]:
    """``usage``: null if no server runs here, or if it has not seen the key."""
    usage = used.model_dump(exclude={"name"}) if used else None
    return {**key.model_dump(mode="json", exclude={"digest"}), "usage": usage}


def _file(settings: Settings) -> KeyFile:
    return KeyFile(settings.keys_file)


def _of_no_model(settings: Settings, wanted: Sequence[str]) -> list[str]:
    """A warning when the key is for none of the models that are configured here."""
    key = ApiKey(name="one", digest="0" * 64, models=tuple(wanted))
    registry = settings.registry
    if any(key.may_use(name, registry.resolve(name) or name) for name in registry.names):
        return []
    return [f"It may use none of the models configured here: {', '.join(registry.names)}."]


def _table(keys: Sequence[ApiKey], used: Mapping[str, KeyUsage]) -> Table:
    now = datetime.now(UTC)
    columns = ["name", "may", "models", "limits", "made", "expires"]
    if used:
        columns += ["now", "requests", "refused", "tokens in", "cached", "out"]
    table = Table(*columns, box=None, pad_edge=False)
    for key in keys:
        ends = "never" if key.expires is None else f"{key.expires:%Y-%m-%d %H:%M}"
        table.add_row(
            key.name,
            "administrate" if key.admin else "ask",
            ", ".join(key.models) or "all",
            _limits(key),
            f"{key.created:%Y-%m-%d}" if key.created else "",
            f"{ends} (over)" if key.has_expired(now) else ends,
            *(_figures(used.get(key.name)) if used else ()),
        )
    return table


def _limits(key: ApiKey) -> str:
    parts = [
        f"{key.priority} priority" if key.priority != "normal" else "",
        f"{key.concurrency} at a time" if key.concurrency else "",
        f"{key.tokens_per_minute} tokens/min" if key.tokens_per_minute else "",
    ]
    return ", ".join(filter(None, parts)) or "none"


def _figures(used: KeyUsage | None) -> list[str]:
    used = used or KeyUsage(name="")
    return [str(n) for n in (used.open, used.requests, used.refused, used.prompt, used.cached, used.out)]
