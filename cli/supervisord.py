"""supervisord as ``mlx-server serve`` runs it: it looks ten times a second at what has ended, and not once.

By itself it takes up to two seconds to start what was killed: one to notice, one to act. All else is supervisord's own.
"""

from typing import Any

from supervisor import poller, supervisord

INTERVAL = 0.1  # seconds


class PromptPoller(poller.Poller):  # type: ignore[misc]  # untyped there
    def poll(self, timeout: float) -> Any:
        return super().poll(min(timeout, INTERVAL))


def main() -> None:
    poller.Poller = PromptPoller
    supervisord.main()


if __name__ == "__main__":
    main()
