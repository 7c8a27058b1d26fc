"""Ledgers for plays: three models of 5 GB and 1 GB for keys and values, which take 8 seconds to load."""

from dataclasses import fields, replace
from typing import Any

from broker.memory.ledger import Entry, Lease, Ledger, Need, Usage
from broker.workers.lifecycle import State

GB = 10**9
MIN_STAY = 4.0

A, B, C = (Need(model, 5 * GB, GB, load_seconds=8.0) for model in "abc")


def worker(need: Need = A, lease: int = GB, **facts: Any) -> Entry:
    """Idle, it has served, and its stay is over."""
    usage = Usage(**{field.name: facts.pop(field.name, 0) for field in fields(Usage)})
    entry = Entry(f"{need.model}#1", need, State.READY, 0.0, Lease.first(lease), usage, served=1)
    return replace(entry, **facts)


def ledger(*entries: Entry, budget: int = 10, pinned: tuple[Need, ...] = ()) -> Ledger:
    return Ledger(budget * GB, MIN_STAY, entries, pinned)
