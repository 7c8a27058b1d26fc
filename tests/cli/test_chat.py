"""``mlx-server run`` and ``list`` against the api and a broker that answers at once."""

import os
import pty
import subprocess
import time
from collections.abc import Iterator

import pytest

from shared.api_keys import KeyFile
from shared.protocol import Generation, Submit
from tests.api.conftest import Stack, run_stack
from tests.cli.command import COMMAND, environment, run
from tests.ports import free_port


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    with run_stack() as running:
        yield running


def of(stack: Stack) -> dict[str, str]:
    return {
        "MLX_SERVER_PORT": str(stack.port),
        "MLX_SERVER_RUN_DIR": str(stack.settings.sockets_dir),
    }


def answer(stack: Stack) -> str:
    body = {"model": "tiny", "messages": [{"role": "user", "content": "Hi"}]}
    said: str = stack.client.post("/v1/chat/completions", json=body).json()["choices"][0]["message"][
        "content"
    ]
    return said


def test_run_prints_the_answer_to_its_argument_or_to_standard_input(stack: Stack) -> None:
    asked = run("run", "tiny", "Hi", **of(stack))
    assert (asked.returncode, asked.stdout, asked.stderr) == (0, answer(stack) + "\n", "")
    piped = subprocess.run(
        [*COMMAND, "chat", "tiny"],
        input="Hi",
        env=environment(**of(stack)),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (piped.returncode, piped.stdout) == (0, asked.stdout)


def test_run_asks_with_the_temperature_and_the_length_that_are_given(stack: Stack) -> None:
    stack.broker.reset()
    assert run("run", "tiny", "Hi", "--temperature", "0", "--max-tokens", "7", **of(stack)).returncode == 0
    [task] = [message.task for message in stack.broker.received if isinstance(message, Submit)]
    assert isinstance(task, Generation)
    assert (task.sampling.temperature, task.stopping.max_tokens) == (0, 7)


@pytest.mark.slow
@pytest.mark.parametrize("command", ["run", "chat"])
def test_run_says_why_there_is_no_answer(stack: Stack, command: str) -> None:
    refused = run(command, "tinny", "Hi", **of(stack))
    assert refused.returncode == 1
    assert "Did you mean 'tiny'?" in refused.stderr
    silent = run(command, "tiny", "Hi", MLX_SERVER_PORT=str(free_port()))
    assert silent.returncode == 1
    assert "serve` starts a server" in silent.stderr


def test_run_is_a_conversation_on_a_terminal(stack: Stack) -> None:
    master, terminal = pty.openpty()
    process = subprocess.Popen(
        [*COMMAND, "run", "tiny"],
        env=environment(TERM="dumb", **of(stack)),
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
    )
    os.close(terminal)
    try:
        seen = ""
        for awaited, line in (
            (">>> ", "/help\n"),
            ("forget the conversation", "Hi\n"),
            ("the first after", "/bye\n"),
        ):
            seen = until(master, awaited, seen)
            os.write(master, line.encode())
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()
        os.close(master)


def until(terminal: int, awaited: str, seen: str) -> str:
    """Reads on; gives what stands behind ``awaited``."""
    deadline = time.monotonic() + 60
    while awaited not in seen:
        assert time.monotonic() < deadline, seen
        seen += os.read(terminal, 4096).decode(errors="replace")
    return seen.partition(awaited)[2]


def test_list_shows_the_models_of_the_settings_when_no_server_runs() -> None:
    done = run("list", MLX_SERVER_PORT=str(free_port()), MLX_SERVER_AVAILABLE_MODELS="smollm2-135m-instruct")
    assert done.returncode == 0
    assert "smollm2-135m-instruct" in done.stdout


@pytest.mark.slow
def test_the_commands_of_whoever_owns_the_server_need_no_key(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    keys = KeyFile(tmp_path_factory.mktemp("keys") / "keys.json")
    keys.add("anna")
    with run_stack(keys_file=keys.path) as stack:
        assert run("run", "tiny", "Hi", **of(stack)).returncode == 1
        stack.settings.token_file.write_text("the-owners-token\n")
        assert run("run", "tiny", "Hi", **of(stack)).returncode == 0
