"""The token ids that the api has received of one request, and the attempt that may send more. Pure.

Rule 1: a delta of another attempt, of a finished choice, or with old tokens only is dropped.
Rule 2: any other delta that does not begin at the next index is a Gap. Text cannot be cut at a token, so the request
is submitted again with the ids received, and the answer continues exactly there.
"""

from api.metrics.counters import Watch
from shared.errors import ModelChanged
from shared.protocol import Ack, Delta, KeyTerms, Spent, Start, Submit, Task

ACK_TOKENS = 8  # an Ack costs every process more than keeping a few tokens costs the worker
MAX_REPAIRS = 8  # beyond, the peer is broken


class Gap(Exception):
    """A delta does not continue the tokens received."""


class Received:
    """One request. ``first_choice`` is added to its choices' numbers: a client's request may have many prompts.

    ``caller`` and ``group``: see Submit. ``watch`` measures the request for whoever sends and hears it.
    """

    def __init__(
        self,
        request_id: str,
        model: str,
        task: Task,
        first_choice: int = 0,
        caller: str = "",
        group: str = "",
        key: KeyTerms | None = None,
        watch: Watch | None = None,
    ) -> None:
        self.request_id = request_id
        self.attempt = 0
        self.repairs = 0
        self.watch = watch
        self._losses = 0
        self._gained = False  # whether a token came since a worker was last lost
        self._model = model
        self._task = task
        self._first_choice = first_choice
        self._caller, self._group, self._key = caller, group, key
        self._prompt: Start | None = None  # of the first choice that started
        self._told = Spent()  # what the broker was told of
        self._digest = ""  # of the weights that made the tokens received
        self._held: list[list[int]] = [[] for _ in range(task.n)]
        self._acked = [0] * task.n
        self._counted = 0  # tokens that were counted elsewhere
        self._open = set(range(task.n))
        self._started: set[int] = set()

    @property
    def finished(self) -> bool:
        return not self._open

    @property
    def tokens(self) -> int:
        """How many were received, of all choices."""
        return self._counted + sum(map(len, self._held))

    def count(self, start: Start, tokens: int) -> None:
        """What another server has answered, and said of the prompt."""
        self._prompt, self._counted = start, tokens

    def submit(self) -> Submit:
        """Begins the next attempt."""
        self.attempt += 1
        return Submit(
            request_id=self.request_id,
            attempt=self.attempt,
            model=self._model,
            task=self._task,
            held=self._held if any(self._held) else [],
            losses=self._losses,
            caller=self._caller,
            group=self._group,
            digest=self._digest,
            key=self._key,
        )

    def pause(self) -> None:
        """Deltas under way are dropped; the next attempt sends them again."""
        self.attempt += 1

    def worker_lost(self, *, blameless: bool) -> None:
        """Counts the loss, unless it is blameless. A token between two losses resets the count."""
        if self._gained:
            self._losses = 0
        if not blameless:
            self._losses += 1
        self._gained = False

    def take(self, delta: Delta, digest: str = "") -> Delta | None:
        """The delta as the client gets it, or None when it is dropped. Raises Gap or ModelChanged.

        ``digest``: of the weights that made it.
        """
        choice = delta.choice
        if delta.attempt != self.attempt or choice not in self._open:
            return None
        held = self._held[choice]
        if delta.index != len(held):
            if delta.index + len(delta.ids) <= len(held) and delta.finish is None:
                return None
            raise Gap
        if digest and self._digest not in ("", digest):
            raise ModelChanged(self._model)
        self._digest = digest or self._digest
        held.extend(delta.ids)
        self._prompt = self._prompt or delta.start
        self._gained = self._gained or bool(delta.ids)
        if delta.finish is not None:
            self._open.discard(choice)
        if self._first_choice or delta.start is not None:
            return self._renumbered(delta)
        return delta

    def _renumbered(self, delta: Delta) -> Delta:
        """A choice starts once for the client, however often it is resumed."""
        start = None if delta.choice in self._started else delta.start
        if delta.start is not None:
            self._started.add(delta.choice)
        return delta.model_copy(update={"choice": delta.choice + self._first_choice, "start": start})

    def acks(self) -> list[Ack]:
        """The acknowledgements that are due since the last call."""
        acks = []
        for choice, held in enumerate(self._held):
            if len(held) >= self._acked[choice] + ACK_TOKENS:
                self._acked[choice] = len(held)
                spent = self.newly_spent()
                acks.append(Ack(request_id=self.request_id, choice=choice, next_index=len(held), spent=spent))
        return acks

    def newly_spent(self) -> Spent | None:
        """Since the last call; None without a key, whose budget it is told for."""
        if self._key is None:
            return None
        start, told = self._prompt, self._told
        self._told = now = Spent(
            prompt=start.prompt_tokens if start else 0,
            cached=start.cached_tokens if start else 0,
            out=self.tokens,
        )
        return Spent(prompt=now.prompt - told.prompt, cached=now.cached - told.cached, out=now.out - told.out)
