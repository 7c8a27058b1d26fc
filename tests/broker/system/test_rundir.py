"""The run directory: private files, and a lock that names its holder and ends with it."""

import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from broker.system.rundir import AlreadyRunningError, RunDir, RunDirError
from shared.settings import Settings, load_settings


@pytest.fixture(autouse=True)
def _umask() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


@pytest.fixture
def settings(folder: Path) -> Settings:
    return load_settings(run_dir=folder / "run")


def test_everything_in_the_run_directory_is_private(settings: Settings) -> None:
    os.close(RunDir(settings).lock)
    run_dir = settings.sockets_dir
    modes = {path.name: oct(path.stat().st_mode & 0o777) for path in [run_dir, *run_dir.iterdir()]}
    assert modes == {"run": "0o700", "log": "0o700", "broker.lock": "0o600", "worker.token": "0o600"}


def test_open_directory_of_ours_is_closed(settings: Settings) -> None:
    settings.sockets_dir.mkdir(mode=0o755)
    os.close(RunDir(settings).lock)
    assert settings.sockets_dir.stat().st_mode & 0o777 == 0o700


def test_lock_names_its_holder_and_its_file_alone_means_nothing(settings: Settings) -> None:
    first = RunDir(settings)
    with pytest.raises(AlreadyRunningError, match=rf"\(pid {os.getpid()}\)"):
        RunDir(settings)
    os.close(first.lock)
    os.close(RunDir(settings).lock)


def test_lock_is_not_inherited_by_workers(settings: Settings) -> None:
    run_dir = RunDir(settings)
    assert not os.get_inheritable(run_dir.lock)
    os.close(run_dir.lock)


def test_a_token_and_a_folder_of_logs_that_somebody_removed_are_put_back(settings: Settings) -> None:
    run_dir = RunDir(settings)
    os.close(run_dir.lock)
    shutil.rmtree(settings.sockets_dir)
    run_dir.restore()
    assert settings.token_file.read_text().strip() == run_dir.token
    assert settings.token_file.stat().st_mode & 0o777 == 0o600
    assert settings.log_dir.stat().st_mode & 0o777 == 0o700


def test_what_cannot_be_put_back_raises_nothing(settings: Settings) -> None:
    run_dir = RunDir(settings)
    os.close(run_dir.lock)
    shutil.rmtree(settings.sockets_dir)
    settings.sockets_dir.write_text("in the way")
    run_dir.restore()


def test_token_is_kept_or_made(settings: Settings) -> None:
    first = RunDir(settings)
    os.close(first.lock)
    second = RunDir(settings)
    os.close(second.lock)
    assert first.token == second.token == settings.token_file.read_text().strip()
    assert len(first.token) == 64


def test_stale_socket_is_removed(settings: Settings) -> None:
    settings.sockets_dir.mkdir()
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(settings.api_socket))
    os.close(RunDir(settings).lock)
    assert not settings.api_socket.exists()


@pytest.mark.parametrize("way", ["link", "file", "directory"])
def test_a_file_in_the_place_of_a_socket_is_named(settings: Settings, way: str) -> None:
    run_dir = settings.sockets_dir
    if way == "link":
        run_dir.symlink_to(run_dir.parent)
        named = run_dir
    elif way == "file":
        run_dir.write_text("")
        named = run_dir
    else:
        settings.api_socket.mkdir(parents=True)
        named = settings.api_socket
    with pytest.raises(RunDirError, match=str(named)):
        RunDir(settings)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a directory away")
def test_directory_of_another_user_is_refused(settings: Settings) -> None:
    settings.sockets_dir.mkdir()
    os.chown(settings.sockets_dir, 12345, -1)
    with pytest.raises(RunDirError, match="belongs to user 12345"):
        RunDir(settings)
