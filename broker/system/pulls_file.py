"""``pulls.json``: the models that operators have asked to be fetched, for the next broker, which goes on with them."""

import json
import logging
from collections.abc import Collection
from pathlib import Path

from broker.system.statefile import write_whole

log = logging.getLogger(__name__)


class PullsFile:
    def __init__(self, path: Path) -> None:
        self._path = path
        self._written: list[str] = []

    def read(self) -> tuple[str, ...]:
        """Empty when there is none, or none that can be read."""
        try:
            self._written = [str(model) for model in json.loads(self._path.read_text())]
        except FileNotFoundError:
            pass
        except (OSError, ValueError, TypeError) as error:
            log.warning("%s cannot be read, so pulls have to be ordered again: %s", self._path, error)
        return tuple(self._written)

    def write(self, pulls: Collection[str]) -> None:
        """Does nothing if nothing has changed."""
        wanted = sorted(pulls)
        if wanted == self._written:
            return
        self._written = wanted
        try:
            write_whole(self._path, json.dumps(wanted))
        except OSError as error:
            log.debug("%s cannot be written: %s", self._path, error)  # the state file's line says it loudly
