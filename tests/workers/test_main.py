"""A worker's process, before it loads a model."""

from unittest.mock import Mock

import pytest

from shared import logs
from workers import __main__ as worker


def test_memory_is_arranged_before_there_is_a_second_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = Mock(serve=Mock(return_value=0))
    for name in ("keep_freed_memory", "open_blas", "serve"):  # opening OpenBLAS starts threads
        monkeypatch.setattr(worker, name, getattr(calls, name))
    monkeypatch.setattr(logs, "configure", Mock())
    monkeypatch.setattr(worker, "describe_blas", str)
    assert worker.main(["--model", "m"]) == 0
    names = [each[0] for each in calls.mock_calls if "." not in each[0]]
    assert names == ["keep_freed_memory", "open_blas", "serve"]
