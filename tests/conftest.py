"""What all tests need: an environment without the developer's own settings, and examples without a stop-watch."""

import os

from hypothesis import settings

from shared.settings import PREFIX

for _name in [name for name in os.environ if name.startswith(PREFIX)]:
    del os.environ[_name]

settings.register_profile("ours", deadline=None, max_examples=30)
settings.load_profile("ours")
