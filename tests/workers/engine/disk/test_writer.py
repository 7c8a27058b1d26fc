"""The writer of the SSD tier on its own thread."""

import logging
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.workers.engine.disk.blocks import PROMPT, chain, folder_in
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
