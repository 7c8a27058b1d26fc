"""Folders with random damage: each is loaded or refused with a sentence within seconds."""

import copy
import json
import random
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.tiny_model import make_tiny_llama

ROOT = Path(__file__).parents[3]
LOAD_ALL = """
import json, pathlib, sys, time
from workers.model.load_error import LoadError
from workers.model.load import inspect, load
for folder in map(pathlib.Path, sys.argv[2:]):
    began = time.process_time()
    try:
        load(folder, inspect(folder), lambda *progress: None, trusted=sys.argv[1] == "trusted")
        how = "loaded"
    except LoadError as error:
        how = error.reason
    print(json.dumps([how, time.process_time() - began]), flush=True)
"""
NASTY: list[Any] = [
    *(None, True, 0, -1, 1, 2**31, 2**63, 10**400, 0.0, 1e308, float("nan"), float("inf"), -0.5),
    *("", "x", "x" * 10_000, "\ud800", "../../etc/passwd", [], {}, [[]], {"a": {}}, [None], {"": ""}),
]
FILES = ("config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json")


def damaged(whole: Path, folder: Path, dice: random.Random) -> Path:
    """A copy with one to three values of one file replaced, or the file cut short."""
    shutil.copytree(whole, folder)
    file = folder / dice.choice(FILES)
    if dice.random() < 0.1:
        text = file.read_bytes()
        file.write_bytes(text[: dice.randrange(len(text))])
        return folder
    content = json.loads(file.read_bytes())
    for _ in range(dice.randint(1, 3)):
        place: Any = content
        while True:
            key = dice.choice(list(place) if isinstance(place, dict) else range(len(place)))
            inner = place[key]
            if not (isinstance(inner, dict | list) and inner) or dice.random() < 0.3:
                break
            place = inner
        place[key] = copy.deepcopy(dice.choice(NASTY))  # it may be damaged in turn
    file.write_text(json.dumps(content))
    return folder


def ends(folders: list[Path], trusted: str) -> list[tuple[str, float]]:
    program = [sys.executable, "-c", LOAD_ALL, trusted, *map(str, folders)]
    done = subprocess.run(program, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")]


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("number", "trusted"), [(20, "trusted"), (12, "tried")])
def test_a_damaged_folder_loads_or_is_refused_within_seconds(
    tmp_path: Path, number: int, trusted: str
) -> None:
    seed = random.randrange(1 << 32)
    print("seed", seed)
    dice = random.Random(seed)
    whole = make_tiny_llama(tmp_path / "whole")
    folders = [damaged(whole, tmp_path / str(i), dice) for i in range(number)]
    ended = ends(folders, trusted)
    assert len(ended) == number
    for how, seconds in ended:
        assert how == "loaded" or how.endswith("."), how
        assert str(tmp_path) not in how
        assert seconds < 20, how
