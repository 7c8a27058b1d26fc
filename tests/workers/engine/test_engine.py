"""The engine on a tiny random model: a batch gives each sequence what it gets alone."""

import json
import sys
import threading
import time
from itertools import pairwise
from typing import Any
from unittest.mock import Mock

import pytest
from tokenizers.pre_tokenizers import ByteLevel

from shared.protocol import Delta, FinishReason, Grammar
from tests.jobs import job
from tests.marks import quick_and_slow
from tests.tiny_model import SPECIAL
from tests.workers.engines import LONG, MakeEngine, cached_tokens, ids, play, text
from workers.engine import prefill
from workers.engine.engine import BatchEngine
from workers.engine.scheduling.scheduler import YIELD
from workers.grammars.grammar import CompiledGrammar, Grammars, grammars_for
from workers.job import Job
from workers.model.load import LoadedModel
from workers.model.serve_model import vocabulary_size_of
from workers.output.reasoning import ThinkingDelimiters
from workers.output.tool_calls import ToolPolicy
from workers.output.tool_formats import PLAIN

PROMPTS = [[20, 30, 40], [50] * 17, [9, 8, 7, 6, 5, 4, 3, 2], list(range(10, 90))]
OPTIONS: list[dict[str, Any]] = [
    {"temperature": 0.0},
    {"temperature": 1.0, "seed": 5},
    {"temperature": 0.8, "top_p": 0.9, "seed": 6},
    {"temperature": 1.2, "top_k": 10, "seed": 7, "frequency_penalty": 0.7},
    {"temperature": 0.0, "repetition_penalty": 1.3, "logit_bias": {33: 4.0}},
    {"temperature": 1.0, "min_p": 0.1, "presence_penalty": 1.0, "logprobs": 3},
    {"temperature": 1.0, "n": 2, "min_tokens": 6},
]


def matrix() -> list[Job]:
    return [
        job(f"{p}-{o}", prompt, max_tokens=12, **options)
        for p, prompt in enumerate(PROMPTS)
        for o, options in enumerate(OPTIONS)
    ]


@pytest.mark.parametrize("steps_between", quick_and_slow((3,), (0, 1)))
def test_each_request_gives_in_the_batch_what_it_gives_alone(
    make_engine: MakeEngine, steps_between: int
) -> None:
    together = play(make_engine(), matrix(), steps_between)
    for each in matrix():
        for key, deltas in play(make_engine(), [each]).items():
            assert ids(together[key]) == ids(deltas), key
            assert text(together[key]) == text(deltas), key


def test_launching_passes_ahead_does_not_change_the_answers(make_engine: MakeEngine) -> None:
    in_turn = play(make_engine(launches_ahead=False), matrix(), steps_between=3)
    ahead = play(make_engine(launches_ahead=True), matrix(), steps_between=3)
    assert {key: ids(deltas) for key, deltas in ahead.items()} == {
        key: ids(deltas) for key, deltas in in_turn.items()
    }


@pytest.mark.parametrize("options", OPTIONS)
def test_tokens_come_with_their_pass_or_with_the_next_one_if_that_is_launched_ahead(
    make_engine: MakeEngine, unread: int, options: dict[str, Any]
) -> None:
    for ahead in (False, True):
        engine = make_engine(launches_ahead=ahead)
        engine.add(job("a", PROMPTS[0], max_tokens=5, ignore_eos=True, **options))
        rows = options.get("n", 1)
        # On a CPU the first tokens are held in the step that reads the prompt.
        first = rows if ahead and not unread else 0
        assert [len(engine.step()) for _ in range(4)] == [first, rows, rows, rows]


def test_a_prompt_prefilled_in_chunks_gives_the_same_answer(make_engine: MakeEngine) -> None:
    long = job("a", list(range(3, 203)), temperature=0.0)
    assert ids(play(make_engine(chunk=16), [long])["a", 0]) == ids(play(make_engine(), [long])["a", 0])


@pytest.mark.parametrize("options", OPTIONS[:6])
@pytest.mark.parametrize("cut", [1, 5, 11])
def test_a_resumed_choice_equals_the_unbroken_one(
    make_engine: MakeEngine, options: dict[str, Any], cut: int
) -> None:
    options = {"max_tokens": 12, "ignore_eos": True, **options}
    whole = play(make_engine(), [job("a", PROMPTS[2], **options)])["a", 0]
    held = job("a", PROMPTS[2], held=[ids(whole)[:cut]], **options)
    resumed = play(make_engine(), [held, job("b", PROMPTS[0])])["a", 0]
    assert ids(resumed) == ids(whole)[cut:]
    assert text(resumed) == text(whole[cut:])
    assert resumed[-1].finish == whole[-1].finish


