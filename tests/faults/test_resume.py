"""The real engine on a tiny model: whatever is asked for, an answer cut at a token goes on as the unbroken one."""

import json
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.client import chunks
from tests.faults.stack import FaultStack, fault_stack
from tests.marks import quick_and_slow
from tests.tiny_model import make_tiny_llama
from workers.device import ACCELERATOR_PATH

LONG = 400  # tokens; on any machine some of so many are guessed, however long its passes take
CUT = 7  # tokens; a step gives up to 16, so the cut is at the first delta that has so many: a fault needs 23 tokens
STEPWISE: dict[str, Any] = {"speculation": False}  # one token a step, where the cut has to be at one token
PROMPT = "The cat sat on the mat and"
ASKED: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0},
    "sampled": {"temperature": 1.0, "seed": 5},
    "penalties": {"temperature": 1.0, "seed": 6, "frequency_penalty": 0.9, "presence_penalty": 0.5},
    "bias": {"temperature": 0, "logit_bias": {"40": 6}},
    "logprobs": {"temperature": 0.7, "seed": 7, "logprobs": 3},
    "two choices": {"temperature": 1.0, "seed": 8, "n": 2},
    "the last token": {"temperature": 0, "max_tokens": CUT + 1},
    "one token more": {"temperature": 0, "max_tokens": CUT + 2, **STEPWISE},
    "echo": {"temperature": 0, "echo": True},
    "no early end": {"temperature": 0, "min_tokens": 16},
}
QUICK = "two choices"


@pytest.fixture(scope="module", params=quick_and_slow(("as it is",), ("accelerator",)))
def tiny(request: pytest.FixtureRequest) -> Iterator[FaultStack]:
    """With what runs on this device, or with what runs on an accelerator."""
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory(prefix="mlx-tiny") as folder:
        model = make_tiny_llama(Path(folder) / "model")
        patch.setenv(ACCELERATOR_PATH, "1" if request.param == "accelerator" else "0")
        command = json.dumps([sys.executable, "-m", "workers"])
        with fault_stack(available_models=f"a={model}", worker_command=command, heartbeat_timeout=5) as stack:
            yield stack
            stack.check()


@pytest.fixture(scope="module")
def guessing() -> Iterator[FaultStack]:
    with tempfile.TemporaryDirectory(prefix="mlx-tiny") as folder:
        model = make_tiny_llama(Path(folder) / "model")
        command = json.dumps([sys.executable, "-m", "workers"])
        settings = {"available_models": f"a={model}", "worker_command": command, "speculation": "on"}
        with fault_stack(**settings, heartbeat_timeout=5) as stack:
            yield stack
            stack.check()


def ask(stack: FaultStack, options: dict[str, Any]) -> dict[str, Any]:
    """All that a client learns, whatever the chunks were."""
    body = {"model": "a", "prompt": PROMPT, "max_tokens": 24, "stream": True, **options}
    body["stream_options"] = {"include_usage": True}
    got: dict[str, Any] = {"text": defaultdict(str), "finish": {}, "tokens": defaultdict(list)}
    with stack.http.stream("POST", "/v1/completions", json=body) as response:
        for chunk in chunks(response.iter_raw()):
            take(got, chunk)
    return got


def take(got: dict[str, Any], chunk: dict[str, Any]) -> None:
    assert "error" not in chunk, chunk
    if usage := chunk.get("usage"):
        got["usage"] = (usage["prompt_tokens"], usage["completion_tokens"])
        details = usage["completion_tokens_details"]
        got["accepted"] = details["accepted_prediction_tokens"]
        got["rejected"] = details["rejected_prediction_tokens"]
    for choice in chunk["choices"]:
        got["text"][choice["index"]] += choice["text"]
        if choice["finish_reason"]:
            assert choice["index"] not in got["finish"], "two ends"
            got["finish"][choice["index"]] = choice["finish_reason"]
        if choice["logprobs"]:
            got["tokens"][choice["index"]] += choice["logprobs"]["tokens"]


def broken(stack: FaultStack, options: dict[str, Any], fault: str) -> dict[str, Any]:
    stack.fault(fault)
    answer = ask(stack, options)
    stack.until_fault()
    return answer


@pytest.mark.parametrize("name", quick_and_slow((QUICK,), tuple(name for name in ASKED if name != QUICK)))
def test_a_killed_worker_changes_no_answer(tiny: FaultStack, name: str) -> None:
    whole = ask(tiny, ASKED[name])
    edge = "worker.said_end" if name == "the last token" else "worker.said"
    assert broken(tiny, ASKED[name], f"{edge}:{CUT}+:kill9") == whole


@pytest.mark.parametrize("edge", quick_and_slow(("broker.does:passon",), ("broker.heard:submit",)))
def test_a_killed_broker_changes_no_answer(tiny: FaultStack, edge: str) -> None:
    options = ASKED["sampled"]
    whole = ask(tiny, options)
    pid = tiny.worker_pid()
    assert broken(tiny, options, f"{edge}:kill9") == whole
    assert tiny.worker_pid() == pid


@pytest.mark.slow
def test_what_a_killed_worker_verified_of_a_prediction_stays_counted(guessing: FaultStack) -> None:
    options: dict[str, Any] = {
        "temperature": 0,
        "logit_bias": {"40": 50},
        "max_tokens": LONG,
        "ignore_eos": True,
    }
    text = ask(guessing, options)["text"][0]
    predicted = {**options, "prediction": {"type": "content", "content": text}}
    whole = ask(guessing, predicted)
    assert (whole["text"][0], whole["rejected"]) == (text, 0)
    rest = 40
    answer = broken(guessing, predicted, f"worker.said:{LONG - rest}+:kill9")
    assert answer["text"][0] == text
    assert rest < answer["accepted"] <= LONG  # more than the second attempt can have verified
    assert answer["rejected"] == 0


@pytest.mark.slow
def test_a_stop_string_split_by_the_cut_is_found(tiny: FaultStack) -> None:
    text = ask(tiny, {"temperature": 0})["text"][0]
    for start in range(3, len(text) - 6):
        stop = text[start : start + 4]
        if stop.isascii() and stop.isprintable() and text.find(stop) == start:
            break
    options = {"temperature": 0, "stop": [stop], **STEPWISE}
    whole = ask(tiny, options)
    assert whole["finish"] == {0: "stop"}
    cut = max(0, whole["usage"][1] - 3)
    assert broken(tiny, options, f"worker.said:{cut}+:kill9") == whole
