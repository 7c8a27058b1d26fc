"""One line per event on standard error; supervisord keeps the files. Prompts and keys are never logged."""

import logging
import sys


def configure(process: str, level: str) -> None:
    """``process`` is the name each line carries, e.g. ``broker`` or ``worker smollm2``."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        logging.Formatter(f"%(asctime)s %(levelname)s {process.replace('%', '%%')}: %(message)s")
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for chatty in ("httpx", "huggingface_hub", "filelock", "urllib3"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
