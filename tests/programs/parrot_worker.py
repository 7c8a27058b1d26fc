"""A worker that says what a family's model would: the real preparation, template analysis, filters, link and loop.

The model's name is the number of a family in ``families.json``, or the last number for gpt-oss. Where the prompt has a
tool's result, it says an answer; else it thinks, if the family does, and calls a tool: that of ``FUNCTION``, or of the
last ``call NAME with {...} now`` in the prompt, where the request has tools. A prompt with ``DIE`` ends the process
with SIGKILL in the middle of the call, on the first attempt.
"""

import argparse
import json
import os
import re
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

from mlx_lm.tokenizer_utils import load as load_tokenizer
from tokenizers import AddedToken
from transformers import PreTrainedTokenizerFast

from shared.protocol import Capabilities
from shared.settings import load_settings
from tests.tiny_model import EOS, byte_tokenizer
from tests.workers.output.family_templates import FAMILIES, HARMONY, format_of, template_of
from tests.workers.output.written import write
from workers.chat_template.marks import is_strong, tokens_of
from workers.chat_template.probes import ProbeCall
from workers.grammars.grammar import grammars_for
from workers.job import Job, Served
from workers.model.load_error import Progress
from workers.model.serve_model import tools_of
from workers.model.trial_process import analysis_of
from workers.output.channels import MARKS
from workers.output.derived_format import with_analysis
from workers.output.tool_formats import output_format_of
from workers.output.vocabulary import token_bytes
from workers.request.prompt import Preparation
from workers.scripted.engine import Script, ScriptedEngine
from workers.sequence import TokenRules
from workers.serve import serve

NAMES = [*FAMILIES, HARMONY]
CONTEXT_LENGTH = 400_000  # bytes, as each is a token: agents begin with 50,000 and more
THOUGHT, ANSWER, RESULT = "hm, 1 < 2", "It is sunny.", "sunny, 20 degrees"
DIE = "and drop dead"
ORDER = re.compile(r"call (\w+) with (\{.*?\}) now")
FIRST = ProbeCall("get_weather", {"city": "Paris", "days": 2})
_HARMONY_THOUGHT = f"<|channel|>analysis<|message|>{THOUGHT}<|end|><|start|>assistant"


def said(family: str, prompt: str) -> str:
    """What the family's model says behind a prompt."""
    call = _asked_for(prompt)
    if family == HARMONY:
        if call is None:
            return f"{_HARMONY_THOUGHT}<|channel|>final<|message|>{ANSWER}"
        header = f"<|channel|>commentary to=functions.{call.name} <|constrain|>json<|message|>"
        return _HARMONY_THOUGHT + header + json.dumps(call.arguments)
    opened, closed, answer = FAMILIES[family]["thinking"] or ("", "", "")
    thought = f"{opened}\n{THOUGHT}\n{closed}\n\n" if opened else ""
    if call is None:
        return thought + answer + ANSWER
    return thought + (FAMILIES[family]["one"] if call is FIRST else write(format_of(family), [call]))


def _asked_for(prompt: str) -> ProbeCall | None:
    """The call that is still to be made. Only a request with tools has their schemas in its prompt."""
    if RESULT in prompt or '"properties"' not in prompt:
        return None
    if not (orders := list(ORDER.finditer(prompt))):
        return FIRST
    order = orders[-1]
    behind = prompt[order.end() :]
    answered = "<|turn|>tool " in behind or "<|start|>functions." in behind
    arguments = order[2].replace('\\"', '"')  # opencode quotes what it is told in its arguments
    return None if answered else ProbeCall(order[1], json.loads(arguments))


def tokenizer_of(family: str) -> Any:
    """A byte tokenizer in which the family's marks are special tokens."""
    tokenizer = byte_tokenizer()
    if family == HARMONY:
        marks = list(MARKS)
    else:
        format, thinking = format_of(family), FAMILIES[family]["thinking"] or []
        written = [*format.marks, *thinking]
        marks = [token for mark in written for token in tokens_of(mark) if is_strong(token)]
    marks = [mark for mark in dict.fromkeys(marks) if "|" in mark or "｜" in mark or mark.startswith("[")]
    marks = [mark for mark in marks if not any(0xE100 <= ord(each) <= 0xE105 for each in mark)]
    tokenizer.add_special_tokens([AddedToken(mark, special=True, normalized=False) for mark in marks])
    with tempfile.TemporaryDirectory() as folder:
        fast = PreTrainedTokenizerFast(
            tokenizer_object=tokenizer, eos_token=EOS, chat_template=template_of(family)
        )
        fast.save_pretrained(folder)
        return load_tokenizer(Path(folder), eos_token_ids=[tokenizer.token_to_id(EOS)])


def load(name: str, step: float) -> Served[Job]:
    family = NAMES[int(name)]
    tokenizer = tokenizer_of(family)
    analysis = analysis_of(tokenizer)
    output_format = with_analysis(output_format_of(tokenizer), tokenizer, analysis)
    size = len(tokenizer.get_vocab())
    eos = tokenizer.eos_token_ids
    spoken: dict[str, tuple[list[int], bool]] = {}  # of each request: what is said, and whether to die of it

    def token(job: Job, choice: int, index: int) -> int:
        if job.request_id not in spoken:
            prompt = tokenizer.decode(job.prompt)
            text = tokenizer.encode(said(family, prompt), add_special_tokens=False)
            spoken[job.request_id] = ([*text, *eos], DIE in prompt and job.attempt == 1)
        ids, dies = spoken[job.request_id]
        if dies and index == len(ids) - 12:
            os.kill(os.getpid(), signal.SIGKILL)
        return ids[min(index, len(ids) - 1)]

    rules = TokenRules(token_bytes(tokenizer), frozenset(eos), output_format.special)
    prepare = Preparation(
        *(tokenizer, CONTEXT_LENGTH, size, grammars_for(tokenizer, size), output_format), analysis=analysis
    )
    capabilities = Capabilities(
        tools=tools_of(tokenizer, output_format), reasoning=output_format.thinking is not None
    )
    engine = ScriptedEngine(Script(step_seconds=step), token=token, rules=rules)
    return Served(engine, prepare, "parrot", CONTEXT_LENGTH, capabilities)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--id")
    parser.add_argument("--step", type=float, default=0.0, help="seconds a step takes")
    options = parser.parse_args()

    def begin(progress: Progress) -> Served[Job]:
        return load(options.model, options.step)

    return serve(load_settings(), options.model, options.id, begin)


if __name__ == "__main__":
    sys.exit(main())
