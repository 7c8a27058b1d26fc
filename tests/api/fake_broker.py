"""A fake broker for the api's tests: a thread with a ROUTER socket that keeps the protocol's contract.

It answers as a broker with one fast worker does, unless ``script`` replaces the answers; ``say`` sends any message.
"""

import queue
import secrets
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import zmq
from pydantic import BaseModel

from shared import wire
from shared.protocol import (
    Alternative,
    CallPiece,
    ChangesReport,
    Chunks,
    Delta,
    Failure,
    Figures,
    Finish,
    FinishReason,
    Follow,
    ForgetPrompts,
    ModelStatus,
    Order,
    OrderReply,
    Ping,
    Pong,
    PromptsForgotten,
    Reload,
    Reloaded,
    RunHeader,
    Start,
    Status,
    StatusReport,
    Submit,
    SubmitHeader,
    TextPrompt,
    TokenLogprob,
    TokenPrompt,
)

WORDS = ("Once", " upon", " a", " time", ' "é', "\n✓", " 🎉", " end")
PROMPT_TOKENS = 7
DEADLINE = 60.0  # seconds; a quiet machine needs milliseconds

M = TypeVar("M", bound=BaseModel)
Script = Callable[[Submit], Iterable[BaseModel]]


def prompt_tokens(submit: Submit) -> int:
    prompt = submit.generation.prompt
    return len(prompt.ids) if isinstance(prompt, TokenPrompt) else PROMPT_TOKENS


def deltas(submit: Submit, *, end: int | None = None, attempt: int | None = None) -> list[Delta]:
    """One delta for each token of each choice after the submit's ``held``; with ``end``, those before it only."""
    return [
        one
        for choice in range(submit.generation.n)
        for one in _choice(submit, choice, attempt or submit.attempt)
        if end is None or one.index < end
    ]


def _choice(submit: Submit, choice: int, attempt: int) -> Iterable[Delta]:
    held = len(submit.held[choice]) if submit.held else 0
    asked = submit.generation
    wanted = asked.stopping.max_tokens
    limit = len(WORDS) if wanted is None else min(wanted, len(WORDS))
    reason = FinishReason.LENGTH if limit == wanted else FinishReason.STOP
    finish = Finish(reason=reason, completion_tokens=limit)
    for index in range(held, max(limit, held + 1)):
        past_the_end = index >= limit  # all tokens were received before, or none was requested
        yield Delta(
            request_id=submit.request_id,
            attempt=attempt,
            choice=choice,
            index=index,
            ids=[] if past_the_end else [100 + index],
            text="" if past_the_end else WORDS[index],
            logprobs=None if asked.logprobs is None or past_the_end else [logprob(index, asked.logprobs)],
            start=start_of(submit) if index == held else None,
            finish=finish if index >= limit - 1 else None,
        )


def start_of(submit: Submit) -> Start:
    """A text has a token for each character; a chat has PROMPT_TOKENS, from 10 on."""
    asked = submit.generation
    if not asked.echo:
        return Start(prompt_tokens=prompt_tokens(submit), cached_tokens=2)
    match asked.prompt:
        case TextPrompt(text=text):
            ids = [ord(character) for character in text]
        case TokenPrompt(ids=ids):
            text = "".join(map(chr, ids))
        case _:
            ids, text = list(range(10, 10 + PROMPT_TOKENS)), "<chat>"
    scores = [TokenLogprob(id=id, bytes=chr(id).encode(), logprob=-1.5) for id in ids[1:]]
    return Start(
        prompt_tokens=len(ids),
        prompt_text=text,
        prompt_ids=ids,
        prompt_logprobs=None if asked.logprobs is None else scores,
    )


def saying(
    *tokens: dict[str, Any], reason: FinishReason = FinishReason.STOP, stop: str | None = None
) -> "Script":
    """A script for one choice: each of ``tokens`` has the fields of one Delta."""

    def script(submit: Submit) -> Iterable[BaseModel]:
        thought = sum("reasoning" in fields for fields in tokens)
        finish = Finish(
            reason=reason, completion_tokens=len(tokens), reasoning_tokens=thought, stop_sequence=stop
        )
        for index, fields in enumerate(tokens):
            delta = Delta(
                request_id=submit.request_id,
                attempt=submit.attempt,
                index=index,
                ids=[100 + index],
                start=start_of(submit) if index == 0 else None,
                finish=finish if index == len(tokens) - 1 else None,
                **fields,
            )
            yield Chunks(deltas=[delta])

    return script


def call(id: str, name: str, *arguments: str, index: int = 0) -> list[dict[str, Any]]:
    """The deltas of one tool call."""
    first = {"calls": [CallPiece(index=index, id=id, name=name)]}
    return [first, *({"calls": [CallPiece(index=index, arguments=piece)]} for piece in arguments)]


