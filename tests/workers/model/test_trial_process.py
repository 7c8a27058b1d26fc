"""Malicious folders: each is refused permanently within seconds, with a sentence."""

import json
from collections.abc import Callable
from pathlib import Path
from threading import Timer
from typing import Any

import psutil
import pytest

from tests.tiny_model import SPECIAL, make_tiny_llama
from tests.workers.chat_template.formats import CALLS, template
from workers.chat_template.analysis import UNKNOWN, analyse
from workers.model.load import inspect, load
from workers.model.load_error import LoadError
from workers.model.trial_process import trial


def silent(phase: str, done: int, total: int) -> None:
    pass


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_tiny_llama(tmp_path / "model")


def edited(file: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads(file.read_bytes())
    change(content)
    file.write_text(json.dumps(content))


def refused(folder: Path) -> str:
    with pytest.raises(LoadError) as caught, trial(folder) as await_trial:
        await_trial(silent)
    assert caught.value.permanent
    assert str(folder) not in caught.value.reason
    return caught.value.reason


@pytest.mark.slow
@pytest.mark.timeout(180)  # the bounds are in processor time, of which a busy machine gives little
@pytest.mark.parametrize(
    "written",
    [
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{{ 'a' * 10**11 }}",
        "{% macro again() %}{{ again() }}{% endmacro %}{{ again() }}",
    ],
)
def test_a_chat_template_that_does_not_end_is_refused(folder: Path, written: str) -> None:
    edited(folder / "tokenizer_config.json", lambda config: config.update(chat_template=written))
    assert "chat template" in refused(folder)


def test_a_trial_that_waits_without_processor_time_is_no_reason_to_refuse_the_folder_for_good(
    folder: Path,
) -> None:
    with pytest.raises(LoadError, match="try again") as caught, trial(folder, 0.0) as await_trial:
        await_trial(silent)
    assert not caught.value.permanent


@pytest.mark.slow
def test_a_hostile_folder_costs_seconds_of_processor_time_however_long_it_has_to_wait(folder: Path) -> None:
    endless = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    edited(folder / "tokenizer_config.json", lambda config: config.update(chat_template=endless))
    with trial(folder) as await_trial:
        (child,) = [each for each in psutil.Process().children() if str(folder) in each.cmdline()]
        child.suspend()
        Timer(5.0, child.resume).start()
        with pytest.raises(LoadError) as caught:
            await_trial(silent)
    assert "did not end in time" in caught.value.reason and caught.value.permanent


@pytest.mark.slow
@pytest.mark.parametrize("written", ["{{ raise_exception('no') }}", "{% if %}"])
def test_a_model_whose_template_refuses_all_sample_chats_loads(folder: Path, written: str) -> None:
    edited(folder / "tokenizer_config.json", lambda config: config.update(chat_template=written))
    with trial(folder) as await_trial:
        await_trial(silent)


@pytest.mark.slow
def test_the_trial_brings_back_what_the_chat_template_tells(folder: Path) -> None:
    shows = template(CALLS["json, name as key"])
    edited(folder / "tokenizer_config.json", lambda config: config.update(chat_template=shows))
    with trial(folder) as await_trial:
        analysis = await_trial(silent)
    assert analysis == analyse(shows, SPECIAL)
    assert (analysis.tools, analysis.proved) == ("native", True)


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_a_template_whose_analysis_does_not_end_is_used_as_if_nothing_were_known_of_it(folder: Path) -> None:
    endless = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    slow = "{% for m in messages %}{{ m.content }}{% if m.tool_calls %}" + endless + "{% endif %}{% endfor %}"
    edited(folder / "tokenizer_config.json", lambda config: config.update(chat_template=slow))
    with trial(folder) as await_trial:
        analysis = await_trial(silent)
    assert (analysis.tools, analysis.demands) == ("described", UNKNOWN.demands)
    assert "did not end in time" in analysis.reason


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_a_tokenizer_whose_regular_expression_does_not_end_is_refused(folder: Path) -> None:
    split = {
        "type": "Split",
        "pattern": {"Regex": "(a|aa)+\\d"},
        "behavior": "Isolated",
        "invert": False,
    }
    edited(folder / "tokenizer.json", lambda tokenizer: tokenizer.update(pre_tokenizer=split))
    assert "tokenizer" in refused(folder)


@pytest.mark.slow
def test_a_normalizer_that_grows_the_text_exponentially_is_refused(folder: Path) -> None:
    grow = {"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 64}
    bomb = {"type": "Sequence", "normalizers": [grow] * 10}
    edited(folder / "tokenizer.json", lambda tokenizer: tokenizer.update(normalizer=bomb))
    assert "tokenizer" in refused(folder)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("num_hidden_layers", 10**9),
        ("num_hidden_layers", 200_000),
        ("vocab_size", 10**12),
        ("vocab_size", 1e30),
        ("num_attention_heads", 10**9),
        ("hidden_size", -(10**15)),
        ("text_config", {"n_layers": 10**6}),
    ],
)
def test_config_numbers_that_the_weights_contradict_are_refused_before_the_model_is_built(
    folder: Path, key: str, value: object
) -> None:
    edited(folder / "config.json", lambda config: config.update({key: value}))
    with pytest.raises(LoadError, match="which cannot be") as caught:
        inspect(folder)
    assert caught.value.permanent


