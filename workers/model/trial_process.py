"""Tries a folder's tokenizer and chat template in a process that can be ended (``python -m`` this module).

A template is a program and a tokenizer runs regular expressions. Both are untrusted, may never end, and may use all
memory. So a child process reads the tokenizer, encodes a sample and renders some chats before the worker does.
Each step is bounded in processor time, so that other load on the machine refuses no good folder; all of them are
bounded in memory and, with a large margin, in wall-clock time. The child's last line is its current step or its error.
"""

import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from shared.operators_files import template_in
from workers.chat_template.analysis import UNKNOWN, TemplateAnalysis, analyse, from_json, to_json
from workers.model.load_error import LoadError, Progress, first_line, load_error
from workers.model.readable_folder import readable

WALL_SECONDS = 600.0  # in all, also on a crowded machine; a process that waits uses no processor time
READ_SECONDS = 15  # of processor time, like those below; the largest known tokenizers take 3
ENCODE_SECONDS = 3
RENDER_SECONDS = 2  # one chat
MEMORY = 12 << 30  # bytes of address space, most of which are never touched
ANALYSE_SECONDS = 5  # some 500 renderings; the longest known templates take 0.3
ANALYSIS = "Analysing the chat template"
_CODE = "allow-code"
MOST_TOKENS = 1_000_000  # the largest known vocabularies have 262,000

SAMPLE = (
    'The "naïve" café: 12,345.67 €\n\n\tdef f(x):\n        return x**2  # 日本語 ελληνικά\n'
    "русский العربية हिन्दी 한국어 ไทย\n"
    "🐝👩‍👩‍👧\u200b\u00a0é\r\n<b>&amp;</b> https://example.org/?q=1&r=2 'it''s' don't WE'LL\n"
    + " " * 500
    + "a" * 500
    + "\n" * 50
)
_TOOL = {
    "type": "function",
    "function": {
        "name": "look_up",
        "description": "Looks a word up.",
        "parameters": {"type": "object", "properties": {"word": {"type": "string"}}, "required": ["word"]},
    },
}
_USER, _ASSISTANT = {"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Good day"}
_SYSTEM = {"role": "system", "content": "Be brief."}
CHATS: list[tuple[list[dict[str, Any]], list[dict[str, Any]] | None]] = [
    ([_USER], None),
    ([_SYSTEM, _USER, _ASSISTANT, _USER], None),
    ([_USER], [_TOOL]),
]


@contextmanager
def trial(
    folder: Path,
    wall_seconds: float = WALL_SECONDS,
    template: Path | None = None,
    *,
    allow_code: bool = False,
) -> Iterator[Callable[[Progress], TemplateAnalysis]]:
    """Starts the child at once; the yielded function waits for its end and raises LoadError.

    A template that cannot be analysed in time is no error: nothing is known of it then.
    ``template``: the file of an operator's, in place of the folder's.
    """
    began = time.monotonic()
    with tempfile.TemporaryFile() as said:
        what = [str(folder), str(template or ""), _CODE if allow_code else ""]
        command = [sys.executable, "-m", "workers.model.trial_process", *what]
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=said, stderr=subprocess.DEVNULL)
        try:
            yield lambda progress: _wait(child, began + wall_seconds, said, progress)
        finally:
            child.kill()
            child.wait()


def _wait(child: subprocess.Popen[bytes], deadline: float, said: Any, progress: Progress) -> TemplateAnalysis:
    while (left := deadline - time.monotonic()) > 0:
        progress("check", 0, 0)
        try:
            child.wait(min(left, 1.0))
            break
        except subprocess.TimeoutExpired:
            pass
    said.seek(0)
    lines = said.read().decode("utf-8", "replace").splitlines() or [""]
    if child.returncode == 0 and lines[-1] == "{}":
        return _analysis(lines)
    failure = _failure(lines[-1], child.returncode)
    if ANALYSIS in lines[-1]:
        return replace(UNKNOWN, reason=failure.reason)
    raise failure


def _analysis(lines: list[str]) -> TemplateAnalysis:
    for line in reversed(lines):
        if found := json.loads(line).get("analysis"):
            return from_json(found) or UNKNOWN
    return UNKNOWN


