"""How a command says why it did not do what it was asked: one line on standard error, and an exit code."""

import sys

from cli.probe import address, is_taken
from shared.commands import typed
from shared.settings import PREFIX, Settings

FAILED = 1
INTERRUPTED = 130  # by Ctrl-C, before it was done


class Refused(Exception):
    """What keeps a command from doing what it was asked; the message is for the operator."""


def refuse(sentence: object) -> int:
    """Returns the exit code."""
    print(f"mlx-server: {sentence}", file=sys.stderr)
    return FAILED


def nothing_answers(settings: Settings) -> str:
    if is_taken(settings):
        scheme = "http" if (where := address(settings)).startswith("https") else "https"
        return (
            f"What listens at {where} does not answer there. If it is a server that speaks {scheme}, this command "
            f"needs its {PREFIX}TLS_CERTIFICATE, or {PREFIX}TLS_CA, as the server's settings have it."
        )
    return f"Nothing answers at {address(settings)}. `{typed('mlx-server')} serve` starts a server."


def something_else_answers(settings: Settings) -> str:
    return f"What answers at {address(settings)} is not an mlx-server, or one of another version."
