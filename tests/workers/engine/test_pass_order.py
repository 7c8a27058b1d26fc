"""In which order passes are launched and waited for where they are launched ahead, and what each is taken to cost.

No device is timed: a scripted clock stands still until the engine waits for a pass, and then stands at its end.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import mlx.core as mx
import pytest

from tests.jobs import job
from tests.workers.engines import LONG, MakeEngine, ids, play
from workers.engine import prefill_pass
from workers.engine.batch import PendingStep
from workers.engine.engine import BatchEngine
from workers.engine.engine_limits import EngineLimits
from workers.engine.findings import EngineFindings, shows_last_logits
from workers.engine.pending_passes import PendingPasses
from workers.engine.sampling.logprobs import score_prompt_tokens
from workers.engine.scheduling.pass_history import Told
from workers.engine.scheduling.plan import Costs
from workers.model.load import LoadedModel
from workers.model.serve_model import vocabulary_size_of
from workers.output.vocabulary import token_bytes
from workers.sequence import TokenRules

PROMPT = LONG * 4  # tokens
KNEE, FLOOR, PER_TOKEN = 20, 0.02, 0.001  # tokens, and seconds of a pass of fewer, and of each token
STALL = 0.0575


class SimulatedDevice(PendingPasses):
    """Computes passes one after another, each as long as its tokens take or its weights, whichever is longer."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = self.busy_until = 0.0
        self.passes: list[tuple[int, float]] = []  # tokens of each, and when it ends
        self._ends: dict[int, float] = {}

    def run(self, tokens: int) -> None:
        self.busy_until = max(self.busy_until, self.clock) + max(FLOOR, PER_TOKEN * tokens)
        self.passes.append((tokens, self.busy_until))

    def now(self) -> float:
        return self.clock

    def add(
        self,
        arrays: Sequence[mx.array],
        step: PendingStep | None = None,
        *,
        launched: float | None = None,
        told: Told | None = None,
    ) -> None:
        self._ends[id(arrays)] = self.busy_until
        super().add(arrays, step, launched=launched, told=told)

    def wait(self, arrays: Sequence[mx.array]) -> None:
        super().wait(arrays)
        self.clock = max(self.clock, self._ends.pop(id(arrays)))