def _failure(line: str, code: int | None) -> LoadError:
    """``line``: the child's last one, with its current step or its error. ``code`` None: it has not ended."""
    try:
        said = json.loads(line)
    except ValueError:
        said = {}
    if "reason" in said:
        return LoadError(said["reason"], permanent=True)
    step = said.get("step", "Reading the tokenizer")
    if code is None:
        return LoadError(
            f"{step} did not end within {WALL_SECONDS:.0f} s: try again when this machine is less busy.",
            permanent=False,
        )
    how = "did not end in time" if code == -signal.SIGXCPU else f"ended the process that tried it ({code})"
    advice = "the folder is damaged or made to do harm; fetch the model again"
    return LoadError(f"{step} {how}: {advice}.", permanent=True)


def analysis_of(tokenizer: Any) -> TemplateAnalysis:
    """Analyses a tokenizer's template; runs in the child, or for a template of our own."""
    if not isinstance(tokenizer.chat_template, str):
        return UNKNOWN
    return analyse(
        tokenizer.chat_template, [token.content for token in tokenizer.added_tokens_decoder.values()]
    )


# In the child


def _say(**what: str) -> None:
    print(json.dumps(what), flush=True)  # noqa: T201 (read by the parent)


def _try(folder: str, template: str, code: str) -> None:
    with readable(Path(folder)) as view:
        _try_readable(view, template, code)


def _try_readable(folder: Path, template: str, code: str) -> None:
    from transformers import AutoTokenizer

    from workers.model.tokenizer import read_with, tokenizer_options

    _say(step="Reading the tokenizer")
    _bounded(READ_SECONDS)
    own = template_in(Path(template)) if template else None
    options = tokenizer_options(folder, own, code == _CODE)
    tokenizer = read_with(lambda how: AutoTokenizer.from_pretrained(folder, **how), folder, options)
    if len(tokenizer) > MOST_TOKENS:
        raise LoadError(f"The tokenizer has {len(tokenizer)} tokens; {MOST_TOKENS} are the most.", True)
    _say(step="Encoding a text with the tokenizer")
    _bounded(ENCODE_SECONDS)
    tokenizer.decode(tokenizer.encode(SAMPLE, add_special_tokens=False))
    if tokenizer.chat_template is not None:
        _say(step="Rendering a chat with the chat template")
        for messages, tools in CHATS:
            _bounded(RENDER_SECONDS)
            _render(tokenizer, messages, tools)
        _analyse(tokenizer)


def _analyse(tokenizer: Any) -> None:
    """The last step, and the only one without which the model is still served."""
    _say(step=ANALYSIS)
    _bounded(ANALYSE_SECONDS)
    _say(analysis=to_json(analysis_of(tokenizer)))


def _render(tokenizer: Any, messages: list[dict[str, Any]], tools: list[dict[str, Any]] | None) -> None:
    """Renders a chat. A template may refuse it, but not run out of memory or recursion depth."""
    try:
        tokenizer.apply_chat_template(messages, tools=tools, tokenize=False, add_generation_prompt=True)
    except (MemoryError, RecursionError, ArithmeticError) as error:
        raise LoadError(
            f"The chat template cannot be rendered ({type(error).__name__}: {first_line(error)}): the folder "
            "is damaged or made to do harm; fetch the model again.",
            permanent=True,
        ) from error
    except Exception:  # noqa: BLE001 (a template's refusal is answered to the request it refuses)
        return


def _bounded(seconds: int) -> None:
    """Limits the processor time from now on; the system ends the process at the limit."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    at = int(used.ru_utime + used.ru_stime) + 1 + seconds
    resource.setrlimit(resource.RLIMIT_CPU, (at, resource.RLIM_INFINITY))


def main() -> None:
    try:
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    except (ValueError, OSError):
        pass  # macOS has no such limit
    try:
        _try(*sys.argv[1:])
    except BaseException as error:  # noqa: BLE001 (a panic in Rust is no Exception)
        reason = error.reason if isinstance(error, LoadError) else None
        _say(reason=reason or load_error("The tokenizer", error).reason)
        os._exit(1)
    _say()
    sys.stdout.flush()
    os._exit(0)  # skips the teardown, which takes longer


if __name__ == "__main__":
    main()
