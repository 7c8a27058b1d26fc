"""Every failure to load is reported to the broker as a sentence without a path of this disk."""

from queue import SimpleQueue
from typing import Any

import pytest

from shared.errors import without_folders
from workers.job import Served
from workers.model.load_error import LoadError, Progress, explained
from workers.posted import LoadingFailed
from workers.serve import _engine_thread, engine_loop


class Panic(BaseException):
    """A panic as libraries in Rust raise it: not an Exception."""


FOR_GOOD = [
    *(ValueError("x"), KeyError("hidden_size"), TypeError("x"), AttributeError("x"), ImportError("x")),
    *(ZeroDivisionError("x"), OverflowError("x"), RecursionError("x"), NotImplementedError("x")),
    *(AssertionError(), IndexError("x"), UnicodeDecodeError("utf-8", b"\xff", 0, 1, "x")),
    *(SystemExit(3), Panic("called `Option::unwrap()` on a `None` value"), GeneratorExit()),
    RuntimeError("[metal::Device] Unable to load kernel steel_attention"),
]
FOR_NOW = [
    *(MemoryError(), OSError(5, "Input/output error"), RuntimeError("[malloc] Unable to allocate 10 bytes")),
    RuntimeError("[METAL] Command buffer execution failed: Insufficient Memory"),
    RuntimeError("[METAL] Command buffer execution failed: Caused GPU Timeout Error"),
]


class Heard:
    """The messages that the engine thread posts to the link."""

    def __init__(self) -> None:
        self.posted: list[Any] = []

    def post(self, item: object) -> None:
        self.posted.append(item)


@pytest.mark.parametrize("error", [*FOR_GOOD, *FOR_NOW], ids=repr)
def test_any_exception_while_loading_is_reported_to_the_broker(error: BaseException) -> None:
    def load(progress: Progress) -> Served[Any]:
        raise error

    link: Any = Heard()
    _engine_thread(link, SimpleQueue(), load, engine_loop)
    (failed,) = link.posted
    assert isinstance(failed, LoadingFailed)
    assert failed.permanent == (error in FOR_GOOD)
    assert type(error).__name__ in failed.reason


def test_a_missing_metal_kernel_is_not_reported_as_lack_of_memory() -> None:
    with pytest.raises(LoadError) as caught, explained("The model"):
        raise FOR_GOOD[-1]
    assert "more memory" not in caught.value.reason


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("no such file: '/home/ann/models/x/config.json'", "no such file: 'config.json'"),
        ("Can't load tokenizer for '/srv/m'. See https://huggingface.co/models", None),
        ("in ~/.cache/mlx-server/smollm2", "in smollm2"),
        ("models/a/b of org/name at http://127.0.0.1:9/x", "models/a/b of org/name at http://127.0.0.1:9/x"),
    ],
)
def test_a_reason_names_no_path_of_this_disk(said: str, shown: str | None) -> None:
    error = LoadError(said, permanent=True)
    assert error.reason == (shown or "Can't load tokenizer for 'm'. See https://huggingface.co/models")
    assert without_folders(error.reason) == error.reason
    assert str(error) == said