@pytest.fixture
def device(loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> SimulatedDevice:
    """On which each call of the model is a pass."""
    simulated, kind = SimulatedDevice(), type(loaded.model)
    computed: Callable[..., mx.array] = kind.__call__

    def timed(model: Any, tokens: mx.array, **more: Any) -> mx.array:
        simulated.run(tokens.size)
        return computed(model, tokens, **more)

    monkeypatch.setattr(kind, "__call__", timed)
    return simulated


@pytest.fixture
def engine(loaded: LoadedModel, device: SimulatedDevice) -> BatchEngine:
    size = vocabulary_size_of(loaded)
    found = EngineFindings(
        last_logits=shows_last_logits(loaded.model, size), costs=Costs(fixed=0.0, per_token=PER_TOKEN)
    )
    made = BatchEngine(
        loaded.model,
        TokenRules(token_bytes(loaded.tokenizer), frozenset()),
        size,
        EngineLimits(chunk=512, max_stall=STALL),
        launches_ahead=True,
        findings=found,
        pending=device,
    )
    device.busy_until = 0.0
    device.passes.clear()  # those that measured its memory
    return made


def decoding(engine: BatchEngine, rows: int = 2) -> None:
    for number in range(rows):
        engine.add(job(f"row{number}", [number + 5] * 30, max_tokens=200, ignore_eos=True, temperature=0.0))
    for _ in range(4):
        engine.step()


def beside_a_long_prompt(engine: BatchEngine, device: SimulatedDevice) -> list[int]:
    """Tokens of each pass while a long prompt is prefilled beside sequences that decode."""
    decoding(engine)
    before = len(device.passes)
    engine.add(job("long", PROMPT, max_tokens=2))
    while engine.report["prefilling"] or engine.report["waiting"]:
        engine.step()
    return [tokens for tokens, _ in device.passes[before:]]


def test_a_pass_that_was_launched_behind_another_is_not_charged_with_its_time(
    engine: BatchEngine, device: SimulatedDevice
) -> None:
    passes = beside_a_long_prompt(engine, device)
    costs = engine._history.costs.now
    assert costs.slowness == pytest.approx(1.0, abs=0.02)
    assert costs.decode == pytest.approx(FLOOR, rel=0.02)
    chunks = [tokens for tokens in passes if tokens > 2]
    assert set(chunks[:-1]) == {57}, "each has as many tokens as the stall allows"


def test_prefill_has_its_share_of_the_device_although_passes_are_counted_before_they_end(
    engine: BatchEngine, device: SimulatedDevice
) -> None:
    passes = beside_a_long_prompt(engine, device)
    kinds = ["prefill" if tokens > 2 else "decode" for tokens in passes]
    reads = [place for place, kind in enumerate(kinds) if kind == "prefill"]
    between = [later - earlier - 1 for earlier, later in pairwise(reads)]
    # A decode pass is a quarter of it and a prefill pass, and a little more.
    assert set(between) == {1}


def test_the_device_is_never_idle_while_a_prompt_is_prefilled_beside_decoding_sequences(
    engine: BatchEngine, device: SimulatedDevice
) -> None:
    decoding(engine)
    engine.add(job("long", PROMPT, max_tokens=2))
    while engine.report["prefilling"] or engine.report["waiting"]:
        engine.step()
        assert device.busy_until > device.clock, "a pass is launched behind each one that is waited for"


def events_of(engine: BatchEngine, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is launched, what is joined and what is waited for, as it happens."""
    events = list[str]()

    def noted(owner: Any, name: str, event: str) -> None:
        method = getattr(owner, name)

        def noting(*given: Any, **named: Any) -> Any:
            events.append(event)
            return method(*given, **named)

        monkeypatch.setattr(owner, name, noting)

    noted(engine._batch, "launch", "decode")
    noted(engine._prefills, "run", "prefill")
    noted(engine._pending, "wait", "wait")
    noted(engine._caches, "join", "join")
    noted(mx, "eval", "eval")
    return events


def test_a_chunk_is_launched_behind_the_decode_pass_and_only_the_chunk_before_is_waited_for_between_them(
    engine: BatchEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoding(engine)
    engine.add(job("long", PROMPT, max_tokens=2))
    events, before = events_of(engine, monkeypatch), list[list[str]]()
    while engine.report["prefilling"] or engine.report["waiting"]:
        events.clear()
        assert [output.delta.request_id for output in engine.step()].count("row0") == 1
        if engine.report["phase"] == "prefill":
            before.append(events[: events.index("prefill")])
    ended = ["wait", "eval"]  # of a decode pass, and of the chunk behind it
    assert before[0] == ["decode"]
    assert len(before) > 5 and all(each == ["decode", *ended, *ended] for each in before[1:])


def test_sequences_join_when_the_decode_pass_has_ended_and_the_prefill_pass_still_runs(
    make_engine: MakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slot is written in place only if no pass reads it."""
    engine = make_engine(launches_ahead=True)
    decoding(engine)
    engine.add(job("more", LONG[:40], max_tokens=2))
    events = events_of(engine, monkeypatch)
    engine.step()
    before = [event for event in events[: events.index("join")] if event != "eval"]
    assert before == [
        "decode",
        "prefill",
        "wait",
        "wait",
    ]  # for the step before, and for the one just launched
    assert len(engine._pending._passes) == 2 + ("join" in events and engine._limits.last_logits)
    assert [each.ended for each in engine._pending._passes][:2] == [True, False]


def test_a_scored_prompt_beside_decoding_sequences_is_not_charged_with_their_pass(
    engine: BatchEngine, device: SimulatedDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its log-probabilities are read at once, so that pass is waited for."""

    def scored(*given: Any) -> Any:
        scores = score_prompt_tokens(*given)
        device.clock = device.busy_until
        return scores

    monkeypatch.setattr(prefill_pass, "score_prompt_tokens", scored)
    decoding(engine)
    engine.add(job("scored", LONG[:60], max_tokens=2, echo=True, logprobs=0))
    while engine.report["prefilling"] or engine.report["waiting"]:
        engine.step()
    assert engine._history.costs.now.decode == pytest.approx(FLOOR, rel=0.02)


def test_answers_beside_chunks_of_long_prompts_are_those_of_passes_in_turn(make_engine: MakeEngine) -> None:
    jobs = [
        job(f"{n}", LONG[n : n + length], max_tokens=12, temperature=0.8, seed=n, ignore_eos=True)
        for n, length in enumerate((5, 110, 9, 70, 40))
    ]
    ahead, turn = (
        play(make_engine(launches_ahead=way, chunk=16), jobs, steps_between=2) for way in (True, False)
    )
    assert {key: ids(deltas) for key, deltas in ahead.items()} == {
        key: ids(deltas) for key, deltas in turn.items()
    }
