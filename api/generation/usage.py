"""The identity of an answer and the number of its tokens, for every dialect."""

import secrets
import time
from dataclasses import dataclass

from shared.protocol import Delta, Start


@dataclass(frozen=True)
class Identity:
    """The same in the whole answer and in each chunk of its stream."""

    id: str
    created: int
    model: str

    @classmethod
    def new(cls, prefix: str, model: str) -> "Identity":
        return cls(f"{prefix}{secrets.token_hex(16)}", now(), model)


def now() -> int:
    return int(time.time())


class TokenCounter:
    """Counts a prompt once for its ``n`` choices, and sums their completions."""

    def __init__(self, n: int) -> None:
        self._n = n
        self._starts: dict[int, Start] = {}
        self.completion_tokens = 0
        self.reasoning_tokens = 0
        self.accepted_prediction_tokens = 0
        self.rejected_prediction_tokens = 0

    def see(self, delta: Delta) -> None:
        if delta.start is not None:
            self._starts.setdefault(delta.choice // self._n, delta.start)
        if delta.finish is not None:
            self.completion_tokens += delta.finish.completion_tokens
            self.reasoning_tokens += delta.finish.reasoning_tokens
        if delta.predicted is not None:
            self.accepted_prediction_tokens += delta.predicted.accepted
            self.rejected_prediction_tokens += delta.predicted.rejected

    @property
    def prompt_tokens(self) -> int:
        return sum(start.prompt_tokens for start in self._starts.values())

    @property
    def cached_tokens(self) -> int:
        return sum(start.cached_tokens for start in self._starts.values())
