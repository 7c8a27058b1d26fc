"""An engine short of memory stays below its budget and answers every request as if it were alone."""

import itertools
from typing import Any

import pytest

from tests.jobs import job
from tests.marks import quick_and_slow
from tests.workers.engines import LONG, MakeEngine, ids, play
from workers.engine.engine import BatchEngine
from workers.engine.kv.mlx_caches import is_full_attention, nbytes, new_cache
from workers.engine.scheduling.scheduler import PASSED
from workers.model.load import LoadedModel


def most_rows(engine: BatchEngine, tokens: int) -> int:
    """How many sequences of a prompt of ``tokens`` tokens fit into an empty engine."""
    return engine.budget.rows(tokens, engine.most_sequences)


def bytes_of(engine: BatchEngine, tokens: int) -> int:
    return engine.budget.cost.bytes(tokens)


@pytest.mark.slow
def test_sequences_that_outgrow_the_memory_are_preempted_in_turns_and_give_what_they_give_alone(
    make_engine: MakeEngine,
) -> None:
    limit = bytes_of(make_engine(), 400)
    jobs = [
        job(str(i), LONG[: 10 * i + 10], max_tokens=200, temperature=0.9, seed=i, ignore_eos=True)
        for i in range(5)
    ]
    engine = make_engine(kv_bytes=limit)
    together = play(engine, jobs)
    for each in jobs:
        alone = play(make_engine(), [each])[each.request_id, 0]
        assert ids(together[each.request_id, 0]) == ids(alone)
        assert together[each.request_id, 0][-1].finish == alone[-1].finish


def test_a_prompt_that_needs_most_of_the_memory_is_prefilled_in_chunks(make_engine: MakeEngine) -> None:
    """Neither its own prefilled tokens nor those of other tasks block it."""
    engine = make_engine()
    size = bytes_of(engine, 300)
    alone = play(make_engine(chunk=16), [job("long", list(range(3, 240)), max_tokens=3, ignore_eos=True)])
    compact = make_engine(chunk=16, kv_bytes=size, cache_bytes=size)
    jobs = [
        job("long", list(range(3, 240)), max_tokens=3, ignore_eos=True),
        job("other", list(range(239, 2, -1)), max_tokens=3, ignore_eos=True),
    ]
    deltas = play(compact, jobs, steps_between=3)
    assert ids(deltas["long", 0]) == ids(alone["long", 0])
    assert len(ids(deltas["other", 0])) == 3


@pytest.mark.parametrize("rows", quick_and_slow((7,), (4,)))
def test_keys_and_values_never_exceed_the_memory_while_sequences_join_and_leave(
    make_engine: MakeEngine, rows: int
) -> None:
    """Sequences join, grow past a buffer step, outgrow the memory, leave, and are stored in the prefix cache."""
    size = make_engine().budget.cost.bytes(512, rows)
    engine = make_engine(kv_bytes=size, cache_bytes=size, chunk=64)
    most = 0
    for i in range(8):
        length, more = 12 * i % 90 + 20, 90 + 31 * i % 90
        engine.add(job(str(i), LONG[:length], max_tokens=more, seed=i, n=1 + i % 3, ignore_eos=True))
    while engine.active:
        engine.step()
        report = engine.report
        most = max(most, int(report["kv_bytes"]))
        assert int(report["kv_bytes"]) + int(report["cache_bytes"]) <= size
    assert most > size // 2


@pytest.mark.parametrize("length", quick_and_slow((20,), (300,)))
def test_many_choices_of_one_prompt_never_exceed_the_memory(make_engine: MakeEngine, length: int) -> None:
    size = make_engine().budget.cost.bytes(length + 400, 3)
    engine = make_engine(kv_bytes=size, cache_bytes=size)
    engine.add(job("a", (LONG * 3)[:length], n=16, max_tokens=5, ignore_eos=True))
    ended = 0
    while engine.active:
        ended += sum(output.delta.finish is not None for output in engine.step())
        assert int(engine.report["kv_bytes"]) + int(engine.report["cache_bytes"]) <= size
    assert ended == 16


