"""Takes sequences out of the batch: when memory is short, and when a caller without one waits too long.

A sequence that leaves is prefilled again, prompt and generated tokens, when there is room for it.
"""

from collections import Counter
from collections.abc import Callable

from workers.engine.admission import KvAdmission
from workers.engine.batch import Batch
from workers.engine.prefill import PrefillQueue, PrefillTask
from workers.job import Output
from workers.sequence import TokenSequence

YIELD = 16  # steps that a caller without a sequence waits for one to end

Collect = Callable[[], list[Output]]  # the outputs of all passes that were launched


class Preemption:
    def __init__(
        self, admission: KvAdmission, batch: Batch, waiting: PrefillQueue, most_sequences: int
    ) -> None:
        self._admission = admission
        self._batch = batch
        self._waiting = waiting
        self._most_sequences = most_sequences

    def for_memory(self, step: int, collect: Collect) -> list[Output]:
        """The youngest sequences leave until the others can have their next pass."""
        self._batch.drop_done()  # memory of ended sequences is not counted
        if self._fits():
            return []
        outputs = collect()
        self._batch.drop_done()
        while not self._fits():
            self._wait_again(self._batch.evict_youngest(), step)
        return outputs

    def for_callers(self, step: int, collect: Collect) -> list[Output]:
        """Preempts the youngest sequences of the caller with most, for one that waited ``YIELD`` steps without any."""
        first = self._waits_in_vain(step)
        if first is None:
            return []
        outputs = collect()
        while not self._has_room_for(first):
            (richest, most), *_ = self._shares().most_common(1) or [("", 0)]
            if most <= len(first.sequences):
                break
            self._wait_again(self._batch.evict_youngest(richest), step)
        return outputs

    def _fits(self) -> bool:
        return not len(self._batch) or self._admission.sequences_fit()

    def _waits_in_vain(self, step: int) -> PrefillTask | None:
        """The next prompt, if its caller has no sequence in the batch and sequences of others are in its way."""
        shares = self._shares()
        if not len(self._waiting) or max(shares.values(), default=0) < 2:
            return None
        first = next(iter(self._waiting.in_order(step, self._batch.askers)), None)
        if first is None or shares[first.asker.caller] or step - first.since < YIELD:
            return None
        return None if self._has_room_for(first) else first

    def _has_room_for(self, task: PrefillTask) -> bool:
        free = self._most_sequences - len(self._batch)
        return len(task.sequences) <= free and self._admission.admits(task)

    def _shares(self) -> Counter[str]:
        """Sequences of each caller in the batch."""
        return Counter(asker.caller for asker in self._batch.askers)

    def _wait_again(self, sequence: TokenSequence, step: int) -> None:
        self._waiting.add(PrefillTask([*sequence.job.prompt, *sequence.ids], [sequence], step))
