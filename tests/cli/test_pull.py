"""``mlx-server pull``, ``rm`` and ``show``: with a running server, and without one against a hub on this machine."""

import json
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cli.models.pull import TRIES
from shared.errors import BrokerLost, without_folders
from shared.protocol import Capabilities, ModelStatus, StatusReport
from tests.cli.answering import answering
from tests.cli.command import call, run, start
from tests.hub import REPOSITORY, Hub, hub_of
from tests.ports import free_port
from tests.tiny_model import make_tiny_llama


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    with hub_of(make_tiny_llama(tmp_path / "model"), tmp_path / "home") as hub:
        yield hub


def alone(hub: Hub, *words: str, **more: str) -> Any:
    """The command on a machine without a server."""
    ours = {"MLX_SERVER_AVAILABLE_MODELS": f"{REPOSITORY},mine=/none", "MLX_SERVER_PORT": str(free_port())}
    return run(*words, **{**hub.environment, **ours, **more})


def report(*models: ModelStatus) -> dict[str, Any]:
    said = StatusReport(
        query="q", epoch="e", pid=1, uptime=1.0, models=list(models), workers=[], in_flight=0, queued=0
    )
    return said.model_dump()


@pytest.mark.slow
def test_without_a_server_a_model_is_fetched_and_removed_all_the_same(hub: Hub) -> None:
    done = alone(hub, "pull", REPOSITORY)
    assert (done.returncode, done.stdout) == (0, f"{REPOSITORY} is on this disk.\n"), done.stderr
    folder = hub.home / "hub" / "models--org--tiny"
    assert list(folder.glob("snapshots/*/model.safetensors"))
    asked = alone(hub, "rm", REPOSITORY)
    assert (asked.returncode, "Say --yes" in asked.stderr) == (1, True)
    assert folder.exists()
    removed = alone(hub, "rm", REPOSITORY, "--yes")
    assert (removed.returncode, removed.stdout) == (0, f"{REPOSITORY} is removed from this disk.\n")
    assert not folder.exists()


@pytest.mark.slow
def test_a_download_that_fails_without_a_server_says_why(hub: Hub) -> None:
    done = alone(hub, "pull", REPOSITORY, HF_HUB_OFFLINE="1")
    assert done.returncode == 1
    assert "the hub cannot be reached" in done.stderr
    assert "HF_HUB_OFFLINE is set" in done.stderr
    assert "hf download org/tiny`" in without_folders(done.stderr)


def test_only_models_of_the_settings_are_fetched(hub: Hub) -> None:
    done = alone(hub, "pull", "org/other")
    assert done.returncode == 1
    assert "MLX_SERVER_AVAILABLE_MODELS" in done.stderr
    assert hub.asked == []


@pytest.mark.slow
def test_a_folder_named_like_one_of_ours_does_not_keep_a_model_from_being_fetched(hub: Hub) -> None:
    Path("workers").mkdir()
    Path("workers/__init__.py").write_text("raise SystemExit('another project')")
    done = alone(hub, "pull", REPOSITORY)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.slow
def test_ctrl_c_ends_what_the_command_has_begun_and_says_how_to_go_on(hub: Hub) -> None:
    arrives = threading.Event()
    hub.rate, hub.on_bytes = 1000.0, lambda _: arrives.set()
    settings = {"MLX_SERVER_AVAILABLE_MODELS": REPOSITORY, "MLX_SERVER_PORT": str(free_port())}
    command = start("pull", REPOSITORY, **hub.environment, **settings)
    assert arrives.wait(30)
    command.send_signal(signal.SIGINT)
    said = command.communicate(timeout=30)[1]
    assert (command.returncode, said) == (
        130,
        f"mlx-server: {REPOSITORY} is not whole; say it again to go on with what has arrived.\n",
    )


def test_ctrl_c_leaves_a_servers_download_and_says_how_to_end_it() -> None:
    asked, over = threading.Event(), threading.Event()

    def wait() -> None:
        asked.set()
        over.wait(30)

    with answering(200, {"model": "org/name", "done": False}, while_waiting=wait) as (port, _):
        command = start("pull", "org/name", "--port", port)
        assert asked.wait(30)
        command.send_signal(signal.SIGINT)
        said = command.communicate(timeout=30)[1]
        over.set()
    assert command.returncode == 130
    assert "The server goes on with org/name" in said
    assert "pull --cancel org/name` ends that" in said


def test_a_pull_is_waited_for_again_when_the_broker_ends_meanwhile() -> None:
    lost = BrokerLost("The broker does not answer; it is probably being restarted.")
    failure = {"error": {"message": lost.message, "code": lost.code}}
    with answering(200, {"model": "org/name"}, waited=(lost.status, failure)) as (port, asked):
        done = call("pull", "org/name", "--port", port)
    waited = [path for path, order in asked if order == {"wait": True}]
    assert len(waited) == TRIES
    assert (done.returncode, done.stderr) == (1, f"mlx-server: {lost.message}\n")


