"""What a machine or a container has for its processes, read from files as the kernel writes them."""

from pathlib import Path

import psutil
import pytest

from broker.models.configuration import memory_rules
from broker.system.machine_memory import (
    OTHERS,
    MachineMemory,
    available_memory,
    container_available,
    container_limit,
    machine_memory,
)
from shared.settings import Settings

GB = 10**9


def written(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


@pytest.mark.parametrize(
    ("groups", "files", "limit"),
    [
        ("0::/a/b\n", {"a/b/memory.max": "max\n", "a/memory.max": "4000\n", "memory.max": "9000\n"}, 4000),
        ("0::/a/b\n", {"a/b/memory.max": "max\n"}, None),
        ("0::/../elsewhere\n", {"memory.max": "5000\n"}, 5000),
        ("4:cpu,memory:/a\n0::/\n", {"memory/a/memory.limit_in_bytes": "3000\n"}, 3000),
        ("3:cpu:/a\n", {"memory/a/memory.limit_in_bytes": "3000\n"}, None),
        ("0::/gone\n", {}, None),
    ],
)
def test_the_least_limit_of_a_container_and_of_what_is_around_it_binds(
    tmp_path: Path, groups: str, files: dict[str, str], limit: int | None
) -> None:
    own = written(tmp_path, {"own": groups}) / "own"
    assert container_limit(own, written(tmp_path / "mounted", files)) == limit


def test_without_control_groups_there_is_no_limit(tmp_path: Path) -> None:
    assert container_limit(tmp_path / "none", tmp_path) is None


def test_a_machine_has_no_more_than_its_memory() -> None:
    assert 0 < machine_memory().size <= psutil.virtual_memory().total


def test_the_budget_is_what_is_asked_for_but_no_more_than_the_machine_has_for_models() -> None:
    settings = Settings(max_cache_size_gb=8)
    small = MachineMemory(4 * GB)
    assert memory_rules(settings).budget == 8 * GB
    assert memory_rules(settings, small.for_models).budget == 4 * GB - OTHERS
    assert memory_rules(settings, MachineMemory(64 * GB).for_models).budget == 8 * GB


def test_page_cache_of_a_container_counts_as_available(tmp_path: Path) -> None:
    own = written(tmp_path, {"own": "0::/a/b\n"}) / "own"
    stat = "anon 1000\ninactive_file 2000\nactive_file 500\n"
    group = {"a/memory.max": "9000\n", "a/memory.current": "5000\n", "a/memory.stat": stat}
    mounted = written(tmp_path / "mounted", {**group, "a/b/memory.max": "max\n", "a/b/memory.current": "4\n"})
    assert container_available(own, mounted) == 9000 - 5000 + 2500


def test_without_a_container_what_is_available_is_the_machines(tmp_path: Path) -> None:
    assert container_available(tmp_path / "none", tmp_path) is None
    assert 0 < available_memory() <= psutil.virtual_memory().total
