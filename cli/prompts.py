"""``mlx-server prompts delete``: forgets the prompts of a key, or of all, on disk and in the memory of running workers.

The files go first, so that no worker finds them. Then the running server has its workers forget, between two steps and
without a reload; what they wrote until then they delete. Files of a worker that died meanwhile go last.
"""

import json
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from cli import probe
from cli.claim import broker_runs
from cli.refusal import refuse
from shared import exits
from shared.api_keys import KeyFile, KeysUnusable
from shared.kept_prompts import delete_prompts, prompts_in
from shared.settings import Settings, load_settings

ANSWERS_WITHIN = 10.0  # seconds, or it hangs
FORGETS_WITHIN = 120.0  # seconds for the steps that its engines make, and for its disk


class _Untold(Exception):
    """A server runs, and does not say that it has forgotten."""


@dataclass(frozen=True)
class _Forgotten:
    """Bytes, and the models whose workers have confirmed. ``failed``: why some of it is still on disk."""

    memory: int = 0
    disk: int = 0
    models: tuple[str, ...] = ()
    failed: str = ""


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
        forgotten = _forget(settings, namespace)
        size += forgotten.disk + delete_prompts(root, namespace)
    except _Untold as error:
        return refuse(
            f"The files are deleted. The running server did not forget what it has in memory ({error}): "
            "try again, or restart it."
        )
    except OSError as error:
        return refuse(f"Prompts in {root} could not be deleted: {error.strerror or error}.")
    if forgotten.failed:
        return refuse(f"A worker could not delete all of its files: {forgotten.failed}.")
    ours = [model for model in forgotten.models if not settings.table(model).serve]
    if as_json:
        print(json.dumps({"deleted_bytes": size, "memory_bytes": forgotten.memory, "models": ours}))
        return 0
    whose = "of all" if key is None else f"of the key {key!r}"
    memory = f", {forgotten.memory / 1e6:.1f} MB in the memory of {', '.join(ours)}" if ours else ""
    print(f"The prompts {whose} are deleted: {size / 1e6:.1f} MB on disk{memory}.")
    return 0


def _forget(settings: Settings, namespace: str | None) -> _Forgotten:
    """What the workers of a running server have forgotten; nothing where none runs. Raises _Untold."""
    if (seen := probe.get(settings, "/admin/status", timeout=ANSWERS_WITHIN)) is None:
        if probe.is_taken(settings):
            raise _Untold(
                f"what listens at {probe.address(settings)} gave no answer in {ANSWERS_WITHIN:.0f} s"
            )
        if broker_runs(settings.sockets_dir):
            raise _Untold(
                f"its broker runs, but nothing answers at {probe.address(settings)}, where MLX_SERVER_PORT has it"
            )
        return _Forgotten()
    if seen.status != HTTPStatus.OK:
        raise _Untold(f"HTTP {seen.status}")
    order = {"all": True} if namespace is None else {"namespace": namespace}
    answer = probe.post(settings, "/admin/prompts/forget", order, timeout=FORGETS_WITHIN)
    if answer is None:
        raise _Untold(f"it did not confirm in {FORGETS_WITHIN:.0f} s")
    if answer.status != HTTPStatus.OK:
        raise _Untold(f"HTTP {answer.status}")
    try:
        said: dict[str, Any] = json.loads(answer.body)
        return _Forgotten(said["memory_bytes"], said["disk_bytes"], tuple(said["models"]), said["failed"])
    except (ValueError, LookupError, TypeError):
        raise _Untold("its answer is not an mlx-server's, or of another version's") from None
