"""Blocks on disk: what is written is found again, and what cannot be used is a miss."""

import os
import shutil
import signal
import stat
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Barrier, Thread

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.failpoints import VARIABLE
from shared.kept_prompts import delete_prompts
from tests.marks import examples
from tests.workers.engine.disk.blocks import LAYOUT, PROMPT, chain, files, folder_in, tokens, write
from workers.engine.disk.block import HEADER_MOST, Layout
from workers.engine.disk.chain import BLOCK
from workers.token_ids import Ids, as_ids, common_prefix


def test_a_written_prompt_is_found_whole_in_another_life(tmp_path: Path) -> None:
    write(folder_in(tmp_path))
    assert tokens(folder_in(tmp_path)) == len(PROMPT)


def test_a_prompt_that_goes_on_finds_all_that_was_written_before(tmp_path: Path) -> None:
    write(folder := folder_in(tmp_path))
    assert tokens(folder, as_ids([*PROMPT, 1, 2, 3])) == len(PROMPT)


@pytest.mark.parametrize("at", [0, 1, 100, 256, 300, 511, 550])
def test_a_prompt_that_branches_off_finds_everything_up_to_the_branch(tmp_path: Path, at: int) -> None:
    write(folder := folder_in(tmp_path))
    assert tokens(folder, as_ids([*PROMPT[:at], 251, *PROMPT[at + 1 :]])) == at


def test_a_hole_in_the_chain_ends_what_is_found(tmp_path: Path) -> None:
    [_, second, _] = write(folder := folder_in(tmp_path))
    folder.path("", second).unlink()
    assert tokens(folder) == BLOCK


def test_another_namespace_finds_nothing(tmp_path: Path) -> None:
    write(folder := folder_in(tmp_path), namespace="one")
    assert (tokens(folder, namespace="one"), tokens(folder, namespace="two")) == (len(PROMPT), 0)


def test_another_model_finds_nothing(tmp_path: Path) -> None:
    write(folder_in(tmp_path))
    assert tokens(folder_in(tmp_path, Layout(LAYOUT.arrays, "a fine-tune"))) == 0


def test_another_node_has_other_names_for_the_same_prompt(tmp_path: Path) -> None:
    one, other = folder_in(tmp_path / "one"), folder_in(tmp_path / "other")
    assert chain(one)[0].digest != chain(other)[0].digest


def test_unlike_namespaces_have_other_names_for_the_same_prompt(tmp_path: Path) -> None:
    folder = folder_in(tmp_path)
    assert chain(folder, namespace="one")[0].digest != chain(folder, namespace="two")[0].digest


def test_a_namespace_can_be_deleted_and_leaves_the_others(tmp_path: Path) -> None:
    folder = folder_in(tmp_path)
    for namespace in ("one", "two"):
        write(folder, namespace=namespace)
    assert delete_prompts(folder.root, "one") > 0
    assert (tokens(folder, namespace="one"), tokens(folder, namespace="two")) == (0, len(PROMPT))


def test_a_folder_that_was_removed_meanwhile_is_made_again(tmp_path: Path) -> None:
    folder = folder_in(tmp_path)
    shutil.rmtree(folder.root)
    write(folder)
    assert tokens(folder) == len(PROMPT)


def test_only_the_user_can_enter_the_folders_and_read_the_files(tmp_path: Path) -> None:
    write(folder := folder_in(tmp_path))
    below = [folder.root, *folder.root.rglob("*")]
    modes = {(path.is_dir(), stat.S_IMODE(path.stat().st_mode)) for path in below}
    assert modes == {(True, 0o700), (False, 0o600)}


def test_a_longer_end_takes_the_place_of_a_shorter_one(tmp_path: Path) -> None:
    folder = folder_in(tmp_path)
    write(folder, PROMPT[:300])
    write(folder, PROMPT[:350])
    write(folder, PROMPT[:320])
    assert len(files(folder)) == 2
    assert tokens(folder) == 350


def test_what_is_there_is_not_written_again(tmp_path: Path) -> None:
    write(folder := folder_in(tmp_path))
    before = [path.stat().st_ino for path in files(folder)]
    write(folder_in(tmp_path))
    assert [path.stat().st_ino for path in files(folder)] == before


