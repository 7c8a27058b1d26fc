"""Downloads against the whole server: waited for, cancelled, and a broker that is killed in the middle of one."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from shared.settings import Settings
from tests.faults.stack import FaultStack, cmdline
from tests.hub import REPOSITORY, Hub, hub_of
from tests.tiny_model import make_tiny_llama

ASK = {
    "model": REPOSITORY,
    "messages": [{"role": "user", "content": "Hi"}],
    "max_tokens": 2,
    "stream": True,
}


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    with hub_of(make_tiny_llama(tmp_path / "model"), tmp_path / "home") as hub:
        yield hub


@pytest.fixture
def stack(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultStack]:
    for name, value in hub.environment.items():
        monkeypatch.setenv(name, value)
    command = Settings.model_fields["worker_command"].default
    stack = FaultStack(available_models=REPOSITORY, worker_command=_json(command), heartbeat_timeout=10.0)
    try:
        yield stack
    finally:
        stack.close()


def _json(command: tuple[str, ...]) -> str:
    return "[" + ", ".join(f'"{word}"' for word in command) + "]"


def model(stack: FaultStack) -> dict[str, object]:
    [found] = stack.status()["models"]
    assert isinstance(found, dict)
    return found


def children(stack: FaultStack) -> list[int]:
    return [p.pid for p in stack.descendants() if "workers.hub" in cmdline(p)]


def pull_half(stack: FaultStack, hub: Hub) -> None:
    """A pull that nobody waits for, of which no more than half arrives."""
    hub.stall_after = hub.weights.stat().st_size // 2
    assert stack.http.post(f"/admin/models/{REPOSITORY}/pull").status_code == 202
    stack.until(lambda: hub.partial() == hub.stall_after, "half of it")


@pytest.mark.slow
def test_a_request_waits_for_its_models_download_and_is_told_how_far_it_is(
    stack: FaultStack, hub: Hub
) -> None:
    hub.rate = hub.weights.stat().st_size / 4
    with stack.http.stream("POST", "/v1/chat/completions", json=ASK, timeout=60) as answer:
        lines = list(answer.iter_lines())
    waits = [line for line in lines if "downloading" in line]
    assert waits, lines
    assert waits[-1].startswith(f": queued, 1 of 1 for '{REPOSITORY}', downloading, ")
    assert lines[-2:] == ["data: [DONE]", ""]
    assert hub.sent == hub.weights.stat().st_size
    assert "fetching 'org/tiny'" in stack.log("broker")


@pytest.mark.slow
def test_two_requests_and_a_pull_at_once_are_one_download(stack: FaultStack, hub: Hub) -> None:
    hub.rate = hub.weights.stat().st_size / 2
    answers: list[int] = []

    def pull() -> None:
        answer = stack.http.post(f"/admin/models/{REPOSITORY}/pull", json={"wait": True}, timeout=60)
        answers.append(answer.status_code)

    threads = [threading.Thread(target=pull) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [200, 200, 200]
    assert hub.sent == hub.weights.stat().st_size
    assert stack.http.post(f"/admin/models/{REPOSITORY}/pull", json={"wait": True}).json()["done"] is True
    assert hub.sent == hub.weights.stat().st_size


@pytest.mark.slow
def test_a_cancelled_download_keeps_what_has_arrived_and_goes_on_when_asked_again(
    stack: FaultStack, hub: Hub
) -> None:
    pull_half(stack, hub)
    stack.until(lambda: model(stack)["state"] == "downloading", "downloading")
    assert stack.http.delete(f"/admin/models/{REPOSITORY}/pull").status_code in (200, 202)
    stack.until(lambda: model(stack)["state"] == "loadable" and not children(stack), "cancelled")
    hub.stall_after = None
    answer = stack.http.post(f"/admin/models/{REPOSITORY}/pull", json={"wait": True}, timeout=60)
    assert answer.json()["done"] is True
    assert hub.sent == hub.weights.stat().st_size, "no byte came twice"


@pytest.mark.slow
def test_a_broker_killed_in_the_middle_of_a_download_leaves_no_child_and_the_next_one_goes_on(
    stack: FaultStack, hub: Hub
) -> None:
    hub.stall_after = hub.weights.stat().st_size // 2
    said: list[str] = []

    def chat() -> None:
        with stack.http.stream("POST", "/v1/chat/completions", json=ASK, timeout=60) as answer:
            said.extend(answer.iter_lines())

    waiting = threading.Thread(target=chat)
    waiting.start()
    stack.until(lambda: hub.partial() == hub.stall_after, "half of it")
    [child] = children(stack)
    stack.kill_broker()
    hub.stall_after = None
    stack.until(lambda: children(stack) not in ([child], []) or bool(said), "a child of the next broker")
    waiting.join(60)
    assert said[-2:] == ["data: [DONE]", ""], said
    assert hub.sent == hub.weights.stat().st_size, "no byte came twice"


@pytest.mark.slow
def test_a_pull_that_nobody_waits_for_is_gone_on_with_after_the_brokers_end(
    stack: FaultStack, hub: Hub
) -> None:
    pull_half(stack, hub)
    stack.kill_broker()
    hub.stall_after = None
    stack.until(lambda: any(hub.home.glob("hub/*/snapshots/*/model.safetensors")), "whole", 60)
    assert hub.sent == hub.weights.stat().st_size, "no byte came twice"


@pytest.mark.slow
def test_a_machine_without_a_network_says_soon_what_is_missing(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {**hub.environment, "HF_ENDPOINT": "http://127.0.0.1:9"}.items():
        monkeypatch.setenv(name, value)
    command = Settings.model_fields["worker_command"].default
    stack = FaultStack(available_models=REPOSITORY, worker_command=_json(command))
    try:
        stack.until(lambda: model(stack)["absent"] is True, "inspected")
        answer = stack.http.post("/v1/chat/completions", json=ASK | {"stream": False})
        assert answer.status_code == 503
        assert "is not whole on this disk and the hub cannot be reached" in answer.json()["error"]["message"]
        assert answer.elapsed.total_seconds() < 30, "three seconds, on a machine that does nothing else"
    finally:
        stack.close()
