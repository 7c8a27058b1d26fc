"""What all tests need: an environment without the developer's own settings, and examples without a stop-watch."""

import os
import signal
import sys
from typing import Any

import pytest
from hypothesis import settings
from xdist.scheduler import LoadScopeScheduling

from shared.settings import PREFIX
from tests.blas import VARIABLE, open_chosen_blas
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

STARTED_ONCE = (
    "tests/e2e/",
    "tests/faults/",
    "tests/clients/",
    "tests/workers/model/test_embedded.py",
    "tests/workers/engine/test_parity.py",
)


class OneServerPerModule(LoadScopeScheduling):  # type: ignore[misc]  # untyped there
    """Modules that share a whole server, or the embedded model, run in one process each; other tests anywhere."""

    def _split_scope(self, nodeid: str) -> str:
        return nodeid.partition("::")[0] if nodeid.startswith(STARTED_ONCE) else nodeid


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> OneServerPerModule:
    return OneServerPerModule(config, log)


settings.register_profile("ours", deadline=None, max_examples=30)
settings.load_profile("ours")
