"""The order in which a step launches its passes and takes what they give: in turn on a CPU, ahead on an accelerator.

In turn, a pass has ended before the next one begins: MLX lets a CPU's host run a hundred operations ahead at the most.
Beside sequences that decode a step ends with its prefill pass, so that its tokens go out and new prompts are seen.

Ahead, the device always has a pass to compute while the host makes the next one and reads the tokens of the one before.
A step launches the decode pass first, then the prefill pass behind it, and takes the tokens of the step before. One
prefill pass is on its way at a time.
"""

from collections.abc import Callable
from dataclasses import dataclass

from workers.engine.batch import Batch, PendingStep
from workers.engine.pending_passes import PendingPasses
from workers.engine.prefill_pass import Prefilled, PrefillPasses
from workers.engine.scheduling.pass_history import PassHistory, Told
from workers.engine.scheduling.plan import Plan
from workers.engine.speculation.speculator import Speculator
from workers.job import Output
from workers.sequence import TokenSequence


@dataclass
class Passes:
    """What both orders run. ``push`` gives sequences their tokens; ``finish`` ends those that want none."""

    batch: Batch
    prefills: PrefillPasses
    pending: PendingPasses
    history: PassHistory
    speculator: Speculator | None
    push: Callable[[list[PendingStep]], list[Output]]
    finish: Callable[[list[TokenSequence]], list[Output]]
    tokens_read: int = 0  # of prompts, by the model and not from the prefix cache

    def collect(self) -> list[Output]:
        """Waits for every pending pass."""
        return self.push(self.pending.take_all())

    def join(self, prefilled: Prefilled) -> list[Output]:
        """Lets the prefilled sequences join the batch; gives the outputs of those that want no token."""
        self.tokens_read += prefilled.tokens
        outputs = self.finish(prefilled.unbegun)
        if joining := prefilled.joining:
            self.add(self.batch.join(joining.slots, joining.cache, joining.spans, joining.logits))
        return outputs

    def add(self, step: PendingStep | None, launched: float | None = None, told: Told | None = None) -> None:
        if step:
            self.pending.add(step.drawn.arrays, step, launched=launched, told=told)

    def decoded(self, rows: int, seconds: float) -> None:
        """A decode pass of so many sequences took so long; those that are left of them are charged."""
        self.history.decoded_for(self.batch.shown(), seconds)
        if self.speculator:
            self.speculator.decoded(rows, seconds)

    def verify(self) -> list[Output]:
        """What a pass over guesses gives; nothing where none is worth a pass."""
        return self.speculator.verify(self.batch, self.push) if self.speculator else []


class InTurn:
    """``fresh_since``: since when first tokens are held; ``prefilled``: whether the last step had a prefill pass."""

    def __init__(self, passes: Passes) -> None:
        self._passes = passes
        self.fresh_since: float | None = None
        self.prefilled = False

    @property
    def decoded(self) -> float:
        """Seconds of decode passes since the last prefill pass."""
        return self._passes.history.decoded

    def run(self, plan: Plan) -> list[Output]:
        outputs = self._prefill(plan)
        if plan.pause and self.prefilled:
            return outputs + self._passes.collect()
        return outputs + (self._hold() if plan.hold else self._decode_timed())

    def _prefill(self, plan: Plan) -> list[Output]:
        passes, now = self._passes, self._passes.pending.now
        stalled, began = not passes.batch.fresh, now()
        prefilled = passes.prefills.run(plan.prefill)
        self.prefilled = prefilled is not None
        if prefilled is None:
            return []
        outputs = passes.join(prefilled)
        passes.history.prefilled(prefilled.tasks, now() - began, stalled=stalled)
        return outputs

    def _hold(self) -> list[Output]:
        """First tokens wait."""
        self.fresh_since = self.fresh_since or self._passes.pending.now()
        return []

    def _decode_timed(self) -> list[Output]:
        self.fresh_since = None
        batch, now = self._passes.batch, self._passes.pending.now
        decoding, rows, began = not batch.fresh, len(batch), now()
        outputs = self._decode()
        if outputs and decoding:
            self._passes.decoded(rows, now() - began)
        return outputs

    def _decode(self) -> list[Output]:
        """A batch without an emitted token emits the first ones; its next pass is in the next step."""
        passes, fresh = self._passes, self._passes.batch.fresh
        outputs = passes.collect()
        if fresh and not passes.batch.fresh:
            return outputs
        if verified := passes.verify():
            return outputs + verified
        passes.add(passes.batch.launch())
        return outputs + passes.collect()


