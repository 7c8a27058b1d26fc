"""Every architecture of the installed mlx-lm, tiny and random: what is served is what mlx-lm computes.

An update of mlx-lm shows here what it changes: an architecture that is new and does not work, and one that works and is
in the table of those that do not, are both red. The table is also docs/architectures.md.
"""

from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import mlx.core as mx
import pytest

from shared.protocol import Delta
from shared.settings import Settings
from tests.jobs import job
from tests.tiny_model import VOCABULARY, make_folder
from tests.workers.engines import cached_tokens, ids, play
from tests.zoo import architectures, config_of
from workers.device import has_accelerator
from workers.engine.cpu.install import uninstalled
from workers.engine.engine import BatchEngine
from workers.engine.forward import feed
from workers.engine.kv.mlx_caches import nbytes, new_cache
from workers.engine.memory.measured_cost import measure_cost
from workers.job import Job
from workers.model.load import LoadedModel, inspect, load
from workers.model.serve_model import serve_model

TOGETHER, ALONE, NOT_LOADED = "together", "one after another", "not loaded"
TOKENS = 6
PROMPTS = {
    "long": [(7 * i) % 250 + 3 for i in range(90)],  # longer than all windows
    "middling": [(5 * i) % 250 + 3 for i in range(31)],
    "short": [9, 8, 7],
}
# Of a log-probability. These models' are some units apart, and sums of some dozens of float32 numbers lie behind them.
TOLERANCE = 2e-3


@dataclass(frozen=True)
class Known:
    """``said``: what is in the log, or in the refusal. ``breaks``: the first promise that mlx-lm's own way breaks."""

    outcome: str
    reason: str
    said: str
    breaks: str = ""


NO_METAL = Known(NOT_LOADED, "its kernels are Metal's only", "No Metal back-end")
NO_BATCH_CACHE = Known(ALONE, "mlx-lm has no batch cache for its class of cache", "caches cannot be merged")
EXCEPTIONS = {
    "afm7": Known(
        ALONE, "layers that share keys take the batch's width for their position", "none computes alone"
    ),
    "bitnet": NO_METAL,
    "deepseek_v41": NO_BATCH_CACHE,
    "deepseek_v41_text": NO_BATCH_CACHE,
    "gemma2": Known(ALONE, "a mask by row meets scores that have an axis more", "fail together"),
    "gpt_bigcode": Known(ALONE, "takes a cache's offset for one number", "fail together"),
    "llama4": NO_BATCH_CACHE,
    "longcat_flash_ngram": Known(
        ALONE, "joins the tokens before with those of rows of one length", "fail together"
    ),
    "minimax_m3_vl": Known(
        ALONE, "chooses among blocks of its batch's tokens, padding included", "past its index_block_size"
    ),
    "muse_spark": NO_METAL,
    "olmo": Known(NOT_LOADED, "mlx-lm asks for a package that it does not bring along", "SystemExit"),
    "prism_hadamard_qwen35": Known(
        NOT_LOADED, "weights packed in a way this test does not write", "Hadamard"
    ),
    "phi3small": Known(
        ALONE,
        "adds a mask of flags to its scores as numbers: what it gives depends on how a prompt is cut",
        "fail together",
        breaks="cached",
    ),
    "plamo3": Known(
        TOGETHER,
        "its mask is a token wider than its cache: past its window what it gives depends on how a prompt is cut",
        "",
        breaks="cached",
    ),
}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.skipif(has_accelerator(), reason="compares with what a CPU computes"),
]


