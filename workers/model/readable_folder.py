"""A folder as mlx-lm and transformers can read it: the model's own, or one of links to it in which little is mended.

mlx-lm takes a folder's path for a pattern, so that it finds no file in ``Qwen3 [4bit]``. Both libraries read only UTF-8
without a byte order mark, which editors on Windows write. Neither says so.
"""

import glob
import json
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from workers.model.folder import optional_json_object
from workers.model.load_error import LoadError

_OPTIONAL = "generation_config.json"  # what cannot be read of it is taken for absent
_NO_PATTERN = re.compile(r"[*?\[\]]")


@contextmanager
def readable(folder: Path) -> Iterator[Path]:
    """``folder`` itself where nothing is to be mended; else a temporary folder, which is gone at the end."""
    mended = _mended(folder)
    if not mended and glob.escape(str(folder)) == str(folder):
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="mlx-server-") as parent:
        view = Path(parent) / _NO_PATTERN.sub("_", folder.name)
        view.mkdir()
        for entry in folder.absolute().iterdir():
            if entry.name not in mended:
                (view / entry.name).symlink_to(entry)
        for name, text in mended.items():
            (view / name).write_text(text, encoding="utf-8")
        yield view


def _mended(folder: Path) -> dict[str, str]:
    """The new text of each file that the libraries stumble over, by name."""
    mended = {}
    for file in sorted(folder.glob("[!.]*.json")):
        if file.is_file() and (text := _without_mark(file)) is not None:
            mended[file.name] = text
    try:
        optional_json_object(folder / _OPTIONAL)
    except LoadError:
        mended[_OPTIONAL] = "{}"
    return mended


def _without_mark(file: Path) -> str | None:
    """The text of a file in another encoding than plain UTF-8; None where it is plain, or no text."""
    with file.open("rb") as stream:
        start = stream.read(4)
        encoding = json.detect_encoding(start)
        if encoding == "utf-8":
            return None
        data = start + stream.read()
    try:
        return data.decode(encoding)
    except UnicodeDecodeError:
        return None
