"""Why a model could not be loaded, as a sentence for the operator.

Rule 1: clients see ``reason``, which contains no folder of this disk; ``str(error)`` has the full text for the log.
Rule 2: whatever a library raises, including a panic or an exit, becomes a LoadError; it is ``permanent`` if loading
again cannot succeed.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from shared.errors import without_folders

Progress = Callable[[str, int, int], None]
"""(phase, bytes done, bytes in all); (phase, 0, 0) for phases that do not count bytes."""

_MEMORY = re.compile(r"memory|alloc", re.IGNORECASE)
_KERNEL = re.compile(r"unable to (?:load|build|create)|kernel|library", re.IGNORECASE)


class LoadError(Exception):
    """``reason`` is a sentence for the operator; ``permanent``: loading again cannot succeed."""

    def __init__(self, reason: str, permanent: bool) -> None:
        super().__init__(reason)
        self.reason = without_folders(reason)
        self.permanent = permanent


class IncompleteError(LoadError):
    """Files are missing; a download may complete a model from the hub."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason, permanent=True)


class AbsentError(LoadError):
    """A model of the hub is not whole on this disk; the broker has it fetched."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason, permanent=False)


def first_line(error: BaseException) -> str:
    """The first line of the message, and the next that is not blank if the first ends with a colon."""
    first, *rest = [*str(error).splitlines(), ""]
    second = next((line for line in map(str.strip, rest) if line), "") if first.endswith(":") else ""
    return f"{first} {second}"[:500].strip()


@contextmanager
def explained(subject: str) -> Iterator[None]:
    """Turns any exception of the block into a LoadError whose sentence begins with ``subject``."""
    try:
        yield
    except (LoadError, KeyboardInterrupt):
        raise
    except BaseException as error:
        raise load_error(subject, error) from error


def load_error(subject: str, error: BaseException) -> LoadError:
    said = first_line(error)
    what = f"{type(error).__name__}: {said}" if said else type(error).__name__
    if isinstance(error, MemoryError) or (_is_runtime_error(error) and _MEMORY.search(said)):
        reason = f"{subject} could not be brought into memory: {what}"
        return LoadError(f"{reason}. It takes more memory than is free.", permanent=False)
    if isinstance(error, OSError):
        reason = f"{subject} could not be read: {what}"
        return LoadError(f"{reason}. Check the disk and who may read the folder.", permanent=False)
    if _is_runtime_error(error):
        permanent = _KERNEL.search(said) is not None
        reason = f"{subject} cannot be computed on this machine: {what}"
        return LoadError(f"{reason}. Another conversion of the model may.", permanent)
    reason = f"{subject} does not fit mlx-lm: {what}"
    return LoadError(f"{reason}. Another conversion of the model may.", permanent=True)


def _is_runtime_error(error: BaseException) -> bool:
    """Whether a native library raised it; Python's own subclasses point to the code or the folder."""
    return isinstance(error, RuntimeError) and not isinstance(error, RecursionError | NotImplementedError)
