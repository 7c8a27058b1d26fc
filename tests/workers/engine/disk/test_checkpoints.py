"""Models with windows and states: a second engine on the same folder goes on at a checkpoint of the first one."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from mlx_lm.models.cache import ArraysCache, CacheList, ChunkedKVCache, KVCache, RotatingKVCache

from shared.failpoints import VARIABLE
from tests.jobs import job
from tests.tiny_model import make_tiny_model
from tests.workers.engines import cached_tokens, ids, play
from workers.engine.disk.checkpoint import can_be_written
from workers.engine.disk.eviction import FLOOR
from workers.engine.disk.folder import Found
from workers.engine.disk.opening import open_tier
from workers.engine.disk.tier import DiskTier
from workers.engine.engine import BatchEngine
from workers.engine.engine_limits import EngineLimits
from workers.model.load import LoadedModel, inspect, load
from workers.model.serve_model import vocabulary_size_of
from workers.output.vocabulary import token_bytes
from workers.sequence import TokenRules

PROMPT = [(7 * i * i + i) % 250 + 3 for i in range(400)]
KINDS = ["sliding", "recurrent", "hybrid"]
MB = 1 << 20

Life = Callable[[], tuple[BatchEngine, DiskTier]]


@pytest.fixture(scope="module", params=KINDS)
def loaded(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> LoadedModel:
    folder = make_tiny_model(tmp_path_factory.mktemp(request.param) / "model", kind=request.param)
    return load(folder, inspect(folder), lambda phase, done, total: None, trusted=True)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "prompts"


def engine_on(loaded: LoadedModel, root: Path, floor: int = FLOOR) -> tuple[BatchEngine, DiskTier]:
    tier = open_tier(root, 100 * MB, loaded.model, "tiny", floor)
    assert tier
    rules = TokenRules(token_bytes(loaded.tokenizer), frozenset(loaded.tokenizer.eos_token_ids))
    size = vocabulary_size_of(loaded)
    return BatchEngine(loaded.model, rules, size, EngineLimits(), disk=tier), tier


@pytest.fixture
def life(loaded: LoadedModel, root: Path) -> Iterator[Life]:
    tiers = []

    def begin() -> tuple[BatchEngine, DiskTier]:
        engine, tier = engine_on(loaded, root)
        tiers.append(tier)
        return engine, tier

    yield begin
    for tier in tiers:
        tier.close()


def asked(prompt: list[int] = PROMPT, **options: Any) -> dict[str, Any]:
    return {"prompt": prompt, "max_tokens": 6, "ignore_eos": True, "logprobs": 3, **options}


def end(tier: DiskTier) -> None:
    """From then on the engine that has it writes nothing that another one could find."""
    tier.close()
    tier.writer.off = True


def drawn(engine: BatchEngine, name: str, prompt: list[int], **options: Any) -> tuple[list[Any], int]:
    """Ids and log-probabilities, and the tokens that were cached."""
    deltas = play(engine, [job(name, **asked(prompt, **options))])[name, 0]
    return [(delta.ids, delta.logprobs) for delta in deltas], cached_tokens(deltas)


def turn_after(engine: BatchEngine) -> list[int]:
    answer = ids(play(engine, [job("a", **asked())])["a", 0])
    return [*PROMPT, *answer, *PROMPT[50:120]]


def test_the_next_turn_in_a_second_life_reads_only_what_is_new_and_differs_in_no_bit_from_one_in_memory(
    life: Life,
) -> None:
    engine, tier = life()
    turn = turn_after(engine)
    end(tier)
    from_memory, cached_in_memory = drawn(engine, "b", turn)
    second, _ = life()
    from_disk, cached = drawn(second, "b", turn)
    assert cached == cached_in_memory >= len(PROMPT)
    assert second.report["disk_read_tokens"] == cached
    assert int(second.report["tokens_read"]) <= len(turn) - cached
    assert from_disk == from_memory


def test_without_its_checkpoints_a_prompt_is_computed_and_gives_the_same_tokens(
    life: Life, root: Path
) -> None:
    engine, tier = life()
    turn = turn_after(engine)
    end(tier)
    right = play(engine, [job("b", **asked(turn))])["b", 0]
    for path in root.rglob("*.ck"):
        path.unlink()
    second, _ = life()
    again = play(second, [job("b", **asked(turn))])["b", 0]
    assert cached_tokens(again) == 0
    assert ids(again) == ids(right)


def test_a_branch_goes_on_at_the_last_checkpoint_before_it(life: Life) -> None:
    engine, tier = life()
    play(engine, [job("a", **asked())])
    longer = [*PROMPT, *PROMPT[:60]]
    play(engine, [job("b", **asked(longer))])
    end(tier)
    branch = [*PROMPT, 9, 8, *PROMPT[100:170]]
    from_memory = drawn(engine, "c", branch)
    second, _ = life()
    assert drawn(second, "c", branch) == from_memory
    assert from_memory[1] > 300


def test_another_api_key_finds_no_checkpoint(life: Life) -> None:
    engine, tier = life()
    turn = turn_after(engine)
    tier.close()
    second, _ = life()
    assert drawn(second, "b", turn, namespace="another")[1] == 0


def test_a_model_whose_caches_are_of_an_unknown_kind_is_left_out() -> None:
    assert can_be_written([KVCache(), RotatingKVCache(8), CacheList(ArraysCache(2), KVCache())])
    assert not can_be_written([KVCache(), ChunkedKVCache(8)])
    assert not can_be_written([RotatingKVCache(8, keep=2)])


def regions(size: int) -> list[int]:
    """Bytes of the opening, the header, the ids, the description, and the arrays at their start, middle and end."""
    return [0, 7, 9, 14, 20, 60, 90, 112, 118, 130, 200, size // 2, size - 1]


def test_a_flipped_bit_in_any_region_of_a_checkpoint_is_a_miss_and_the_file_is_unlinked(
    life: Life, root: Path
) -> None:
    engine, tier = life()
    play(engine, [job("a", **asked())])
    tier.close()
    turn = [*PROMPT, *PROMPT[:60]]
    files = sorted(root.rglob("*.ck"))
    assert files
    folder = tier._folder
    for path in files:
        good = path.read_bytes()
        for at in regions(len(good)):
            data = bytearray(good)
            data[at] ^= 16
            path.write_bytes(data)
            if header := folder._header(path):
                assert folder.read_checkpoint(Found(path, header, 0)) is None
            assert not path.exists()
        path.write_bytes(good[: len(good) // 2])
    second, _ = life()
    assert drawn(second, "b", turn)[1] == 0
    assert not all(path.exists() for path in files)


_WORKER = """
import sys
from pathlib import Path
from shared.failpoints import arm
from tests.workers.engine.disk.test_checkpoints import asked, engine_on
from tests.jobs import job
from tests.workers.engines import play
from workers.model.load import inspect, load
folder, root = Path(sys.argv[1]), Path(sys.argv[2])
loaded = load(folder, inspect(folder), lambda phase, done, total: None, trusted=True)
arm(sys.argv[3])
engine, tier = engine_on(loaded, root)
play(engine, [job("a", **asked())])
tier.close()
"""


@pytest.mark.slow
@pytest.mark.parametrize("step", ["create", "write", "sync", "rename", "renamed"])
@pytest.mark.parametrize(
    ("kind", "number"), [("hybrid", 1), ("hybrid", 2), ("hybrid", 3), ("recurrent", 1), ("sliding", 2)]
)
def test_a_worker_that_is_killed_at_any_step_of_any_file_leaves_what_gives_the_same_tokens(
    tmp_path: Path, kind: Any, step: str, number: int
) -> None:
    folder, root = make_tiny_model(tmp_path / "model", kind=kind), tmp_path / "prompts"
    fault = tmp_path / "fault"
    fault.write_text(f"disk.{step}:#{number}:kill9")
    killed = subprocess.run(
        [sys.executable, "-c", _WORKER, str(folder), str(root), f"@{fault}"],
        cwd=Path(__file__).parents[4],
        env={name: value for name, value in os.environ.items() if name != VARIABLE},
        check=False,
    )
    assert killed.returncode in (-signal.SIGKILL, 0)  # 0: there are fewer files
    loaded = load(folder, inspect(folder), lambda phase, done, total: None, trusted=True)
    fresh, unrelated = engine_on(loaded, tmp_path / "none")
    after, tier = engine_on(loaded, root)
    turn = [*PROMPT, *PROMPT[:60]]
    right, there = (ids(play(each, [job("b", **asked(turn))])["b", 0]) for each in (fresh, after))
    assert right == there
    assert after.report["disk_invalid_files"] == 0
    for each in (unrelated, tier):
        each.close()
