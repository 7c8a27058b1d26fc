"""A client that sees every byte, and what it should have seen."""

import json
import threading
import time
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import httpx

from tests.client import CHAT, DONE, HOST, Event, EventReader
from tests.jobs import job
from workers.scripted.engine import Script, scripted_token

MARKER = "xyzzy-marker"  # in every prompt; must be in no log


@dataclass
class Answer:
    """One stream, as it came."""

    model: str
    prompt: str
    seed: int
    max_tokens: int
    status: int = 0
    text: str = ""
    finishes: list[str] = field(default_factory=list)
    done: int = 0
    errors: list[dict[str, Any]] = field(default_factory=list)
    completion_tokens: int | None = None
    broken: str = ""  # how the connection ended, if not in order
    headers: dict[str, str] = field(default_factory=dict)
    took: float = 0.0
    came: list[float] = field(default_factory=list)  # when each piece of text did
    events: EventReader = field(default_factory=EventReader, repr=False)

    @property
    def body(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "messages": [{"role": "user", "content": self.prompt}],
            "seed": self.seed,
            "max_tokens": self.max_tokens,
            "stream": True,
            "stream_options": {"include_usage": True},
        }

    @property
    def gaps(self) -> list[float]:
        """The silences between two pieces of text."""
        return [later - earlier for earlier, later in pairwise(self.came)]

    @property
    def gap(self) -> float:
        """The longest of them."""
        return max(self.gaps, default=0.0)

    @property
    def keepalives(self) -> int:
        return self.events.comments

    def take(self, event: Event) -> bool:
        """True: the event had text in it."""
        if event.data == DONE:
            self.done += 1
            return False
        chunk = event.json()
        if error := chunk.get("error"):
            self.errors.append(error)
            return False
        if usage := chunk.get("usage"):
            self.completion_tokens = usage["completion_tokens"]
        before = len(self.text)
        for choice in chunk["choices"]:
            self.text += choice["delta"].get("content") or ""
            if reason := choice["finish_reason"]:
                self.finishes.append(reason)
        grown = len(self.text) > before
        if grown:
            self.came.append(time.monotonic())
        return grown

    @property
    def wrong(self) -> str:
        """What is not as an unharmed server would have sent it; nothing, if all is."""
        expected = expected_text(self.prompt, self.seed, self.max_tokens)
        if self.status != 200 or self.errors or self.broken:
            return f"status {self.status}, errors {self.errors}, broken {self.broken!r}"
        if self.text != expected:
            return f"text differs: {len(self.text.split())} words of {self.max_tokens}"
        if (self.finishes, self.done) != (["length"], 1):
            return f"finishes {self.finishes}, {self.done} times [DONE]"
        if self.completion_tokens != self.max_tokens:
            return f"usage says {self.completion_tokens} of {self.max_tokens}"
        return ""


def expected_text(prompt: str, seed: int, max_tokens: int) -> str:
    one = job(prompt=list(prompt.encode()), seed=seed)
    return "".join(f" w{scripted_token(one, 0, index, Script())}" for index in range(max_tokens))


class Stream:
    """Runs on a thread of its own from the moment it is made."""

    def __init__(
        self,
        port: int,
        seed: int,
        max_tokens: int,
        model: str = "a",
        say: str = "",
    ) -> None:
        self.answer = Answer(model, f"{MARKER} {say}", seed, max_tokens)
        self._port = port
        self._words = threading.Semaphore(0)
        self._leaves = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def wait_for_word(self, timeout: float = 30) -> None:
        assert self._words.acquire(timeout=timeout), f"no word came: {self.answer}"

    def result(self, timeout: float = 60) -> Answer:
        self._thread.join(timeout)
        assert not self._thread.is_alive(), f"hangs: {self.answer}"
        return self.answer

    def leave(self) -> None:
        """Hangs up at the next event."""
        self._leaves = True

    @property
    def ended(self) -> bool:
        return not self._thread.is_alive()

    def _run(self) -> None:
        began = time.monotonic()
        answer = self.answer
        url = f"http://{HOST}:{self._port}{CHAT}"
        try:
            with httpx.stream("POST", url, json=answer.body, timeout=60) as response:
                answer.status = response.status_code
                answer.headers = dict(response.headers)
                if response.status_code != 200:
                    answer.errors.append(json.loads(response.read())["error"])
                    return
                for data in response.iter_raw():
                    for event in answer.events.feed(data):
                        if answer.take(event):
                            self._words.release()
                    if self._leaves:
                        return
        except httpx.HTTPError as error:
            answer.broken = repr(error)
        finally:
            answer.took = time.monotonic() - began
