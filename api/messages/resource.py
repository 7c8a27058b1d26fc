"""POST /v1/messages and /v1/messages/count_tokens"""

from falcon.asgi import Request, Response

from api.answer import Identity
from api.blocks import gather
from api.broker_client import BrokerClient
from api.caller import caller
from api.catalog import Catalog
from api.messages.answer import message
from api.messages.events import MessageEvents
from api.messages.request import message_generation, message_prompt
from api.parse import read
from api.respond import respond_json, respond_stream
from api.streaming import server_sent
from api.tokens import prompt_as_read
from shared.anthropic import CountTokensRequest, CountTokensResponse, MessagesRequest


class Messages:
    def __init__(self, catalog: Catalog, broker: BrokerClient) -> None:
        self._catalog = catalog
        self._broker = broker

    async def on_post(self, req: Request, resp: Response) -> None:
        request = await read(req, MessagesRequest)
        model = self._catalog.resolve(request.model)
        replies = await self._broker.generate(model, [message_generation(request)], caller(req))
        identity = Identity.new("msg_", model)
        if request.stream:
            respond_stream(resp, server_sent(MessageEvents(identity), replies))
        else:
            respond_json(resp, message(identity, await gather(replies)))

    async def on_post_count(self, req: Request, resp: Response) -> None:
        request = await read(req, CountTokensRequest)
        model = self._catalog.resolve(request.model)
        start = await prompt_as_read(self._broker, model, message_prompt(request), echo=False)
        respond_json(resp, CountTokensResponse(input_tokens=start.prompt_tokens))
