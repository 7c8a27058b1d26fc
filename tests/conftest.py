"""What all tests need: an environment without the developer's own settings, and examples without a stop-watch."""

import os
import signal
import sys
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import settings
from xdist.scheduler import LoadScopeScheduling

from shared.settings import PREFIX
from tests.blas import VARIABLE, open_chosen_blas
from tests.marks import THOROUGH
from workers.device import ACCELERATOR_PATH

for _name in [
    name for name in os.environ if name.startswith(PREFIX) and name not in (VARIABLE, ACCELERATOR_PATH)
]:
    del os.environ[_name]
os.environ[f"{PREFIX}CONFIG"] = ""  # nor a file at home
os.environ[f"{PREFIX}PROMPT_DISK_GB"] = "0"  # prompts of one test must not be found by another
os.environ[f"{PREFIX}KEYS_FILE"] = "/nonexistent/keys.json"

# Tests start hundreds of processes; without bytecode files each of them compiles our modules anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# Under nohup, what tests start would ignore it too.
signal.signal(signal.SIGHUP, signal.SIG_DFL)

# Tests run side by side, and idle threads of a BLAS spin for a while.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
if "mlx.core" not in sys.modules:
    open_chosen_blas()

CLIENTS = "tests/clients/"  # all of them ask one server
STARTED_ONCE = (
    CLIENTS,
    "tests/e2e/",
    "tests/faults/",
    "tests/workers/model/test_embedded.py",
    "tests/workers/engine/test_parity.py",
    "tests/api/messages/test_messages.py",
    "tests/test_architecture.py",
)
AT_A_TIME = {"slow": 4}  # tests of another module for one process, by the mark that is asked for


def started_once(nodeid: str) -> bool:
    return nodeid.startswith(STARTED_ONCE)


class OneServerPerModule(LoadScopeScheduling):  # type: ignore[misc]  # untyped there
    """Modules that share a server, or what took long to read, run in one process each; others in parts."""

    def __init__(self, config: pytest.Config, log: Any) -> None:
        super().__init__(config, log)
        config.option.loadscopereorder = False  # servers come first, see pytest_collection_modifyitems
        self._units: dict[str, str] = {}

    def add_node_collection(self, node: Any, collection: Sequence[str]) -> None:
        super().add_node_collection(node, collection)
        seen: Counter[str] = Counter()
        size = AT_A_TIME.get(self.config.option.markexpr, 40)
        for nodeid in collection:
            module = CLIENTS if nodeid.startswith(CLIENTS) else nodeid.partition("::")[0]
            part = 0 if started_once(nodeid) else seen[module] // size
            seen[module] += 1
            self._units[nodeid] = f"{module} {part}"

    def _split_scope(self, nodeid: str) -> str:
        return self._units[nodeid]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> OneServerPerModule:
    return OneServerPerModule(config, log)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whole modules take longest, so they come first: no process is left with one at the end."""
    items.sort(key=lambda item: not started_once(item.nodeid))


settings.register_profile("quick", deadline=None, max_examples=10)
settings.register_profile(THOROUGH, deadline=None, max_examples=30)
settings.load_profile("quick")
