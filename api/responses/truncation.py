"""``truncation: auto``: drops the beginning of a conversation that is longer than the context.

Rule 1: instructions, the messages of system and developer, and the last item stay.
Rule 2: the rest begins with a user's message where possible, and never with the output of a dropped call.
Rule 3: only the worker knows a prompt's length: it is asked again with fewer items, a few times at most.
"""

from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterator, Sequence
from itertools import accumulate

from api.responses.schemas import FunctionCallItem, FunctionCallOutputItem, InputItem, MessageItem
from shared.errors import ContextLengthExceeded, ServingError
from shared.protocol import Delta

Items = list[InputItem]
Ask = Callable[[Items], Awaitable[AsyncIterable[list[Delta]]]]

ANSWER_SHARE = 8  # an eighth of the context is left for the answer


async def truncated(ask: Ask, items: Items) -> AsyncIterable[list[Delta]]:
    """The replies to as many items as fit. Raises refusals for other reasons."""
    replies, items = await _accepted(ask, items)
    return _retried(replies, ask, items)


async def _accepted(ask: Ask, items: Items) -> tuple[AsyncIterable[list[Delta]], Items]:
    while True:
        try:
            return await ask(items), items
        except ServingError as error:
            items = fewer(items, error)


async def _retried(replies: AsyncIterable[list[Delta]], ask: Ask, items: Items) -> AsyncIterator[list[Delta]]:
    """A worker that is still loading refuses late, but before the first token."""
    while True:
        try:
            async for batch in replies:
                yield batch
            return
        except ServingError as error:
            replies, items = await _accepted(ask, fewer(items, error))


def fewer(items: Items, error: ServingError) -> Items:
    """Raises ``error`` if it is not about the length, or if no item can go."""
    if error.code != ContextLengthExceeded.code:
        raise error
    gone = list(accumulate(len(item.model_dump_json()) for item in items))
    wanted = gone[-1] * _excess(error) if gone else 0.0
    cuts = list(_between_calls(items))
    users = [i for i in cuts if _says(items[i], "user") and _drops(items[:i])]
    for at in [i for i in users if gone[i - 1] >= wanted] + [i for i in cuts if gone[i - 1] >= wanted]:
        if _drops(items[:at]):
            return _without(items, at)
    possible = [i for i in cuts if _drops(items[:i])]
    if not possible:
        raise error
    return _without(items, possible[-1])


def _between_calls(items: Items) -> Iterator[int]:
    """The cuts that do not part an output from its call."""
    answered = {item.call_id: i for i, item in enumerate(items) if isinstance(item, FunctionCallOutputItem)}
    open_until = 0
    for i, item in enumerate(items):
        begins = next((each for each in items[i:] if not _stays(each)), item)
        if i > open_until and not isinstance(begins, FunctionCallOutputItem):
            yield i
        if isinstance(item, FunctionCallItem):
            open_until = max(open_until, answered.get(item.call_id, 0))


def _excess(error: ServingError) -> float:
    """The share of the prompt that has to go."""
    if not error.prompt_tokens or not error.context_length:
        return 0.5
    return 1 - min(error.context_length * (1 - 1 / ANSWER_SHARE) / error.prompt_tokens, 1.0)


def _without(items: Items, at: int) -> Items:
    return [*(item for item in items[:at] if _stays(item)), *items[at:]]


def _drops(items: Sequence[InputItem]) -> bool:
    return not all(map(_stays, items))


def _stays(item: InputItem) -> bool:
    return _says(item, "system", "developer")


def _says(item: InputItem, *roles: str) -> bool:
    return isinstance(item, MessageItem) and item.role in roles