class Ahead:
    """``prefilled``: whether the last step had a prefill pass. First tokens are not held."""

    fresh_since = None

    def __init__(self, passes: Passes) -> None:
        self._passes = passes
        self.prefilled = False
        self._last_prefill = 0  # the number of the pass

    @property
    def decoded(self) -> float:
        """Seconds of decode passes since the last prefill pass, with the one that this step launches first."""
        history = self._passes.history
        return history.decoded + (history.costs.now.decode if len(self._passes.batch) else 0.0)

    def run(self, plan: Plan) -> list[Output]:
        passes, pending = self._passes, self._passes.pending
        before, decodes = pending.newest, len(passes.batch) > 0
        outputs = self._decode() if decodes else []
        decoded = pending.newest
        prefilled = self._prefill(plan, behind_decode=decodes)
        outputs += passes.push(pending.take(through=before))
        if prefilled:
            if prefilled.joining:
                # MLX writes a slot in place only if no pass reads it. The device has the prefill pass meanwhile.
                pending.land(through=decoded)
            outputs += passes.join(prefilled)
        if not decodes:
            joined = pending.newest
            outputs += self._decode()
            outputs += passes.push(pending.take(through=joined))
        return outputs

    def _prefill(self, plan: Plan, *, behind_decode: bool) -> Prefilled | None:
        """Launches the prefill pass; its time is counted when it has ended, and until then as it is believed to be."""
        passes, pending, history = self._passes, self._passes.pending, self._passes.history
        if plan.prefill:
            # MLX copies a prompt's cache before it writes to it while the pass of the chunk before still reads it.
            pending.land(through=self._last_prefill)
        began = pending.now()
        prefilled = passes.prefills.run(plan.prefill, behind_decode=behind_decode)
        self.prefilled = prefilled is not None
        if prefilled is None:
            return None
        stalled = not passes.batch.fresh
        if not (running := prefilled.running):
            history.prefilled(prefilled.tasks, pending.seconds_since(began), stalled=stalled)
            return prefilled
        size = running.tokens, running.behind
        told = history.prefill_launched(prefilled.tasks, history.costs.seconds(*size), stalled=stalled)

        def ended(seconds: float) -> None:
            history.costs.measured(*size, seconds)
            told(seconds)

        pending.add([running.ended], launched=began, told=ended)
        self._last_prefill = pending.newest
        return prefilled

    def _decode(self) -> list[Output]:
        """Launches a decode pass; gives what had to be known before: the tokens that its draw needs, or guesses."""
        passes, batch, now = self._passes, self._passes.batch, self._passes.pending.now
        if passes.speculator and passes.speculator.expects(batch.sequences):
            outputs = passes.collect()  # guesses are made and verified behind the last token
            rows, began = len(batch), now()
            if verified := passes.verify():
                passes.decoded(rows, now() - began)
                return outputs + verified
            self._launch()
            return outputs
        if not batch.waits:
            self._launch()
            return []
        began, logits = now(), batch.start()
        outputs = passes.collect()
        if logits is not None:
            self._add(batch.draw(logits), began)
        return outputs

    def _launch(self) -> None:
        began = self._passes.pending.now()
        self._add(self._passes.batch.launch(), began)

    def _add(self, step: PendingStep | None, began: float) -> None:
        if step is None:
            return
        passes, rows = self._passes, len(step.slots)
        told = passes.history.decode_launched([slot.sequence.job.asker.caller for slot in step.slots])

        def ended(seconds: float) -> None:
            told(seconds)
            if passes.speculator:
                passes.speculator.decoded(rows, seconds)

        passes.add(step, began, ended)
