"""The supervisord of ``mlx-server serve``."""

import sys
import time

import pytest
from supervisor import poller

from cli.supervisord import INTERVAL, PromptPoller, main


def test_it_does_not_wait_a_second_before_it_looks_at_what_has_ended() -> None:
    began = time.monotonic()
    PromptPoller(None).poll(30)
    assert INTERVAL <= time.monotonic() - began + 0.01 < 10


def test_it_is_supervisord_with_that_poller(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(poller, "Poller", poller.Poller)
    monkeypatch.setattr(sys, "argv", ["supervisord", "--version"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    assert poller.Poller is PromptPoller
