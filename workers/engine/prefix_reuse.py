"""What the engine leaves in the prefix cache, of prompts and of rows that have ended, and finds there again."""

from collections.abc import Callable
from functools import partial

from workers.engine.batch import Seat
from workers.engine.kv.mlx_caches import Cache, Place, cut_out, extract, fork, set_out
from workers.engine.kv.prefix_cache import PrefixCache
from workers.engine.prefill import Reading

WORTH_KEEPING = 64  # tokens read; a shorter prompt is read again faster than it is copied for every request


class Keeping:
    """``plain``: the model's caches are keys and values, token by token; ``batches``: those of many rows are one."""

    def __init__(self, prefixes: PrefixCache, *, plain: bool, batches: bool) -> None:
        self._prefixes = prefixes
        self._plain = plain
        self._batches = batches

    def look_up(self, reading: Reading) -> None:
        """It goes on behind what is kept of its beginning."""
        if reading.looked_up:
            return
        reading.looked_up = True
        hit = None if reading.scores else self._prefixes.find(reading.namespace, reading.read)
        if hit:
            reading.advance(hit.cache, hit.length)
            reading.kept = hit.length
            for row in reading.rows:
                row.cached_tokens = min(hit.length, len(row.job.prompt))

    def half_read(self, reading: Reading) -> None:
        """What it has read so far; also of one that was cancelled, so that a retry goes on there."""
        if reading.cache is not None:
            reading.kept = reading.done
            cache, place = reading.cache, Place(0, 0, reading.done)
            cut = partial(self._cut_out, cache, place) if self._plain else lambda start: fork(cache)
            self._keep(reading.namespace, reading.ids[: reading.done], cut)

    def read_out(self, reading: Reading, cache: Cache, place: Place, tokens: int) -> None:
        """What it has read with its last ``tokens``; less than is worth it is soon kept with its answer."""
        if tokens >= WORTH_KEEPING or not self._batches:
            self._keep(reading.namespace, reading.ids[: place.length], partial(self._cut_out, cache, place))

    def ended(self, seat: Seat, cache: Callable[[int], Cache]) -> None:
        """The prompt and the answer: what the conversation's next turn begins with."""
        self._keep(seat.row.job.generation.cache_namespace, seat.fed, cache)

    def _keep(self, namespace: str, ids: list[int], cache: Callable[[int], Cache]) -> None:
        """``cache`` from a token on, or all of it, is made only if it is missing."""
        start = self._prefixes.missing(namespace, ids)
        if start is None:
            return
        own = cache(start)
        set_out(own)
        self._prefixes.keep(namespace, ids, own)

    def _cut_out(self, cache: Cache, place: Place, start: int) -> Cache:
        """A row's, of its tokens from ``start`` on if it is plain."""
        if self._plain:
            return cut_out(cache, Place(place.row, place.start + start, place.length - start))
        return extract(cache, place.row) if self._batches else fork(cache)
