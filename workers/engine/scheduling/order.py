"""Which of the prompts that wait is next. Pure.

Rule 1: the caller with fewer sequences is next, weighed by its priority, and of a caller the prompt with fewest tokens
left.
Rule 2: every ``TURNS``-th pass is the oldest prompt's of the callers that had least of the machine, whatever its length
and class.
Rule 3: an even share of the time that a prompt has waited does not count as had. Callers who are new and had nothing
may come without end, and a long prompt would wait for all of them.
"""

from collections.abc import Callable, Sequence

from shared.callers import Asker
from workers.engine.scheduling.fairness import in_turns, weights
from workers.engine.scheduling.plan import Task, View

TURNS = 4  # of so many prefill passes one is the oldest prompt's
TURN = 2.0  # seconds of the machine; callers that had less are equals,
FAIR = 1.5  # and so are those that had less than so many times the mean

Order = Callable[[View, Sequence[Task], Sequence[Asker]], list[Task]]


def in_order(view: View, tasks: Sequence[Task], held: Sequence[Asker]) -> list[Task]:
    """The next one first; ``held``: the askers of the decoding sequences."""
    urgent = sorted(tasks, key=lambda task: (task.left, task.number))
    alike = len({task.priority for task in urgent}) < 2
    weight = None if alike else weights([(task.priority, view.step - task.since) for task in urgent])
    order = in_turns(urgent, lambda task: task.asker, lambda task: task.sequences, held, weight)
    if order and view.passes % TURNS == TURNS - 1:
        oldest = _oldest(view, order)
        order.remove(oldest)
        order.insert(0, oldest)
    return order


def _oldest(view: View, tasks: Sequence[Task]) -> Task:
    """The oldest task of the callers that had least, beyond an even share since it came."""
    used = dict(view.used)
    turn = max(TURN, FAIR * sum(used.values()) / max(1, len(used)))
    callers = {task.asker.caller for task in view.waiting} | {row.asker.caller for row in view.running}
    share = view.costs.decode / len(callers)  # seconds of a step, which takes a decode pass at the least

    def place(task: Task) -> tuple[float, int, int]:
        beyond = used.get(task.asker.caller, 0.0) - share * (view.step - task.since)
        return max(0.0, beyond) // turn, task.since, task.number

    return min(tasks, key=place)
