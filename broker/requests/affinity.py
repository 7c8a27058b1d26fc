"""Which of several workers a request goes to: the one that has read most of its prompt, unless it is far busier. Pure.

Rule 1: a worker is far busier than the least busy one if it holds more than ``FAR`` requests more than that one, or if
    prompts wait in it for longer than ``LATE`` and in that one they do not.
Rule 2: where nothing of the prompt was read, or the same, the least busy worker gets it.
Rule 3: only the worker is chosen here: no request waits for one while another has room.
"""

from collections.abc import Sequence

from broker.workers.registry import Worker
from shared.prefix_path import points_of

FAR = 4  # requests
LATE = 1.0  # seconds


def pick(path: bytes, workers: Sequence[Worker]) -> Worker:
    """Of one or more workers that have room for it; of equals the first."""
    idlest = min(workers, key=lambda worker: worker.load)
    if not path or len(workers) == 1:
        return idlest
    points = points_of(path)
    near = [worker for worker in workers if not is_far_busier(worker, idlest)]
    return max(near, key=lambda worker: (worker.kept.depth(points), -worker.load))


def is_far_busier(worker: Worker, idlest: Worker) -> bool:
    return worker.load - idlest.load > FAR or worker.waited > LATE >= idlest.waited
