"""The retrieval that docs/embeddings.md shows does what it says there."""

import re
import runpy
from pathlib import Path

import pytest

from tests.cli.command import ROOT
from tests.e2e.stack import Stack

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

MODULES = "statistics shutil threading math"


def program(port: int) -> str:
    """Of fewer modules than in the page."""
    [code] = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "embeddings.md").read_text(), re.DOTALL)
    for old, new in (
        (r"127\.0\.0\.1:8000", f"127.0.0.1:{port}"),
        (r'""".*?"""\.split', f'"{MODULES}".split'),
    ):
        code, changed = re.subn(old, new, code, count=1, flags=re.DOTALL)
        assert changed
    return str(code)


def test_the_retrieval_of_the_docs_finds_what_it_shows(
    stack: Stack, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "retrieval.py"
    file.write_text(program(stack.port))
    names = runpy.run_path(str(file))
    said = capsys.readouterr().out.splitlines()
    assert "threading.Thread.join" in said[0] and "statistics.median" in said[1]
    assert "shutil.rmtree" in names["search"]("delete a folder and everything in it")
    names["client"].close()
    assert 100 < len(names["texts"]) <= 2000
