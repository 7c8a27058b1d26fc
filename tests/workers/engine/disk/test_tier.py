"""An engine whose prompts survive it: a second engine on the same folder goes on where the first one was."""

import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from shared.protocol import Delta
from tests.jobs import job
from tests.marks import quick_and_slow
from tests.tiny_model import make_tiny_model
from tests.workers.engines import cached_tokens, ids, play
from workers.engine import prefix_reuse
from workers.engine.disk import tier as tier_module
from workers.engine.disk.opening import open_tier
from workers.engine.disk.tier import DiskTier
from workers.engine.engine import BatchEngine
from workers.engine.engine_limits import EngineLimits
from workers.job import Forgotten
from workers.model.load import LoadedModel, inspect, load
from workers.model.serve_model import vocabulary_size_of
from workers.output.vocabulary import token_bytes
from workers.sequence import TokenRules

PROMPT = [(7 * i * i + i) % 250 + 3 for i in range(400)]
MB = 1 << 20

Life = Callable[..., tuple[BatchEngine, DiskTier]]


def loaded_of(folder: Path, kind: Any) -> LoadedModel:
    make_tiny_model(folder, kind=kind)
    return load(folder, inspect(folder), lambda phase, done, total: None, trusted=True)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return loaded_of(tmp_path_factory.mktemp("llama") / "model", "llama")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "prompts"


@pytest.fixture(params=quick_and_slow((False,), (True,)), ids=lambda ahead: "ahead" if ahead else "in turn")
def life(llama: LoadedModel, root: Path, request: pytest.FixtureRequest) -> Iterator[Life]:
    """Begins a life of a worker; all of them share a folder."""
    tiers = []

    def begin(limit: int = 100 * MB, **limits: Any) -> tuple[BatchEngine, DiskTier]:
        tier = open_tier(root, limit, llama.model, "tiny")
        assert tier
        tiers.append(tier)
        rules = TokenRules(token_bytes(llama.tokenizer), frozenset(llama.tokenizer.eos_token_ids))
        engine = BatchEngine(
            llama.model,
            rules,
            vocabulary_size_of(llama),
            EngineLimits(**limits),
            launches_ahead=request.param,
            disk=tier,
        )
        return engine, tier

    yield begin
    for tier in tiers:
        tier.close()


def drawn(deltas: list[Delta]) -> list[Any]:
    return [(delta.ids, delta.logprobs) for delta in deltas]


def asked(prompt: list[int] = PROMPT, **options: Any) -> dict[str, Any]:
    return {"prompt": prompt, "max_tokens": 6, "ignore_eos": True, "logprobs": 3, **options}


def test_a_second_life_reads_no_prompt_again_and_differs_in_no_bit_from_a_hit_in_memory(
    life: Life,
) -> None:
    engine, tier = life()
    cold = play(engine, [job("a", **asked())])["a", 0]
    warm = play(engine, [job("a", **asked())])["a", 0]
    tier.close()
    engine, _ = life()
    again = play(engine, [job("a", **asked())])["a", 0]
    assert [cached_tokens(each) for each in (cold, warm, again)] == [0, len(PROMPT) - 1, len(PROMPT) - 1]
    assert drawn(again) == drawn(warm)
    assert ids(again) == ids(cold)
    assert engine.report["disk_read_tokens"] == len(PROMPT) - 1


def test_the_next_turn_of_a_chat_finds_prompt_and_answer(life: Life) -> None:
    engine, tier = life()
    answer = ids(play(engine, [job("a", **asked())])["a", 0])
    tier.close()
    turn = [*PROMPT, *answer, 5, 6, 7, 8]
    engine, _ = life()
    deltas = play(engine, [job("b", **asked(turn))])["b", 0]
    assert cached_tokens(deltas) == len(PROMPT) + len(answer) - 1