@pytest.fixture(scope="session")
def grammars(loaded: LoadedModel) -> Grammars:
    found = grammars_for(loaded.tokenizer, vocabulary_size_of(loaded))
    assert found is not None
    return found


TOOLS = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}]
POLICY = ToolPolicy(PLAIN, frozenset({"look"}), TOOLS, parallel=False)
OPEN = ThinkingDelimiters("t", "q", open=True)  # marks a random model comes to, each a token of its own
Q = sorted(ByteLevel.alphabet()).index("q") + len(SPECIAL)


def filtered(grammars: Grammars, kind: str) -> dict[str, Any]:
    schema = Grammar(json_schema={"type": "array", "items": {"type": "boolean"}, "maxItems": 6})
    text, call = grammars.text(schema), grammars.calls(POLICY, {})
    options: dict[str, dict[str, Any]] = {
        "grammar": {"grammar": CompiledGrammar(text, grammars.eos)},
        "call": {"grammar": CompiledGrammar(call, grammars.eos), "tool_policy": POLICY},
        "thinking": {"thinking": OPEN, "ignore_eos": True},
        "thinking, then grammar": {"thinking": OPEN, "grammar": CompiledGrammar(text, grammars.eos, b"q")},
        "thinking, then call": {
            "thinking": OPEN,
            "tool_policy": POLICY,
            "grammar": CompiledGrammar(call, grammars.eos, b"q"),
        },
    }
    return {"max_tokens": 120, "temperature": 1.0, "logit_bias": {Q: 2.0}, **options[kind]}


@pytest.mark.parametrize(
    "kind",
    quick_and_slow(("call", "thinking, then grammar"), ("grammar", "thinking", "thinking, then call")),
)
def test_a_resumed_choice_continues_inside_its_grammar_thinking_or_tool_call(
    make_engine: MakeEngine, grammars: Grammars, kind: str
) -> None:
    options = filtered(grammars, kind)
    engine = make_engine()
    whole = play(engine, [job("a", PROMPTS[2], **options)])["a", 0]
    cuts = [cut for cut in (1, 6, 25, 60, len(ids(whole)) - 1) if 0 < cut < len(ids(whole))]
    for cut in cuts:
        held = job("a", PROMPTS[2], held=[ids(whole)[:cut]], **options)
        resumed = play(engine, [held, job(f"beside {cut}", PROMPTS[0])])["a", 0]
        rest = whole[cut:]
        assert ids(resumed) == ids(rest)
        for gained, expected in zip(resumed, rest, strict=True):
            assert (gained.text, gained.reasoning) == (expected.text, expected.reasoning)
            assert gained.calls == expected.calls
        assert resumed[-1].finish == whole[-1].finish


def test_a_grammar_behind_thinking_begins_where_the_thinking_ends(
    make_engine: MakeEngine, grammars: Grammars
) -> None:
    options = filtered(grammars, "thinking, then grammar")
    jobs = [job(str(seed), seed=seed, **(options | {"max_tokens": 300})) for seed in range(6)]
    played = list(play(make_engine(), jobs).values())
    ended = [deltas for deltas in played if _reason(deltas) == FinishReason.STOP]
    assert ended
    for deltas in ended:
        assert isinstance(json.loads(text(deltas)), list)
        assert "".join(delta.reasoning for delta in deltas)
        finish = deltas[-1].finish
        assert finish and 0 < finish.reasoning_tokens < finish.completion_tokens


def _reason(deltas: list[Delta]) -> FinishReason | None:
    finish = deltas[-1].finish
    return finish.reason if finish else None


def test_a_resumed_choice_that_had_ended_finishes_although_no_sequence_runs(make_engine: MakeEngine) -> None:
    engine = make_engine()
    engine.add(job("a", max_tokens=2, held=[[20, 21]]))
    assert engine.active == 1
    assert [output.delta.finish is not None for output in engine.step()] == [True]
    assert engine.active == 0


def test_more_requests_than_batch_slots_all_finish(make_engine: MakeEngine) -> None:
    jobs = [job(str(i), [i + 3, i + 4], max_tokens=5, n=1 + i % 3) for i in range(12)]
    deltas = play(make_engine(rows=4), jobs)
    assert len(deltas) == sum(each.generation.n for each in jobs)
    assert all(sum(delta.finish is not None for delta in choice) == 1 for choice in deltas.values())


