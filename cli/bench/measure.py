"""``mlx-server bench``: measures a server with OpenAI's chat completions, with several clients at a time.

Rule 1: every request has a prompt of its own, so that no cache helps; the first one only loads the model.
Rule 2: a request that fails is counted as failed and in no other figure, and makes the command fail.
"""

import asyncio
import json
import ssl
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import httpx
from rich.console import Console
from rich.table import Column, Table

from cli import probe
from cli.bench.figures import Answered, Level, level, number, prompt, take
from cli.client_key import NO_KEY, Key, client_key
from cli.models.chat_models import chat_models
from cli.refusal import FAILED, INTERRUPTED, Refused, refuse
from shared import exits
from shared.output import printable
from shared.settings import load_settings

SILENCE = httpx.Timeout(10.0, read=600.0)  # seconds; a model may have to be loaded first
EACH = 4  # requests of a client, where their number is not said
MOST = 1024  # clients
BAR = 8  # characters of the longest


@dataclass(frozen=True)
class Load:
    """What is asked. ``words`` of a prompt are about as many tokens."""

    model: str
    words: int
    max_tokens: int

    def body(self, random: Random) -> dict[str, Any]:
        return {
            "model": self.model,
            "messages": [{"role": "user", "content": prompt(random, self.words)}],
            "max_tokens": self.max_tokens,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
        }


@dataclass(frozen=True)
class Server:
    """``url`` ends with ``/v1``. ``trusted``: as httpx has ``verify``."""

    url: str
    key: Key
    trusted: ssl.SSLContext | bool

    @property
    def headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.key.value}"}

    def client(self) -> httpx.AsyncClient:
        limits = httpx.Limits(max_connections=None)
        return httpx.AsyncClient(
            headers=self.headers, timeout=SILENCE, limits=limits, trust_env=False, verify=self.trusted
        )


@dataclass
class Measured:
    """So far."""

    url: str = ""
    model: str = ""
    levels: list[Level] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)  # each once


def bench(
    options: Mapping[str, Any],
    url: str | None,
    model: str | None,
    *,
    clients: str,
    requests: int | None,
    words: int,
    max_tokens: int,
    key_file: Path | None,
    as_json: bool,
) -> int:
    """Returns the exit code."""
    settings = load_settings(**options)
    found = Measured(url=(url or f"{probe.address(settings)}/v1").rstrip("/"))
    interrupted = False
    try:
        counts = _counts(clients)
        key = client_key(settings, key_file) if key_file or url is None else Key(NO_KEY, NO_KEY)
        server = Server(found.url, key, probe.trust(settings, anywhere=url is not None) or True)
        found.model = model or _the_only(server)
        _measure(found, server, Load(found.model, words, max_tokens), counts, requests)
    except Refused as refusal:
        return refuse(refusal)
    except KeyboardInterrupt:
        interrupted = True
    _print(found, as_json)
    if interrupted:
        return INTERRUPTED
    return FAILED if any(level.failed for level in found.levels) else exits.STOPPED


def _counts(clients: str) -> list[int]:
    try:
        counts = [int(each) for each in clients.split(",")]
    except ValueError:
        counts = [0]
    if min(counts) < 1 or max(counts) > MOST:
        raise Refused(f"--clients is numbers from 1 to {MOST}, such as 1,4,16, and not {clients!r}.")
    return counts


def _the_only(server: Server) -> str:
    """Of several chat models none is meant more than the others."""
    url = server.url
    try:
        answer = httpx.get(
            f"{url}/models", headers=server.headers, timeout=10.0, trust_env=False, verify=server.trusted
        )
        names = chat_models(answer.raise_for_status().json())
    except httpx.HTTPStatusError as error:
        if error.response.status_code in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
            raise Refused(f"{url} asks for an API key: --key-file FILE.") from None
        raise Refused(
            f"{url}/models answers {error.response.status_code}; say the model with --model."
        ) from None
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise Refused(f"Nothing answers at {url}: {str(error).rstrip('.')}.") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise Refused(f"{url}/models is no list of models; the address of an API ends with /v1.") from None
    if len(names) != 1:
        raise Refused(f"Say with --model which one to ask: {printable(', '.join(names)) or 'there is none'}.")
    return names[0]


