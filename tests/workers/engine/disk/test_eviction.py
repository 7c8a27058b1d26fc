"""What leaves the disk, and in which order."""

import fcntl
import os
import shutil
from pathlib import Path

from tests.workers.engine.disk.blocks import PROMPT, files, folder_in, tokens, write
from workers.engine.disk.eviction import LOCK, Eviction
from workers.engine.disk.folder import BlockFolder
from workers.token_ids import as_ids

OTHER = as_ids([*PROMPT[:599], 251])[::-1]


def size_of(folder: BlockFolder) -> int:
    return sum(path.stat().st_size for path in files(folder) if path.suffix == ".kv")


def test_what_was_used_least_lately_leaves_first(tmp_path: Path) -> None:
    folder = folder_in(tmp_path)
    old = write(folder)
    write(folder, as_ids(OTHER))
    for link in old:
        os.utime(folder.path("", link), ns=(1, 1))
    Eviction(folder.root, int(size_of(folder) * 0.6), floor=0).run()
    assert (tokens(folder), tokens(folder, as_ids(OTHER))) == (0, len(OTHER))


def test_a_use_keeps_a_prompt_from_leaving(tmp_path: Path) -> None:
    folder = folder_in(tmp_path)
    used = write(folder)
    for path in files(folder):
        os.utime(path, ns=(1, 1))
    for link in write(folder, as_ids(OTHER)):
        os.utime(folder.path("", link), ns=(2, 2))
    folder.touch("", used)
    Eviction(folder.root, int(size_of(folder) * 0.6), floor=0).run()
    assert tokens(folder) == len(PROMPT)


def test_the_end_of_a_prompt_leaves_before_its_beginning(tmp_path: Path) -> None:
    folder = folder_in(tmp_path)
    for link in write(folder):
        os.utime(folder.path("", link), ns=(1, 1))
    Eviction(folder.root, size_of(folder) - 1, floor=0).run()
    assert tokens(folder) == 512


def test_more_leaves_than_must_so_that_the_next_block_makes_none_leave(tmp_path: Path) -> None:
    for number in range(20):
        write(folder := folder_in(tmp_path), as_ids([number + 1] * 256))
    bound = size_of(folder) - 1
    Eviction(folder.root, bound, floor=0).run()
    assert 0.8 * bound < size_of(folder) <= 0.9 * bound


def test_everything_leaves_when_others_need_the_disk(tmp_path: Path) -> None:
    write(folder := folder_in(tmp_path))
    room = Eviction(folder.root, 10**9, floor=shutil.disk_usage(tmp_path).total).run()
    assert (tokens(folder), room) == (0, 0)


def test_within_the_bound_nothing_leaves_and_the_rest_may_be_written(tmp_path: Path) -> None:
    write(folder := folder_in(tmp_path))
    room = Eviction(folder.root, size_of(folder) + 1000, floor=0).run()
    assert (tokens(folder), room) == (len(PROMPT), 1000)


def test_without_a_bound_it_is_a_tenth_of_the_disk_at_most_ten_gigabytes(tmp_path: Path) -> None:
    write(folder := folder_in(tmp_path))
    whole = shutil.disk_usage(tmp_path).total
    room = Eviction(folder.root, None, floor=0).run()
    assert room
    assert room <= max(min(10**10, whole // 10) // 16, 256 << 20)
    assert tokens(folder) == len(PROMPT)


def test_a_process_that_does_not_own_the_folder_evicts_nothing(tmp_path: Path) -> None:
    write(folder := folder_in(tmp_path))
    with (folder.root / LOCK).open("w") as owner:
        fcntl.flock(owner, fcntl.LOCK_EX)
        assert Eviction(folder.root, 1, floor=0).run() is None
    assert tokens(folder) == len(PROMPT)


def test_what_another_version_and_dead_writers_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    write(folder := folder_in(tmp_path))
    (folder.root / "blocks-v0" / "model").mkdir(parents=True)
    (folder.root / "blocks-v0" / "model" / "a.kv").write_bytes(b"x" * 1000)
    (folder.root / "a-file-of-the-operator").touch()
    dead = files(folder)[-1].with_name("dead.tmp")
    alive = dead.with_name("alive.tmp")
    for path in (dead, alive):
        path.write_bytes(b"half")
    with alive.open() as writer:
        fcntl.flock(writer, fcntl.LOCK_EX)
        Eviction(folder.root, 10**9, floor=0).run()
    assert alive.exists()
    assert not dead.exists()
    assert not (folder.root / "blocks-v0").exists()
    assert (folder.root / "a-file-of-the-operator").exists()
    assert tokens(folder) == len(PROMPT)
