"""Decides how many guessed tokens a pass verifies for each sequence: as many as are expected to pay. Pure.

A pass over more tokens takes longer and gives more of them. The guess that is likeliest to be accepted is added first,
and the number of guesses with the most expected tokens per second is taken: none where passes are dear, as beside many
sequences.
"""

from collections.abc import Callable, Sequence

from workers.engine.speculation.drafts import SOURCES, Source

FIRST: dict[Source, float] = {"grammar": 0.9, "prediction": 0.8, "copy": 0.8, "echo": 0.4, "model": 0.7}
WEIGHT = 0.15  # of the newest verified token
RETURN = 0.02  # by which the rate of a guess that was not tried goes back to the first one
CLAMP = 1.25  # the most that a measurement changes what is known of a width, up or down
MOST = 64  # tokens of a verification pass
TINY = 1e-9  # seconds


class Rates:
    """How often the guesses of a sequence are right, by source. A rate is learned from the tokens that it gave."""

    def __init__(self) -> None:
        self._rates = dict(FIRST)

    def __call__(self, source: Source) -> float:
        return self._rates[source]

    def verified(self, source: Source, right: bool) -> None:
        self._rates[source] += WEIGHT * (right - self._rates[source])

    def untried(self) -> None:
        """So that after some time a guess is tried again."""
        for source in SOURCES:
            self._rates[source] += RETURN * (FIRST[source] - self._rates[source])


class WidthCosts:
    """Seconds of a pass over so many tokens. ``fixed`` and ``per_token``: what is believed before it is measured."""

    def __init__(self, fixed: float, per_token: float) -> None:
        self._fixed, self._per_token = fixed, per_token
        self._seconds: dict[int, float] = {}

    def __call__(self, width: int) -> float:
        if width in self._seconds:
            return self._seconds[width]
        if not self._seconds:
            return self._believed(width)
        near = min(self._seconds, key=lambda each: (max(each, width) / min(each, width), each))
        return self._seconds[near] * self._believed(width) / self._believed(near)

    def _believed(self, width: int) -> float:
        return self._fixed + self._per_token * width

    def measured(self, width: int, seconds: float) -> None:
        if not self._seconds:
            self._seconds[width] = seconds
            return
        known = self(width)
        clamped = min(max(seconds, known / CLAMP), known * CLAMP)
        self._seconds[width] = known + 0.3 * (clamped - known)


def depths(
    chances: Sequence[Sequence[float]],
    cost: Callable[[int], float],
    prices: Sequence[Sequence[float]] | None = None,
) -> list[int]:
    """How many guesses of each sequence are verified.

    ``chances``: by sequence, those of each guess in turn to be right if all before it are. ``cost``: of so many tokens.
    ``prices``: what each guess costs beside its token, where a model has to make it.
    """
    chosen, best = [0] * len(chances), [0] * len(chances)
    reached = [1.0] * len(chances)  # the chance that all chosen guesses are right
    expected, width, paid = float(len(chances)), len(chances), 0.0
    most = expected / cost(width)
    while width < MOST:
        more = max(cost(width + 1) - cost(width), 0.0) + TINY
        offers = []
        for row, some in enumerate(chances):
            if (place := chosen[row]) < len(some):
                price = prices[row][place] if prices else 0.0
                gain = reached[row] * some[place]
                offers.append((gain / (more + price), -row, gain, price))
        if not offers:
            break
        _, row, gain, price = max(offers)
        chosen[-row] += 1
        reached[-row] = gain
        expected, width, paid = expected + gain, width + 1, paid + price
        if (rate := expected / (cost(width) + paid)) > most:
            most, best = rate, list(chosen)
    return best
