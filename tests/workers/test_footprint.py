"""What a process takes of the machine: measured from within, compared with what is known."""

import mmap
import sys

import psutil
import pytest

from workers.footprint import footprint, proportional


def test_the_proportional_set_size_is_read_in_bytes() -> None:
    assert (
        proportional("00400000-7fff [rollup]\nRss:    9000 kB\nPss:    1234 kB\nPss_Anon: 5 kB\n")
        == 1234 * 1024
    )
    assert proportional("Rss: 1 kB\n") is None


@pytest.mark.skipif(sys.platform != "linux", reason="PSS is Linux's")
def test_what_a_process_allocates_is_in_its_footprint_and_what_it_shares_is_not_counted_twice() -> None:
    before = footprint()
    with mmap.mmap(-1, 50_000_000) as taken:  # new pages, where an allocation may reuse freed ones
        for at in range(0, len(taken), mmap.PAGESIZE):
            taken[at] = 1
        assert 45_000_000 < footprint() - before < 60_000_000
        assert footprint() <= psutil.Process().memory_info().rss + len(taken) // 50
