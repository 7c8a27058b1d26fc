"""Tests in a pytest of their own, for what holds for a whole process: a BLAS's kernel, the code for a GPU."""

import os
import subprocess
import sys

from tests.cli.command import ROOT


def passes(tests: list[str], **environment: str) -> None:
    """Runs ``tests``, files and options of pytest, one after another."""
    options = ["-q", "--no-header", "-p", "no:cacheprovider", "-p", "no:xdist"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, *tests],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    assert "passed" in done.stdout and "no tests ran" not in done.stdout
