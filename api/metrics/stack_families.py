"""The broker's report as what Prometheus reads: models, workers, memory and keys. Pure.

Workers are added up by model: their own names are new with each process and would be series without end.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate
from typing import Any

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)

from shared.buckets import REQUEST
from shared.protocol import KeyUsage, ModelStatus, StatusReport, WorkerStatus

STATES = ("hot", "loading", "downloading", "queued", "loadable", "failed")  # of a ModelStatus


def stack_families(report: StatusReport) -> Iterator[Metric]:
    yield from _models(report)
    yield _queue_times(report.models)
    yield from _workers(report)
    yield from _memory(report)
    yield from _keys(report.keys)


def _models(report: StatusReport) -> Iterator[Metric]:
    running = {model.id: 0 for model in report.models}
    for worker in report.workers:
        running[worker.model] = running.get(worker.model, 0) + worker.in_flight
    yield _family(
        GaugeMetricFamily,
        "vllm:num_requests_running",
        "Requests that workers have, prefill included.",
        ["model_name"],
        (([model], count) for model, count in running.items()),
    )
    yield _family(
        GaugeMetricFamily,
        "vllm:num_requests_waiting",
        "Requests in the broker's queue.",
        ["model_name"],
        (([model.id], model.queued) for model in report.models),
    )
    yield _family(
        GaugeMetricFamily,
        "mlx_server_model_state",
        "1 for the state that the model is in.",
        ["model", "state"],
        (([model.id, state], model.state == state) for model in report.models for state in STATES),
    )
    for name, words, count in _COUNTS:
        yield _family(
            CounterMetricFamily, name, words, ["model"], (([m.id], count(m)) for m in report.models)
        )
    yield _family(
        CounterMetricFamily,
        "mlx_server_swaps",
        "Times that models made room for another one.",
        [],
        [([], report.swaps)],
    )


_COUNTS: tuple[tuple[str, str, Callable[[ModelStatus], int]], ...] = (
    ("mlx_server_loads", "Loads of the model that succeeded.", lambda m: m.counts.loads),
    ("mlx_server_load_failures", "Loads of the model that failed.", lambda m: m.counts.failed_loads),
    (
        "mlx_server_evictions",
        "Workers of the model that made room for another one.",
        lambda m: m.counts.evictions,
    ),
    (
        "mlx_server_worker_losses",
        "Workers of the model that did not end in good order; another is started.",
        lambda m: m.counts.losses,
    ),
    ("mlx_server_downloads", "Downloads of the model that ended whole.", lambda m: m.counts.downloads),
    ("mlx_server_download_failures", "Downloads that failed.", lambda m: m.counts.failed_downloads),
    ("mlx_server_downloaded_bytes", "Bytes of the model that came.", lambda m: m.counts.downloaded_bytes),
)


def _queue_times(models: Iterable[ModelStatus]) -> Metric:
    family = HistogramMetricFamily(
        "vllm:request_queue_time_seconds", "In the broker's queue, loads included.", labels=["model_name"]
    )
    bounds = [*map(str, REQUEST), "+Inf"]
    for model in models:
        times = model.counts.queue_times or [0] * len(bounds)
        sums = zip(bounds, accumulate(times), strict=True)
        family.add_metric([model.id], list(sums), model.counts.queue_seconds)
    return family


def _workers(report: StatusReport) -> Iterator[Metric]:
    figures: tuple[tuple[str, str, Callable[[WorkerStatus], float]], ...] = (
        ("mlx_server_batch_rows", "Sequences that decode together.", _figure("rows")),
        ("mlx_server_prefilling", "Sequences whose prompts are prefilled in part.", _figure("prefilling")),
        ("mlx_server_prefill_waiting", "Sequences that wait for prefill.", _figure("waiting")),
        ("mlx_server_kv_bytes", "Keys and values of running requests.", _figure("kv_bytes")),
        (
            "mlx_server_drafted_tokens",
            "Guessed tokens that its present workers have verified.",
            _figure("drafted_tokens"),
        ),
        ("mlx_server_accepted_tokens", "Those of them that were right.", _figure("accepted_tokens")),
        ("mlx_server_prefix_cache_bytes", "Prompts in the prefix cache.", _figure("cache_bytes")),
        ("mlx_server_prompt_disk_read_tokens", "Prompt tokens read from disk.", _figure("disk_read_tokens")),
        ("mlx_server_prompt_disk_written_bytes", "Prompts written to disk.", _figure("disk_written_bytes")),
        ("mlx_server_prompt_disk_invalid", "Damaged prompts on disk.", _figure("disk_invalid_files")),
        ("mlx_server_footprint_bytes", "Worker processes, as the system counts them.", lambda w: w.memory),
        (
            "mlx_server_lease_bytes",
            "Leases for keys and values.",
            lambda w: report.memory.leases.get(w.id, 0),
        ),
    )
    for name, words, value in figures:
        totals = {model.id: 0.0 for model in report.models}
        for worker in report.workers:
            totals[worker.model] = totals.get(worker.model, 0.0) + value(worker)
        yield _family(
            GaugeMetricFamily, name, words, ["model"], (([model], total) for model, total in totals.items())
        )


def _figure(name: str) -> Callable[[WorkerStatus], float]:
    def value(worker: WorkerStatus) -> float:
        figure = worker.engine.get(name, 0)
        return 0.0 if isinstance(figure, str) else float(figure)

    return value


def _memory(report: StatusReport) -> Iterator[Metric]:
    for name, words, value in (
        ("mlx_server_memory_budget_bytes", "What all workers may take.", report.memory.budget),
        ("mlx_server_memory_used_bytes", "What all workers are charged with.", report.memory.used),
        ("mlx_server_uptime_seconds", "Since the broker started.", report.uptime),
    ):
        yield _family(GaugeMetricFamily, name, words, [], [([], value)])


def _keys(keys: Sequence[KeyUsage]) -> Iterator[Metric]:
    counts: tuple[tuple[str, str, Callable[[KeyUsage], int]], ...] = (
        ("mlx_server_key_requests", "Requests of the key that were let in.", lambda k: k.requests),
        ("mlx_server_key_refused", "Requests refused for the key's own limits.", lambda k: k.refused),
        ("mlx_server_key_prompt_tokens", "Tokens of its prompts.", lambda k: k.prompt),
        ("mlx_server_key_cached_tokens", "Those that the prefix cache had.", lambda k: k.cached),
        ("mlx_server_key_generation_tokens", "Tokens generated for it.", lambda k: k.out),
    )
    for name, words, count in counts:
        yield _family(CounterMetricFamily, name, words, ["key"], (([k.name], count(k)) for k in keys))
    gauges: tuple[tuple[str, str, Callable[[KeyUsage], int]], ...] = (
        ("mlx_server_key_open_requests", "Its requests that wait or run.", lambda k: k.open),
        ("mlx_server_key_owed_tokens", "Tokens by which its budget is overdrawn.", lambda k: k.owed),
    )
    for name, words, count in gauges:
        yield _family(GaugeMetricFamily, name, words, ["key"], (([k.name], count(k)) for k in keys))


def _family(
    kind: type[Any], name: str, words: str, labels: list[str], samples: Iterable[tuple[list[str], float]]
) -> Metric:
    family: Metric = kind(name, words, labels=labels)
    for values, value in samples:
        family.add_metric(values, value)  # type: ignore[attr-defined]
    return family
