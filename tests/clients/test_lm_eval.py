"""What lm-eval's ``local-completions`` sends, and what it makes of the answer."""

import json
import subprocess
import sys
from functools import cache
from operator import itemgetter
from typing import Any

import pytest

from tests.cli.command import ROOT
from tests.clients.conftest import SMOLLM
from tests.e2e.stack import Stack

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

CLOSE = 1e-4
CONTEXTS = (
    "The capital of France is",
    "Q: Two and two?\nA:",
    "Once upon a time, in a land far away behind the hills, there was a small house in which nobody lived. "
    * 6,
)
CONTINUATIONS = (" Paris", " London", " four, of course", " The end.<|im_end|>")


@pytest.fixture(scope="module")
def rows(stack: Stack) -> list[tuple[list[int], int]]:
    """Prompts of unlike lengths as ids, and how many of them are context. One ends with the token that ends."""
    return [
        (context + tokens(stack, continuation), len(context))
        for context in (tokens(stack, text) for text in CONTEXTS)
        for continuation in CONTINUATIONS
    ]


def tokens(stack: Stack, text: str) -> list[int]:
    ids: list[int] = stack.http.post("/tokenize", json={"model": SMOLLM, "content": text}).json()["tokens"]
    return ids


@pytest.fixture(scope="module")
def choices(stack: Stack, rows: list[tuple[list[int], int]]) -> list[dict[str, Any]]:
    """In batches of four, as with ``batch_size=4``."""
    found: list[dict[str, Any]] = []
    for start in range(0, len(rows), 4):
        body = {
            "model": SMOLLM,
            "prompt": [ids for ids, _ in rows[start : start + 4]],
            "temperature": 0,
            "max_tokens": 1,
            "logprobs": 1,
            "seed": 1234,
            "echo": True,
        }
        answer = stack.http.post("/v1/completions", json=body, timeout=120)
        assert answer.status_code == 200, answer.text
        found += sorted(answer.json()["choices"], key=itemgetter("index"))
    return found


@cache
def direct(prompts: str) -> list[list[tuple[float, float]]]:
    """By mlx-lm in a process of its own."""
    command = [sys.executable, "-m", "tests.programs.direct_scores"]
    program = subprocess.run(command, cwd=ROOT, input=prompts, stdout=subprocess.PIPE, text=True, check=True)
    scores: list[list[tuple[float, float]]] = json.loads(program.stdout)
    return scores


@pytest.fixture(scope="module")
def expected(rows: list[tuple[list[int], int]]) -> list[list[tuple[float, float]]]:
    return direct(json.dumps([ids for ids, _ in rows]))


Rows = list[tuple[list[int], int]]
Choices = list[dict[str, Any]]
Scores = list[list[tuple[float, float]]]


def test_the_arrays_are_the_prompt_and_one_token(rows: Rows, choices: Choices) -> None:
    for (ids, _), choice in zip(rows, choices, strict=True):
        logprobs = choice["logprobs"]
        assert {len(array) for array in logprobs.values()} == {len(ids) + 1}
        assert logprobs["token_logprobs"][0] is None and logprobs["top_logprobs"][0] is None


def test_every_log_probability_is_that_of_mlx_lm(rows: Rows, choices: Choices, expected: Scores) -> None:
    for choice, scores in zip(choices, expected, strict=True):
        told = choice["logprobs"]["token_logprobs"][1:-1]
        assert told == pytest.approx([own for own, _ in scores], abs=CLOSE, rel=0)


def test_the_log_likelihood_of_a_continuation_is_that_of_mlx_lm(
    rows: Rows, choices: Choices, expected: Scores
) -> None:
    for (_, length), choice, scores in zip(rows, choices, expected, strict=True):
        told = sum(choice["logprobs"]["token_logprobs"][length:-1])
        assert told == pytest.approx(sum(own for own, _ in scores[length - 1 :]), abs=CLOSE, rel=0)


def test_a_continuation_is_greedy_where_mlx_lm_would_have_said_it(
    rows: Rows, choices: Choices, expected: Scores
) -> None:
    found = []
    for (_, length), choice, scores in zip(rows, choices, expected, strict=True):
        logprobs = choice["logprobs"]
        pairs = zip(logprobs["token_logprobs"][length:-1], logprobs["top_logprobs"][length:-1], strict=True)
        found.append(all(token == max(top.values()) for token, top in pairs))
        assert found[-1] == all(own == best for own, best in scores[length - 1 :])
    assert {*found} == {True, False}, "rows of both kinds"
