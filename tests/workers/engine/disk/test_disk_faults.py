"""Disks that are full or read-only, writers in two processes, and what older versions have left."""

import logging
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from threading import Event

import pytest

from shared.failpoints import VARIABLE
from tests.jobs import job
from tests.tiny_model import make_tiny_model
from tests.workers.engine.disk.blocks import PROMPT, chain, content, files, folder_in, tokens, write
from tests.workers.engine.disk.test_checkpoints import asked, engine_on
from tests.workers.engines import ids, play
from workers.engine.disk.eviction import Eviction
from workers.engine.disk.folder import BlockFolder
from workers.engine.disk.opening import open_tier
from workers.engine.disk.writer import Block, Writer
from workers.model.load import LoadedModel, inspect, load
from workers.token_ids import Ids

ROOT = Path(__file__).parents[4]
GARBAGE = 10 * 10**9  # bytes


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of four megabytes."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = shutil.which("mount")
    if sys.platform != "linux" or os.geteuid() or mount is None:
        pytest.skip("only root on Linux can mount a small disk")
    if subprocess.run([mount, "-t", "tmpfs", "-o", "size=4m", "none", str(folder)], check=False).returncode:
        pytest.skip("no disk can be mounted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    folder = make_tiny_model(tmp_path_factory.mktemp("llama") / "model")
    return load(folder, inspect(folder), lambda phase, done, total: None, trusted=True)


def environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != VARIABLE}


def fill(disk: Path) -> None:
    with (disk / "of others").open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            return


def put(writer: Writer, folder: BlockFolder, prompt: Ids = PROMPT) -> None:
    for link in chain(folder, prompt):
        own = prompt[link.start : link.end]
        words = content(own, link.start)
        writer.put(Block("", link, own, partial(list, words), sum(array.nbytes for array in words)))


