"""The supervisord of ``mlx-server serve``."""

import time

from cli.supervisord import INTERVAL, PromptPoller


def test_it_does_not_wait_a_second_before_it_looks_at_what_has_ended() -> None:
    began = time.monotonic()
    PromptPoller(None).poll(1)
    assert INTERVAL <= time.monotonic() - began + 0.01 < 1