def held_while_reading(engine: BatchEngine, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Bytes after each last prefill pass, before the prompts are stored and their sequences get batch slots."""
    held, rest = list[int](), engine._prefills._rest

    def measured(tasks: Any) -> Any:
        kept = engine._prefixes.bytes
        read = rest(tasks)
        held.append(engine._held - sum(task.shown.bytes for task in tasks) + nbytes(read[1]) + kept)
        return read

    monkeypatch.setattr(engine._prefills, "_rest", measured)
    return held


def test_a_cached_prefix_beside_a_new_prompt_never_exceeds_the_memory(
    make_engine: MakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prefilled together, both are padded to the sum of their lengths."""
    size = make_engine().budget.cost.bytes(900, 2)
    engine = make_engine(kv_bytes=size, cache_bytes=size, chunk=400)
    beginning, unread = (LONG * 4)[:400], [50] * 380
    play(engine, [job("kept", beginning, max_tokens=1)])
    held = held_while_reading(engine, monkeypatch)
    play(engine, [job("on", [*beginning, 5]), job("new", unread)])
    assert max(held) <= size


@pytest.mark.slow
@pytest.mark.parametrize("rows", [3, 9])
def test_prefill_passes_never_exceed_the_memory(
    make_engine: MakeEngine, monkeypatch: pytest.MonkeyPatch, rows: int
) -> None:
    """Headroom and the buffers of ended sequences are freed before a prefill pass."""
    size = make_engine().budget.cost.bytes(512, rows)
    engine = make_engine(kv_bytes=size, cache_bytes=0, chunk=64)
    held = held_while_reading(engine, monkeypatch)
    for i in range(12):
        length, more = 37 * i % 200 + 20, 60 + 31 * i % 160
        engine.add(
            job(str(i), [*LONG, *LONG][:length], max_tokens=more, seed=i, n=1 + i % 3, ignore_eos=True)
        )
        for _ in range(15):
            engine.step()
    while engine.active:
        engine.step()
    assert max(held) <= size


def test_a_prompt_that_cannot_fit_evicts_nothing_from_the_prefix_cache(make_engine: MakeEngine) -> None:
    engine = make_engine(kv_bytes=make_engine().budget.cost.bytes(512, 4), chunk=64)
    play(engine, [job("kept", LONG, max_tokens=2)])
    engine.add(job("runs", LONG[:20], max_tokens=60, ignore_eos=True))
    for _ in range(4):
        engine.step()
    kept = engine.report["cache_entries"]
    engine.add(job("large", [5] * 400, n=most_rows(engine, 400), max_tokens=100, ignore_eos=True))
    for _ in range(9):
        engine.step()
    assert kept == engine.report["cache_entries"] == 1


@pytest.mark.parametrize("short_of", quick_and_slow(("memory",), ("rows",)))
def test_a_prompt_that_does_not_fit_is_overtaken_for_a_limited_number_of_steps(
    make_engine: MakeEngine, short_of: str
) -> None:
    """Small requests come without end, two or more run all the time; the large one needs nearly all there is."""
    kv_bytes = make_engine().budget.cost.bytes(512, 5) if short_of == "memory" else 1 << 40
    engine = make_engine(rows=6 if short_of == "rows" else 32, kv_bytes=kv_bytes)
    first, step, began = dict[str, int](), 0, 10
    while "large" not in first:
        step += 1
        assert step < began + PASSED + 100
        if step == began:
            n = most_rows(engine, 20)
            engine.add(job("large", [7] * 20, n=n, max_tokens=400, ignore_eos=True))
        if step % 8 == 1:
            engine.add(job(f"small {step}", [step % 200 + 3] * 200, max_tokens=30, ignore_eos=True))
        for output in engine.step():
            first.setdefault(output.delta.request_id, step)
    small = [at for name, at in first.items() if name.startswith("small")]
    assert any(began + 5 < at for at in small)
    assert first["large"] > began + PASSED
    assert not any(began + PASSED + 3 < at < first["large"] for at in small)


def test_the_longest_sequence_is_computed_quickly_when_none_fits(make_engine: MakeEngine) -> None:
    """A recurrent state larger than the memory costs the same whatever its length: up to a billion tokens."""
    assert make_engine(kv_bytes=100).budget.longest_sequence == 0


def test_the_longest_sequence_fits_with_its_kv_buffers_and_prefill_cache(make_engine: MakeEngine) -> None:
    size = make_engine().budget.cost.bytes(700, chunk=512)
    engine = make_engine(kv_bytes=size)
    longest = min(engine.budget.longest_sequence, 500)
    assert longest > 300
    engine.add(job("a", [5] * (longest - 30), max_tokens=30, ignore_eos=True))
    while engine.active:
        engine.step()
        assert int(engine.report["kv_bytes"]) <= size


def test_a_long_request_takes_no_more_memory_than_its_own_length(
    make_engine: MakeEngine, loaded: LoadedModel
) -> None:
    if not is_full_attention(new_cache(loaded.model)):
        pytest.skip("mlx-lm's batch caches are as wide as the longest row")
    size = make_engine().budget.cost.bytes(3000)
    engine = make_engine(kv_bytes=size, cache_bytes=0, chunk=128)
    short = [job(str(i), [i + 3] * 20, max_tokens=60, ignore_eos=True) for i in range(8)]
    most = 0
    for each in [*short, job("long", (LONG * 5)[:600], max_tokens=20, ignore_eos=True)]:
        engine.add(each)
    while engine.active:
        engine.step()
        most = max(most, int(engine.report["rows"]))
        assert int(engine.report["kv_bytes"]) <= size
    assert most >= 8  # times 600 would be 4,800; the slabs of a GPU grow by larger steps


def test_a_prefix_cache_hit_uses_no_more_memory_than_admission_counted(make_engine: MakeEngine) -> None:
    """A stored prompt has one token less in its cache than one that was prefilled with last logits."""
    prompt, size = (LONG * 5)[:513], make_engine().budget.cost.bytes(8500)
    engine = make_engine(kv_bytes=size, rows=64)
    play(engine, [job("kept", prompt, max_tokens=1, ignore_eos=True)])
    engine.add(job("many", [7] * 240, n=15, max_tokens=30, ignore_eos=True))
    for step in range(40):
        if step == 17:  # they have 256 tokens, half as many
            engine.add(job("again", prompt, max_tokens=5, ignore_eos=True))
        engine.step()
        assert int(engine.report["kv_bytes"]) + int(engine.report["cache_bytes"]) <= size


def test_kv_buffers_of_ended_sequences_are_freed_before_the_next_prefill(make_engine: MakeEngine) -> None:
    size = make_engine().budget.cost.bytes(5120)
    engine = make_engine(kv_bytes=size, rows=64, max_stall=1000.0, cache_bytes=0)
    engine.add(job("many", [7] * 20, n=19, max_tokens=1, ignore_eos=True))
    engine.add(job("one", [8] * 20, max_tokens=50, ignore_eos=True))
    engine.step()
    engine.add(job("long", (LONG * 5)[:600], n=5, max_tokens=5, ignore_eos=True))
    while engine.active:
        engine.step()
        assert int(engine.report["kv_bytes"]) <= size


def test_prefix_cache_entries_are_evicted_for_sequences(make_engine: MakeEngine) -> None:
    engine = make_engine(kv_bytes=bytes_of(make_engine(), 700))
    for i in range(4):
        play(engine, [job(str(i), [i + 3, *LONG], max_tokens=2)])
    kept = engine.report["cache_entries"]
    play(engine, [job(f"long{i}", [9, i, *LONG], max_tokens=150, ignore_eos=True) for i in range(2)])
    assert int(kept) > 0
    assert int(engine.report["cache_bytes"]) <= bytes_of(engine, 700)


def test_a_request_alone_is_served_even_if_its_estimate_exceeds_the_memory(make_engine: MakeEngine) -> None:
    assert len(ids(play(make_engine(kv_bytes=1), [job("a", max_tokens=9, ignore_eos=True)])["a", 0])) == 9


def test_a_memory_lease_that_changes_between_steps_holds_and_changes_no_answer(
    make_engine: MakeEngine,
) -> None:
    jobs = [
        job(str(i), LONG[: 10 * i + 10], max_tokens=30, temperature=0.9, seed=i, ignore_eos=True)
        for i in range(4)
    ]
    cost = make_engine().budget.cost
    sizes = cost.bytes(512, 4), cost.bytes(512, 1)
    engine = make_engine(kv_bytes=sizes[0], cache_bytes=sizes[0])
    for each in jobs:
        engine.add(each)
    answers: dict[str, list[int]] = {each.request_id: [] for each in jobs}
    for step in itertools.count():
        if step % 5 == 0:
            engine.lend(size := sizes[step // 5 % 2])
        for output in engine.step():
            answers[output.delta.request_id] += output.delta.ids
        assert int(engine.report["kv_bytes"]) + int(engine.report["cache_bytes"]) <= size
        assert engine.kv_use.obeyed == size
        if not engine.active:
            break
    assert engine.kv_use.committed == 0 < engine.kv_use.held
    assert answers == {j.request_id: ids(play(make_engine(), [j])[j.request_id, 0]) for j in jobs}