def test_sampled_choices_of_a_prompt_from_disk_are_those_of_a_prompt_in_memory(life: Life) -> None:
    engine, tier = life()
    options: dict[str, Any] = {"n": 3, "temperature": 1.0, "seed": 5, "frequency_penalty": 0.5}
    play(engine, [job("a", **asked(**options))])
    first = play(engine, [job("a", **asked(**options))])
    tier.close()
    engine, _ = life()
    again = play(engine, [job("a", **asked(**options))])
    assert {key: drawn(deltas) for key, deltas in first.items()} == {
        key: drawn(deltas) for key, deltas in again.items()
    }


def test_another_api_key_finds_nothing(life: Life) -> None:
    engine, tier = life()
    play(engine, [job("a", namespace="one", **asked())])
    tier.close()
    engine, _ = life()
    deltas = play(engine, [job("a", namespace="two", **asked())])["a", 0]
    assert cached_tokens(deltas) == 0
    assert engine.report["disk_read_tokens"] == 0


def test_a_request_that_goes_on_after_a_crash_finds_its_prompt(life: Life) -> None:
    """Nothing was closed: what is written is what was written behind, the full blocks."""
    engine, tier = life()
    whole = ids(play(engine, [job("a", **asked())])["a", 0])
    tier.writer.flush(10)
    engine, _ = life()
    held = [whole[:3]]
    deltas = play(engine, [job("a", held=held, **asked())])["a", 0]
    assert ids(deltas) == whole[3:]
    assert int(engine.report["disk_read_tokens"]) >= len(PROMPT)


def test_prompts_from_disk_and_prompts_that_are_new_run_beside_each_other(life: Life, root: Path) -> None:
    prompts = {name: [*PROMPT[i:], *PROMPT[:i]] for i, name in enumerate("abcd")}
    jobs = [job(name, **asked(prompt)) for name, prompt in prompts.items()]
    engine, tier = life()
    alone = {name: ids(play(engine, [each])[name, 0]) for name, each in zip(prompts, jobs, strict=True)}
    tier.close()
    for path in list(root.rglob("*.kv"))[::2]:
        path.unlink()
    engine, _ = life()
    together = play(engine, jobs)
    assert {name: ids(together[name, 0]) for name in prompts} == alone


def test_a_damaged_block_is_computed_again(life: Life, root: Path) -> None:
    engine, tier = life()
    first = play(engine, [job("a", **asked())])["a", 0]
    tier.close()
    for path in root.rglob("*.kv"):
        data = bytearray(path.read_bytes())
        data[-5] ^= 1
        path.write_bytes(data)
    engine, tier = life()
    again = play(engine, [job("a", **asked())])["a", 0]
    assert drawn(first) == drawn(again)
    assert cached_tokens(again) == 0
    assert engine.report["disk_invalid_files"] == 1


def test_what_was_damaged_is_written_again(life: Life, root: Path) -> None:
    engine, tier = life()
    play(engine, [job("a", **asked())])
    tier.close()
    for path in root.rglob("*.kv"):
        path.write_bytes(path.read_bytes()[:-8] + b"damaged!")
    for _ in range(3):  # a life finds out about one block
        engine, tier = life()
        deltas = play(engine, [job("a", **asked())])["a", 0]
        tier.close()
    assert cached_tokens(deltas) == len(PROMPT) - 1


def test_a_disk_that_does_not_answer_delays_a_prompt_for_a_while_and_no_more(
    life: Life, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tier_module, "PATIENCE", 0.05)
    engine, tier = life()
    play(engine, [job("a", **asked())])
    tier.close()
    pipes = list(root.rglob("*.kv"))
    for path in pipes:
        path.unlink()
        os.mkfifo(path)  # whoever opens it waits
    engine, tier = life()
    for name, prompt in {"a": PROMPT, "b": PROMPT[::-1]}.items():
        engine.add(job(name, **asked(prompt)))
        assert tier.arriving == (name == "a")
        while engine.active:
            engine.step()
    ends = [os.open(path, os.O_RDWR | os.O_NONBLOCK) for path in pipes]  # nobody waits any more
    tier.close()
    for end in ends:
        os.close(end)


def test_a_prompt_that_is_cancelled_while_it_is_looked_for_leaves_nothing(life: Life) -> None:
    engine, tier = life()
    engine.add(job("a", **asked()))
    engine.cancel("a")
    assert play(engine, []) == {}
    engine.step()
    assert tier.arriving == 0


