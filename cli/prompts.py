"""``mlx-server prompts delete``: forgets the prompts of a key, or of all, on disk and in the memory of running workers.

The files go first. A worker keeps prompts in memory too, and writes some of them when it leaves: so the models in
memory are loaded anew, which ends no answer, and what was written meanwhile is deleted as well.
"""

import json
from http import HTTPStatus
from urllib.parse import quote

from cli import probe
from cli.refusal import refuse
from cli.status import read_report
from shared import exits
from shared.api_keys import KeyFile, KeysUnusable
from shared.kept_prompts import delete_prompts, prompts_in
from shared.settings import Settings, load_settings

PATIENCE = 3600.0  # seconds for what runs, and a load


class _Untold(Exception):
    """A server answers, and not with its status."""


def delete(key: str | None, *, everything: bool, as_json: bool) -> int:
    """Returns the exit code."""
    settings = load_settings()
    if (key is None) == (not everything):
        refuse("Say --key with the name of a key, or --all.")
        return exits.UNUSABLE
    namespace = None
    if key is not None:
        if settings.prompt_cache_shared:
            return refuse("All keys share their prompts here (prompt_cache_shared): only --all deletes them.")
        try:
            namespace = next(
                (each.digest for each in KeyFile(settings.keys_file).read() if each.name == key), None
            )
        except KeysUnusable as error:
            return refuse(f"{error}.")
        if namespace is None:
            return refuse(
                f"There is no key {key!r} in {settings.keys_file}; --all deletes the prompts of all."
            )
    root = prompts_in(settings.prompt_disk_dir or settings.cache_dir)
    try:
        size = delete_prompts(root, namespace)
        reloaded, failed = _reload(settings)
        size += delete_prompts(root, namespace)
    except _Untold as error:
        return refuse(
            f"The files are deleted. The running server does not say which models it has in memory ({error}): "
            "try again, or restart it."
        )
    except OSError as error:
        return refuse(f"Prompts in {root} could not be deleted: {error.strerror or error}.")
    if failed:
        return refuse(
            f"The files are deleted. These models still have prompts in memory: {', '.join(failed)}."
        )
    if as_json:
        print(json.dumps({"deleted_bytes": size, "reloaded": reloaded}))
        return 0
    whose = "of all" if key is None else f"of the key {key!r}"
    anew = f"; loaded anew: {', '.join(reloaded)}" if reloaded else ""
    print(f"The prompts {whose} are deleted: {size / 1e6:.1f} MB{anew}.")
    return 0


def _reload(settings: Settings) -> tuple[list[str], list[str]]:
    """The models in memory that were loaded anew, and those that could not be. Raises _Untold."""
    done: list[str] = []
    failed: list[str] = []
    for model in _in_memory(settings):
        path = f"/admin/models/{quote(model)}/reload"
        answer = probe.post(settings, path, {"wait": True, "force": True}, timeout=PATIENCE)
        (done if answer and answer.status == HTTPStatus.OK else failed).append(model)
    return done, failed


def _in_memory(settings: Settings) -> list[str]:
    """The models that workers of ours hold; other servers keep their own prompts. Raises _Untold."""
    answer = probe.get(settings, "/admin/status", timeout=10.0)
    if answer is None:
        return []
    try:
        report = read_report(answer.body) if answer.status == HTTPStatus.OK else None
    except ValueError:
        report = None
    if report is None:
        raise _Untold(f"HTTP {answer.status}")
    return sorted({worker.model for worker in report.workers if not settings.table(worker.model).serve})