def logprob(index: int, k: int) -> TokenLogprob:
    top = [Alternative(id=i, bytes=f"t{i}".encode(), logprob=-0.5 - i) for i in range(k)]
    return TokenLogprob(id=100 + index, bytes=WORDS[index].encode(), logprob=-0.25, top=top)


def obey(order: Order) -> OrderReply:
    """Done at once for whoever waits."""
    return OrderReply(query=order.query, state="hot" if order.wait else "queued", done=order.wait)


def answer(submit: Submit) -> Iterable[BaseModel]:
    for delta in deltas(submit):
        yield Chunks(deltas=[delta])


def accept_only(submit: Submit) -> Iterable[BaseModel]:
    return []


class FakeBroker:
    def __init__(self, path: Path) -> None:
        self.epoch = secrets.token_hex(8)
        self.script: Script = answer
        self.reply: Callable[[Order], OrderReply] = obey
        self.deaf = False  # reads and answers nothing; only ``say`` sends
        self.models: list[ModelStatus] = []
        self.received: list[BaseModel] = []
        self._news = threading.Condition()
        self._outbox: queue.Queue[bytes] = queue.Queue()
        self._peer = b""
        self._sums: dict[str, float] = {}  # of the one api
        self._stop = threading.Event()
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        self._socket.bind(f"ipc://{path}")
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    # ---- for tests

    def say(self, *messages: BaseModel) -> None:
        for message in messages:
            self._outbox.put(wire.encode(message))

    def say_bytes(self, data: bytes) -> None:
        self._outbox.put(data)

    def restart(self) -> None:
        self.epoch = secrets.token_hex(8)

    def reset(self) -> None:
        self.script, self.deaf, self.models, self.reply = answer, False, [], obey
        with self._news:
            self.received.clear()

    def wait_for(
        self, kind: type[M], which: Callable[[M], bool] = lambda _: True, within: float = DEADLINE
    ) -> M:
        """The first message of ``kind`` since ``reset`` that fits; fails the test after ``within``."""
        deadline = time.monotonic() + within
        with self._news:
            while True:
                for message in self.received:
                    if isinstance(message, kind) and which(message):
                        return message
                if not self._news.wait(deadline - time.monotonic()):
                    raise AssertionError(
                        f"no such {kind.__name__} within {within} s; got {self.received[-5:]}"
                    )

    def close(self) -> None:
        self._stop.set()
        self._thread.join(DEADLINE)
        self._context.term()

    # ---- the thread

    def _run(self) -> None:
        while not self._stop.is_set():
            while not self._outbox.empty():
                self._send(self._outbox.get())
            if self.deaf:
                self._stop.wait(0.005)
                continue
            if self._socket.poll(2) and not self.deaf:  # it may have become so meanwhile
                self._peer, data, *body = self._socket.recv_multipart()
                message = wire.decode(wire.FROM_API, data)
                if isinstance(message, SubmitHeader):
                    message = wire.opened(RunHeader(api="", submit=message), *body).submit
                self._hear(message)
        self._socket.close()

    def _send(self, data: bytes) -> None:
        try:
            self._socket.send_multipart([self._peer, data])
        except zmq.ZMQError as error:
            if error.errno != zmq.EHOSTUNREACH:  # an api that has disconnected
                raise

    def _hear(self, message: BaseModel) -> None:
        with self._news:
            self.received.append(message)
            self._news.notify_all()
        match message:
            case Ping():
                self._send(wire.encode(Pong(epoch=self.epoch)))
            case Submit():
                for reply in self.script(message):
                    self._send(wire.encode(reply))
            case Order():
                self._send(wire.encode(self.reply(message)))
            case Reload():
                failure = Failure(status=400, code="invalid_settings", message="line 3: no such key")
                self._send(wire.encode(Reloaded(query=message.query, failure=failure)))
            case ForgetPrompts(query=query):
                self._send(wire.encode(PromptsForgotten(query=query, memory=3, disk=4, models=["tiny"])))
            case Follow(query=query, epoch=epoch):
                report = ChangesReport(query=query, epoch=self.epoch, latest=0)
                news = report.model_copy(update={"changes": []}) if epoch == self.epoch else report
                self._send(wire.encode(news))
            case Figures(sums=sums):
                self._sums = sums
            case Status():
                self._send(wire.encode(self._report(message)))

    def _report(self, asked: Status) -> StatusReport:
        return StatusReport(
            query=asked.query,
            epoch=self.epoch,
            pid=1,
            uptime=1.0,
            models=self.models,
            workers=[],
            in_flight=0,
            queued=0,
            figures=self._sums if asked.figures else {},
        )
