"""``learned.json``: what models were found to need, for the next broker; without it they are measured again."""

import json
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from broker.system.statefile import write_whole

log = logging.getLogger(__name__)

EVERY = 10.0  # seconds between two writes

Learned = dict[str, dict[str, Any]]


class LearnedFile:
    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._clock = clock
        self._next = 0.0
        self._written: Learned = {}

    def read(self) -> Learned:
        """Empty when there is none, or none that can be read."""
        try:
            found = json.loads(self._path.read_text())
            return {str(model): _entry(said) for model, said in found.items()}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
            log.warning("%s cannot be read, so what models need is measured again: %s", self._path, error)
            return {}

    def write(self, learned: Learned) -> None:
        """Does nothing if nothing has changed, or something was written a moment ago."""
        if learned == self._written or self._clock() < self._next:
            return
        self._next = self._clock() + EVERY
        try:
            write_whole(self._path, json.dumps(learned, indent=1))
        except OSError as error:
            log.debug("%s cannot be written: %s", self._path, error)  # the state file's line says it loudly
        else:
            self._written = learned


def _entry(said: dict[str, Any]) -> dict[str, Any]:
    """Raises KeyError, TypeError or ValueError for what is none."""
    return {
        "digest": str(said["digest"]),
        "base": int(said["base"]),
        "context_bytes": int(said["context_bytes"]),
        "loads": [float(seconds) for seconds in said["loads"]],
    }