def test_more_choices_than_batch_slots_all_finish(make_engine: MakeEngine) -> None:
    assert len(play(make_engine(rows=2), [job("a", n=5, max_tokens=4)])) == 5


def test_answers_stop_at_max_tokens_and_token_indices_have_no_gap(make_engine: MakeEngine) -> None:
    deltas = play(make_engine(), [job("a", max_tokens=7, ignore_eos=True)])["a", 0]
    assert [delta.index for delta in deltas] == list(range(7))
    assert deltas[0].start is not None and deltas[0].start.prompt_tokens == 3
    assert deltas[-1].finish is not None and deltas[-1].finish.reason == FinishReason.LENGTH


def test_a_cancelled_request_emits_nothing_more_in_any_state(make_engine: MakeEngine) -> None:
    engine = make_engine(rows=2)
    for name in "abcd":
        engine.add(job(name, max_tokens=400))
    for _ in range(6):
        engine.step()
    for name in "abc":
        engine.cancel(name)
    assert engine.active == 1
    left = {output.delta.request_id for _ in range(6) for output in engine.step()}
    assert left == {"d"}


def test_logprobs_come_with_each_token_and_the_chosen_one_is_among_the_best(make_engine: MakeEngine) -> None:
    deltas = play(make_engine(), [job("a", max_tokens=5, temperature=0.0, logprobs=2)])["a", 0]
    for delta in deltas:
        assert delta.logprobs is not None and len(delta.logprobs) == len(delta.ids)
        assert [entry.top[0].id for entry in delta.logprobs] == delta.ids
        assert delta.logprobs[0].logprob == pytest.approx(delta.logprobs[0].top[0].logprob)


def test_the_engine_is_empty_when_the_last_sequence_has_ended_or_was_cancelled(
    make_engine: MakeEngine,
) -> None:
    engine = make_engine()
    play(engine, [job("r", [5] * 9, max_tokens=3)])
    play(engine, [job("r", [5] * 9, max_tokens=200)])
    assert (engine.report["kv_bytes"], engine.report["waiting"]) == (0, 0)
    engine.add(job("gone", [7] * 40, max_tokens=30, ignore_eos=True))
    for _ in range(4):
        engine.step()
    engine.cancel("gone")
    play(engine, [])
    assert (engine.report["kv_bytes"], engine.report["waiting"]) == (0, 0)


def first_steps(engine: BatchEngine) -> dict[str, int]:
    """Runs to the end and gives the step in which each request emitted its first token."""
    firsts: dict[str, int] = {}
    step = 0
    while engine.active:
        step += 1
        for output in engine.step():
            firsts.setdefault(output.delta.request_id, step)
    return firsts


def test_prompts_that_arrive_together_emit_their_first_tokens_in_one_step_on_a_cpu(
    make_engine: MakeEngine,
) -> None:
    """Three prefill passes run one after another, and no sequence decodes between them."""
    engine = make_engine(rows=8, chunk=20, launches_ahead=False)
    for number in range(6):
        engine.add(job(f"r{number}", [number + 3] * 29, max_tokens=3))
    firsts = first_steps(engine)
    assert len(firsts) == 6 and len(set(firsts.values())) == 1


def test_a_prompt_that_arrives_during_a_prefill_emits_its_first_token_with_it_on_a_cpu(
    make_engine: MakeEngine,
) -> None:
    """The time that sequences are held starts again with each batch."""
    engine = make_engine(rows=8, chunk=64, max_stall=1.0, launches_ahead=False)
    for _ in range(3):
        engine.add(job("first", [5] * 30, max_tokens=6, ignore_eos=True))
        engine.step()
        engine.add(job("second", [6] * 30, max_tokens=6))
        firsts = first_steps(engine)
        assert firsts["first"] == firsts["second"]
        assert engine._order.fresh_since is None


def test_sequences_are_not_held_for_a_prompt_that_is_prefilled_in_chunks(make_engine: MakeEngine) -> None:
    """Sequences without an emitted token decode beside a prompt of many chunks."""
    engine = make_engine(rows=8, chunk=20, max_stall=10.0)
    for number in range(2):
        engine.add(job(f"short{number}", [number + 3] * 9, max_tokens=3, ignore_eos=True))
    engine.add(job("long", list(range(3, 243)), max_tokens=3))
    firsts = first_steps(engine)
    assert firsts["short0"] == firsts["short1"] <= 3
    assert firsts["long"] > 10


