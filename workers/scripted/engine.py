"""An engine without a model: deterministic tokens at a settable speed, for tests and for measuring the stack.

Token ``index`` of a choice is a function of prompt, seed, choice and index, so a resumed request continues as an
unbroken one would.
"""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b

from shared.protocol import ChatPrompt, Run, TextPrompt, TokenPrompt
from workers.job import Forgotten, Job, KvUse, Output
from workers.request.infill import no_infill
from workers.request.preparation import generation_of
from workers.sequence import TokenLogprobs, TokenRules, TokenSequence

WORDS = 1000
EOS = WORDS
RULES = TokenRules([*(f" w{i}".encode() for i in range(WORDS)), b""], frozenset({EOS}))
CONTEXT_LENGTH = 131_072


@dataclass(frozen=True)
class Script:
    """``tokens``: length of a completion with its EOS; None: as many as max_tokens allows."""

    tokens: int | None = None
    step_seconds: float = 0.0
    prefill_seconds: float = 0.0
    poison: str | None = None  # a prompt that contains this text aborts the process


def scripted_token(job: Job, choice: int, index: int, script: Script) -> int:
    if script.tokens is not None and index + 1 >= script.tokens:
        return EOS
    seed = job.generation.sampling.seed
    text = f"{job.prompt}|{seed}|{choice}|{index}".encode()
    return int.from_bytes(blake2b(text, digest_size=4).digest()) % WORDS


Token = Callable[[Job, int, int], int]  # (job, choice, index) -> id; a function of these alone


def prepare_scripted(run: Run) -> Job:
    """The prompt's bytes are its token ids."""
    generation = generation_of(run)
    match generation.prompt:
        case ChatPrompt(messages=messages):
            text = "\n".join(str(message.get("content")) for message in messages)
            prompt = list(text.encode()) or [0]
        case TextPrompt(suffix=str()) | TokenPrompt(suffix=str()):
            raise no_infill()
        case TextPrompt(text=text):
            prompt = list(text.encode()) or [0]
        case TokenPrompt(ids=ids):
            text, prompt = " ".join(map(str, ids)), ids
    room, wanted = CONTEXT_LENGTH - len(prompt), generation.stopping.max_tokens
    return Job(
        request_id=run.submit.request_id,
        attempt=run.submit.attempt,
        api=run.api,
        prompt=prompt,
        generation=generation,
        max_tokens=room if wanted is None else min(room, wanted),
        held=run.submit.held,
        prompt_text=text if generation.echo else None,
    )


class ScriptedEngine:
    """Fulfils the contract of ``workers.job.Engine``; every sequence gains one token per step.

    ``token``, ``rules``: what it says, and the tokenizer's rules for it; without them, words that mean nothing.
    """

    def __init__(
        self,
        script: Script,
        sleep: Callable[[float], None] = time.sleep,
        token: Token | None = None,
        rules: TokenRules = RULES,
    ) -> None:
        self._script = script
        self._sleep = sleep
        self._token = token or (lambda job, choice, index: scripted_token(job, choice, index, script))
        self._rules = rules
        self._rows: dict[str, list[TokenSequence]] = {}
        self._new: list[Job] = []
        self._steps = 0
        self._kv_use = KvUse()

    @property
    def active(self) -> int:
        return len(self._rows)

    @property
    def report(self) -> dict[str, float | int | str]:
        return {"step": self._steps, "phase": "decode" if self._rows else "idle", "rows": len(self._rows)}

    @property
    def kv_use(self) -> KvUse:
        """Its rows hold nothing."""
        return self._kv_use

    def lend(self, size: int) -> None:
        self._kv_use = KvUse(obeyed=size)

    def add(self, job: Job) -> None:
        self._rows[job.request_id] = [
            TokenSequence(job, choice, self._rules) for choice in range(job.generation.n)
        ]
        self._new.append(job)

    def cancel(self, request_id: str) -> None:
        self._rows.pop(request_id, None)

    def forget(self, namespace: str | None, done: Callable[[Forgotten], None]) -> None:
        """It keeps no prompts."""
        done(Forgotten())

    def rest(self) -> None:
        """There is no memory to give back."""

    def step(self) -> list[Output]:
        self._steps += 1
        outputs = self._begin()
        if not self._rows:
            return outputs
        self._sleep(self._script.step_seconds)
        for request_id, rows in list(self._rows.items()):
            outputs += [self._advance(row) for row in rows]
            self._forget_ended(request_id)
        return outputs

    def _begin(self) -> list[Output]:
        outputs = []
        new, self._new = self._new, []
        for job in new:
            self._sleep(self._script.prefill_seconds)
            if self._script.poison and self._script.poison.encode() in bytes(job.prompt):
                os.abort()
            for row in self._rows.get(job.request_id, []):
                if job.scores_prompt:
                    row.score_prompt([TokenLogprobs(-0.5, [(id, -0.5)]) for id in job.prompt[1:]])
                finished = row.replay() if job.max_tokens else row.finish_unbegun()
                outputs += [finished] if finished else []
            self._forget_ended(job.request_id)
        return outputs

    def _advance(self, row: TokenSequence) -> Output:
        id = self._token(row.job, row.choice, len(row.ids))
        asked = row.job.generation.logprobs is not None
        return row.push(id, TokenLogprobs(-0.5, [(id, -0.5), ((id + 1) % WORDS, -1.5)]) if asked else None)

    def _forget_ended(self, request_id: str) -> None:
        left = [row for row in self._rows.get(request_id, []) if not row.ended]
        if left:
            self._rows[request_id] = left
        else:
            self._rows.pop(request_id, None)
