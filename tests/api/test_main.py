"""``python -m api`` as a process."""

import contextlib
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from api.http.connection import Connection
from tests.api.fake_broker import DEADLINE


@pytest.fixture
def environment() -> Iterator[dict[str, str]]:
    folder = tempfile.mkdtemp(prefix="mlx", dir="/tmp")
    yield {**os.environ, "MLX_SERVER_RUN_DIR": folder, "MLX_SERVER_AVAILABLE_MODELS": "tiny=/models/tiny"}
    shutil.rmtree(folder)


def listening() -> socket.socket:
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    return listener


def test_the_api_exits_75_with_one_line_when_its_port_is_in_use(environment: dict[str, str]) -> None:
    with listening() as taken:
        environment["MLX_SERVER_PORT"] = str(taken.getsockname()[1])
        done = subprocess.run(
            [sys.executable, "-m", "api"], env=environment, capture_output=True, text=True, timeout=DEADLINE
        )
    assert done.returncode == 75
    assert done.stderr.count("\n") == 1
    assert "in use" in done.stderr


def test_the_api_exits_78_with_one_line_when_its_run_directory_is_a_link(environment: dict[str, str]) -> None:
    link = Path(environment["MLX_SERVER_RUN_DIR"]) / "link"
    link.symlink_to("/tmp")
    environment["MLX_SERVER_RUN_DIR"] = str(link)
    done = subprocess.run(
        [sys.executable, "-m", "api"], env=environment, capture_output=True, text=True, timeout=DEADLINE
    )
    assert (done.returncode, done.stderr.count("\n")) == (78, 1)
    assert "symbolic link" in done.stderr


def test_the_api_serves_an_inherited_socket_and_exits_cleanly(environment: dict[str, str]) -> None:
    with listening() as listener:
        number = listener.fileno()
        command = [sys.executable, "-m", "api", "--fd", str(number)]
        process = subprocess.Popen(
            command, env=environment, pass_fds=[number], stderr=subprocess.PIPE, text=True
        )
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        try:
            assert httpx.get(f"{url}/health", timeout=DEADLINE).status_code == 200
            not_ready = httpx.get(f"{url}/ready", timeout=DEADLINE)
            assert (not_ready.status_code, not_ready.json()["error"]["code"]) == (503, "broker_unavailable")
        finally:
            process.send_signal(signal.SIGTERM)
            _, log = process.communicate(timeout=DEADLINE)
    assert process.returncode == 0
    assert "Traceback" not in log


@pytest.mark.slow
def test_the_api_survives_more_connections_than_it_may_open_files(environment: dict[str, str]) -> None:
    limit, connections = 64, []
    with listening() as listener:
        number = listener.fileno()
        process = subprocess.Popen(
            [sys.executable, "-m", "api", "--fd", str(number)],
            env=environment,
            pass_fds=[number],
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit)),
        )
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        try:
            assert httpx.get(f"{url}/health", timeout=DEADLINE).status_code == 200
            for _ in range(2 * limit):
                connection = socket.socket()
                connection.setblocking(False)
                connection.connect_ex(listener.getsockname())
                connections.append(connection)
            with pytest.raises(httpx.TransportError):
                httpx.get(f"{url}/health", timeout=2)
            for connection in connections:
                connection.close()
            assert httpx.get(f"{url}/health", timeout=DEADLINE).status_code == 200
        finally:
            process.send_signal(signal.SIGTERM)
            _, log = process.communicate(timeout=DEADLINE)
    assert process.returncode == 0
    assert "Traceback" not in log


def client_of(listener: socket.socket) -> socket.socket:
    client = socket.create_connection(listener.getsockname(), DEADLINE)
    client.settimeout(0.2)
    return client


def closed(client: socket.socket) -> bool:
    try:
        return client.recv(1) == b""
    except TimeoutError:
        return False
    except ConnectionError:
        return True


@pytest.mark.slow
def test_one_address_has_no_more_requests_half_sent_than_the_setting_allows(
    environment: dict[str, str],
) -> None:
    environment["MLX_SERVER_UNFINISHED_PER_ADDRESS"] = "2"
    with listening() as listener:
        number = listener.fileno()
        command = [sys.executable, "-m", "api", "--fd", str(number)]
        process = subprocess.Popen(command, env=environment, pass_fds=[number])
        try:
            httpx.get(f"http://127.0.0.1:{listener.getsockname()[1]}/health", timeout=DEADLINE)
            with contextlib.ExitStack() as stack:
                oldest, *_ = halves = [stack.enter_context(client_of(listener)) for _ in range(3)]
                for half in halves:
                    half.sendall(b"GET /hea")
                deadline = time.monotonic() + Connection.patience / 2
                while not closed(oldest):  # by the first that comes when the oldest is no longer new
                    assert time.monotonic() < deadline, "none is cut"
                    stack.enter_context(client_of(listener)).sendall(b"G")
        finally:
            process.terminate()
            process.wait(DEADLINE)


def test_the_api_never_imports_a_model_library() -> None:
    code = "import api.__main__, sys; print({m.split('.')[0] for m in sys.modules})"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert not any(f"'{name}'" in loaded for name in ("mlx", "mlx_lm", "transformers", "huggingface_hub"))
