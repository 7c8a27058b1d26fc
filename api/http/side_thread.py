"""Work that takes too long for the loop, on one thread beside it.

One, because it all needs the interpreter's lock: more threads would not be quicker, and the loop would wait for each.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

_thread = ThreadPoolExecutor(1, thread_name_prefix="beside")


async def beside(call: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    return await asyncio.get_running_loop().run_in_executor(_thread, lambda: call(*args, **kwargs))
