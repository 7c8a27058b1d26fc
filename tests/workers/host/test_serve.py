"""What can be seen of a hosted server's command before it is started."""

import sys
from pathlib import Path
from typing import Any

import pytest

from shared.model_table import ModelTable
from workers.host.serve import cannot_start, digest_of, inspected_hosted


def table(*serve: str, **keys: Any) -> ModelTable:
    return ModelTable.model_validate({"serve": serve, **keys})


def program(folder: Path, mode: int = 0o755) -> Path:
    path = folder / "run.sh"
    path.write_text("#!/bin/sh\n")
    path.chmod(mode)
    return path


def test_a_program_is_found_by_its_name_its_path_and_from_the_folder_it_is_started_in(tmp_path: Path) -> None:
    path = program(tmp_path)
    assert cannot_start(table("sh", "{port}")) is None
    assert cannot_start(table(sys.executable, "{port}")) is None
    assert cannot_start(table(str(path), "{port}")) is None
    assert cannot_start(table("./run.sh", "{port}", cwd=str(tmp_path))) is None
    assert cannot_start(table("run.sh", "{port}", env={"PATH": str(tmp_path)})) is None


@pytest.mark.parametrize("name", ["no-such-program-anywhere", "/no/such/program", "./run.sh"])
def test_a_program_that_is_not_there_is_named(name: str, tmp_path: Path) -> None:
    assert cannot_start(table(name, "{port}", cwd=str(tmp_path))) == (
        f"its command {name!r} is no program on this machine"
    )


def test_a_file_that_may_not_be_run_is_no_program(tmp_path: Path) -> None:
    assert "no program" in str(cannot_start(table(str(program(tmp_path, 0o600)), "{port}")))


def test_a_folder_that_is_not_there_is_named_and_never_tried_again(tmp_path: Path) -> None:
    found = inspected_hosted(table("sh", "{port}", cwd=str(tmp_path / "gone")))
    assert found.permanent
    assert str(tmp_path / "gone") in found.reason


def test_the_first_guess_of_its_memory_is_the_operators() -> None:
    assert inspected_hosted(table("sh", "{port}", memory_gb=1.5)).weights == 1_500_000_000


def test_a_change_of_what_is_asked_makes_another_model_of_it() -> None:
    first = table("sh", "{port}", env={"A": "1"})
    assert digest_of(first) == digest_of(table("sh", "{port}", env={"A": "1"}, memory_gb=3))
    others = [
        table("sh", "-x", "{port}"),
        table("sh", "{port}"),
        table("sh", "{port}", env={"A": "1"}, model_name="m"),
    ]
    assert len({digest_of(one) for one in (first, *others)}) == 4
