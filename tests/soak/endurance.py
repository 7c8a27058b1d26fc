"""``python -m tests.soak.endurance --minutes 30``: every kind of request at once, for long; what grows, what is left.

Twelve clients ask for short and long prompts, with all samplers, grammars and choices, go on with conversations, and
some leave half-way. A worker's memory must stay flat once its memory budget has been used up, and when all have gone
nothing may be left in its batch, nor arrays without a use. Exit code 1 when it is not so.
"""

import argparse
import asyncio
import random
import statistics
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil

from benchmarks.__main__ import INTERRUPTED, end_in_order, float32_model, linked
from benchmarks.client import Failed
from benchmarks.servers import our_server
from benchmarks.stack import parts
from cli.bench.figures import some_words
from shared.settings import load_settings
from workers.loop import REST

PATIENCE = 300  # seconds
CLIENTS = 12
LEAVES = 0.15  # of the requests
SAMPLE = 5.0  # seconds
SHOWN = 12  # samples, of which the last is printed
WARM_UP = 0.3  # of the time: until as much has been held as may be
FLAT = 1.05
LEAKED = 8 << 20  # bytes
LARGER = 0.05  # of the kept prompts: MLX gives an array a freed buffer that is up to two pages larger
SETTLED = 10.0  # seconds, until nothing may be left
BEAT = 5.0  # seconds, within which a worker has reported
SETTINGS = {"prompt_cache_gb": "0.1", "max_cache_size_gb": "1.3"}  # both are used up within the warm-up
SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 12}, "size": {"enum": ["small", "large"]}},
    "required": ["name", "size"],
    "additionalProperties": False,
}
KINDS: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0},
    "nucleus": {"temperature": 0.8, "top_p": 0.9},
    "top-k": {"temperature": 1.1, "top_k": 40, "min_p": 0.02, "seed": 7},
    "penalties": {"temperature": 0.7, "frequency_penalty": 0.8, "presence_penalty": 0.3},
    "bias": {"temperature": 0, "repetition_penalty": 1.2, "logit_bias": {"42": -100}},
    "logprobs": {"temperature": 0.9, "logprobs": True, "top_logprobs": 5},
    "choices": {"temperature": 1.0, "n": 3},
    "stops": {"temperature": 0.8, "stop": ["the", "\n\n"]},
    "schema": {
        "temperature": 1.0,
        "response_format": {"type": "json_schema", "json_schema": {"name": "thing", "schema": SCHEMA}},
    },
}


@dataclass
class Load:
    url: str
    model: str
    rng: random.Random
    until: float
    kinds: Counter[str] = field(default_factory=Counter)
    left: int = 0
    wrong: list[str] = field(default_factory=list)

    async def run(self) -> None:
        async with (
            httpx.AsyncClient(base_url=self.url, timeout=PATIENCE) as http,
            asyncio.TaskGroup() as clients,
        ):
            for _ in range(CLIENTS):
                clients.create_task(self._client(http))

    async def _client(self, http: httpx.AsyncClient) -> None:
        messages = self._opening()
        while time.monotonic() < self.until:
            answer = await self._ask(http, messages)
            if answer is None or len(messages) > 5 or self.rng.random() < 0.5:
                messages = self._opening()
            else:
                follow_up = {"role": "user", "content": f"And what of {some_words(self.rng, 4)}?"}
                messages = [*messages, {"role": "assistant", "content": answer}, follow_up]

    def _opening(self) -> list[dict[str, str]]:
        words = self.rng.choice([5, 10, 20, 20, 40, 100, 300, 900])
        return [{"role": "user", "content": f"{some_words(self.rng, words)}: tell me a story about this."}]

    async def _ask(self, http: httpx.AsyncClient, messages: list[dict[str, str]]) -> str | None:
        """The answer; None when we left or it went wrong."""
        kind = self.rng.choice(list(KINDS))
        self.kinds[kind] += 1
        most = self.rng.choice([4, 16, 32, 64])
        body = {"model": self.model, "messages": messages, "max_tokens": most, **KINDS[kind]}
        if self.rng.random() < LEAVES:
            self.left += 1
            await self._leave(http, body)
            return None
        try:
            answer = await http.post("/v1/chat/completions", json=body)
        except httpx.TimeoutException:
            self.wrong.append(f"{kind}: no answer within {PATIENCE} s to {len(str(messages))} characters")
            return None
        if answer.status_code != 200:
            self.wrong.append(f"{kind}: {answer.status_code} {answer.text[:200]}")
            return None
        content: str = answer.json()["choices"][0]["message"]["content"]
        return content

    async def _leave(self, http: httpx.AsyncClient, body: dict[str, Any]) -> None:
        """Somewhere between the request and the middle of its answer."""
        try:
            async with asyncio.timeout(self.rng.uniform(0.05, 4)):
                async with http.stream(
                    "POST", "/v1/chat/completions", json=body | {"stream": True}
                ) as answer:
                    async for _ in answer.aiter_lines():
                        pass
        except TimeoutError:
            pass


