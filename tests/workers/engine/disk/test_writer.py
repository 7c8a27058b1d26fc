"""The writer of the SSD tier on its own thread."""

import logging
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.workers.engine.disk.blocks import PROMPT, chain, content, folder_in
from workers.engine.disk.block import Words
from workers.engine.disk.eviction import Eviction
from workers.engine.disk.writer import Block, Writer


def test_a_fault_in_the_writing_of_a_block_ends_writing_with_its_traceback_and_a_drain_does_not_wait_for_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def fault() -> Sequence[Words]:
        raise RuntimeError("no such array")

    folder = folder_in(tmp_path)
    writer = Writer(folder, Eviction(folder.root, None), lambda digest: None)
    link = chain(folder)[0]
    with caplog.at_level(logging.ERROR):
        writer.put(Block("", link, PROMPT[link.start : link.end], fault, 0))
        assert writer.flush(30)
    assert writer.off
    assert "no such array" in caplog.text


def test_a_block_that_is_being_written_when_its_prompt_is_forgotten_is_deleted_before_that_is_confirmed(
    tmp_path: Path,
) -> None:
    folder = folder_in(tmp_path)
    writer = Writer(folder, Eviction(folder.root, None), lambda digest: None)
    begun, go_on, told = threading.Event(), threading.Event(), threading.Event()
    link = chain(folder)[0]
    ids = PROMPT[link.start : link.end]

    def slow() -> Sequence[Words]:
        begun.set()
        assert go_on.wait(30)
        return content(ids)

    writer.put(Block("", link, ids, slow, 0))
    assert begun.wait(30)
    writer.put(Block("", chain(folder)[1], ids, slow, 1 << 20))
    left: list[int] = []

    def done(size: int, reason: str) -> None:
        left.extend([size, len(list(tmp_path.rglob("*.kv")))])
        told.set()

    writer.forget(None, done)
    assert writer.nbytes == 0 and not told.is_set()
    go_on.set()
    assert told.wait(30)
    assert left[0] > 0 and left[1] == 0
    assert writer.flush(30) and not list(tmp_path.rglob("*.kv"))
