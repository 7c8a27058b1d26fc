"""GET /metrics: what is counted, by which labels, and for whom."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from api.metrics.counters import Counters
from api.metrics.resource import exposition
from shared.api_keys import KeyFile
from shared.buckets import REQUEST
from shared.errors import QueueFull
from shared.protocol import (
    Chunks,
    FinishReason,
    KeyUsage,
    ModelCounts,
    ModelStatus,
    Refused,
    StatusReport,
    Submit,
    WorkerStatus,
)
from tests.api.conftest import Stack, chat_body, run_stack
from tests.api.fake_broker import DEADLINE, PROMPT_TOKENS, WORDS, call, deltas, saying

ADMIN = "an-admin-key-for-tests"
OPS = {"authorization": f"Bearer {ADMIN}"}

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def read(text: str) -> Samples:
    families = list(text_string_to_metric_families(text))
    samples = [sample for family in families for sample in family.samples]
    found = {(sample.name, frozenset(sample.labels.items())): sample.value for sample in samples}
    assert len(found) == len(samples), "a series is there twice"
    return found


def scrape(stack: Stack, **headers: str) -> Samples:
    answer = stack.client.get("/metrics", headers=headers)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    return read(answer.text)


def one(samples: Samples, name: str, **labels: str) -> float:
    """The sum of all that have these labels."""
    return sum(
        value
        for (found, known), value in samples.items()
        if found == name and known >= frozenset(labels.items())
    )


@pytest.fixture
def fresh() -> Iterator[Stack]:
    """Which counts from nought, and is patient with its broker."""
    with run_stack(heartbeat_timeout=20.0, broker_timeout=20.0, resume_timeout=20.0) as stack:
        yield stack


def test_requests_are_counted_by_route_status_and_model(fresh: Stack) -> None:
    for _ in range(3):
        fresh.chat()
    fresh.complete(stream=True)
    fresh.chat(temperature="hot")
    samples = scrape(fresh)
    name, chat = "mlx_server_requests_total", "/v1/chat/completions"
    assert one(samples, name, route=chat, status="200", model="tiny", key="") == 3
    assert one(samples, name, route="/v1/completions", status="200", model="tiny") == 1
    assert one(samples, name, route=chat, status="400") == 1
    assert one(samples, "mlx_server_refusals_total", code="invalid_type") == 1


def test_tokens_and_times_of_requests_are_measured_as_vllm_names_them(fresh: Stack) -> None:
    fresh.chat()
    fresh.chat(n=2)
    samples = scrape(fresh)
    tiny = {"model_name": "tiny"}
    assert one(samples, "vllm:prompt_tokens_total", **tiny) == 2 * PROMPT_TOKENS
    assert one(samples, "vllm:prefix_cache_hits_total", **tiny) == 4
    assert one(samples, "vllm:generation_tokens_total", **tiny) == 3 * len(WORDS)
    assert one(samples, "vllm:time_to_first_token_seconds_count", **tiny) == 2
    assert one(samples, "vllm:inter_token_latency_seconds_count", **tiny) == 3 * (len(WORDS) - 1)
    assert one(samples, "vllm:e2e_request_latency_seconds_count", **tiny) == 2
    assert one(samples, "vllm:request_success_total", **tiny, finished_reason="stop") == 2
    for name in ("time_to_first_token", "inter_token_latency", "e2e_request_latency"):
        assert one(samples, f"vllm:{name}_seconds_bucket", **tiny, le="+Inf") == one(
            samples, f"vllm:{name}_seconds_count", **tiny
        )


def test_a_refusal_of_the_broker_is_counted_by_its_code(fresh: Stack) -> None:
    full = QueueFull("full", retry_after=3).to_failure()

    def refuse(submit: Submit) -> list[Refused]:
        return [Refused(request_id=submit.request_id, attempt=submit.attempt, failure=full)]

    fresh.broker.script = refuse
    assert fresh.chat().status_code == 503
    samples = scrape(fresh)
    assert one(samples, "mlx_server_refusals_total", code="queue_full") == 1
    assert one(samples, "mlx_server_requests_total", status="503", model="tiny") == 1
    assert one(samples, "vllm:request_success_total") == 0


def test_a_gap_and_a_new_broker_are_resumes_and_count_no_token_twice(fresh: Stack) -> None:
    def three_then_a_gap_then_all(submit: Submit) -> list[Chunks]:
        if submit.attempt == 1:
            return [Chunks(deltas=deltas(submit, end=3))]
        missing = 4 if submit.attempt == 2 else None
        return [Chunks(deltas=[delta for delta in deltas(submit) if delta.index != missing])]

    fresh.broker.script = three_then_a_gap_then_all
    with fresh.client.stream("POST", "/v1/chat/completions", json=chat_body(stream=True)) as answer:
        lines = answer.iter_lines()
        next(line for line in lines if WORDS[0].strip() in line)
        fresh.broker.restart()
        list(lines)
    samples = scrape(fresh)
    assert one(samples, "mlx_server_resumes_total", model="tiny", cause="broker") == 1
    assert one(samples, "mlx_server_resumes_total", model="tiny", cause="gap") == 1
    assert one(samples, "vllm:generation_tokens_total", model_name="tiny") == len(WORDS)


def test_a_tool_call_counts_as_a_stop_as_it_does_to_vllm(fresh: Stack) -> None:
    fresh.broker.script = saying(*call("c1", "weather", "{}"), reason=FinishReason.TOOL_CALLS)
    assert fresh.chat().json()["choices"][0]["finish_reason"] == "tool_calls"
    samples = scrape(fresh)
    assert one(samples, "vllm:request_success_total", model_name="tiny", finished_reason="stop") == 1


def test_what_clients_make_up_makes_no_new_series(fresh: Stack) -> None:
    def ask(number: int) -> None:
        fresh.client.get(f"/no/such/path-{number}")
        fresh.chat(model=f"nonsense-{number}")
        fresh.client.get(f"/v1/models/nonsense-{number}")
        fresh.client.get(f"/v1/responses/resp_{number:032}")
        fresh.client.request(f"VERB{number}", "/v1/models")
        fresh.client.get("/v1/models", headers={"authorization": f"Bearer key-{number}"})
        fresh.client.post("/v1/chat/completions", json=chat_body(**{f"field{number}": [number]}))

    ask(0)
    scrape(fresh)
    before = scrape(fresh).keys()
    for number in range(1, 8):
        ask(number)
    assert scrape(fresh).keys() == before
    assert one(scrape(fresh), "mlx_server_requests_total", route="none", status="404") == 8


def test_a_client_that_leaves_is_counted_as_499(fresh: Stack) -> None:
    fresh.broker.script = lambda submit: []
    with fresh.connect() as connection:
        body = b'{"model": "tiny", "prompt": "x"}'
        connection.sendall(
            b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
        )
        fresh.broker.wait_for(Submit)
    deadline = time.monotonic() + DEADLINE
    while not one(scrape(fresh), "mlx_server_requests_total", status="499", route="/v1/completions"):
        assert time.monotonic() < deadline, "not counted"


def test_with_keys_metrics_need_an_admin_key_and_name_keys_by_their_names(tmp_path: Path) -> None:
    keys = KeyFile(tmp_path / "keys.json")
    with run_stack(keys_file=keys.path, api_keys=f"ops:admin={ADMIN}", heartbeat_timeout=20.0) as stack:
        anna = {"authorization": f"Bearer {keys.add('anna')}"}
        assert stack.client.get("/metrics").status_code == 401
        refused = stack.client.get("/metrics", headers=anna)
        assert (refused.status_code, refused.json()["error"]["code"]) == (403, "admin_key_required")
        assert stack.client.post("/v1/chat/completions", json=chat_body(), headers=anna).status_code == 200
        text = stack.client.get("/metrics", headers=OPS).text
        assert one(read(text), "mlx_server_requests_total", key="anna", status="200") == 1
        digests = [key.digest for key in keys.read()]
        assert not any(digest in text for digest in digests)
        assert stack.broker.wait_for(Submit).key == keys.read()[0].terms


@pytest.mark.parametrize("headers", [{"host": "models.example.com"}, {"x-forwarded-for": "10.0.0.1"}])
def test_metrics_are_for_this_machine_alone_as_administration_is(
    stack: Stack, headers: dict[str, str]
) -> None:
    assert stack.client.get("/metrics", headers=headers).status_code == 403


def test_a_broker_that_has_just_started_gives_no_smaller_sums() -> None:
    with run_stack(heartbeat_interval=5.0, heartbeat_timeout=20.0) as stack:
        assert stack.client.get("/metrics").status_code == 503


def test_without_a_broker_there_are_no_metrics(stack: Stack) -> None:
    stack.broker.deaf = True
    answer = stack.client.get("/metrics")
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "broker_unavailable")


def worker(id: str, **engine: float) -> WorkerStatus:
    return WorkerStatus(
        id=id,
        model="m",
        pid=1,
        state="ready",
        since=0,
        in_flight=2,
        spawned=True,
        memory=10,
        engine=dict(engine),
    )


TIMES = [1, 0, 2] + [0] * (len(REQUEST) - 2)
COUNTS = ModelCounts(
    loads=3, evictions=1, losses=2, downloads=1, downloaded_bytes=9, queue_times=TIMES, queue_seconds=1.5
)
REPORT = StatusReport(
    query="q",
    epoch="e",
    pid=1,
    uptime=9,
    models=[ModelStatus(id="m", state="hot", queued=4, counts=COUNTS)],
    workers=[
        worker("m#1", rows=3, kv_bytes=5, drafted_tokens=9),
        worker("m#2", rows=1, kv_bytes=2, drafted_tokens=4),
    ],
    in_flight=4,
    queued=4,
    keys=[KeyUsage(name="anna", open=1, requests=7, refused=2, prompt=30, cached=10, out=20, owed=5)],
    swaps=1,
)


def test_the_brokers_report_is_added_up_by_model() -> None:
    samples = read(exposition(Counters(), REPORT).decode())
    expected = {
        "vllm:num_requests_running": 4,
        "vllm:num_requests_waiting": 4,
        "mlx_server_batch_rows": 4,
        "mlx_server_kv_bytes": 7,
        "mlx_server_drafted_tokens": 13,
        "mlx_server_footprint_bytes": 20,
        "mlx_server_loads_total": 3,
        "mlx_server_evictions_total": 1,
        "mlx_server_worker_losses_total": 2,
        "mlx_server_downloads_total": 1,
        "mlx_server_download_failures_total": 0,
        "mlx_server_downloaded_bytes_total": 9,
        "mlx_server_swaps_total": 1,
        "vllm:request_queue_time_seconds_count": 3,
        "vllm:request_queue_time_seconds_sum": 1.5,
        "mlx_server_key_requests_total": 7,
        "mlx_server_key_refused_total": 2,
        "mlx_server_key_generation_tokens_total": 20,
        "mlx_server_key_owed_tokens": 5,
    }
    assert {name: one(samples, name) for name in expected} == expected
    assert one(samples, "vllm:request_queue_time_seconds_bucket", le=str(REQUEST[1])) == 1
    assert one(samples, "vllm:request_queue_time_seconds_bucket", le=str(REQUEST[2])) == 3
    assert one(samples, "mlx_server_model_state", state="hot") == 1
    assert one(samples, "mlx_server_model_state") == 1


def test_counts_that_are_too_many_for_a_message_end_no_process(fresh: Stack) -> None:
    fresh.chat()
    for number in range(3_000):
        fresh.counters.refused(f"code-{number:0500}")
    assert fresh.chat().status_code == 200
    assert fresh.client.get("/metrics").status_code == 200
