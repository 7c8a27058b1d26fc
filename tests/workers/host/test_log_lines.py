"""What a hosted server logs, as lines of its worker's log."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from workers.host.log_lines import BURST, MARK, RATE, LogLines

ASKED = ("/health", "/v1/models")


@given(st.lists(st.integers(0, 60)))
def test_each_line_is_marked_however_it_is_cut(cuts: list[int]) -> None:
    said = b"one\r\ntwo\n\n\xe2\x82\xac 10%\r20%\rthree"
    edges = [0, *sorted(min(cut, len(said)) for cut in cuts), len(said)]
    lines = LogLines(ASKED, 0.0)
    out = b"".join(lines.take(said[a:b], 1.0) for a, b in itertools.pairwise(edges)) + lines.end(2.0)
    assert out.decode().splitlines() == [f"{MARK}{one}" for one in ("one", "two", "€ 10%", "20%", "three")]


def test_no_line_moves_a_cursor_or_is_without_an_end() -> None:
    out = LogLines(ASKED, 0.0).take(b"\x1b[2J\xff\x00" + b"x" * 100_000 + b"\n", 0.0)
    assert b"\x1b" not in out
    assert len(out) < 20_000


def test_a_flood_is_bounded_and_what_is_left_out_is_counted() -> None:
    lines, line = LogLines(ASKED, 0.0), b"y" * 999 + b"\n"
    flood = [lines.take(line * 50, second / 10) for second in range(1000)]
    assert sum(map(len, flood)) < BURST + 101 * RATE
    after = lines.take(b"quiet again\n", 1000.0).decode().splitlines()
    assert after[-1] == f"{MARK}quiet again"
    told = [row for row in b"".join(flood).decode().splitlines() + after if "left out" in row]
    written = sum(row.startswith(f"{MARK}yyy") for part in flood for row in part.decode().splitlines())
    assert sum(int(row.split()[2]) for row in told) == (50_000 - written) * 999


def test_whatever_it_says_is_progress_but_for_lines_about_our_asking() -> None:
    lines = LogLines(ASKED, 0.0)
    lines.take(b'"GET /health HTTP/1.1" 503\n', 1.0)
    assert lines.said == 0.0
    lines.take(b"loading .", 2.0)
    assert lines.said == 2.0
    lines.take(b".", 3.0)
    assert lines.said == 3.0
    lines.take(b'\n"GET /v1/models" 404', 4.0)
    lines.take(b"\n", 5.0)
    assert lines.said == 4.0
