"""``mlx-server prompts delete``."""

import fcntl
import json
import socket
import threading
from pathlib import Path

import pytest

from cli import prompts
from shared.api_keys import KeyFile, digest
from shared.settings import Settings
from tests.cli.answering import answering
from tests.cli.command import call
from tests.workers.engine.disk.blocks import PROMPT, files, folder_in, tokens, write
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
    assert delete(tmp_path, "--all")[:2] == (0, "The prompts of all are deleted: 0.0 MB on disk.\n")


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


def answer(**said: object) -> dict[str, object]:
    return {"models": ["ours", "theirs"], "memory_bytes": 7, "disk_bytes": 5, "failed": "", **said}


def test_a_running_server_forgets_too_and_models_of_other_servers_are_not_named(
    tmp_path: Path, folder: BlockFolder
) -> None:
    tables = json.dumps({"theirs": {"serve": ["x", "{port}"]}, "ours": {"source": "/none"}})
    more = {"MLX_SERVER_MODELS": tables, "MLX_SERVER_AVAILABLE_MODELS": "ours,theirs"}
    size = sum(path.stat().st_size for path in files(folder)) // 3
    with answering(200, answer()) as (port, asked):
        code, said, error = delete(tmp_path, "--key", "anna", "--json", MLX_SERVER_PORT=port, **more)
    assert code == 0, error
    assert json.loads(said) == {"deleted_bytes": size + 5, "memory_bytes": 7, "models": ["ours"]}
    order = {"namespace": digests(tmp_path)["anna"]}
    assert asked == [("/admin/status", None), ("/admin/prompts/forget", order)]


def test_all_prompts_are_forgotten_by_an_order_that_says_so(tmp_path: Path, folder: BlockFolder) -> None:
    with answering(200, answer(models=["ours"])) as (port, asked):
        code, said, _ = delete(tmp_path, "--all", MLX_SERVER_PORT=port)
    assert (code, asked[-1][1]) == (0, {"all": True})
    assert said.startswith("The prompts of all are deleted: ")
    assert said.endswith(" MB on disk, 0.0 MB in the memory of ours.\n")


@pytest.mark.parametrize(
    ("status", "said", "why"),
    [
        (503, {"error": {"message": "no broker"}}, "HTTP 503"),
        (200, {"models": []}, "its answer is not"),
        (200, "<html>", "its answer is not"),
    ],
)
def test_a_server_that_does_not_say_that_it_has_forgotten_is_no_success(
    tmp_path: Path, folder: BlockFolder, status: int, said: object, why: str
) -> None:
    with answering(status, said) as (port, _):
        code, _, error = delete(tmp_path, "--all", MLX_SERVER_PORT=port)
    assert (code, f"did not forget what it has in memory ({why}" in error) == (1, True)
    assert files(folder) == []


def test_a_worker_that_could_not_delete_its_files_is_no_success(tmp_path: Path, folder: BlockFolder) -> None:
    with answering(200, answer(failed="/prompts: Read-only file system")) as (port, _):
        code, _, error = delete(tmp_path, "--all", MLX_SERVER_PORT=port)
    assert (code, "could not delete all of its files: /prompts: Read-only" in error) == (1, True)


def test_a_server_that_hangs_is_not_taken_for_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prompts, "ANSWERS_WITHIN", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as server, pytest.raises(prompts._Untold) as caught:
        prompts._forget(Settings(run_dir=tmp_path, port=server.getsockname()[1]), None)
    assert "gave no answer" in str(caught.value)


def test_a_server_that_hangs_when_it_should_forget_is_given_up_after_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prompts, "FORGETS_WITHIN", 0.2)
    go_on = threading.Event()
    with answering(200, answer(), while_posting=lambda: go_on.wait(30)) as (port, _):
        try:
            with pytest.raises(prompts._Untold) as caught:
                prompts._forget(Settings(run_dir=tmp_path, port=int(port)), None)
        finally:
            go_on.set()
    assert "did not confirm" in str(caught.value)


def test_where_a_broker_runs_and_nothing_listens_its_workers_may_still_have_prompts(tmp_path: Path) -> None:
    settings = Settings(run_dir=tmp_path, port=1)
    assert prompts._forget(settings, None) == prompts._Forgotten()
    with (tmp_path / "broker.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(prompts._Untold) as caught:
            prompts._forget(settings, None)
    assert "its broker runs" in str(caught.value)
