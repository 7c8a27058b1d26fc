"""POST /v1/messages and /v1/messages/count_tokens"""

from functools import partial

from falcon.asgi import Request, Response

from api.generation.blocks import gather
from api.generation.broker_client import BrokerClient
from api.generation.catalog import Catalog
from api.generation.event_streams import server_sent
from api.generation.parse import read
from api.generation.prompt_reading import prompt_as_read
from api.generation.usage import Identity
from api.hosting.hosting import Hosting
from api.http.caller import caller
from api.http.respond import respond_json, respond_stream
from api.messages.answer import message
from api.messages.errors import anthropic_error, with_anthropic_errors
from api.messages.events import MessageEvents
from api.messages.request import message_generation, message_prompt
from api.messages.schemas import CountTokensRequest, CountTokensResponse, MessagesRequest
from shared.errors import ServingError


class Messages:
    def __init__(self, catalog: Catalog, broker: BrokerClient, hosting: Hosting) -> None:
        self._catalog = catalog
        self._broker = broker
        self._hosting = hosting

    async def on_post(self, req: Request, resp: Response) -> None:
        answer = partial(self._answer, req)
        if not await self._hosting.passed(req, resp, "messages", answer):
            await answer(resp)

    async def _answer(self, req: Request, resp: Response) -> None:
        request = await read(req, MessagesRequest)
        model = self._catalog.resolve(request.model)
        generation, who = message_generation(request, sees=self._hosting.serves(model)), caller(req)
        try:
            replies = await self._hosting.generate(model, [generation], who)
        except ServingError as error:
            raise anthropic_error(error) from error
        identity = Identity.new("msg_", model)
        if request.stream:
            batches = with_anthropic_errors(replies)
            respond_stream(resp, server_sent(MessageEvents(identity), batches, lambda: replies.waiting))
        else:
            [blocks] = await gather(with_anthropic_errors(replies))
            respond_json(resp, message(identity, blocks))

    async def on_post_count(self, req: Request, resp: Response) -> None:
        request = await read(req, CountTokensRequest)
        model = self._catalog.resolve(request.model)
        try:
            start = await prompt_as_read(self._broker, model, message_prompt(request), echo=False)
        except ServingError as error:
            raise anthropic_error(error) from error
        respond_json(resp, CountTokensResponse(input_tokens=start.prompt_tokens))
