"""How what is free for keys and values is divided among workers: the smallest lease grows first. Pure.

Rule 1: nothing grows while memory is on its way back: it was cut for another.
Rule 2: what a lease holds unused goes to smaller ones, so that a worker that comes late has room to keep prompts as
    well; nothing that is used moves.
"""

from collections.abc import Iterable, Mapping, Sequence

from broker.memory.decisions import Grow, Shrink
from broker.memory.ledger import Entry, Ledger
from broker.workers.lifecycle import State

GRAIN = 50 * 10**6  # bytes; what is left over absorbs small changes of footprints
_UNLIKE = 4 * GRAIN  # less is not worth moving


def grow(ledger: Ledger, candidates: Iterable[Entry]) -> Grow | None:
    """What is free, to those that could fill more than they have."""
    free = 0 if ledger.returning else max(0, ledger.free() - ledger.spares) // GRAIN * GRAIN
    leases = filled([entry for entry in candidates if _grows(entry)], free)
    return Grow(leases) if leases else None


def balance(ledger: Ledger) -> Shrink | None:
    """Cuts what large leases hold unused, as far as smaller ones lack it to be as large as the others."""
    able = [entry for entry in ledger.entries if _grows(entry)]
    if ledger.returning or len(able) < 2:
        return None
    mean = sum(entry.lease.size for entry in able) // len(able)
    small = min(able, key=lambda entry: entry.lease.size)
    missing = sum(max(0, min(mean, entry.usage.wanted) - entry.lease.size) for entry in able)
    if missing < _UNLIKE:
        return None
    leases: dict[str, int] = {}
    for entry in sorted(able, key=lambda entry: -entry.lease.size):
        taken = min(missing, entry.unused, entry.lease.size - mean) // GRAIN * GRAIN
        if taken > 0:
            leases[entry.worker] = entry.lease.size - taken
            missing -= taken
    return Shrink(leases, small.worker, "its lease is smaller, and this is unused") if leases else None


def filled(entries: Sequence[Entry], free: int) -> Mapping[str, int]:
    """New leases of those that get any of ``free`` bytes; they are as alike as it allows."""
    sizes = sorted(entry.lease.size for entry in entries)
    level = 0
    for count in range(1, len(sizes) + 1):
        level = (free + sum(sizes[:count])) // count
        if count < len(sizes) and level <= sizes[count]:
            break
    more = {entry: (min(level, entry.usage.wanted) - entry.lease.size) // GRAIN * GRAIN for entry in entries}
    return {entry.worker: entry.lease.size + size for entry, size in more.items() if size > 0}


def _grows(entry: Entry) -> bool:
    return entry.state is State.READY and not entry.closed and entry.usage.wanted > entry.lease.size
