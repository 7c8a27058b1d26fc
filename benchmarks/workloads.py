"""The workloads: what is asked, who is asked, and how well we want to do. A table.

A workload is played by every side that one of its aims names; an aim compares one figure of two sides.
"""

from dataclasses import dataclass

from benchmarks.plans import ClosedLoop, Decode, LatePrompt, Plan, SecondTurn
from benchmarks.replies import Figure

OURS, THEIRS, ENGINE, BARE = "mlx-server", "mlx_lm.server", "our engine", "bare loop"


@dataclass(frozen=True)
class Aim:
    """``figure`` of ``side`` divided by that of ``against``: at least ``target``, or at most if less is better."""

    figure: Figure
    target: float
    against: str = THEIRS
    side: str = OURS

    @property
    def more_is_better(self) -> bool:
        return self.figure is Figure.SPEED

    def met(self, ratio: float) -> bool:
        return ratio >= self.target if self.more_is_better else ratio <= self.target


@dataclass(frozen=True)
class Workload:
    name: str
    title: str
    plan: Plan
    aims: tuple[Aim, ...]

    @property
    def sides(self) -> tuple[str, ...]:
        """In the order of play."""
        named = {aim.side for aim in self.aims} | {aim.against for aim in self.aims}
        return tuple(side for side in (OURS, THEIRS, ENGINE, BARE) if side in named)


WORKLOADS = (
    Workload("greedy-1", "1 client, greedy", ClosedLoop(1, 3), (Aim(Figure.SPEED, 1.0),)),
    Workload(
        "greedy-8",
        "8 clients, greedy",
        ClosedLoop(8, 16),
        (Aim(Figure.SPEED, 1.3), Aim(Figure.SPEED, 0.95, against=ENGINE)),
    ),
    Workload(
        "greedy-32",
        "32 clients, greedy",
        ClosedLoop(32, 64),
        (Aim(Figure.SPEED, 1.5), Aim(Figure.GAP, 0.25), Aim(Figure.SPEED, 0.95, against=ENGINE)),
    ),
    Workload(
        "sampled-8",
        "8 clients, temperature 0.7, top_p 0.95",
        ClosedLoop(8, 16, temperature=0.7, top_p=0.95),
        (Aim(Figure.SPEED, 2.0),),
    ),
    Workload(
        "seeded-8",
        "the same, each with a seed",
        ClosedLoop(8, 8, temperature=0.7, top_p=0.95, seeded=True),
        (Aim(Figure.SPEED, 5.0),),
    ),
    Workload(
        "prefix-8",
        "8 prompts at once that share 300 tokens",
        ClosedLoop(8, 8, shared_words=300),
        (Aim(Figure.SPEED, 3.0), Aim(Figure.TTFT, 0.25)),
    ),
    Workload(
        "second-turn", "second turn of a 1,000-token conversation", SecondTurn(), (Aim(Figure.TTFT, 1.0),)
    ),
    Workload(
        "late-prompt",
        "8 clients are answered, a 2,000-token prompt comes",
        LatePrompt(),
        (Aim(Figure.WORST_GAP, 0.25),),
    ),
    Workload(
        "two-models", "8 clients, two models in turns", ClosedLoop(8, 16, models=2), (Aim(Figure.SPEED, 5.0),)
    ),
    Workload(
        "decode-32",
        "32 rows decode, no clients",
        Decode(),
        (Aim(Figure.SPEED, 0.85, side=ENGINE, against=BARE),),
    ),
)
