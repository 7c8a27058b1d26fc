"""What all tests need: an environment without the developer's own settings, and examples without a stop-watch."""

import os

import pytest
from hypothesis import settings

from shared.settings import PREFIX

for _name in [name for name in os.environ if name.startswith(PREFIX)]:
    del os.environ[_name]

WHOLE_SERVERS = ("tests.e2e.", "tests.faults.", "tests.clients.")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Modules that start whole servers run in one process each, so that each server is started once."""
    for item in items:
        module = item.nodeid.split("::")[0].removesuffix(".py").replace("/", ".")
        if module.startswith(WHOLE_SERVERS):
            item.add_marker(pytest.mark.xdist_group(module))


settings.register_profile("ours", deadline=None, max_examples=30)
settings.load_profile("ours")