@pytest.mark.parametrize("said", ["[]", "{}", "<html>"])
@pytest.mark.parametrize("more", [(), ("--cancel",)])
def test_what_is_no_server_of_ours_is_not_said_to_have_fetched_anything(
    said: str, more: tuple[str, ...]
) -> None:
    with answering(200, said) as (port, _):
        done = call("pull", "org/name", *more, "--port", port)
    assert (done.returncode, done.stdout) == (1, "")
    assert "is not an mlx-server" in done.stderr


def test_a_servers_refusal_is_one_sentence() -> None:
    with answering(404, {"error": {"message": "The model 'x' does not exist."}}) as (port, asked):
        done = call("pull", "x", "--port", port)
    assert (done.returncode, done.stderr) == (1, "mlx-server: The model 'x' does not exist.\n")
    assert asked == [("/admin/models/x/pull", {})]


def test_a_running_server_fetches_and_can_be_told_to_stop() -> None:
    with answering(200, {"model": "org/name", "done": True}) as (port, asked):
        done = call("pull", "org/name", "--port", port)
        assert (done.returncode, done.stdout) == (0, "org/name is on this disk.\n"), done.stderr
        assert ("/admin/models/org/name/pull", {"wait": True}) in asked
        asked.clear()
        assert call("pull", "org/name", "--cancel", "--port", port).returncode == 0
        assert asked == [("/admin/models/org/name/pull", None)]


@pytest.mark.parametrize(
    ("model", "said", "more"),
    [
        ("mine", "lies in a folder of yours", {}),
        ("nonesuch", "is not served here", {}),
        (REPOSITORY, "is not on this disk", {"HF_HOME": "/nonexistent"}),
        (
            REPOSITORY,
            "is pinned. --force",
            {"MLX_SERVER_MODELS": json.dumps({REPOSITORY: {"pinned": True}, "mine": {"source": "/none"}})},
        ),
    ],
)
def test_what_must_not_go_is_not_removed(hub: Hub, model: str, said: str, more: dict[str, str]) -> None:
    folder = hub.home / "hub" / "models--org--tiny"
    folder.mkdir(parents=True)
    done = alone(hub, "rm", model, "--yes", **more)
    assert done.returncode == 1
    assert said in done.stderr
    assert folder.exists()


def test_a_model_that_a_server_has_in_memory_is_not_removed_unless_forced(hub: Hub) -> None:
    folder = hub.home / "hub" / "models--org--tiny"
    folder.mkdir(parents=True)
    with answering(200, report(ModelStatus(id=REPOSITORY, state="hot"))) as (port, asked):
        done = alone(hub, "rm", REPOSITORY, "--yes", MLX_SERVER_PORT=port)
        assert (done.returncode, "is hot in the server" in done.stderr) == (1, True)
        assert folder.exists()
        asked.clear()
        assert alone(hub, "rm", REPOSITORY, "--yes", "--force", MLX_SERVER_PORT=port).returncode == 0
        assert (f"/admin/models/{REPOSITORY}/unload", {"wait": True, "force": True}) in asked
    assert not folder.exists()


def test_a_folder_that_is_linked_into_the_cache_stays(hub: Hub, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (hub.home / "hub").mkdir(parents=True, exist_ok=True)
    (hub.home / "hub" / "models--org--tiny").symlink_to(elsewhere)
    done = alone(hub, "rm", REPOSITORY, "--yes")
    assert (done.returncode, done.stdout) == (1, "")
    assert "symbolic link" in done.stderr
    assert elsewhere.exists()


def test_where_the_cache_cannot_be_written_nothing_is_removed(hub: Hub) -> None:
    folder = hub.home / "hub" / "models--org--tiny"
    folder.mkdir(parents=True)
    (folder.parent / ".locks").write_text("no folder")
    done = alone(hub, "rm", REPOSITORY, "--yes")
    assert (done.returncode, "could not be removed" in done.stderr) == (1, True)
    assert "Traceback" not in done.stderr
    assert folder.exists()


def test_show_says_what_a_server_knows_of_a_model_and_no_path(hub: Hub) -> None:
    known = ModelStatus(
        id="mine",
        state="loadable",
        architecture="llama",
        weights=2_340_000_000,
        context_length=1_048_576,
        capabilities=Capabilities(tools="native", reasoning=True),
    )
    with answering(200, report(known)) as (port, _):
        shown = alone(hub, "show", "mine", MLX_SERVER_PORT=port)
        facts = json.loads(alone(hub, "show", "mine", "--json", MLX_SERVER_PORT=port).stdout)
    words = dict(line.strip().split(maxsplit=1) for line in shown.stdout.splitlines() if line.split()[1:])
    assert (words["architecture"], words["weights"], words["context"]) == ("llama", "2.34 GB", "1048576")
    assert (facts["tools"], facts["reasoning"], facts["from"]) == ("native", True, "a folder")
    assert "/none" not in shown.stdout


def test_show_without_a_server_says_what_the_settings_say(hub: Hub) -> None:
    done = alone(hub, "show", REPOSITORY)
    assert done.returncode == 0
    assert f"the hub: {REPOSITORY}" in done.stdout
    assert "no server answers" in done.stdout
