"""The report of ``mlx-server bench --self``: what stands in it, as JSON and as Markdown. Pure.

Rule: nothing private is in it, so it is put together here from what may be: figures, versions, the kind of machine, and
a model's name where it is public. No host, user, path, prompt, setting or message of a program.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from cli.bench.figures import Level, number
from shared.models import ModelSource

FORMAT = 1
GB = 10**9
OURS, THEIRS = "mlx-server", "mlx_lm.server"


@dataclass(frozen=True)
class Stall:
    """Of ``streams`` that are answered when a prompt of ``words`` comes: gaps between two texts, in seconds."""

    streams: int
    words: int
    gap_p50_before: float | None
    gap_max_after: float | None
    first_token: float | None  # of the long prompt


@dataclass
class MeasuredServer:
    """What a server gave. ``failed``: in one word why figures are missing."""

    name: str
    levels: list[Level] = field(default_factory=list)
    stall: Stall | None = None
    failed: str = ""


@dataclass(frozen=True)
class Report:
    machine: Mapping[str, Any]
    versions: Mapping[str, str]
    model: str
    quick: bool
    engine: Mapping[str, Any]  # as ``workers.self_check`` prints it
    servers: Sequence[MeasuredServer]

    def json(self) -> dict[str, Any]:
        engine = {name: value for name, value in self.engine.items() if name in ENGINE}
        return {"format": FORMAT, **asdict(self), "engine": engine}


ENGINE = (
    "model_type",
    "weight_bytes",
    "accelerator",
    "batch_invariance",
    "parity",
    "decode",
    "mlx_peak_bytes",
    "pass_memory",
    "resident_peak_bytes",
)


def public_name(source: ModelSource) -> str:
    """An embedded model's, or the id of a repository of the hub; a folder's name may tell something."""
    if source.kind == "embedded":
        return source.id
    return source.location if source.kind == "hub" else "a model in a folder"


def markdown(report: Report) -> str:
    engine, machine = report.engine, report.machine
    memory = ", ".join(
        f"{title} {engine[key] / GB:.2f} GB"
        for title, key in (("weights", "weight_bytes"), ("MLX at most", "mlx_peak_bytes"))
    )
    parts = [
        "# mlx-server bench --self"
        + (", quick: its figures are too short to compare" if report.quick else ""),
        f"{report.model} ({engine['model_type']}), computed on "
        + (
            "the GPU"
            if engine["accelerator"]
            else "the CPU, in float32 here; mlx_lm.server keeps the model's format"
        ),
        table(
            ("machine", ""), [(name, str(value)) for name, value in {**machine, **report.versions}.items()]
        ),
        "## The same tokens?",
        f"Batch invariance of this engine: {engine['batch_invariance']}. Against each request alone:",
        table(
            ("", "requests with equal tokens", "largest difference of a log-probability"),
            _parity(engine["parity"]),
        ),
        "## Decoding, without a server",
        table(
            ("sequences", "engine, tokens/s", "bare loop", "device idle"),
            list(map(_decoding, engine["decode"])),
        ),
        f"Memory: {memory}, the process at most {engine['resident_peak_bytes'] / GB:.2f} GB.",
        _passes(engine["pass_memory"]),
        "## Servers",
        table(HEADINGS, [line for served in report.servers for line in _levels(served)]),
        "## A long prompt comes while others are answered",
        table(
            ("server", "streams", "words", "gap p50 before, s", "longest gap after", "its first token"),
            [_stall(served) for served in report.servers if served.stall],
        ),
    ]
    return "\n\n".join(parts) + "\n"


HEADINGS = ("server", "clients", "tokens/s", "first token p50, s", "p99", "gap p50", "gap p99", "failed")


def _levels(served: MeasuredServer) -> list[tuple[str, ...]]:
    lines = [
        (
            served.name,
            str(each.clients),
            number(each.tokens_per_second),
            *map(number, (each.first_token_p50, each.first_token_p99, each.gap_p50, each.gap_p99)),
            f"{each.failed} of {each.requests}",
        )
        for each in served.levels
    ]
    return [*lines, (served.name, *["–"] * (len(HEADINGS) - 2), served.failed)] if served.failed else lines


def _stall(served: MeasuredServer) -> tuple[str, ...]:
    stall = served.stall
    assert stall
    figures = map(number, (stall.gap_p50_before, stall.gap_max_after, stall.first_token))
    return (served.name, str(stall.streams), str(stall.words), *figures)


def _parity(parity: Mapping[str, Any]) -> list[tuple[str, ...]]:
    titles = {"batched": "batched", "cached": f"from the prefix cache ({parity['cached_tokens']} tokens)"}
    return [
        (title, f"{parity[key]['equal']} of {parity[key]['requests']}", f"{parity[key]['difference']:.2g}")
        for key, title in titles.items()
    ]


def _passes(found: Mapping[str, Any]) -> str:
    kv, beside = (f"{found[name] / GB:.3f} GB" for name in ("kv", "beside"))
    return (
        f"Keys and values of {found['rows']} sequences: {kv}; passes took {beside} beside all that was there."
    )


def _decoding(speed: Mapping[str, Any]) -> tuple[str, ...]:
    idle = speed["idle_share"]
    share = "–" if idle is None else f"{idle:.0%}"
    return (str(speed["rows"]), number(speed["engine"]), number(speed["bare"]), share)


def table(headings: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rows = [headings, ["---"] * len(headings), *lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
