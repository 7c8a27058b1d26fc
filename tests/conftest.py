"""What all tests need: an environment without the developer's own settings, and examples without a stop-watch."""

import os

import pytest
from hypothesis import settings

from shared.settings import PREFIX

for _name in [name for name in os.environ if name.startswith(PREFIX)]:
    del os.environ[_name]

STARTED_ONCE = ("tests.e2e.", "tests.faults.", "tests.clients.", "tests.workers.test_embedded")


@pytest.hookimpl(tryfirst=True)  # xdist reads the groups in the same hook
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Modules that share a whole server, or the embedded model, run in one process each."""
    for item in items:
        module = item.nodeid.split("::")[0].removesuffix(".py").replace("/", ".")
        if module.startswith(STARTED_ONCE):
            item.add_marker(pytest.mark.xdist_group(module))


settings.register_profile("ours", deadline=None, max_examples=30)
settings.load_profile("ours")
