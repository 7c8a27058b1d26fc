"""Thinking is closed at the budget that was asked for, also in a resumed choice and in front of a grammar."""

from typing import Any

from shared.protocol import Delta, Grammar
from tests.jobs import job
from tests.workers.engines import ids, play
from workers.engine.engine import BatchEngine
from workers.grammars.grammar import CompiledGrammar, grammars_for
from workers.job import Job
from workers.model.load import LoadedModel
from workers.model.serve_model import vocabulary_size_of
from workers.output.reasoning import ThinkingDelimiters

BUDGET = 6


def thinking(loaded: LoadedModel, **options: Any) -> Job:
    """Its prompt opens the thinking."""
    end: list[int] = loaded.tokenizer.encode("</think>")
    opened = ThinkingDelimiters("<think>", "</think>", open=True)
    return job(
        max_tokens=40, thinking=opened, thinking_budget=BUDGET, thinking_end=end, temperature=1.0, **options
    )


def shown(deltas: list[Delta]) -> tuple[str, str]:
    return "".join(delta.reasoning for delta in deltas), "".join(delta.text for delta in deltas)


def test_thinking_is_closed_at_its_budget_and_the_answer_goes_on(
    engine: BatchEngine, loaded: LoadedModel
) -> None:
    one = thinking(loaded)
    deltas = play(engine, [one])["a", 0]
    got = ids(deltas)
    assert got[BUDGET : BUDGET + len(one.thinking_end)] == one.thinking_end
    finish = deltas[-1].finish
    assert finish is not None and finish.reasoning_tokens == BUDGET + len(one.thinking_end)
    reasoning, text = shown(deltas)
    assert text and "think" not in text + reasoning


def test_a_resumed_choice_closes_its_thinking_at_the_same_token(
    engine: BatchEngine, loaded: LoadedModel
) -> None:
    whole = play(engine, [thinking(loaded)])["a", 0]
    for cut in (2, BUDGET, BUDGET + 3, BUDGET + 12):
        rest = play(engine, [thinking(loaded, held=[ids(whole)[:cut]])])["a", 0]
        assert ids(whole)[:cut] + ids(rest) == ids(whole)


def test_a_grammar_applies_behind_thinking_that_was_closed(engine: BatchEngine, loaded: LoadedModel) -> None:
    grammars = grammars_for(loaded.tokenizer, vocabulary_size_of(loaded))
    assert grammars is not None
    matcher = grammars.text(Grammar(regex="(yes|no)"))
    compiled = CompiledGrammar(matcher, grammars.eos, b"</think>")
    deltas = play(engine, [thinking(loaded, grammar=compiled)])["a", 0]
    assert shown(deltas)[1] in ("yes", "no")
