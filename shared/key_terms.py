"""What a request carries of its API key, and what it tells of the tokens it has used: parts of messages."""

from typing import Literal

from shared.parts import Part

Priority = Literal["high", "normal", "low"]


class KeyTerms(Part):
    """``name``, never the key or its digest. ``concurrency``: HTTP requests at a time; 0 is no limit, as in the next.

    ``tokens_per_minute``: of prompts and answers together.
    """

    name: str
    priority: Priority = "normal"
    concurrency: int = 0
    tokens_per_minute: int = 0


class Spent(Part):
    """Tokens since the last such message of the request. ``cached`` of ``prompt`` came from the prefix cache."""

    prompt: int = 0
    cached: int = 0
    out: int = 0
