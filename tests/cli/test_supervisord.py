"""The supervisord of ``mlx-server serve``."""

import subprocess
import sys
import time

import pytest
from supervisor import poller

from cli.supervisord import INTERVAL, PromptPoller, main


def test_supervisord_checks_for_ended_processes_within_a_second() -> None:
    began = time.monotonic()
    PromptPoller(None).poll(30)
    assert INTERVAL <= time.monotonic() - began + 0.01 < 10


def test_cli_supervisord_runs_supervisord_with_the_prompt_poller(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(poller, "Poller", poller.Poller)
    monkeypatch.setattr(sys, "argv", ["supervisord", "--version"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    assert poller.Poller is PromptPoller


FORK = """
import os, signal, time
from cli.supervisord import end_forks_by_signals
signal.signal(signal.SIGTERM, lambda number, frame: None)  # as supervisord does, which only notes it
end_forks_by_signals()
if not (child := os.fork()):
    time.sleep(10)  # on its way to exec
    os._exit(0)
os.kill(child, signal.SIGTERM)
print(os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGTERM, signal.pthread_sigmask(signal.SIG_BLOCK, []))
"""


def test_a_program_that_is_told_to_stop_between_fork_and_exec_ends() -> None:
    done = subprocess.run([sys.executable, "-c", FORK], capture_output=True, text=True, check=True)
    assert done.stdout == "True set()\n"
