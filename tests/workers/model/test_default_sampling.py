"""Sampling parameters that a request leaves out come from the model's generation_config.json."""

import json
from pathlib import Path

import pytest

from api.generation.sampling import sampling
from api.openai.schemas import ChatCompletionRequest
from shared.model_table import ModelTable, SamplingDefaults
from shared.protocol import ChatPrompt, Generation, Run, Sampling, Stopping, Submit
from shared.settings import Settings
from tests.tiny_model import make_tiny_llama
from workers.model.default_sampling import filled, own_sampling
from workers.model.load import inspect, load
from workers.model.serve_model import serve_model

OWN = {"temperature": 0.6, "top_p": 0.95, "top_k": 20, "min_p": 0.01, "repetition_penalty": 1.05}
SAYS = {"temperature": 0.0, "top_p": 1.0, "top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0}


def said(**fields: object) -> Generation:
    """What the api makes of a chat request with these fields."""
    body = {"model": "m", "messages": [{"role": "user", "content": "Hello"}], "seed": 1, **fields}
    request = ChatCompletionRequest.model_validate(body)
    drawn = sampling(request, request.temperature, request.top_p)
    prompt = ChatPrompt(messages=[{"role": "user", "content": "Hello"}])
    return Generation(prompt=prompt, sampling=drawn, stopping=Stopping(max_tokens=1))


@pytest.mark.parametrize("name", OWN)
def test_a_sampling_parameter_that_a_request_leaves_out_is_the_models_default(name: str) -> None:
    others = {key: value for key, value in SAYS.items() if key != name}
    for unsaid in ({}, {name: None}):
        drawn = filled(said(**others, **unsaid), OWN).sampling
        assert drawn.model_dump(include=set(OWN)) == others | {name: OWN[name]}


def test_a_requests_own_sampling_parameters_win_over_the_models() -> None:
    generation = said(**SAYS)
    assert filled(generation, OWN) == generation
    assert filled(said(), {}).sampling.temperature == 1.0


def test_applying_default_sampling_twice_changes_nothing_more() -> None:
    once = filled(said(top_p=0.5), OWN)
    assert filled(once, OWN) == once


@pytest.mark.parametrize(
    ("config", "own"),
    [
        (OWN | {"do_sample": False, "max_new_tokens": 9}, OWN),
        ({"temperature": 3, "top_p": 0, "top_k": -1, "min_p": True, "repetition_penalty": "x"}, {}),
        ({"temperature": 1e400, "top_k": 2.5, "top_p": None, "min_p": [0.5]}, {}),
    ],
)
def test_default_sampling_takes_only_values_that_a_request_may_have(
    tmp_path: Path, config: dict[str, object], own: dict[str, float]
) -> None:
    (tmp_path / "generation_config.json").write_text(json.dumps(config))
    assert own_sampling(tmp_path) == own


@pytest.mark.parametrize("text", [None, "{", "[]"])
def test_a_model_without_a_readable_generation_config_has_no_defaults(
    tmp_path: Path, text: str | None
) -> None:
    if text is not None:
        (tmp_path / "generation_config.json").write_text(text)
    assert own_sampling(tmp_path) == {}


@pytest.mark.parametrize("on", [True, False])
def test_a_worker_draws_with_the_models_own_parameters_unless_a_setting_says_no(
    tmp_path: Path, on: bool
) -> None:
    folder = make_tiny_llama(tmp_path / "m")
    (folder / "generation_config.json").write_text(json.dumps({"temperature": 0.25, "top_k": 7}))
    loaded = load(folder, inspect(folder), lambda phase, done, total: None, trusted=True)
    served = serve_model(loaded, Settings(model_sampling=on))
    submit = Submit(request_id="r", attempt=1, model="m", task=said(top_k=3))
    drawn: Sampling = served.prepare(Run(api="a", submit=submit)).generation.sampling
    assert (drawn.temperature, drawn.top_k, drawn.seed) == (0.25 if on else 1.0, 3, 1)
    assert served.capabilities is not None
    assert served.capabilities.sampling == ({"temperature": 0.25, "top_k": 7} if on else {})


def test_an_operators_defaults_win_over_the_makers_and_make_it_another_model_to_a_resume(
    tmp_path: Path,
) -> None:
    folder = make_tiny_llama(tmp_path / "m")
    (folder / "generation_config.json").write_text(json.dumps({"temperature": 0.25, "top_k": 7}))
    loaded = load(folder, inspect(folder), lambda phase, done, total: None, trusted=True)
    table = ModelTable(defaults=SamplingDefaults(temperature=0.5, min_p=0.1), context_length=32)
    served = serve_model(loaded, Settings(model_sampling=True), table)
    assert served.capabilities is not None
    assert served.capabilities.sampling == {"temperature": 0.5, "top_k": 7, "min_p": 0.1}
    assert served.context_length == 32
    assert served.digest != loaded.facts.digest
