"""Loads the draft model that a model's table names, and checks that it has the same tokens.

Rule: what is wrong with it is an error that names the key; the model is not served without what its table asks for.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

from shared.models import ModelSource
from shared.settings import Settings
from workers.model.kept_findings import KeptFindings
from workers.model.load import LoadedModel, ModelFacts, inspect, load, locate
from workers.model.load_error import AbsentError, LoadError, Progress


def load_draft(
    source: ModelSource,
    loaded: LoadedModel,
    settings: Settings,
    progress: Progress,
    kept: Callable[[Path, ModelFacts], KeptFindings] = lambda folder, facts: KeptFindings(),
) -> LoadedModel:
    """``loaded``: the model that it guesses for. ``kept``: what earlier loads of its folder have found out.

    Raises LoadError."""
    try:
        folder = locate(source, settings.cache_dir, progress)
        facts, trusted = inspect(folder), source.kind == "embedded"
        draft = load(folder, facts, progress, trusted=trusted, kept=kept(folder, facts))
    except AbsentError as error:
        why = f"{error.reason} It needs a table of its own for that."
        raise wrong_draft(source, why) from error
    except LoadError as error:
        raise wrong_draft(source, error.reason, permanent=error.permanent) from error
    if why := unlike(loaded.tokenizer.get_vocab(), draft.tokenizer.get_vocab()):
        raise wrong_draft(source, f"it has not the tokens of the model that it would guess for: {why}.")
    return draft


def wrong_draft(source: ModelSource, why: str, *, permanent: bool = True) -> LoadError:
    return LoadError(
        f"The draft of this model ({source.location or source.id}) cannot serve: {why}", permanent
    )


def unlike(these: Mapping[str, int], those: Mapping[str, int]) -> str:
    """The first token on which two vocabularies disagree; empty if there is none."""
    tokens = {token for token, _ in these.items() ^ those.items()}
    if not tokens:
        return ""
    token = min(tokens, key=lambda each: min(both[each] for both in (these, those) if each in both))
    first, second = (f"id {each[token]}" if token in each else "no token" for each in (these, those))
    return f"{token!r:.40} is {first} there and {second} in the draft"
