"""Two coding agents, turn by turn: how many tokens of each prompt are found in memory, and on disk by a new life."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.jobs import job
from tests.tiny_model import byte_tokenizer, make_tiny_model
from tests.workers.engine.disk.session import FILE, recorded
from tests.workers.engine.disk.test_checkpoints import engine_on
from tests.workers.engines import cached_tokens, ids, play
from workers.engine.disk.tier import DiskTier
from workers.engine.engine import BatchEngine
from workers.model.load import LoadedModel, inspect, load

# Tokens of each turn that lie before a checkpoint: the ends of messages that are 64 tokens apart.
AT_CHECKPOINTS = [0, 344, 344, 344, 666, 861, 861, 494, 493, 631]
SESSION: dict[str, Any] = json.loads(FILE.read_text())


@pytest.fixture(scope="module", params=["llama", "hybrid"])
def loaded(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> LoadedModel:
    folder = make_tiny_model(tmp_path_factory.mktemp(request.param) / "model", kind=request.param)
    return load(folder, inspect(folder), lambda phase, done, total: None, trusted=True)


def prompts() -> list[tuple[str, list[int], list[int]]]:
    """Of each turn what it is, its ids, and where its messages end."""
    tokenizer, turns = byte_tokenizer(), []
    for turn in SESSION["turns"]:
        prompt: list[int] = []
        ends = []
        for number in turn["messages"]:
            prompt += tokenizer.encode(SESSION["messages"][number] + "\n").ids
            ends.append(len(prompt))
        turns.append((turn["what"], [*prompt, *tokenizer.encode("assistant:").ids], ends))
    return turns


def common(one: list[int], other: list[int]) -> int:
    return next(
        (i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other))
    )


def take(engine: BatchEngine, prompt: list[int], ends: list[int]) -> tuple[int, list[int]]:
    asked = job("a", prompt=prompt, max_tokens=4, ignore_eos=True, checkpoints=ends)
    deltas = play(engine, [asked])["a", 0]
    return cached_tokens(deltas), ids(deltas)


def test_the_recorded_session_is_what_its_maker_makes() -> None:
    assert recorded() == SESSION


def test_each_turn_of_the_session_finds_in_memory_and_on_disk_what_it_shares_with_earlier_turns(
    loaded: LoadedModel, tmp_path: Path
) -> None:
    full = loaded.config["model_type"] == "llama"
    memory, _ = engine_on(loaded, tmp_path / "unused")
    memory._disk.writer.off = True  # type: ignore[attr-defined]
    last: DiskTier | None = None
    earlier: list[list[int]] = []
    for least, (what, prompt, ends) in zip(AT_CHECKPOINTS, prompts(), strict=True):
        shared = min(max((common(prompt, each) for each in earlier), default=0), len(prompt) - 1)
        in_memory, answer = take(memory, prompt, ends)
        life, last = engine_on(loaded, tmp_path / "prompts")
        on_disk, again = take(life, prompt, ends)
        last.close()
        assert again == answer, what
        if full:
            assert (in_memory, on_disk) == (shared, shared), what
        else:
            assert least <= in_memory <= on_disk <= shared, what
        earlier.append(prompt + answer[:-1])