def test_a_long_prompt_is_written_while_it_is_read(life: Life, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefix_reuse, "STRIDE", 256)
    engine, tier = life(chunk=64)
    engine.add(job("a", **asked()))
    while not tier.report()["disk_written_bytes"]:
        engine.step()
        tier.writer.flush(10)
    assert int(engine.report["tokens_read"]) < len(PROMPT)
    engine, _ = life()
    assert cached_tokens(play(engine, [job("b", **asked())])["b", 0]) >= 256


def test_a_prompt_in_memory_is_not_looked_for_on_disk(life: Life) -> None:
    engine, tier = life()
    play(engine, [job("a", **asked())])
    tier.close()
    deltas = play(engine, [job("b", **asked())])["b", 0]
    assert cached_tokens(deltas) == len(PROMPT) - 1
    assert engine.report["disk_read_tokens"] == 0


def test_a_disk_that_may_not_be_written_to_ends_writing_with_one_line_and_serving_goes_on(
    life: Life, root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    engine, tier = life()
    model = next(iter((root / "blocks-v1").iterdir()))
    model.rmdir()
    model.write_text("no folder")
    with caplog.at_level(logging.WARNING):
        for name in "ab":
            assert len(ids(play(engine, [job(name, **asked())])[name, 0])) == 6
            tier.close()
    assert [record.message for record in caplog.records if "not written" in record.message] != []
    assert len(caplog.records) == 1


def test_without_room_on_disk_nothing_is_written_and_serving_goes_on(life: Life) -> None:
    engine, tier = life(limit=1)
    assert len(ids(play(engine, [job("a", **asked())])["a", 0])) == 6
    tier.close()
    assert engine.report["disk_written_bytes"] == 0
    assert tier.writer.dropped > 0


def test_a_bound_of_nothing_makes_no_folder(tmp_path: Path, llama: LoadedModel) -> None:
    assert open_tier(tmp_path / "prompts", 0, llama.model, "tiny") is None
    assert list(tmp_path.iterdir()) == []


def files_of(root: Path) -> list[str]:
    return [path.name for path in root.rglob("*.kv")]


@pytest.mark.parametrize("namespace", ["one", None])
def test_what_is_forgotten_is_gone_from_disk_with_what_waits_to_be_written(
    life: Life, root: Path, namespace: str | None
) -> None:
    engine, tier = life()
    for name in ("one", "two"):
        play(engine, [job(name, namespace=name, **asked())])
    said: list[Forgotten] = []
    engine.forget(namespace, said.append)
    assert tier.writer.flush(10)
    [gone] = said
    assert gone.memory > 0 and gone.disk > 0 and not gone.reason
    assert not files_of(root) if namespace is None else files_of(root)
    engine, _ = life()
    cached = {
        name: cached_tokens(play(engine, [job(name, namespace=name, **asked())])[name, 0])
        for name in ("one", "two")
    }
    assert cached == {"one": 0, "two": len(PROMPT) - 1 if namespace else 0}


def test_a_request_that_came_before_writes_nothing_after_what_it_had_was_forgotten(
    life: Life, root: Path
) -> None:
    engine, tier = life(chunk=64)
    engine.add(job("a", namespace="one", **asked(max_tokens=40)))
    for _ in range(12):
        engine.step()
    said: list[Forgotten] = []
    engine.forget("one", said.append)
    play(engine, [])
    assert tier.writer.flush(10)
    assert said and not files_of(root)
    play(engine, [job("b", namespace="one", **asked())])
    assert tier.writer.flush(10)
    assert files_of(root)


def test_what_cannot_be_deleted_is_said(life: Life, root: Path) -> None:
    engine, tier = life()
    play(engine, [job("a", namespace="one", **asked())])
    assert tier.writer.flush(10)
    (root / "secret").unlink()
    said: list[Forgotten] = []
    engine.forget("one", said.append)
    assert tier.writer.flush(10)
    [gone] = said
    assert (gone.memory > 0, gone.disk, "No such file" in gone.reason) == (True, 0, True)
    assert not tier.writer.off