def test_sequences_are_not_held_for_a_chunk_of_a_later_prompt(make_engine: MakeEngine) -> None:
    engine = make_engine(rows=8, chunk=20, max_stall=10.0)
    engine.add(job("short", [3] * 9, max_tokens=3, ignore_eos=True))
    engine.step()
    engine.add(job("long", list(range(3, 243)), max_tokens=3))
    firsts = first_steps(engine)
    assert firsts["short"] <= 3


def test_decoding_sequences_wait_for_at_most_one_prefill_pass(make_engine: MakeEngine) -> None:
    engine = make_engine(rows=8, chunk=20)
    engine.add(job("first", [5] * 10, max_tokens=50))
    while not engine.step():
        pass
    for number in range(6):
        engine.add(job(f"r{number}", [number + 3] * 29, max_tokens=3))
    said = [any(output.delta.request_id == "first" for output in engine.step()) for _ in range(10)]
    assert all(any(pair) for pair in pairwise(said)), said


def test_a_high_keys_first_token_goes_out_before_lower_sequences_decode_again(
    make_engine: MakeEngine,
) -> None:
    engine = make_engine(rows=8, launches_ahead=False)
    for n in range(3):
        engine.add(job(f"low{n}", [5 + n] * 10, max_tokens=50, ignore_eos=True, priority="low"))
    while len(engine.step()) < 3:
        pass
    engine.step()
    engine.add(job("high", [9] * 20, max_tokens=4, priority="high"))
    first = 1 if engine._limits.last_logits else 0  # else it takes a pass with the others
    assert [len(engine.step()) for _ in range(4)] == [first, 4, 4, 4]


@pytest.mark.parametrize("options", OPTIONS)
def test_a_first_token_may_be_the_last(make_engine: MakeEngine, options: dict[str, Any]) -> None:
    wanted = [job(str(i), prompt, max_tokens=1, **options) for i, prompt in enumerate(PROMPTS)]
    long = job("long", [7] * 5, max_tokens=30, ignore_eos=True)
    engine = make_engine()
    alone = {key: ids(deltas) for each in wanted for key, deltas in play(make_engine(), [each]).items()}
    for together in (play(engine, wanted), play(engine, [long, *wanted], steps_between=2)):
        for key, expected in alone.items():
            assert ids(together[key]) == expected != [], key
            assert together[key][-1].finish
    assert engine.report["kv_bytes"] == 0


def test_sequences_that_end_with_their_first_token_hold_no_others(make_engine: MakeEngine) -> None:
    """A sequence from the prefix cache joins without a first token and starts when it was held long enough."""
    engine = make_engine(max_stall=0.001)
    play(engine, [job("before", LONG)])
    engine.add(job("kept", LONG))
    assert engine.step() == []  # gives it a batch slot
    began = time.monotonic()
    for number in range(1000):
        engine.add(job(str(number), [number % 200 + 20] * 5, max_tokens=1))
        if "kept" in [output.delta.request_id for output in engine.step()]:
            break
    assert number < 999 and time.monotonic() - began < 10


def test_a_sequence_cancelled_before_its_first_token_leaves_its_prompt_in_the_prefix_cache(
    make_engine: MakeEngine,
) -> None:
    engine = make_engine()
    engine.add(job("gone", LONG))
    engine.step()  # reads it
    engine.cancel("gone")
    assert not engine.active or engine.step() == []
    turn = job("b", [*LONG, 40, 41, 42], temperature=0.0)
    warm, cold = play(engine, [turn])["b", 0], play(make_engine(), [turn])["b", 0]
    assert ids(warm) == ids(cold)
    assert cached_tokens(warm) >= len(LONG) - 1


def test_cancelling_a_prompt_of_one_token_before_its_pass_changes_no_other_request(
    make_engine: MakeEngine,
) -> None:
    """Nothing was prefilled, so there are no keys to move."""
    engine = make_engine()
    for name in "ab":
        engine.add(job(name, [5], max_tokens=3, ignore_eos=True))
    engine.step()
    engine.cancel("a")
    assert len(ids(play(engine, [])["b", 0])) == 3


def test_a_prompt_of_one_token_is_answered(make_engine: MakeEngine) -> None:
    assert len(ids(play(make_engine(), [job("a", [5], max_tokens=3, ignore_eos=True)])["a", 0])) == 3


