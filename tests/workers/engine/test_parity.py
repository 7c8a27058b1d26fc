"""The embedded model gives the same tokens, and the same log-probabilities to the last bit, however it is asked: alone,
among others, behind a beginning that was kept, in chunks, or resumed.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shared.protocol import Delta
from tests.exactness import rounding
from tests.jobs import job
from tests.workers.engine.speculation.scripted import Scripted, noise, right, wrong
from tests.workers.engines import MakeEngine, ids, play
from tests.workers.model.test_embedded import folder  # noqa: F401
from tests.workers.model.test_embedded import pytestmark as where_it_is
from workers.engine.cpu.install import install, invariance_of
from workers.engine.engine import BatchEngine
from workers.engine.engine_limits import EngineLimits
from workers.job import Job
from workers.model.load import LoadedModel, inspect, load
from workers.model.serve_model import vocabulary_size_of
from workers.output.vocabulary import token_bytes
from workers.sequence import TokenRules

SENTENCE = "The engine keeps a slot for each row, and no row moves for another one's sake. "
PROMPTS = {
    "a word": "Paris",
    "a question": "What is the capital of France? Answer in one sentence.",
    "a page": SENTENCE * 12,  # more than 128 and, with the answer, than 256 tokens
    "two pages": SENTENCE * 24 + "So what is",
}
OPTIONS: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0.0},
    "sampled": {"temperature": 1.0, "seed": 5},
    "nucleus": {"temperature": 0.8, "top_p": 0.9, "seed": 6},
    "best, penalties": {
        "temperature": 1.2,
        "top_k": 40,
        "seed": 7,
        "frequency_penalty": 0.7,
        "presence_penalty": 0.5,
    },
    "bias, repetition": {"temperature": 0.7, "seed": 8, "repetition_penalty": 1.3, "logit_bias": {33: 4.0}},
    "min_p, two choices": {"temperature": 1.0, "min_p": 0.05, "n": 2, "min_tokens": 6, "seed": 9},
}
TOKENS = 10
SUMMED, LARGEST = 30 * (6 * 576 + 1536), 40.0  # products behind a logit, and how large one is
PARTED = 20  # one choice of so many may go another way where rounding is what is promised
Played = dict[tuple[str, int], list[Delta]]

pytestmark = [where_it_is, pytest.mark.slow]


@pytest.fixture(scope="module")
def loaded(folder: Path) -> LoadedModel:  # noqa: F811
    """As it is served on a CPU."""
    here = load(folder, inspect(folder), lambda phase, done, total: None, trusted=True)
    install(here.model)
    return here


@pytest.fixture(scope="module")
def make_engine(loaded: LoadedModel) -> MakeEngine:
    rules = TokenRules(token_bytes(loaded.tokenizer), frozenset(loaded.tokenizer.eos_token_ids))

    def make(**limits: Any) -> BatchEngine:
        return BatchEngine(loaded.model, rules, vocabulary_size_of(loaded), EngineLimits(**limits))

    return make


@pytest.fixture(scope="module")
def jobs(loaded: LoadedModel) -> list[Job]:
    return [asked(loaded, prompt, options) for prompt in PROMPTS for options in OPTIONS]


@pytest.fixture(scope="module")
def alone(make_engine: MakeEngine, jobs: list[Job]) -> Played:
    """Each by itself, in an engine of its own."""
    return {key: deltas for each in jobs for key, deltas in play(make_engine(), [each]).items()}


def asked(loaded: LoadedModel, prompt: str, options: str, **more: Any) -> Job:
    read = list(loaded.tokenizer.encode(PROMPTS[prompt]))
    chosen = {"max_tokens": TOKENS, "ignore_eos": True, "logprobs": 2, **OPTIONS[options], **more}
    return job(f"{prompt}, {options}", read, **chosen)


def likelihoods(deltas: list[Delta]) -> list[float]:
    return [entry.logprob for delta in deltas for entry in delta.logprobs or []]


def assert_same(loaded: LoadedModel, these: Played, those: Played, *, behind: int = 0) -> None:
    """``these`` may have begun ``behind`` tokens later."""
    exact = invariance_of(loaded.model) == "exact"
    within, parted = float(np.asarray(rounding(SUMMED, LARGEST))), 0
    for key, deltas in these.items():
        drawn, known = ids(deltas), ids(those[key])[behind:]
        alike = len(drawn) if drawn == known else same_up_to(drawn, known)
        found, expected = likelihoods(deltas)[:alike], likelihoods(those[key])[behind:][:alike]
        if exact:
            assert (drawn, found) == (known, expected), key
        assert found == pytest.approx(expected, abs=within), key
        parted += drawn != known
    assert parted <= len(these) // PARTED, "rounding decides between few tokens only"


def same_up_to(these: list[int], those: list[int]) -> int:
    return next(i for i, (one, other) in enumerate(zip(these, those, strict=True)) if one != other)


@pytest.mark.timeout(600)
def test_answers_are_the_same_in_any_batch_and_with_any_prefill_chunks(
    make_engine: MakeEngine, jobs: list[Job], alone: Played, loaded: LoadedModel
) -> None:
    engine = make_engine()
    assert_same(loaded, play(engine, jobs, steps_between=1), alone)
    assert_same(loaded, play(engine, jobs), alone)  # their prompts were kept
    assert_same(loaded, play(make_engine(chunk=48), jobs[::-1]), alone)
    for held in (1, 7):
        resumed = [
            asked(
                loaded,
                prompt,
                options,
                held=[
                    ids(alone[f"{prompt}, {options}", i])[:held] for i in range(OPTIONS[options].get("n", 1))
                ],
            )
            for prompt in PROMPTS
            for options in OPTIONS
        ]
        assert_same(loaded, play(make_engine(), resumed), alone, behind=held)


@pytest.mark.timeout(600)
def test_answers_are_the_same_with_any_guesses_of_their_tokens(
    loaded: LoadedModel, jobs: list[Job], alone: Played
) -> None:
    rules = TokenRules(token_bytes(loaded.tokenizer), frozenset(loaded.tokenizer.eos_token_ids))
    for guess, depth, company in [(right, 15, 2), (right, 15, 12), (wrong, 4, 8), (noise, 9, 6)]:
        speculator = Scripted(guess(alone, depth))
        engine = BatchEngine(
            loaded.model, rules, vocabulary_size_of(loaded), EngineLimits(), speculator=speculator
        )
        assert_same(loaded, play(engine, jobs[:: len(jobs) // company], steps_between=1), alone)
        assert speculator.counts.drafted


def test_next_turns_after_answers_of_unlike_length_are_the_same_in_a_batch(
    make_engine: MakeEngine, loaded: LoadedModel
) -> None:
    engine = make_engine()
    firsts = [asked(loaded, prompt, "sampled", max_tokens=20 + i) for i, prompt in enumerate(PROMPTS)]
    answers = play(engine, firsts)
    turns = [
        job(
            f"turn {i}",
            [*each.prompt, *ids(answers[each.request_id, 0]), 40, 41, 42 + i],
            logprobs=2,
            temperature=0.0,
        )
        for i, each in enumerate(firsts)
    ]
    warm = play(engine, turns)
    assert_same(
        loaded, warm, {key: deltas for each in turns for key, deltas in play(make_engine(), [each]).items()}
    )
    assert all(deltas[0].start and deltas[0].start.cached_tokens for deltas in warm.values())
