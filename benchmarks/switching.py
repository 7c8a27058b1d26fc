"""``python -m benchmarks.switching``: how long the first token takes when each request asks for the other model.

Two copies of the embedded model with float32 weights, asked in turns, one request at a time. Our server is measured
with memory for one of them, with and without a spare process, and with memory for both; ``mlx_lm.server`` always holds
one model.
"""

import asyncio
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from random import Random
from statistics import median

from benchmarks.float32_model import make_once
from benchmarks.servers import Server, our_server, their_server
from benchmarks.workloads import long_ask

SWITCHES = 4
PAUSE = 13.0  # seconds between two requests; a spare process is started ten seconds after a load
WORDS = 20
ONE = {"max_cache_size_gb": "2", "min_stay": "0"}


def main() -> int:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        first = make_once(folder / "models")
        folders = [first, Path(shutil.copytree(first, first.with_name("other")))]
        kinds: dict[str, Callable[[], Server]] = {
            "mlx_lm.server": lambda: their_server(folders, folder),
            "memory for one, no spare": lambda: our_server(
                folders, folder, settings=ONE | {"spare_workers": "0"}
            ),
            "memory for one, a spare": lambda: our_server(folders, folder, settings=ONE),
            "memory for both": lambda: our_server(folders, folder),
        }
        for title, make in kinds.items():
            times = asyncio.run(first_tokens(make()))
            print(f"{title:26} {min(times):6.2f} {median(times):6.2f} {max(times):6.2f} s", flush=True)
    return 0


async def first_tokens(server: Server) -> list[float]:
    """Seconds from a request for the model that was not asked last to its first token; both were asked once before."""
    try:
        await server.start()
        times = []
        for turn in range(SWITCHES + 2):
            ask = long_ask(Random(turn), WORDS, max_tokens=8)
            reply = await server.answer(replace(ask, model=(turn + 1) % 2))
            times.append(reply.ttft)
            await asyncio.sleep(PAUSE)
        return times[2:]
    finally:
        server.stop()


if __name__ == "__main__":
    sys.exit(main())