def test_loading_refuses_what_the_trial_refuses(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("[]")
    with pytest.raises(LoadError, match="tokenizer") as caught:
        load(folder, inspect(folder), silent)
    assert caught.value.permanent


@pytest.mark.slow
def test_the_template_of_an_operator_is_tried_and_used_in_place_of_the_models_own(
    folder: Path, tmp_path: Path
) -> None:
    shows = template(CALLS["json, name as key"])
    own = tmp_path / "own.jinja"
    own.write_text(shows)
    edited(folder / "tokenizer_config.json", lambda config: config.update(chat_template="{{ messages }}"))
    facts = inspect(folder)
    loaded = load(folder, facts, silent, template=own)
    assert loaded.tokenizer.chat_template == shows
    assert loaded.analysis == analyse(shows, SPECIAL)
    assert loaded.facts.digest != facts.digest, "a stream would go on under another template"


def test_the_trial_reads_folders_that_libraries_cannot(folder: Path) -> None:
    folder = folder.rename(folder.parent / "a [b]")
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes(b"\xef\xbb\xbf" + (folder / name).read_bytes())
    with trial(folder) as await_trial:
        await_trial(silent)


@pytest.mark.slow
def test_code_in_a_folder_is_run_only_where_the_operator_allows_it(folder: Path) -> None:
    (folder / "own.py").write_text("from mlx_lm.models.llama import Model, ModelArgs\n")
    edited(folder / "config.json", lambda config: config.update(model_file="own.py"))
    with pytest.raises(LoadError, match="allow_code"):
        inspect(folder)
    facts = inspect(folder, allow_code=True)
    loaded = load(folder, facts, silent)
    assert type(loaded.model).__module__ == "mlx_lm.models.llama"
    (folder / "own.py").write_text("# other code, other answers\n")
    assert inspect(folder, allow_code=True).digest != facts.digest


@pytest.mark.slow
def test_a_tokenizer_that_is_code_is_run_only_where_the_operator_allows_it(folder: Path) -> None:
    """The class that ``auto_map`` names is the one that is loaded, in the trial too."""
    (folder / "own.py").write_text(
        "from transformers import PreTrainedTokenizerFast\nclass Own(PreTrainedTokenizerFast): pass\n"
    )
    named = {"auto_map": {"AutoTokenizer": [None, "own.Own"]}, "tokenizer_class": "Own"}
    edited(folder / "tokenizer_config.json", lambda config: config.update(named))
    assert "Own" in str(type(load(folder, inspect(folder, allow_code=True), silent).tokenizer._tokenizer))
    assert "Own" not in str(type(load(folder, inspect(folder), silent).tokenizer._tokenizer))
