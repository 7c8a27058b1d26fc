"""How many of a worker's or a queue's places one caller may hold, so that later callers find one free. Pure."""

_HELD_PER_FREE = 7  # a lone caller fills seven eighths, two callers seven fifteenths each


def may_hold_more(held: int, free: int, size: int) -> bool:
    """Whether a caller that holds ``held`` of ``size`` places, of which ``free`` are free, may take one more.

    The more is taken, the less each caller may hold, so that places stay free for callers that come later; a caller
    with few is never refused a free place. (Choudhury and Hahne, "Dynamic queue length thresholds", 1998.)
    """
    return held < min(_HELD_PER_FREE * free, max(1, size - 1))