def test_a_waiting_prompt_is_compared_with_its_neighbours_only_and_once(
    make_engine: MakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, compared = make_engine(rows=8, chunk=64), Mock(return_value=0)
    monkeypatch.setattr(prefill, "common_prefix", compared)
    for i in range(300):
        engine.add(job(str(i), [i % 200 + 3, i] * 20))
    assert 0 < compared.call_count <= 2 * 300
    before = compared.call_count
    engine.step()
    assert compared.call_count <= before + 8  # where tasks have left the queue


def test_the_engine_report_shows_the_state_of_each_requests_sequences(make_engine: MakeEngine) -> None:
    engine = make_engine(rows=3, chunk=16)
    assert engine.report["phase"] == "idle"
    engine.add(job("runs", LONG[:20], n=2, max_tokens=200, ignore_eos=True))
    while engine.report["rows"] != 2 or engine.report["phase"] == "prefill":
        engine.step()
    engine.add(job("read", LONG[::-1], max_tokens=200, ignore_eos=True))
    engine.add(job("waits", [8] * 20, n=2))
    engine.step()

    def told() -> tuple[object, ...]:
        return tuple(engine.report[name] for name in ("phase", "rows", "prefilling", "waiting"))

    assert told() == ("prefill", 2, 1, 2)
    while engine.report["prefilling"]:
        engine.step()
    engine.step()
    assert told() == ("decode", 3, 0, 2)


def test_the_engine_report_can_be_read_at_any_moment_of_a_step(make_engine: MakeEngine) -> None:
    """Another thread reads it while requests arrive and prefix cache entries are stored and evicted."""
    engine, asked, raised = make_engine(rows=4, chunk=16, cache_bytes=20_000), 0, list[Exception]()
    ended = threading.Event()

    def ask() -> None:
        nonlocal asked
        try:
            while not ended.is_set():
                json.dumps(engine.report)
                asked += 1
        except Exception as error:  # noqa: BLE001 - whatever it is, it would end a worker
            raised.append(error)

    asking, interval = threading.Thread(target=ask), sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        asking.start()
        jobs = [job(str(i), [i + 3, *LONG[:40]], max_tokens=2, namespace=str(i)) for i in range(30)]
        play(engine, jobs, steps_between=1)
    finally:
        ended.set()
        asking.join()
        sys.setswitchinterval(interval)
    assert asked > 50 and raised == []


def test_a_read_engine_report_does_not_change_with_later_steps(make_engine: MakeEngine) -> None:
    engine = make_engine(chunk=16)
    engine.add(job("a", LONG))
    engine.step()
    before = engine.report
    told = dict(before)
    for _ in range(20):
        engine.step()
    assert before == told != engine.report
    assert all(isinstance(figure, (int, float, str)) for figure in told.values())


# ---------------------------------------------------------------- callers


@pytest.mark.parametrize("n", [4, 1], ids=["choices", "prompts"])
def test_a_caller_with_long_answers_delays_no_other_caller(make_engine: MakeEngine, n: int) -> None:
    engine = make_engine(rows=4)
    rich = [
        job(f"a{i}", [i + 5, 6, 7], caller="rich", max_tokens=60, ignore_eos=True, n=n) for i in range(4 // n)
    ]
    alone = {key: ids(deltas) for each in rich for key, deltas in play(make_engine(), [each]).items()}
    got: dict[tuple[str, int], list[int]] = {}
    waited = 0

    def step() -> None:
        for output in engine.step():
            got.setdefault((output.delta.request_id, output.delta.choice), []).extend(output.delta.ids)

    for each in rich:
        engine.add(each)
    for _ in range(20):
        step()
    engine.add(job("b", [9, 9, 9], caller="poor", max_tokens=1))
    while ("b", 0) not in got:
        step()
        waited += 1
    assert waited <= YIELD + 5
    while engine.active:
        step()
    assert {key: got[key] for key in alone} == alone


def test_a_client_waits_for_at_most_one_answer_of_another_clients_hundreds_of_prompts(
    make_engine: MakeEngine,
) -> None:
    engine, order = make_engine(rows=4), list[str]()
    for i in range(100):
        engine.add(job(f"a{i}", [i % 200 + 5, 6, 7], group="list", max_tokens=8, ignore_eos=True))
    for _ in range(10):
        order += [o.delta.request_id for o in engine.step() if o.delta.finish]
    engine.add(job("b", [9, 9, 9], max_tokens=1))
    while "b" not in order:
        order += [o.delta.request_id for o in engine.step() if o.delta.finish]
    assert len(order) < 20
