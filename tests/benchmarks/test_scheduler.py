"""The table of the scheduler is of simulated time: the same clients give the same figures on any machine."""

import pytest

from benchmarks.scheduler import MIXES, clients, line, play, simulated


@pytest.mark.parametrize("order", ["ours", "first come"])
def test_a_mix_of_clients_gives_the_same_figures_each_time(order: str) -> None:
    told = []
    for _ in range(2):
        engine = simulated(order)
        play(engine, clients("mixed", seed=3)[::9], seconds=20.0)
        told.append([line(engine, "mixed", order, kind) for kind in ("chat", "agent", "bulk")])
        assert engine.ended and engine.now >= 20.0
    assert told[0] == told[1]


def test_every_mix_has_its_clients() -> None:
    assert {mix: len(clients(mix, seed=1)) for mix in MIXES} == {"chats": 1000, "agents": 40, "mixed": 1008}
