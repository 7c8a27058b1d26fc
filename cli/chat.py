"""``mlx-server run MODEL [PROMPT]``, also called ``chat``: talks to a model of a running server in the terminal.

Rule 1: nothing of a conversation is written anywhere. What a model says cannot move the cursor or colour the terminal.
Rule 2: an answer that is stopped (Ctrl-C) or fails is no part of the conversation; the terminal is then as before it.
"""

import json
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import httpx

from cli import probe
from cli.refusal import INTERRUPTED, nothing_answers, refuse
from shared.output import printable
from shared.settings import Settings, load_settings

_DIM, _PLAIN = "\x1b[2m", "\x1b[0m"
_SILENCE = httpx.Timeout(10.0, read=600.0)  # seconds; a model may have to be loaded first
HELP = """/clear          forget the conversation
/system TEXT    what the model is told first; forgets the conversation
/help           this
/bye            leave, as Ctrl-D does; Ctrl-C stops an answer"""


class NoAnswer(Exception):
    """The message is for the operator."""


@dataclass
class Conversation:
    model: str
    system: str = ""
    sampling: Mapping[str, Any] = field(default_factory=dict)  # parameters of each request
    turns: list[dict[str, str]] = field(default_factory=list)

    @property
    def messages(self) -> list[dict[str, str]]:
        return [*([{"role": "system", "content": self.system}] if self.system else []), *self.turns]


@dataclass
class ChatAnswer:
    """Times in seconds on one clock; ``tokens`` as the server counts them."""

    text: str = ""
    began: float = field(default_factory=time.monotonic)
    first: float | None = None
    tokens: int = 0

    @property
    def figures(self) -> str:
        now = time.monotonic()
        first = now if self.first is None else self.first
        rate = (
            f", {(self.tokens - 1) / (now - first):.1f} tokens/s" if self.tokens > 1 and now > first else ""
        )
        return f"{self.tokens} tokens, the first after {first - self.began:.1f} s{rate}"


class ServerClient:
    def __init__(self, settings: Settings) -> None:
        self.settings, self.where = settings, probe.address(settings)
        token = probe.owner_token(settings)
        headers = {"authorization": f"Bearer {token}"} if token else {}
        self._client = httpx.Client(
            base_url=self.where,
            headers=headers,
            timeout=_SILENCE,
            trust_env=False,
            verify=probe.trust(settings) or True,
        )

    def answer(self, conversation: Conversation) -> Iterator[dict[str, Any]]:
        """The chunks of a streamed answer. Raises NoAnswer."""
        body = {
            "model": conversation.model,
            "messages": conversation.messages,
            "stream": True,
            "stream_options": {"include_usage": True},
            **conversation.sampling,
        }
        try:
            with self._client.stream("POST", "/v1/chat/completions", json=body) as response:
                if response.status_code != httpx.codes.OK:
                    raise NoAnswer(_message(json.loads(response.read())))
                for line in response.iter_lines():
                    if line.startswith("data: ") and line != "data: [DONE]":
                        yield _chunk(line.removeprefix("data: "))
        except httpx.ConnectError:
            raise NoAnswer(nothing_answers(self.settings)) from None
        except (httpx.HTTPError, ValueError, KeyError, TypeError):
            raise NoAnswer(f"The answer of {self.where} broke off.") from None


def _chunk(text: str) -> dict[str, Any]:
    chunk: dict[str, Any] = json.loads(text)
    if "error" in chunk:
        raise NoAnswer(_message(chunk))
    return chunk


def _message(body: Mapping[str, Any]) -> str:
    return printable(str(body["error"]["message"]))


def chat(
    options: Mapping[str, Any], model: str, prompt: str | None, system: str, sampling: Mapping[str, Any]
) -> int:
    """Answers ``prompt``, or what comes on standard input, or holds a conversation. Returns the exit code."""
    server = ServerClient(load_settings(**options))
    conversation = Conversation(model, system, sampling)
    if prompt is None and sys.stdin.isatty():
        return _converse(server, conversation)
    said = sys.stdin.read() if prompt is None else prompt
    conversation.turns.append({"role": "user", "content": said})
    try:
        _show(server.answer(conversation), ChatAnswer())
    except NoAnswer as failure:
        return refuse(failure)
    except KeyboardInterrupt:
        return INTERRUPTED
    return 0


def _converse(server: ServerClient, conversation: Conversation) -> int:
    with suppress(ImportError):
        import readline  # noqa: F401 - input() then has a history and arrow keys

    print(f"{conversation.model} at {server.where}. /help tells what else there is.")
    while True:
        try:
            said = input(">>> ").strip()
        except EOFError:
            print()
            return 0
        except KeyboardInterrupt:
            print()
            continue
        if said in ("/bye", "/exit", "/quit"):
            return 0
        if said.startswith("/"):
            _command(conversation, said)
        elif said:
            _turn(server, conversation, said)


def _command(conversation: Conversation, said: str) -> None:
    command, _, rest = said.partition(" ")
    match command:
        case "/clear":
            conversation.turns.clear()
        case "/system":
            conversation.system = rest.strip()
            conversation.turns.clear()
        case _:
            print(HELP)


def _turn(server: ServerClient, conversation: Conversation, said: str) -> None:
    conversation.turns.append({"role": "user", "content": said})
    answer = ChatAnswer()
    try:
        _show(server.answer(conversation), answer)
    except (NoAnswer, KeyboardInterrupt) as failure:
        conversation.turns.pop()
        print(_PLAIN)
        refuse(failure if isinstance(failure, NoAnswer) else "Stopped; this turn is forgotten.")
        return
    conversation.turns.append({"role": "assistant", "content": answer.text})
    print(f"{_DIM}{answer.figures}{_PLAIN}")


def _show(chunks: Iterator[dict[str, Any]], answer: ChatAnswer) -> None:
    """Prints as it comes; thinking dimly, on a terminal alone."""
    coloured, thinking = sys.stdout.isatty(), False
    for chunk in chunks:
        if usage := chunk.get("usage"):
            answer.tokens = usage["completion_tokens"]
        for choice in chunk.get("choices", ()):
            delta = choice["delta"]
            thought, text = delta.get("reasoning_content") or "", delta.get("content") or ""
            if answer.first is None and (thought or text):
                answer.first = time.monotonic()
            if thought and coloured:
                print("" if thinking else _DIM, _lines(thought), sep="", end="", flush=True)
                thinking = True
            if text:
                print(f"{_PLAIN}\n" if thinking else "", _lines(text), sep="", end="", flush=True)
                thinking = False
                answer.text += text
    print(_PLAIN if thinking else "")


def _lines(text: str) -> str:
    return "\n".join(printable(line).replace("\\t", "\t") for line in text.split("\n"))
