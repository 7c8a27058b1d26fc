"""The routes of /v1/responses: create, continue, fetch and delete responses, and list their input."""

from collections.abc import AsyncIterable, AsyncIterator
from functools import partial

from falcon.asgi import Request, Response

from api.generation.blocks import gather
from api.generation.broker_client import BrokerClient
from api.generation.catalog import Catalog
from api.generation.event_streams import idle_comment
from api.generation.parse import read
from api.generation.prompt_reading import prompt_as_read
from api.generation.refusals import unsupported
from api.generation.replies import Replies
from api.generation.usage import Identity, now
from api.hosting.hosting import Hosting
from api.http.caller import caller
from api.http.respond import respond_json, respond_object, respond_stream
from api.responses.answer import PREFIX, ended
from api.responses.conversations import Conversations
from api.responses.events import ResponseEvents
from api.responses.request import response_generation, response_prompt
from api.responses.schemas import (
    DeletedResponse,
    InputItem,
    InputItemList,
    InputTokensResponse,
    ResponsesRequest,
)
from api.responses.truncation import truncated
from shared.errors import InvalidRequest, ServingError
from shared.protocol import Delta

MAX_PAGE = 100


class Responses:
    def __init__(
        self, catalog: Catalog, broker: BrokerClient, hosting: Hosting, conversations: Conversations
    ) -> None:
        self._catalog = catalog
        self._broker = broker
        self._hosting = hosting
        self._conversations = conversations

    async def on_post(self, req: Request, resp: Response) -> None:
        answer = partial(self._answer, req)
        if not await self._hosting.passed(req, resp, "responses", answer):
            await answer(resp)

    async def _answer(self, req: Request, resp: Response) -> None:
        request = await read(req, ResponsesRequest)
        model = self._catalog.resolve(request.model)
        who = caller(req)
        items = await self._conversations.items(request, who)
        replies = await self._replies(model, request, items, who)
        identity = Identity.new(PREFIX, model)
        request = request.model_copy(update={"store": self._conversations.keeps(request)})
        if request.stream:
            respond_stream(resp, self._streamed(ResponseEvents(identity, request), request, replies, who))
        else:
            [blocks] = await gather(replies)
            response = ended(identity, request, blocks, now())
            await self._conversations.keep(response, request, who)
            respond_json(resp, response)

    async def _replies(
        self, model: str, request: ResponsesRequest, items: list[InputItem], who: str
    ) -> AsyncIterable[list[Delta]]:
        async def ask(items: list[InputItem]) -> AsyncIterable[list[Delta]]:
            generation = response_generation(request, items, sees=self._hosting.serves(model))
            return await self._hosting.generate(model, [generation], who)

        return await (truncated(ask, items) if request.truncation == "auto" else ask(items))

    async def _streamed(
        self, events: ResponseEvents, request: ResponsesRequest, replies: AsyncIterable[list[Delta]], who: str
    ) -> AsyncIterator[bytes]:
        """A response is stored before the client reads that it is complete: its next request may continue it."""
        try:
            async for batch in replies:
                if batch:
                    yield events.render(batch)
                else:
                    waiting = replies.waiting if isinstance(replies, Replies) else ""
                    yield idle_comment(waiting) + events.idle()
        except ServingError as error:
            yield events.fail(error)
            return
        response = events.ended(now())
        await self._conversations.keep(response, request, who)
        yield events.end(response)

    async def on_post_count(self, req: Request, resp: Response) -> None:
        request = await read(req, ResponsesRequest)
        model = self._catalog.resolve(request.model)
        prompt = response_prompt(request, await self._conversations.items(request, caller(req)))
        start = await prompt_as_read(self._broker, model, prompt, echo=False)
        respond_json(resp, InputTokensResponse(input_tokens=start.prompt_tokens))


class StoredResponses:
    def __init__(self, conversations: Conversations) -> None:
        self._conversations = conversations

    async def on_get(self, req: Request, resp: Response, id: str) -> None:
        if req.get_param("stream", default="false").lower() not in ("false", "0", ""):
            raise unsupported("stream", "a response is kept whole, and only when it has ended")
        respond_object(resp, (await self._conversations.get(id, caller(req))).response)

    async def on_delete(self, req: Request, resp: Response, id: str) -> None:
        await self._conversations.delete(id, caller(req))
        respond_json(resp, DeletedResponse(id=id))

    async def on_post_cancel(self, req: Request, resp: Response, id: str) -> None:
        await self._conversations.get(id, caller(req))
        raise InvalidRequest("Only background responses can be cancelled; close the connection instead.")

    async def on_get_input(self, req: Request, resp: Response, id: str) -> None:
        """The newest first, unless ``order=asc``."""
        items = (await self._conversations.get(id, caller(req))).input
        if req.get_param("order") != "asc":
            items.reverse()
        after = req.get_param("after")
        ids = [item["id"] for item in items]
        begin = ids.index(after) + 1 if after in ids else 0
        limit = req.get_param_as_int("limit", min_value=1, max_value=MAX_PAGE, default=20)
        page = items[begin : begin + limit]
        shown = [item["id"] for item in page]
        respond_json(
            resp,
            InputItemList(
                data=page,
                first_id=shown[0] if shown else None,
                last_id=shown[-1] if shown else None,
                has_more=begin + limit < len(items),
            ),
        )
