"""Decides how many guessed tokens a pass verifies for each sequence: as many as are expected to pay. Pure.

A pass over more tokens takes longer and gives more of them. The guess that is likeliest to be accepted is added first,
and the number of guesses with the most expected tokens per second is taken: none where passes are dear, as beside many
sequences. Both the chances and the cost are learned. What is left alone is tried again after some time, later each time
that it fails; and after many passes with guesses comes one without, to know what that takes.
"""

from collections.abc import Callable, Sequence

from workers.engine.speculation.drafts import SOURCES, Source

FIRST: dict[Source, float] = {"grammar": 0.9, "prediction": 0.8, "copy": 0.8, "echo": 0.4, "model": 0.7}
WEIGHT = 0.15  # of the newest verified token
RETURN = 0.02  # by which the rate of a guess that was not tried goes back to the first one
BACK_OFF, MOST_PATIENCE = 1.5, 32.0  # so much more slowly after each guess that was wrong
CLAMP = 2.0  # times what is known of a width; other work makes a pass slow by accident, and none fast
KEPT = 0.95  # of the weight of what was measured, with each new pass
SURE = 20.0  # square tokens; the believed slope counts as much as so wide a spread of widths
PROBED = 40  # passes with guesses; then comes one without
LEAST = 0.25  # of what is believed; what is measured falls no lower
MOST = 64  # tokens of a verification pass
TINY = 1e-9  # seconds


class Rates:
    """How often the guesses of a sequence are right, by source. A rate is learned from the tokens that it gave."""

    def __init__(self) -> None:
        self._rates = dict(FIRST)
        self._patience = dict.fromkeys(SOURCES, 1.0)  # grows with each try that fails

    def __call__(self, source: Source) -> float:
        return self._rates[source]

    def verified(self, source: Source, right: bool) -> None:
        self._rates[source] += WEIGHT * (right - self._rates[source])
        self._patience[source] = 1.0 if right else min(self._patience[source] * BACK_OFF, MOST_PATIENCE)

    def untried(self) -> None:
        """So that after some time a guess is tried again."""
        for source in SOURCES:
            missing = FIRST[source] - self._rates[source]
            self._rates[source] += RETURN / self._patience[source] * missing


class WidthCosts:
    """Seconds of a pass over so many tokens: a line through the passes that were measured, the newest ones first.

    ``fixed`` and ``per_token``: what is believed before. A line, because a width by itself is measured too seldom: one
    pass in a bad moment would forbid it for long, and another make many guesses look cheaper than few.
    """

    def __init__(self, fixed: float, per_token: float) -> None:
        self._fixed, self._per_token = fixed, per_token
        self._verified = PROBED  # passes with guesses since one without, which comes first of all
        self._weight = self._width = self._mean = 0.0  # of the measured passes; the last two are means
        self._spread = self._products = 0.0  # sums around the means: of squares, and with the seconds

    def __call__(self, width: int) -> float:
        if not self._weight:
            return self._believed(width)
        return max(self._mean + self._slope * (width - self._width), self._mean * LEAST)

    @property
    def unsure(self) -> bool:
        """Whether guesses were verified for so long that the time of a pass without them is out of date."""
        return self._verified >= PROBED

    @property
    def _slope(self) -> float:
        """As believed where all passes were alike. A token more is never free."""
        believed = self._per_token * self._mean / max(self._believed(self._width), TINY)
        slope = (self._products + SURE * believed) / (self._spread + SURE)
        return max(slope, believed * LEAST)

    def _believed(self, width: float) -> float:
        return self._fixed + self._per_token * width

    def measured(self, width: int, seconds: float, *, verified: bool = False) -> None:
        """``verified``: whether guesses were among the tokens."""
        self._verified = self._verified + 1 if verified else 0
        if self._weight:
            seconds = min(seconds, self(width) * CLAMP)
        self._weight = self._weight * KEPT + 1
        apart, off = width - self._width, seconds - self._mean
        self._width += apart / self._weight
        self._mean += off / self._weight
        kept = KEPT if abs(apart) > 1 else 1.0  # many passes of one width tell nothing of others
        self._spread = self._spread * kept + apart * (width - self._width)
        self._products = self._products * kept + apart * (seconds - self._mean)


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
