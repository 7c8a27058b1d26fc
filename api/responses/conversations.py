"""What was said before: stored responses joined to conversations, off the event loop."""

import asyncio
import logging
import sqlite3

from pydantic import BaseModel

from api.responses.answer import PREFIX
from api.responses.store import Store, Stored
from shared.errors import InvalidRequest, ServingError
from shared.responses import (
    INPUT_ITEMS,
    InputItem,
    ItemReference,
    MessageItem,
    ResponseObject,
    ResponsesRequest,
)

log = logging.getLogger(__name__)

_ID_LENGTH = 32  # of a response, in the ids of its items


class ResponseNotFound(ServingError):
    status = 404
    code = "response_not_found"

    def __init__(self, id: str) -> None:
        super().__init__(f"Response with id {id[:100]!r} not found.")


class PreviousNotFound(InvalidRequest):
    code = "previous_response_not_found"


class Conversations:
    def __init__(self, store: Store) -> None:
        self._store = store

    def keeps(self, request: ResponsesRequest) -> bool:
        return request.store and self._store.keeps

    async def items(self, request: ResponsesRequest) -> list[InputItem]:
        """The whole conversation up to this request's input, which is its end. Raises what is not found."""
        said = own_items(request)
        if request.previous_response_id is None and not any(isinstance(one, ItemReference) for one in said):
            return said
        return await asyncio.to_thread(self._joined, request.previous_response_id, said)

    async def keep(self, response: ResponseObject, request: ResponsesRequest) -> None:
        """An answer is worth more than its copy: what cannot be stored is logged."""
        if not self.keeps(request):
            return
        input = stored_input(response.id, request)
        stored = Stored(response.id, request.previous_response_id, input, response.model_dump(mode="json"))
        try:
            await asyncio.to_thread(self._store.put, stored)
        except (sqlite3.Error, OSError) as error:
            log.error("response %s could not be stored: %s", response.id, error)

    async def get(self, id: str) -> Stored:
        stored = await asyncio.to_thread(self._store.get, id)
        if stored is None:
            raise ResponseNotFound(id)
        return stored

    async def delete(self, id: str) -> None:
        if not await asyncio.to_thread(self._store.delete, id):
            raise ResponseNotFound(id)

    def _joined(self, previous: str | None, said: list[InputItem]) -> list[InputItem]:
        turns = []
        while previous is not None:
            stored = self._store.get(previous)
            if stored is None:
                raise PreviousNotFound(
                    f"Previous response with id {previous[:100]!r} not found.", param="previous_response_id"
                )
            turns.append(INPUT_ITEMS.validate_python(stored.items))
            previous = stored.previous
        before = [item for turn in reversed(turns) for item in turn]
        return before + [self._resolved(item, i) for i, item in enumerate(said)]

    def _resolved(self, item: InputItem, i: int) -> InputItem:
        if not isinstance(item, ItemReference):
            return item
        response_id = PREFIX + item.id.partition("_")[2][:_ID_LENGTH]
        stored = self._store.get(response_id)
        for one in stored.items if stored else []:
            if one.get("id") == item.id:
                (found,) = INPUT_ITEMS.validate_python([one])
                return found
        raise InvalidRequest(f"Item with id {item.id[:100]!r} not found.", param=f"input[{i}].id")


def own_items(request: ResponsesRequest) -> list[InputItem]:
    if isinstance(request.input, str):
        return [MessageItem(role="user", content=request.input)]
    return request.input


def stored_input(response_id: str, request: ResponsesRequest) -> list[dict[str, object]]:
    """Each with an id, which tells the response it belongs to, and its text as a list of parts."""
    owner = response_id.removeprefix(PREFIX)
    return [_as_sent(item, f"{owner}i{i:04x}") for i, item in enumerate(own_items(request))]


def _as_sent(item: BaseModel, id: str) -> dict[str, object]:
    sent = {"id": f"msg_{id}", **item.model_dump(mode="json", exclude_none=True)}
    if isinstance(item, MessageItem) and isinstance(item.content, str):
        kind = "output_text" if item.role == "assistant" else "input_text"
        sent["content"] = [{"type": kind, "text": item.content}]
    return sent
