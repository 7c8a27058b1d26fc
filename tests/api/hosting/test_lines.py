"""Lines of a stream, however it is cut, and however long they are."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.hosting.lines import Lines, TooLong


@given(st.lists(st.sampled_from([b"a", b"\n", b"\r\n", b"bc", b""])), st.lists(st.integers(0, 40)))
def test_nothing_is_lost_or_doubled_however_it_is_cut(parts: list[bytes], cuts: list[int]) -> None:
    data = b"".join(parts)
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    lines = Lines()
    taken = [lines.take(data[a:b]) for a, b in itertools.pairwise(edges)]
    assert all(part.endswith(b"\n") for part in taken if part)
    assert lines.waiting == len(data) - len(b"".join(taken))
    assert b"".join(taken) + lines.end() == data


def test_a_line_without_an_end_is_given_up() -> None:
    lines = Lines(most=10)
    assert lines.take(b"0123456789\n0123456789") == b"0123456789\n"
    with pytest.raises(TooLong):
        lines.take(b"x")