@pytest.mark.parametrize("kind", architectures())
def test_an_architecture_of_mlx_lm_is_served_as_mlx_lm_computes_it(
    tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    known = EXCEPTIONS.get(kind, Known(TOGETHER, "", ""))
    here, refusal = _loaded(tmp_path / "m", kind)
    if here is None:
        assert known.outcome == NOT_LOADED and known.said in refusal, refusal
        return
    engine = serve_model(here, Settings(max_batch_rows=4)).engine
    assert isinstance(engine, BatchEngine)
    assert known.outcome == (TOGETHER if engine.most_sequences > 1 else ALONE), caplog.text
    assert known.said in caplog.text
    _check_costs(here.model)
    with pytest.raises(AssertionError, match=known.breaks) if known.breaks else nullcontext():
        _check_promises(engine, here.model)


def _loaded(folder: Path, kind: str) -> tuple[LoadedModel | None, str]:
    try:
        make_folder(folder, config_of(kind, VOCABULARY))
        # Tokenizer and template are the same for all, so they need no trial.
        return load(folder, inspect(folder), lambda phase, done, total: None, trusted=True), ""
    except (Exception, SystemExit) as error:  # noqa: BLE001 (whatever it is, the table knows it or the test is red)
        return None, repr(error)


def _check_costs(model: Any) -> None:
    cost, cache = measure_cost(model), new_cache(model)
    feed(model, cache, [PROMPTS["long"]])
    assert nbytes(cache) <= cost.bytes(len(PROMPTS["long"]) + 256, chunk=len(PROMPTS["long"]))


def _check_promises(engine: BatchEngine, model: Any) -> None:
    expected = {name: _by_mlx_lm(model, prompt) for name, prompt in PROMPTS.items()}
    long = PROMPTS["long"]
    alone = play(engine, [_job("long", long)])
    assert _differs(alone["long", 0], expected["long"]) is None, "alone"

    turn = [*long, *expected["long"].tokens, 40, 41, 42]
    cached = play(engine, [_job("turn", turn)])["turn", 0]
    assert _differs(cached, _by_mlx_lm(model, turn)) is None, "cached"
    assert cached_tokens(cached) > 0

    for steps_between in (0, 1):
        jobs = [_job(name, prompt, f"fresh {steps_between}") for name, prompt in PROMPTS.items()]
        together = play(engine, jobs, steps_between)
        differing = {name: _differs(together[name, 0], expected[name]) for name in PROMPTS}
        assert differing == dict.fromkeys(PROMPTS), "together"

    held = expected["long"].tokens[:3]
    resumed = play(engine, [_job("long", long, "resumed", held=[held])])["long", 0]
    assert _differs(resumed, expected["long"], behind=len(held)) is None, "resumed"


def _job(name: str, prompt: list[int], namespace: str = "", held: list[list[int]] | None = None) -> Job:
    return job(
        name,
        prompt,
        temperature=0.0,
        ignore_eos=True,
        logprobs=1,
        max_tokens=TOKENS,
        namespace=namespace,
        held=held,
    )


@dataclass(frozen=True)
class Generated:
    """``scores``: by token generated, the log-probabilities of all that could be."""

    tokens: list[int]
    scores: list[list[float]]


def _by_mlx_lm(model: Any, prompt: list[int]) -> Generated:
    from mlx_lm.generate import generate_step

    with uninstalled():
        steps = [
            (int(token), cast(list[float], scores.tolist()))
            for token, scores in generate_step(mx.array(prompt), model, max_tokens=TOKENS)
        ]
    return Generated([token for token, _ in steps], [scores for _, scores in steps])


def _differs(deltas: list[Delta], expected: Generated, behind: int = 0) -> str | None:
    """None also where another token was as likely: what follows then is another text."""
    tokens, scores = expected.tokens[behind:], expected.scores[behind:]
    likely = [entry.logprob for delta in deltas for entry in delta.logprobs or []]
    if len(ids(deltas)) != len(tokens):
        return f"{len(ids(deltas))} tokens and not {len(tokens)}"
    for i, (token, wanted) in enumerate(zip(ids(deltas), tokens, strict=True)):
        if (
            abs(likely[i] - scores[i][token]) > TOLERANCE
            or scores[i][wanted] - scores[i][token] > 2 * TOLERANCE
        ):
            return f"token {i} is {token} ({likely[i]:.4f}) and not {wanted} ({scores[i][wanted]:.4f})"
        if token != wanted:
            return None
    return None


def test_the_table_of_architectures_is_in_the_docs() -> None:
    names = architectures()
    served = [name for name in names if name not in EXCEPTIONS]
    lines = ["| architecture | served | why |", "|---|---|---|"]
    lines += [f"| {name} | {known.outcome} | {known.reason} |" for name, known in sorted(EXCEPTIONS.items())]
    table = "\n".join(lines)
    file = Path(__file__).parents[3] / "docs" / "architectures.md"
    text = file.read_text(encoding="utf-8")
    assert table in text, f"what belongs into {file.name}:\n{table}"
    together = f"{len(served)} of {len(names)}"
    assert together in text and ", ".join(served) in text, f"{together}: {', '.join(served)}"