def _measure(
    found: Measured, server: Server, load: Load, counts: Sequence[int], requests: int | None
) -> None:
    """Adds a level for each number of clients. Raises Refused if the first request fails."""
    random = Random()
    with Console(stderr=True).status(f"{load.model} answers a first request …") as status:
        (first,) = asyncio.run(play(server, Load(load.model, load.words, 1), 1, 1, random))[0]
        if first.failure:
            raise Refused(f"{load.model} at {found.url}: {first.failure}")
        for clients in counts:
            status.update(f"{clients} clients ask {load.model} …")
            answers, seconds = asyncio.run(play(server, load, clients, requests or EACH * clients, random))
            found.levels.append(level(clients, answers, seconds))
            failures = [answer.failure for answer in answers if answer.failure]
            found.failures = list(dict.fromkeys([*found.failures, *failures]))


async def play(
    server: Server, load: Load, clients: int, requests: int, random: Random
) -> tuple[list[Answered], float]:
    """Clients that each ask again as soon as they are answered; returns the answers and the seconds of all."""
    bodies = iter([load.body(random) for _ in range(requests)])
    async with server.client() as client:

        async def ask_in_turns() -> list[Answered]:
            return [await ask(client, f"{server.url}/chat/completions", body) for body in bodies]

        began = time.perf_counter()
        answered = await asyncio.gather(*(ask_in_turns() for _ in range(min(clients, requests))))
        seconds = time.perf_counter() - began
    return [answer for answers in answered for answer in answers], seconds


async def ask(
    client: httpx.AsyncClient, url: str, body: Mapping[str, Any], answer: Answered | None = None
) -> Answered:
    """``answer`` is filled as it comes."""
    answer = answer or Answered(0.0)
    answer.sent = time.perf_counter()
    try:
        async with client.stream("POST", url, json=body) as response:
            if response.status_code != httpx.codes.OK:
                answer.failure = _refusal(response.status_code, await response.aread())
            elif not await _read(response, answer) and not answer.failure:
                answer.failure = "the stream broke off"
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, LookupError, TypeError, AttributeError) as error:
        answer.failure = f"{type(error).__name__}: {error}"
    answer.ended = time.perf_counter()
    answer.tokens = answer.tokens or len(answer.arrivals)
    return answer


async def _read(response: httpx.Response, answer: Answered) -> bool:
    """Whether the stream came to its end."""
    rest, done = b"", False
    async for read in response.aiter_bytes():
        now = time.perf_counter()  # what comes in one read has one time
        *lines, rest = (rest + read).split(b"\n")
        for line in lines:
            if line.startswith(b"data:"):
                data = line.removeprefix(b"data:").strip()
                done = data == b"[DONE]"
                if not done:
                    take(json.loads(data), answer, now)
    return done


def _refusal(status: int, body: bytes) -> str:
    try:
        return printable(f"{status}: {json.loads(body)['error']['message']}")
    except (ValueError, KeyError, TypeError):
        return f"{status}: {printable(body[:200].decode(errors='replace'))}"


def _print(found: Measured, as_json: bool) -> None:
    if as_json:
        print(json.dumps(asdict(found)))
        return
    print(f"{found.model} at {found.url}; times in seconds")
    names = ("clients", "req/s", "tokens/s", "first p50", "p99", "gap p50", "p99", "whole p50", "")
    table = Table(
        *(Column(name, justify="right" if name else "left", no_wrap=True) for name in names),
        box=None,
        pad_edge=False,
    )
    fastest = max((each.tokens_per_second for each in found.levels), default=0.0)
    for each in found.levels:
        figures = (
            *(each.requests_per_second, each.tokens_per_second, each.first_token_p50, each.first_token_p99),
            *(each.gap_p50, each.gap_p99, each.whole_p50),
        )
        bar = "█" * round(BAR * each.tokens_per_second / fastest) if fastest else ""
        table.add_row(str(each.clients), *map(number, figures), bar)
    Console(highlight=False, markup=False).print(table)
    if failed := sum(each.failed for each in found.levels):
        refuse(
            f"{failed} of {sum(each.requests for each in found.levels)} requests failed: {'; '.join(found.failures)}"
        )
