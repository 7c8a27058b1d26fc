"""The memory that this machine, or the container this process runs in, has for its processes: in all, and available.

Linux: ``memory.max`` of the process's control group and of those around it (kernel documentation, cgroup-v2), or
``memory.limit_in_bytes`` of version 1, which says "no limit" with a huge number.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

OTHERS = 512 << 20  # bytes for the broker, the api and what else runs here

_GROUPS = Path("/proc/self/cgroup")
_MOUNTED = Path("/sys/fs/cgroup")
_V1 = "memory"


@dataclass(frozen=True)
class MachineMemory:
    """``whose``: the machine's, or its container's."""

    size: int
    whose: str = "the machine"

    @property
    def for_models(self) -> int:
        return max(0, self.size - OTHERS)


def machine_memory() -> MachineMemory:
    machine = MachineMemory(psutil.virtual_memory().total)
    limit = container_limit(_GROUPS, _MOUNTED)
    return machine if limit is None or limit >= machine.size else MachineMemory(limit, "the container")


def available_memory() -> int:
    """Bytes that programs could still get without swapping: free memory, and page cache that can be dropped."""
    free = int(psutil.virtual_memory().available)
    container = container_available(_GROUPS, _MOUNTED)
    return free if container is None else min(free, container)


def container_available(groups: Path, mounted: Path) -> int | None:
    """Bytes; of control groups of version 2 only. None: no limit binds this process."""
    found = []
    for group in _groups_of_v2(groups):
        for folder in (group, *group.parents):
            limit = _number(mounted / folder / "memory.max")
            used = _number(mounted / folder / "memory.current")
            if limit is not None and used is not None:
                found.append(max(0, limit - used + _page_cache(mounted / folder / "memory.stat")))
    return min(found, default=None)


def _groups_of_v2(groups: Path) -> list[Path]:
    try:
        lines = groups.read_text().splitlines()
    except OSError:  # no Linux
        return []
    return [Path(line.removeprefix("0::").lstrip("/")) for line in lines if line.startswith("0::")]


def _number(file: Path) -> int | None:
    try:
        text = file.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdecimal() else None


def _page_cache(stat: Path) -> int:
    """Bytes of files, which count as used and are dropped before anything else."""
    try:
        said = dict(line.split(" ", 1) for line in stat.read_text().splitlines())
        return int(said["inactive_file"]) + int(said["active_file"])
    except (OSError, ValueError, KeyError):
        return 0


def container_limit(groups: Path, mounted: Path) -> int | None:
    """Bytes: the least limit that binds this process. ``groups``: as /proc/self/cgroup, ``mounted``: /sys/fs/cgroup."""
    try:
        lines = groups.read_text().splitlines()
    except OSError:  # no Linux
        return None
    found: list[int] = []
    for line in lines:
        _, controllers, group = line.split(":", 2)
        if controllers == "":
            found += _limits(mounted, group, "memory.max")
        elif _V1 in controllers.split(","):
            found += _limits(mounted / _V1, group, "memory.limit_in_bytes")
    return min(found, default=None)


def _limits(root: Path, group: str, name: str) -> Iterator[int]:
    """Of the group and of those around it. Inside a container its own group may be mounted as the root."""
    inside = Path(group.lstrip("/"))
    for folder in (inside, *inside.parents):
        try:
            text = (root / folder / name).read_text().strip()
        except OSError:
            continue
        if text.isdecimal():
            yield int(text)
