"""Stored responses, joined to conversations off the event loop.

A failing store costs copies, not answers: a failed write is logged, a failed read is a 503.
"""

import asyncio
import logging
import sqlite3
from collections.abc import Callable
from typing import TypeVar, cast

from pydantic import BaseModel

from api.responses.answer import PREFIX
from api.responses.schemas import (
    INPUT_ITEMS,
    InputItem,
    ItemReference,
    MessageItem,
    ResponseObject,
    ResponsesRequest,
)
from api.responses.store import Store, Stored
from shared.errors import InvalidRequest, ServingError

log = logging.getLogger(__name__)

T = TypeVar("T")

MAX_JOINED = 32 << 20  # bytes of a conversation in the store
RETRY_AFTER = 5  # seconds
_ID_LENGTH = 32  # characters of a response's id in the ids of its items
_FAILURES = (sqlite3.Error, OSError, ValueError)  # ValueError: the stored data is damaged


class ResponseNotFound(ServingError):
    status = 404
    code = "response_not_found"

    def __init__(self, id: str) -> None:
        super().__init__(f"Response with id {id[:100]!r} not found.")


class PreviousNotFound(InvalidRequest):
    code = "previous_response_not_found"


class StoreUnavailable(ServingError):
    status = 503
    code = "store_unavailable"


class Conversations:
    def __init__(self, store: Store) -> None:
        self._store = store

    def keeps(self, request: ResponsesRequest) -> bool:
        return request.store and self._store.keeps

    async def items(self, request: ResponsesRequest, caller: str) -> list[InputItem]:
        """The whole conversation; the request's own input is its end. Raises what is not found."""
        said = own_items(request)
        if request.previous_response_id is None and not any(isinstance(one, ItemReference) for one in said):
            return said
        return await _off_loop(self._joined, request.previous_response_id, said, caller)

    async def keep(self, response: ResponseObject, request: ResponsesRequest, caller: str) -> None:
        if not self.keeps(request):
            return
        try:
            input = stored_input(response.id, request)
            sent = response.model_dump(mode="json")
            stored = Stored(response.id, request.previous_response_id, input, sent)
            await asyncio.to_thread(self._store.put, stored, caller)
        except _FAILURES as error:
            log.error("response %s could not be stored: %s", response.id, error)

    async def get(self, id: str, caller: str) -> Stored:
        stored = await _off_loop(self._store.get, id, caller)
        if stored is None:
            raise ResponseNotFound(id)
        return stored

    async def delete(self, id: str, caller: str) -> None:
        if not await _off_loop(self._store.delete, id, caller):
            raise ResponseNotFound(id)

    def _joined(self, previous: str | None, said: list[InputItem], caller: str) -> list[InputItem]:
        turns = [] if previous is None else self._turns(previous, caller)
        before = [item for turn in reversed(turns) for item in turn]
        return before + [self._resolved(item, i, caller) for i, item in enumerate(said)]

    def _turns(self, id: str, caller: str) -> list[list[InputItem]]:
        """The latest first."""
        turns: list[list[InputItem]] = []
        size, previous = 0, cast(str | None, id)
        for turn in self._store.chain(id, caller):
            turns.append(INPUT_ITEMS.validate_python(turn.items))
            size, previous = size + turn.size, turn.previous
            if size > MAX_JOINED:
                raise InvalidRequest(
                    f"The conversation is larger than {MAX_JOINED} bytes: begin a new one.",
                    param="previous_response_id",
                )
        if previous is not None:
            raise PreviousNotFound(
                f"Previous response with id {previous[:100]!r} not found.", param="previous_response_id"
            )
        return turns

    def _resolved(self, item: InputItem, i: int, caller: str) -> InputItem:
        if not isinstance(item, ItemReference):
            return item
        response_id = PREFIX + item.id.partition("_")[2][:_ID_LENGTH]
        stored = self._store.get(response_id, caller)
        for one in stored.items if stored else []:
            if one.get("id") == item.id:
                (found,) = INPUT_ITEMS.validate_python([one])
                return found
        raise InvalidRequest(f"Item with id {item.id[:100]!r} not found.", param=f"input[{i}].id")


async def _off_loop(operation: Callable[..., T], *arguments: object) -> T:
    """Runs it in a thread. Raises StoreUnavailable when the store fails."""
    try:
        return await asyncio.to_thread(operation, *arguments)
    except _FAILURES as error:
        log.error("the stored responses cannot be read: %s", error)
        raise StoreUnavailable(
            "The stored responses cannot be read at the moment; the server's log says why.",
            retry_after=RETRY_AFTER,
        ) from error


def own_items(request: ResponsesRequest) -> list[InputItem]:
    if isinstance(request.input, str):
        return [MessageItem(role="user", content=request.input)]
    return request.input


def stored_input(response_id: str, request: ResponsesRequest) -> list[dict[str, object]]:
    """The input's items, each with an id that contains the response's, and with its text as parts."""
    owner = response_id.removeprefix(PREFIX)
    return [_as_sent(item, f"{owner}i{i:04x}") for i, item in enumerate(own_items(request))]


def _as_sent(item: BaseModel, id: str) -> dict[str, object]:
    sent = {"id": f"msg_{id}", **item.model_dump(mode="json", exclude_none=True)}
    if isinstance(item, MessageItem) and isinstance(item.content, str):
        kind = "output_text" if item.role == "assistant" else "input_text"
        sent["content"] = [{"type": kind, "text": item.content}]
    return sent
