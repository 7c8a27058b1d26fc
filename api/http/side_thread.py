"""Runs long calls on one thread, off the event loop.

There is one thread because the calls need the interpreter's lock: more threads would be no faster, and the event loop
would wait for each of them.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

_thread = ThreadPoolExecutor(1, thread_name_prefix="beside")


async def in_side_thread(call: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    return await asyncio.get_running_loop().run_in_executor(_thread, lambda: call(*args, **kwargs))
