"""Runs ``mlx-server`` as a process, as an operator does."""

import os
import signal
import subprocess
import sys
from pathlib import Path

from typer.testing import CliRunner

from cli.__main__ import app

ROOT = Path(__file__).parents[2]
STAND_INS = Path(__file__).parent / "stand_ins"
COMMAND = [sys.executable, "-P", "-m", "cli"]


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200", **more}


def run(*arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments],
        env=environment(**more),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def call(*arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    """As ``run``, within this process: far cheaper, for commands that start and become no other program."""
    result = CliRunner().invoke(app, arguments, env={"COLUMNS": "200", **more}, prog_name="mlx-server")
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return subprocess.CompletedProcess(arguments, result.exit_code, result.stdout, result.stderr)


def start(*arguments: str, stand_in: str = "", **more: str) -> subprocess.Popen[str]:
    """``serve`` with the stand-ins for broker and api; SIGINT stands for Ctrl-C."""
    return subprocess.Popen(
        [*COMMAND, *arguments],
        env=environment(**{"PYTHONPATH": f"{STAND_INS}{os.pathsep}{ROOT}", "STAND_IN": stand_in, **more}),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
