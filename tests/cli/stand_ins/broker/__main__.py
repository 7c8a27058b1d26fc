"""Has one worker in a session of its own. SIGINT ends both, SIGTERM the broker only, as with the real one.

If STAND_IN says ``stubborn``, neither obeys any signal.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path
from types import FrameType

STUBBORN = "stubborn" in os.environ["STAND_IN"]
WORKER = """
import signal
signal.pthread_sigmask(signal.SIG_BLOCK, {blocked})
print("here", flush=True)
signal.pause()
"""


def main() -> None:
    run_dir = Path(os.environ["MLX_SERVER_RUN_DIR"])
    blocked = "{signal.SIGINT, signal.SIGTERM}" if STUBBORN else "set()"
    worker = subprocess.Popen(
        [sys.executable, "-c", WORKER.format(blocked=blocked)],
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    assert worker.stdout
    worker.stdout.readline()

    def obey(number: int, frame: FrameType | None) -> None:
        (run_dir / "told").open("a").write(f"{signal.Signals(number).name}\n")
        if STUBBORN:
            return
        if number == signal.SIGINT:
            worker.terminate()
            worker.wait()
        raise SystemExit(0)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, obey)
    (run_dir / "worker.pid").write_text(str(worker.pid))
    (run_dir / "broker.pid").write_text(str(os.getpid()))
    while True:
        signal.pause()


if __name__ == "__main__":
    main()
