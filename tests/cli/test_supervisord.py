"""The supervisord of ``mlx-server serve``."""

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