@dataclass
class Samples:
    """Resident bytes of each process, by time since the start."""

    rows: list[tuple[float, dict[str, int]]] = field(default_factory=list)

    async def take(self, processes: dict[str, psutil.Process], seconds: float) -> None:
        """Raises Failed when one of them has ended."""
        began = time.monotonic()
        while (now := time.monotonic() - began) < seconds:
            self.rows.append((now, resident(processes)))
            if len(self.rows) % SHOWN == 0:
                print(f"{now / 60:3.0f} min: {in_mib(self.rows[-1][1])}", flush=True)
            await asyncio.sleep(SAMPLE)

    def growth(self, name: str, seconds: float) -> tuple[float, float]:
        """Median resident bytes in the first fifth behind the warm-up, and in the last fifth."""
        window = (1 - WARM_UP) * seconds / 5
        early = [size[name] for at, size in self.rows if WARM_UP * seconds <= at < WARM_UP * seconds + window]
        late = [size[name] for at, size in self.rows if at >= seconds - window]
        return statistics.median(early), statistics.median(late)


async def endure(minutes: float, seed: int, folder: Path) -> list[str]:
    """What is not as it should be."""
    end_in_order()
    models = linked(float32_model(load_settings().cache_dir), folder)
    server = our_server(models[:1], folder, settings=SETTINGS)
    try:
        await server.start()
        url = server.url
        samples, processes = Samples(), parts(server)
        await asyncio.sleep(REST + BEAT)
        fresh, _ = await at_rest(url)
        load = Load(url, models[0].name, random.Random(seed), time.monotonic() + 60 * minutes)
        await asyncio.gather(load.run(), samples.take(processes, 60 * minutes))
        _, left_behind = await at_rest(url)
        await asyncio.sleep(REST + BEAT)
        print(f"and {REST + BEAT:g} s later: {in_mib(resident(processes))}")
        rested, _ = await at_rest(url)  # no copy of what is kept is on its way any more
    finally:
        server.stop()
    print(f"{load.kinds.total()} requests {dict(load.kinds)}, {load.left} left, {len(load.wrong)} wrong")
    return [*load.wrong[:10], *judge(samples, 60 * minutes), *left_behind, *leaked(fresh, rested)]


def resident(processes: dict[str, psutil.Process]) -> dict[str, int]:
    """Bytes of each. Raises Failed when one of them has ended."""
    try:
        return {name: process.memory_info().rss for name, process in processes.items()}
    except psutil.Error as error:
        raise Failed(f"it did not endure: {error}") from error


def in_mib(sizes: dict[str, int]) -> str:
    return ", ".join(f"{name} {size / 2**20:.0f} MiB" for name, size in sizes.items())


def judge(samples: Samples, seconds: float) -> list[str]:
    wrong = []
    for name in samples.rows[0][1]:
        early, late = samples.growth(name, seconds)
        print(f"{name}: {early / 2**20:.0f} MiB after the warm-up, {late / 2**20:.0f} MiB at the end")
        if late > FLAT * early:
            wrong.append(f"{name} has grown by {100 * (late / early - 1):.1f} %")
    return wrong


async def at_rest(url: str) -> tuple[dict[str, Any], list[str]]:
    """The engine's report when no request is left, and what is held nevertheless."""
    async with httpx.AsyncClient(base_url=url) as http:
        deadline = time.monotonic() + SETTLED
        while True:
            status = (await http.get("/admin/status")).json()
            engine = status["workers"][0]["engine"]
            left = {name: status[name] for name in ("in_flight", "queued")}
            for name in ("rows", "prefilling", "waiting", "kv_bytes"):
                left[name] = engine.get(name, "before the first report")
            if (
                not any(left.values()) and engine["tokens"]
            ):  # the first report may be of before the first request
                print(f"at rest: {engine}", flush=True)
                return engine, []
            if time.monotonic() > deadline:
                return engine, [f"left at rest: {left}"]
            await asyncio.sleep(0.2)


def leaked(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """Of MLX's arrays: beside the kept prompts there must be what there was before the first request."""
    more = sum(
        sign * (engine["active_bytes"] - engine["cache_bytes"]) for sign, engine in ((1, after), (-1, before))
    )
    print(f"{more / 2**20:.1f} MiB beside {after['cache_bytes'] / 2**20:.0f} MiB of kept prompts")
    allowed = LEAKED + LARGER * after["cache_bytes"]
    return [f"{more / 2**20:.0f} MiB of arrays are held without a use"] if more > allowed else []


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak.endurance", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    options = parser.parse_args()
    print(f"seed {options.seed}, {options.minutes:g} minutes", flush=True)
    with tempfile.TemporaryDirectory(prefix="mlx-endure-") as folder:
        try:
            wrong = asyncio.run(endure(options.minutes, options.seed, Path(folder)))
        except Failed as error:
            wrong = [str(error)]
        except (KeyboardInterrupt, asyncio.CancelledError):
            print("Stopped.")
            return INTERRUPTED
    for line in wrong:
        print(f"  {line}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
