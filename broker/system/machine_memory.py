"""The memory that this machine, or the container this process runs in, has for its processes; it bounds the budget.

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
