"""What earlier loads of a model found out, so that the next process need not: one JSON file a model, for all workers.

A finding holds for the same files, the same code and libraries and the same processor; ``key_of`` is a digest of all of
them, and a file with another key is overwritten. Failures are not kept. A file that cannot be read or written costs the
time to find out again, and nothing else.
"""

import hashlib
import json
import logging
import os
import platform
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

import workers

log = logging.getLogger(__name__)

T = TypeVar("T")

LIBRARIES = ("mlx", "mlx-lm", "transformers", "tokenizers", "jinja2", "numpy", "scipy-openblas32")
WEIGHTS = (
    ".safetensors",
    ".bin",
    ".pt",
    ".pth",
    ".gguf",
    ".onnx",
    ".npz",
)  # a digest of what is loaded is in the key
MOST_FILES = 500
LARGE = 64 << 20  # bytes; of a larger file only size and date count


class KeptFindings:
    """``file`` None: nothing is kept, everything is found out anew."""

    def __init__(self, file: Path | None = None, key: str = "") -> None:
        self._file, self._key = file, key
        self._found = self._read()

    def recall(
        self, name: str, kind: type[T], find: Callable[[], T], keeps: Callable[[T], bool] = lambda found: True
    ) -> T:
        """The kept finding, else what ``find`` gives, which is kept if it returns and ``keeps`` agrees."""
        adapter: TypeAdapter[T] = TypeAdapter(kind)
        if name in self._found:
            with suppress(ValidationError):
                return adapter.validate_python(self._found[name])
        found = find()
        if keeps(found):
            self._found[name] = adapter.dump_python(found, mode="json")
            self._write()
        return found

    def _read(self) -> dict[str, Any]:
        if self._file is None:
            return {}
        try:
            kept = json.loads(self._file.read_bytes())
        except (OSError, ValueError):
            return {}
        if not isinstance(kept, dict) or kept.get("key") != self._key:
            return {}
        found = kept.get("found")
        return found if isinstance(found, dict) else {}

    def _write(self) -> None:
        if self._file is None:
            return
        try:
            self._file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            draft = self._file.with_suffix(f".{os.getpid()}")
            try:
                draft.write_text(json.dumps({"key": self._key, "found": self._found}))
                draft.replace(self._file)
            finally:
                draft.unlink(missing_ok=True)
        except OSError as error:
            log.debug("findings are not kept: %s", error)


def kept_findings(
    cache_dir: Path, folder: Path, digest: str, *conditions: object, template: Path | None = None
) -> KeptFindings:
    """Of the model in ``folder``. ``digest``: of its weights. ``conditions``: what else they hold for.

    ``template``: an operator's file in place of the folder's chat template.
    """
    files = [*_files(folder), *([template] if template else [])]
    if len(files) > MOST_FILES:
        return KeptFindings()
    name = hashlib.sha256(f"{folder} {template} {conditions}".encode()).hexdigest()[:32]
    return KeptFindings(cache_dir / "findings" / f"{name}.json", key_of(files, digest, conditions))


def key_of(files: list[Path], digest: str, conditions: tuple[object, ...] = ()) -> str:
    key = hashlib.sha256(repr((digest, conditions, _machine(), _code())).encode())
    for file in files:
        key.update(f"\0{file}\0".encode() + _content(file))
    return key.hexdigest()


def _files(folder: Path) -> Iterator[Path]:
    for where, _, names in os.walk(folder):
        for name in sorted(names):
            if not name.endswith(WEIGHTS):
                yield Path(where, name)


def _content(file: Path) -> bytes:
    try:
        status = file.stat()
        if status.st_size > LARGE:
            return f"{status.st_size} {status.st_mtime_ns}".encode()
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").digest()
    except OSError as error:
        return repr(error.errno).encode()


@cache
def _machine() -> tuple[str, ...]:
    """The processor with its instructions, and the system."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    told = sorted(
        {line for line in lines if line.startswith(("model name", "flags", "Features", "CPU part"))}
    )
    return (platform.platform(), platform.machine(), str(os.cpu_count()), *told)


@cache
def _code() -> str:
    """Of the workers' own modules and of the libraries; no version number needs to be raised by hand."""
    code = hashlib.sha256(f"{sys.version} {[_version(name) for name in LIBRARIES]}".encode())
    root = Path(workers.__file__).parent
    for file in sorted(root.rglob("*.py")):
        code.update(f"\0{file.relative_to(root)}\0".encode() + file.read_bytes())
    return code.hexdigest()


def _version(library: str) -> str:
    with suppress(PackageNotFoundError):
        return version(library)
    return ""