def _regions() -> list[int]:
    """A byte of the magic, lengths, digests, position, ids and keys, from the start or from the end of the file."""
    return [0, 7, 8, 12, 16, 48, 80, 112, 116, 120, 124, HEADER_MOST - 1, HEADER_MOST, 9_000, -1]


@pytest.mark.parametrize("byte", _regions())
def test_a_flipped_bit_anywhere_in_a_file_makes_it_a_miss_and_unlinks_it(tmp_path: Path, byte: int) -> None:
    [_, second, _] = write(folder := folder_in(tmp_path))
    data = bytearray((path := folder.path("", second)).read_bytes())
    data[byte] ^= 4
    path.write_bytes(data)
    assert tokens(folder) == BLOCK
    assert not path.exists()
    assert folder.invalid == 1


@pytest.mark.parametrize("size", [0, 15, 100, HEADER_MOST, 10_000, -1])
def test_a_truncated_file_is_a_miss_and_is_unlinked(tmp_path: Path, size: int) -> None:
    [_, second, _] = write(folder := folder_in(tmp_path))
    data = (path := folder.path("", second)).read_bytes()
    path.write_bytes(data[:size])
    assert tokens(folder) == BLOCK
    assert not path.exists()


def test_a_file_under_the_name_of_another_is_a_miss(tmp_path: Path) -> None:
    first, second, _ = write(folder := folder_in(tmp_path))
    folder.path("", second).write_bytes(folder.path("", first).read_bytes())
    assert tokens(folder) == BLOCK


def test_two_writers_of_one_prompt_leave_one_good_copy(tmp_path: Path) -> None:
    folders, barrier = [folder_in(tmp_path) for _ in range(4)], Barrier(4)

    def run(number: int) -> None:
        barrier.wait()
        write(folders[number])

    threads = [Thread(target=run, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert tokens(folders[0]) == len(PROMPT)
    assert len(files(folders[0])) == 3


_WRITER = """
import sys
from pathlib import Path
from shared.failpoints import arm
from tests.workers.engine.disk.blocks import folder_in, write
arm(sys.argv[2])
write(folder_in(Path(sys.argv[1])))
"""


@pytest.mark.parametrize(
    ("step", "left"),
    [("create", 256), ("write", 256), ("sync", 256), ("rename", 256), ("renamed", 512)],
)
def test_a_writer_that_is_killed_at_any_step_leaves_what_can_be_used(
    tmp_path: Path, step: str, left: int
) -> None:
    fault = tmp_path / "fault"
    fault.write_text(f"disk.{step}:#2:kill9")
    killed = subprocess.run(
        [sys.executable, "-c", _WRITER, str(tmp_path), f"@{fault}"],
        cwd=Path(__file__).parents[4],
        env={name: value for name, value in os.environ.items() if name != VARIABLE},
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL
    folder = folder_in(tmp_path)
    assert tokens(folder) == left
    write(folder)
    assert tokens(folder) == len(PROMPT)


def session(turns: list[tuple[int, int, int]]) -> list[Ids]:
    """Prompts of which each begins as an earlier one does: (which, by how many tokens, how many new ones)."""
    prompts: list[Ids] = [as_ids([])]
    for number, (which, keep, more) in enumerate(turns):
        earlier = prompts[which % len(prompts)]
        fresh = [(number * 31 + i) % 199 for i in range(more)]
        prompts.append(as_ids([*earlier[: keep % (len(earlier) + 1)], *fresh]))
    return prompts[1:]


TURN = st.tuples(st.integers(0, 9), st.integers(0, 2000), st.integers(1, 400))


@given(st.lists(TURN, min_size=1, max_size=8))
@examples(15)
def test_a_prompt_finds_all_that_it_has_in_common_with_any_earlier_one(
    turns: list[tuple[int, int, int]],
) -> None:
    """Growing chats, branches, and edits in the middle."""
    with TemporaryDirectory() as root:
        folder = folder_in(Path(root))
        before: list[Ids] = []
        for prompt in session(turns):
            assert tokens(folder, prompt) == max((common_prefix(prompt, each) for each in before), default=0)
            write(folder, prompt)
            before.append(prompt)
