"""What is printed and logged: it never fails, and never pretends to be another line."""

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from broker.system.log_files import keep_end, keep_newest
from shared.logs import LONGEST, OneLine
from shared.output import printable

PRINTS = """
import sys, logging
from shared import logs
logs.configure("p", "info")
for _ in range(2000):
    print("x" * 50)
    logging.warning("y" * 50)
print("\\ud800")
sys.stderr.write("done")
"""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no disk here is full")
def test_a_process_whose_output_cannot_be_written_goes_on_and_exits_0() -> None:
    with Path("/dev/full").open("wb") as full:
        assert subprocess.run([sys.executable, "-c", PRINTS], stdout=full, stderr=full).returncode == 0


def test_a_process_whose_output_nobody_reads_goes_on_and_exits_0() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", PRINTS], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    assert process.stdout
    process.stdout.close()
    assert process.wait(60) == 0


def test_text_from_elsewhere_begins_no_line_and_moves_no_cursor() -> None:
    record = logging.LogRecord("n", logging.INFO, "f", 1, "%s", ("a\n2026 b\r\x1b[2J\x9b\u202e\ud800",), None)
    line = OneLine("p").format(record)
    assert line.endswith(r" INFO p: a\n2026 b\r\x1b[2J\x9b\u202e\ud800")
    assert line.isprintable()


def test_the_lines_of_a_traceback_are_indented_and_printable() -> None:
    try:
        raise ValueError("first\nsecond\x07")
    except ValueError as error:
        record = logging.LogRecord("n", logging.ERROR, "f", 1, "m", (), (ValueError, error, None))
    first, *rest = OneLine("p").format(record).split("\n")
    assert first.endswith("p: m")
    assert rest == ["    ValueError: first", r"    second\x07"]


def test_a_line_of_any_length_is_cut() -> None:
    record = logging.LogRecord("n", logging.INFO, "f", 1, "z" * 10**6, (), None)
    assert len(OneLine("p").format(record)) < LONGEST + 100


def test_printable_text_stays_as_it_is() -> None:
    assert printable("Grüße, 東京 👩‍👩‍👧!") == "Grüße, 東京 👩‍👩‍👧!"


def test_the_newest_files_are_kept_and_those_in_use(tmp_path: Path) -> None:
    for age in range(6):
        (tmp_path / str(age)).touch()
        os.utime(tmp_path / str(age), (1000 - age, 1000 - age))
    keep_newest(tmp_path.iterdir(), 2, but_not=[str(tmp_path / "5")])
    assert {path.name for path in tmp_path.iterdir()} == {"0", "1", "5"}


def test_the_end_of_a_log_is_kept_from_the_start_of_a_line_and_its_writer_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with path.open("ab", buffering=0) as writer:
        for number in range(1000):
            writer.write(b"line %d\n" % number)
        keep_end(str(path), 1 << 20)
        assert path.read_text().startswith("line 0\n")
        keep_end(str(path), 1000)
        writer.write(b"the next\n")
    lines = path.read_text().splitlines()
    assert lines[-2:] == ["line 999", "the next"]
    assert len(path.read_bytes()) <= 1000
    assert all(line.startswith(("line ", "the next")) for line in lines)
