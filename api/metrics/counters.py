"""What an api process counts and measures of its requests, as Prometheus' counters and histograms.

Rule 1: labels have few values: routes, statuses, codes, and configured names of models and keys.
Rule 2: each process counts for itself. Its sums go to the broker, which keeps them by process, and whoever is asked for
    /metrics adds them up. (prometheus-client's own way shares files, which end a process when the disk is full.)
Rule 3: what means the same as vLLM's has vLLM's name, labels and bounds.
"""

import json
from collections.abc import Iterator, Mapping
from functools import cache, partial

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.metrics_core import Metric
from prometheus_client.samples import Sample

from api.http.served import Served
from shared.buckets import BETWEEN_TOKENS, FIRST_TOKEN, REQUEST
from shared.protocol import Delta, Finish, FinishReason, Start

MODEL = ["model_name"]  # vLLM's label
_SUFFIXES = {"counter": ("_total",), "histogram": ("_bucket", "_count", "_sum")}
_SUCCESS = {FinishReason.TOOL_CALLS: "stop"}  # to vLLM a tool call is a way to stop

Sums = Mapping[str, float]
"""Values by the name and labels of their samples, in JSON."""


class Counters:
    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        counter = partial(Counter, registry=self.registry)
        histogram = partial(Histogram, labelnames=MODEL, registry=self.registry)
        self.requests = counter(
            "mlx_server_requests",
            "HTTP requests answered; status 499: the client left first.",
            ["route", "status", "model", "key"],
        )
        self.refusals = counter("mlx_server_refusals", "Errors that clients got, by their code.", ["code"])
        self.resumes = counter(
            "mlx_server_resumes", "Running requests that were submitted again, and why.", ["model", "cause"]
        )
        self.prompt_tokens = counter("vllm:prompt_tokens", "Tokens of prompts, cached ones too.", MODEL)
        self.generation_tokens = counter("vllm:generation_tokens", "Tokens generated.", MODEL)
        self.cache_queries = counter(
            "vllm:prefix_cache_queries", "Tokens that were looked for in the prefix cache.", MODEL
        )
        self.cache_hits = counter("vllm:prefix_cache_hits", "Tokens that the prefix cache had.", MODEL)
        self.success = counter(
            "vllm:request_success",
            "Requests that ended well: each prompt of a list is one.",
            [*MODEL, "finished_reason"],
        )
        self.first_token = histogram(
            "vllm:time_to_first_token_seconds", "From the request to its first token.", buckets=FIRST_TOKEN
        )
        self.between_tokens = histogram(
            "vllm:inter_token_latency_seconds", "Between two outputs of a choice.", buckets=BETWEEN_TOKENS
        )
        self.request_time = histogram(
            "vllm:e2e_request_latency_seconds", "From the request to its last token.", buckets=REQUEST
        )

    def answered(self, route: str, status: int, who: Served) -> None:
        self.requests.labels(route, str(status), who.model, who.key).inc()

    def refused(self, code: str) -> None:
        self.refusals.labels(code).inc()

    def watch(self, model: str, now: float) -> "Watch":
        """``model``: of the settings."""
        return Watch(self, model, now)

    def sums(self) -> dict[str, float]:
        return {
            _key(sample.name, tuple(sample.labels.items())): sample.value
            for metric in self.registry.collect()
            for sample in metric.samples
            if not sample.name.endswith("_created")
        }

    def families(self, sums: Sums) -> Iterator[Metric]:
        """``sums`` of all processes, as what Prometheus reads."""
        by_name: dict[str, list[Sample]] = {}
        for key, value in sums.items():
            name, labels = json.loads(key)
            by_name.setdefault(name, []).append(Sample(name, labels, value))
        for metric in self.registry.collect():
            names = [metric.name + suffix for suffix in _SUFFIXES[metric.type]]
            metric.samples = [sample for name in names for sample in by_name.get(name, ())]
            yield metric


class Watch:
    """One request on its way: it counts its tokens and measures its times."""

    def __init__(self, counters: Counters, model: str, begun: float) -> None:
        self._counters, self._model, self._begun = counters, model, begun
        self._prompt_counted = False
        self._last: dict[int, float] = {}  # when each choice had its last output
        self._texts = 0
        self._first_token = counters.first_token.labels(model)
        self._between_tokens = counters.between_tokens.labels(model)
        self._generated = counters.generation_tokens.labels(model)

    def take(self, delta: Delta, now: float) -> None:
        """A delta that the client gets."""
        if delta.start and not self._prompt_counted:
            self._prompt_counted = True
            counters, start = self._counters, delta.start
            counters.prompt_tokens.labels(self._model).inc(start.prompt_tokens)
            counters.cache_queries.labels(self._model).inc(start.prompt_tokens)
            counters.cache_hits.labels(self._model).inc(start.cached_tokens)
        if delta.ids:
            self._generated.inc(len(delta.ids))
            self._time(delta.choice, now)

    def _time(self, choice: int, now: float) -> None:
        if last := self._last.get(choice):
            self._between_tokens.observe(now - last)
        elif not self._last:
            self._first_token.observe(now - self._begun)
        self._last[choice] = now

    def end(self, finish: Finish | None, now: float) -> None:
        """``finish``: of the choice that ended last."""
        reason = finish.reason if finish else FinishReason.STOP
        self._counters.success.labels(self._model, _SUCCESS.get(reason, str(reason))).inc()
        self._counters.request_time.labels(self._model).observe(now - self._begun)

    def passes(self, texts: int, now: float) -> None:
        """Of another server's answer there have been ``texts`` pieces of text by now. It tells of tokens at its end."""
        if texts > self._texts:
            self._texts = texts
            self._time(0, now)

    def count(self, start: Start, tokens: int, now: float) -> None:
        """The whole answer of another server."""
        self.take(Delta(request_id="", attempt=0, index=0, start=start), now)
        self._generated.inc(tokens)
        self.end(None, now)

    def resume(self, cause: str) -> None:
        self._counters.resumes.labels(self._model, cause).inc()


@cache
def _key(name: str, labels: tuple[tuple[str, str], ...]) -> str:
    """As many as there are series, which are bounded."""
    return json.dumps([name, dict(labels)])
