"""``mlx-server prompts delete``."""

import json
from pathlib import Path

import pytest

from shared.api_keys import KeyFile, digest
from shared.protocol import StatusReport
from shared.reports import WorkerStatus
from tests.cli.answering import answering
from tests.cli.command import call
from tests.workers.engine.disk.blocks import PROMPT, folder_in, tokens, write
from workers.engine.disk.folder import BlockFolder


def delete(tmp_path: Path, *arguments: str, **more: str) -> tuple[int, str, str]:
    where = {
        "MLX_SERVER_KEYS_FILE": str(tmp_path / "keys.json"),
        "MLX_SERVER_PROMPT_DISK_DIR": str(tmp_path),
        "MLX_SERVER_RUN_DIR": str(tmp_path / "run"),
        "MLX_SERVER_PORT": "1",  # where no server answers
    }
    done = call("prompts", "delete", *arguments, **where | more)
    return done.returncode, done.stdout, done.stderr


@pytest.fixture
def folder(tmp_path: Path) -> BlockFolder:
    """With prompts of the keys anna and bert, and of a client without a key."""
    for name in ("anna", "bert"):
        KeyFile(tmp_path / "keys.json").add(name)
    found = folder_in(tmp_path)
    for namespace in (*digests(tmp_path).values(), ""):
        write(found, namespace=namespace)
    return found


def digests(tmp_path: Path) -> dict[str, str]:
    return {key.name: key.digest for key in KeyFile(tmp_path / "keys.json").read()}


def test_the_prompts_of_a_key_are_deleted_by_its_name_and_no_others(
    tmp_path: Path, folder: BlockFolder
) -> None:
    code, said, _ = delete(tmp_path, "--key", "anna", "--json")
    assert code == 0
    assert json.loads(said)["deleted_bytes"] > 0
    names = digests(tmp_path)
    left = [tokens(folder, namespace=each) for each in (names["anna"], names["bert"], "")]
    assert left == [0, len(PROMPT), len(PROMPT)]


def test_all_prompts_are_deleted_and_the_secret_stays_for_the_workers_that_know_it(
    tmp_path: Path, folder: BlockFolder
) -> None:
    assert delete(tmp_path, "--all")[0] == 0
    assert [path.name for path in folder.root.rglob("*") if path.is_file()] == ["secret"]
    write(folder)
    assert tokens(folder) == len(PROMPT)


def test_a_name_that_is_no_key_deletes_nothing(tmp_path: Path, folder: BlockFolder) -> None:
    code, _, said = delete(tmp_path, "--key", "carl")
    assert (code, "no key 'carl'" in said) == (1, True)
    assert tokens(folder) == len(PROMPT)


def test_without_a_word_of_whose_prompts_or_with_two_nothing_is_deleted(
    tmp_path: Path, folder: BlockFolder
) -> None:
    for arguments in ((), ("--all", "--key", "anna")):
        assert delete(tmp_path, *arguments)[0] == 2
    assert tokens(folder) == len(PROMPT)


def test_where_all_keys_share_their_prompts_none_can_be_deleted_by_its_name(
    tmp_path: Path, folder: BlockFolder
) -> None:
    code, _, said = delete(tmp_path, "--key", "anna", MLX_SERVER_PROMPT_CACHE_SHARED="true")
    assert (code, "only --all" in said) == (1, True)
    assert tokens(folder) == len(PROMPT)


def test_a_server_that_never_kept_a_prompt_has_none_to_delete(tmp_path: Path) -> None:
    assert delete(tmp_path, "--all")[:2] == (0, "The prompts of all are deleted: 0.0 MB.\n")


def test_a_key_of_the_file_stands_for_its_prompts_by_the_digest_that_is_kept(tmp_path: Path) -> None:
    key = KeyFile(tmp_path / "keys.json").add("anna")
    assert digests(tmp_path) == {"anna": digest(key)}


def test_without_the_secret_all_are_deleted_and_those_of_a_key_cannot_be_told_from_others(
    tmp_path: Path, folder: BlockFolder
) -> None:
    (folder.root / "secret").unlink()
    code, _, said = delete(tmp_path, "--key", "anna")
    assert (code, "could not be deleted" in said) == (1, True)
    assert delete(tmp_path, "--all")[0] == 0
    assert [path for path in folder.root.rglob("*") if path.is_file()] == []


def test_a_server_that_does_not_say_what_it_has_in_memory_is_no_success(
    tmp_path: Path, folder: BlockFolder
) -> None:
    with answering(503, {"error": {"message": "no broker"}}) as (port, _):
        code, _, said = delete(tmp_path, "--all", MLX_SERVER_PORT=port)
    assert (code, "does not say which models it has in memory (HTTP 503)" in said) == (1, True)


def test_models_in_memory_are_loaded_anew_but_not_those_of_other_servers(
    tmp_path: Path, folder: BlockFolder
) -> None:
    workers = [
        WorkerStatus(id=f"w-{name}", model=name, pid=1, state="ready", since=1.0, in_flight=0, spawned=True)
        for name in ("ours", "theirs")
    ]
    tables = json.dumps({"theirs": {"serve": ["x", "{port}"]}, "ours": {"source": "/none"}})
    told = StatusReport(
        query="q", epoch="e1", pid=17, uptime=1.0, models=[], workers=workers, in_flight=0, queued=0
    ).model_dump()
    with answering(200, told) as (port, asked):
        more = {"MLX_SERVER_MODELS": tables, "MLX_SERVER_AVAILABLE_MODELS": "ours,theirs"}
        code, said, error = delete(tmp_path, "--all", "--json", MLX_SERVER_PORT=port, **more)
    assert code == 0, error
    assert json.loads(said)["reloaded"] == ["ours"]
    assert [path for path, body in asked if body] == ["/admin/models/ours/reload"]
