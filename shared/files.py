"""How many files this process may have open; each connection is one."""

import contextlib
import resource

FILES_WANTED, FILES_NEEDED = 8192, 1024


def raise_file_limit(wanted: int = FILES_WANTED) -> int:
    """As far as the system lets us; gives what came of it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return wanted if soft == resource.RLIM_INFINITY else soft
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]