def test_a_disk_that_others_fill_ends_writing_with_one_line_and_what_is_there_is_still_read(
    small_disk: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = folder_in(small_disk)
    lost: list[bytes] = []
    writer = Writer(folder, Eviction(folder.root, 3 << 20, floor=0), lost.append)
    put(writer, folder)
    assert writer.flush(30)
    fill(small_disk)
    with caplog.at_level(logging.WARNING):
        for other in (PROMPT[::-1].copy(), PROMPT[50:].copy()):
            put(writer, folder, other)
            assert writer.flush(30)
    assert [record.getMessage().rpartition(": ")[2] for record in caplog.records] == [os.strerror(28)]
    assert (writer.off, len(lost), writer.nbytes) == (True, 6, 0)
    assert tokens(folder) == len(PROMPT)
    assert not list(small_disk.rglob("*.tmp"))


def test_a_disk_that_becomes_read_only_ends_writing_with_one_line_in_the_log_of_each_life_and_serving_goes_on(
    small_disk: Path, llama: LoadedModel, caplog: pytest.LogCaptureFixture
) -> None:
    engine, tier = engine_on(llama, small_disk / "prompts", floor=0)
    play(engine, [job("a", **asked())])
    tier.close()
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with caplog.at_level(logging.WARNING):
        for prompt in (asked()["prompt"][::-1], asked()["prompt"][50:]):
            assert len(ids(play(engine, [job("b", **asked(prompt))])["b", 0])) == 6
            tier.close()
        assert len(caplog.records) == 1
        assert open_tier(small_disk / "prompts", 1 << 20, llama.model, "tiny") is None
    assert len(caplog.records) == 2
    assert all(os.strerror(30) in record.getMessage() for record in caplog.records)


_REPLICA = """
import sys
from pathlib import Path
from tests.workers.engine.disk.blocks import PROMPT, folder_in, write
folder = folder_in(Path(sys.argv[1]))
print("ready", flush=True)
sys.stdin.readline()
for number in range(40):
    write(folder, namespace=str(number))
"""


def test_two_processes_that_write_the_same_prompts_at_once_leave_one_good_copy_of_each(
    tmp_path: Path,
) -> None:
    replicas = [
        subprocess.Popen(
            [sys.executable, "-c", _REPLICA, str(tmp_path)],
            cwd=ROOT,
            env=environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    for replica in replicas:
        assert replica.stdout and replica.stdout.readline() == "ready\n"
    for replica in replicas:
        assert replica.stdin
        replica.stdin.write("go\n")
        replica.stdin.flush()
    for replica in replicas:
        replica.communicate(timeout=60)
        assert replica.returncode == 0
    folder = folder_in(tmp_path)
    assert {tokens(folder, namespace=str(number)) for number in range(40)} == {len(PROMPT)}
    assert len(files(folder)) == 3 * 40
    assert folder.invalid == 0


def leave_garbage(root: Path, version: int) -> Path:
    """Ten gigabytes in sparse files, as an older version would have named them."""
    old = root / f"blocks-v{version}"
    for number in range(100):
        path = old / "model" / "namespace" / f"{number:02x}" / f"{number}-{number}-0.kv"
        path.parent.mkdir(parents=True)
        with path.open("wb") as file:
            file.truncate(GARBAGE // 100)
    return old


def test_ten_gigabytes_of_an_older_version_are_removed_without_an_answer_waiting_for_it(
    tmp_path: Path, llama: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, answered, remove = tmp_path / "prompts", Event(), Eviction._remove_foreign

    def remove_later(eviction: Eviction) -> None:
        assert answered.wait(60)
        remove(eviction)

    monkeypatch.setattr(Eviction, "_remove_foreign", remove_later)
    root.mkdir(mode=0o700)
    old = leave_garbage(root, 0)
    engine, tier = engine_on(llama, root)
    assert len(ids(play(engine, [job("a", **asked())])["a", 0])) == 6
    assert old.exists()
    answered.set()
    assert tier.writer.flush(60)
    assert not old.exists()
    tier.close()


_CLEANER = """
import sys
from pathlib import Path
from shared.failpoints import arm
from workers.engine.disk.eviction import Eviction
arm(sys.argv[2])
Eviction(Path(sys.argv[1]), None).run()
"""


def test_a_worker_that_is_killed_while_it_cleans_leaves_the_rest_to_the_next_one(tmp_path: Path) -> None:
    folder = folder_in(tmp_path)
    write(folder)
    old = [leave_garbage(folder.root, version) for version in (0, 90)]
    fault = tmp_path / "fault"
    fault.write_text("disk.clean:#2:kill9")
    cleaner = [sys.executable, "-c", _CLEANER, str(folder.root), f"@{fault}"]
    assert subprocess.run(cleaner, cwd=ROOT, env=environment(), check=False).returncode == -signal.SIGKILL
    assert [path.exists() for path in old].count(True) == 1
    assert Eviction(folder.root, None).run() is not None
    assert not any(path.exists() for path in old)
    assert tokens(folder) == len(PROMPT)


def test_what_waits_to_be_written_counts_as_memory_until_it_is_written(
    tmp_path: Path, llama: LoadedModel
) -> None:
    engine, tier = engine_on(llama, tmp_path / "prompts")
    play(engine, [job("a", **asked())])
    assert tier.writer.flush(30)
    assert tier.nbytes == 0
    turn = asked([*asked()["prompt"], *range(3, 40)])
    play(engine, [job("b", **turn)])  # its end waits for what may come
    assert tier.nbytes > 0
    tier.close()
    assert tier.nbytes == 0


def test_a_prompt_of_another_key_costs_the_lookups_of_a_prompt_that_nobody_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = folder_in(tmp_path)
    write(folder, namespace="one")
    steps: list[str] = []
    for name in ("_header", "_children", "_opened"):
        real = getattr(BlockFolder, name)

        def counted(*arguments: object, name: str = name, real: object = real) -> object:
            steps.append(name)
            return real(*arguments)  # type: ignore[operator]

        monkeypatch.setattr(BlockFolder, name, counted)
    looked = []
    for prompt, namespace in ((PROMPT, "two"), (PROMPT[::-1].copy(), "two"), (PROMPT, "one")):
        steps.clear()
        folder.prefix(namespace, prompt)
        looked.append(list(steps))
    of_another, of_nobody, own = looked
    assert of_another == of_nobody == ["_header", "_children"]
    assert len(own) > len(of_another)
