"""The results of a run: what is kept as JSON, and the comparisons that follow from it."""

import statistics
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from benchmarks.costs import Cost
from benchmarks.replies import Figure
from benchmarks.workloads import WORKLOADS, Aim, Workload

FOLDER = Path(__file__).parent / "results"
LATEST = FOLDER / "latest.json"
PARTIAL = FOLDER / "partial.json"  # of a run that was told to leave something out


class Rounds(BaseModel):
    """Of one side in one workload; ``failed`` says why there are no more."""

    model_config = ConfigDict(ser_json_inf_nan="strings")  # who gave no text has no first token

    figures: list[dict[Figure, float]] = []
    failed: str | None = None

    def values(self, figure: Figure) -> list[float]:
        return [found[figure] for found in self.figures if figure in found]


class Results(BaseModel):
    date: str
    machine: dict[str, str]
    versions: dict[str, str]
    rounds: int
    workloads: dict[str, dict[str, Rounds]] = {}  # by workload, by side
    costs: dict[str, list[Cost]] = {}
    failed: dict[str, str] = {}  # costs that could not be measured, and why

    def save(self, file: Path) -> None:
        file.parent.mkdir(exist_ok=True)
        file.write_text(self.model_dump_json(indent=1))


def read(file: Path) -> Results:
    return Results.model_validate_json(file.read_text())


@dataclass(frozen=True)
class Comparison:
    """One aim, judged. A side without a value has failed or was not asked; ``why`` says which."""

    workload: Workload
    aim: Aim
    ours: float | None
    theirs: float | None
    low: float | None = None  # of the ratios of the single rounds
    high: float | None = None
    why: str = ""

    @property
    def ratio(self) -> float | None:
        """Of the medians."""
        if self.ours is None or self.theirs is None:
            return None
        return self.ours / self.theirs

    @property
    def met(self) -> bool | None:
        return None if self.ratio is None else self.aim.met(self.ratio)

    @property
    def factor(self) -> float | None:
        """How many times better our side is, whichever way better is."""
        if not self.ratio:
            return None
        return self.ratio if self.aim.more_is_better else 1 / self.ratio


def comparisons(results: Results) -> list[Comparison]:
    """In the table's order, of the workloads that were played."""
    return [
        compare(workload, aim, results.workloads[workload.name])
        for workload in WORKLOADS
        if workload.name in results.workloads
        for aim in workload.aims
    ]


def compare(workload: Workload, aim: Aim, sides: dict[str, Rounds]) -> Comparison:
    ours, theirs = sides.get(aim.side, Rounds()), sides.get(aim.against, Rounds())
    pairs = zip(ours.values(aim.figure), theirs.values(aim.figure), strict=False)
    ratios = [mine / other for mine, other in pairs if other]
    return Comparison(
        workload,
        aim,
        _median(ours, aim.figure),
        _median(theirs, aim.figure),
        min(ratios, default=None),
        max(ratios, default=None),
        "; ".join(
            f"{name} failed: {rounds.failed}"
            for name, rounds in ((aim.side, ours), (aim.against, theirs))
            if rounds.failed
        ),
    )


def _median(rounds: Rounds, figure: Figure) -> float | None:
    values = rounds.values(figure)
    return statistics.median(values) if values and not rounds.failed else None
