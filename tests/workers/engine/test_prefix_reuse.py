"""Prefixes in the prefix cache are not prefilled again and do not change the answers."""

from typing import Any

import pytest

from tests.jobs import job
from tests.workers.engine.prefixes.test_prefix_cache import keep
from tests.workers.engines import LONG, MakeEngine, cached_tokens, ids, play
from workers.engine import engine as module
from workers.engine.disk.tier import NoDisk
from workers.engine.engine import BatchEngine
from workers.engine.prefill import PrefillTask
from workers.engine.prefix_reuse import PrefixReuse
from workers.engine.prefixes.prefix_cache import PrefixCache
from workers.job import Forgotten
from workers.scripted.engine import RULES
from workers.sequence import TokenSequence


def test_a_cached_prompt_gives_the_same_answer_and_is_not_prefilled_again(make_engine: MakeEngine) -> None:
    engine = make_engine()
    first = play(engine, [job("a", LONG, temperature=0.0)])["a", 0]
    read = engine.report["tokens_read"]
    again = play(engine, [job("b", LONG, temperature=0.0)])["b", 0]
    assert ids(again) == ids(first)
    assert (cached_tokens(first), cached_tokens(again)) == (0, len(LONG) - 1)
    assert engine.report["tokens_read"] == read


def test_an_idle_engine_returns_freed_memory_and_keeps_its_prefix_cache(
    make_engine: MakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[bool] = []
    monkeypatch.setattr(module, "give_back_freed_memory", lambda: given.append(True))
    engine = make_engine()
    first = play(engine, [job("a", LONG)])["a", 0]
    engine.rest()
    again = play(engine, [job("b", LONG)])["b", 0]
    assert given == [True]
    assert ids(again) == ids(first) and cached_tokens(again) > 0


def test_a_prompt_without_a_match_is_matched_again_when_another_prefills_its_prefix(
    make_engine: MakeEngine,
) -> None:
    engine = make_engine(chunk=64)
    engine.add(job("first", [3] * 40, max_tokens=30, ignore_eos=True))
    engine.add(job("long", [*LONG, *([5] * 300)], max_tokens=2, ignore_eos=True))
    engine.step()  # there is no room for it in the pass of the first
    deltas = play(engine, [job("short", [*LONG, 6, 6, 6], max_tokens=2, ignore_eos=True)])
    assert cached_tokens(deltas["long", 0]) == len(LONG)


def test_a_task_that_would_not_begin_behind_a_hit_does_not_hold_it() -> None:
    """What it held could be evicted or forgotten while it waits."""
    prefixes, kept = PrefixCache(1 << 20), list(range(30))
    keep(prefixes, kept)
    reuse = PrefixReuse(prefixes, NoDisk(), batches=True)
    prompt = job("a", [*kept, 40, 41])
    task = PrefillTask(prompt.prompt, [TokenSequence(prompt, 0, RULES)], 0)
    for start in (0, 16):
        reuse.match(task, start)
        assert (task.cache, task.done, task.shown.bytes) == (None, 0, 0)
    reuse.match(task, 30)
    assert task.cache is not None and task.done == 30


def test_the_next_turn_of_a_conversation_reuses_the_cached_answer(make_engine: MakeEngine) -> None:
    engine = make_engine()
    answer = ids(play(engine, [job("a", LONG, temperature=0.0, ignore_eos=True)])["a", 0])
    play(engine, [job("other", [5, 6, 7])])  # a step more, in which the ended row is let go
    turn = job("b", [*LONG, *answer, 40, 41, 42], temperature=0.0)
    warm, cold = play(engine, [turn])["b", 0], play(make_engine(), [turn])["b", 0]
    assert ids(warm) == ids(cold)
    assert cached_tokens(warm) >= len(LONG) + len(answer) - 1


@pytest.mark.parametrize("chunk", [16, 512])
def test_another_chat_reuses_the_system_prompt_of_the_first(make_engine: MakeEngine, chunk: int) -> None:
    """It also holds for caches that are stored whole."""
    engine, system = make_engine(chunk=chunk), [(7 * i) % 200 + 20 for i in range(100)]
    play(engine, [job("first", [*system, 5, 6, 7], checkpoints=[100], temperature=0.0)])
    other = job("other", [*system, 8, 9], checkpoints=[100], temperature=0.0)
    warm, cold = play(engine, [other])["other", 0], play(make_engine(), [other])["other", 0]
    assert ids(warm) == ids(cold)
    assert cached_tokens(warm) == 100


def test_a_prompt_that_differs_late_goes_on_from_the_last_checkpoint_of_a_long_one(
    make_engine: MakeEngine, unread: int
) -> None:
    engine, begun = make_engine(chunk=256), [(7 * i) % 200 + 20 for i in range(1100)]
    play(engine, [job("first", [*begun, *range(3, 90)], max_tokens=2)])
    other = job("other", [*begun, *range(90, 3, -1)], temperature=0.0, max_tokens=4)
    warm, cold = play(engine, [other])["other", 0], play(make_engine(chunk=256), [other])["other", 0]
    assert ids(warm) == ids(cold)
    assert cached_tokens(warm) == (1024 if unread else len(begun))


@pytest.mark.parametrize("chunk", [256, 512])
def test_a_second_turn_reads_only_what_is_new_although_the_answer_is_shown_otherwise(
    make_engine: MakeEngine, chunk: int
) -> None:
    """A template may leave out what was thought; the chat of 1,000 tokens before it is the same."""
    engine, chat = make_engine(chunk=chunk), [(7 * i) % 200 + 20 for i in range(1000)]
    play(engine, [job("first", [*chat, 5, 6, 7], checkpoints=[100, 1000], temperature=0.0)])
    read = int(engine.report["tokens_read"])
    turn = job("second", [*chat, 5, *range(40, 80), 5, 6, 7], checkpoints=[100, 1041], temperature=0.0)
    warm = play(engine, [turn])["second", 0]
    assert int(engine.report["tokens_read"]) - read <= len(turn.prompt) - len(chat)
    assert ids(warm) == ids(play(make_engine(chunk=chunk), [turn])["second", 0])


def test_prompts_that_arrive_together_prefill_their_shared_prefix_once(
    make_engine: MakeEngine, unread: int
) -> None:
    jobs = [job(str(i), [*LONG, 10 + i, 20 + i], temperature=0.0, max_tokens=4) for i in range(6)]
    engine = make_engine()
    together = play(engine, jobs)
    assert engine.report["tokens_read"] == len(LONG) + 6 * (2 - unread)
    for each in jobs:
        assert ids(together[each.request_id, 0]) == ids(play(make_engine(), [each])[each.request_id, 0])


def test_n_choices_prefill_the_prompt_once(make_engine: MakeEngine, unread: int) -> None:
    engine = make_engine()
    play(engine, [job("a", LONG, n=4, max_tokens=2)])
    assert engine.report["tokens_read"] == len(LONG) - unread


def test_a_retry_of_a_cancelled_prompt_reuses_its_prefilled_tokens(make_engine: MakeEngine) -> None:
    engine = make_engine(chunk=16)
    engine.add(job("a", LONG))
    for _ in range(3):
        engine.step()
    engine.cancel("a")
    assert cached_tokens(play(engine, [job("b", LONG)])["b", 0]) == 48


def test_a_prompt_of_another_namespace_matches_nothing_in_the_prefix_cache(make_engine: MakeEngine) -> None:
    engine = make_engine()
    play(engine, [job("a", LONG, namespace="one")])
    assert cached_tokens(play(engine, [job("b", LONG, namespace="two")])["b", 0]) == 0
    assert cached_tokens(play(engine, [job("c", LONG, namespace="one")])["c", 0]) > 0


def test_prompts_of_two_namespaces_that_arrive_together_share_nothing(
    make_engine: MakeEngine, unread: int
) -> None:
    engine = make_engine()
    play(engine, [job("a", LONG, namespace="one"), job("b", LONG, namespace="two")])
    assert engine.report["tokens_read"] == 2 * (len(LONG) - unread)


def test_the_engines_prefix_cache_stays_within_its_budget(make_engine: MakeEngine) -> None:
    engine = make_engine(cache_bytes=100_000)
    for i in range(12):
        play(engine, [job(str(i), [i + 3, *LONG], max_tokens=2)])
    assert 0 < int(engine.report["cache_bytes"]) <= 100_000


def test_without_a_budget_the_prefix_cache_stores_nothing(make_engine: MakeEngine) -> None:
    engine = make_engine(cache_bytes=0)
    play(engine, [job("a", LONG)])
    assert cached_tokens(play(engine, [job("b", LONG)])["b", 0]) == 0


def forgotten(engine: BatchEngine, namespace: str | None) -> Forgotten:
    said: list[Forgotten] = []
    engine.forget(namespace, said.append)
    [one] = said
    return one


@pytest.mark.parametrize("namespace", ["one", None])
def test_what_is_forgotten_is_prefilled_again_and_other_keys_keep_theirs(
    make_engine: MakeEngine, namespace: str | None
) -> None:
    engine = make_engine()
    for name in ("one", "two"):
        play(engine, [job(name, LONG, namespace=name)])
    play(engine, [job("x", [5, 6, 7])])  # a step more, in which the ended row is let go
    held = engine.kv_use.kept
    gone = forgotten(engine, namespace)
    assert gone.memory == held - engine.kv_use.kept > 0
    assert gone.disk == 0
    cached = {
        name: cached_tokens(play(engine, [job(name, LONG, namespace=name)])[name, 0])
        for name in ("one", "two")
    }
    assert cached == {"one": 0, "two": len(LONG) - 1 if namespace else 0}


@pytest.mark.parametrize("steps", [0, 1, 3, 8, 40])
def test_of_a_request_that_came_before_nothing_is_stored_after_and_it_goes_on_as_it_was(
    make_engine: MakeEngine, steps: int
) -> None:
    """Before its prefill, in it, while it decodes, and when it has ended and its row was not let go."""
    options: dict[str, Any] = {"namespace": "one", "max_tokens": 12, "ignore_eos": True, "checkpoints": [64]}
    asked = job("a", LONG, **options)
    expected = play(make_engine(chunk=64), [asked])
    engine = make_engine(chunk=64)
    engine.add(asked)
    deltas = []
    for _ in range(steps):
        deltas += [output.delta for output in engine.step()] if engine.active else []
    forgotten(engine, "one")
    deltas += [delta for each in play(engine, []).values() for delta in each]
    assert ids(deltas) == ids(expected["a", 0])
    play(engine, [job("x", [5, 6, 7])])
    cached = [cached_tokens(play(engine, [job(name, LONG, **options)])[name, 0]) for name in "bc"]
    assert cached[0] == 0 < cached[1]


def test_prompts_that_share_a_prefix_go_on_when_it_is_forgotten_between_them(make_engine: MakeEngine) -> None:
    engine = make_engine(chunk=64)
    jobs = [job(str(i), [*LONG, *LONG, 10 + i, 11], namespace="one", max_tokens=4) for i in range(4)]
    expected = {str(i): ids(play(make_engine(), [each])[str(i), 0]) for i, each in enumerate(jobs)}
    for each in jobs:
        engine.add(each)
    early = [output.delta for output in engine.step()]
    forgotten(engine, "one")
    late = play(engine, [])
    got = {str(i): ids([*(d for d in early if d.request_id == str(i)), *late[str(i), 0]]) for i in range(4)}
    assert got == expected
