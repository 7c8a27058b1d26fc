"""POST /v1/chat/completions"""

from falcon.asgi import Request, Response

from api.answer import Identity
from api.broker_client import BrokerClient
from api.caller import caller
from api.catalog import Catalog
from api.collect import chat_completion
from api.parse import read
from api.respond import respond_json, respond_stream
from api.streaming import ChatEvents, server_sent
from api.translate import chat_generation
from shared.openai import ChatCompletionRequest


class ChatCompletions:
    def __init__(self, catalog: Catalog, broker: BrokerClient) -> None:
        self._catalog = catalog
        self._broker = broker

    async def on_post(self, req: Request, resp: Response) -> None:
        request = await read(req, ChatCompletionRequest)
        model = self._catalog.resolve(request.model)
        replies = await self._broker.generate(model, [chat_generation(request)], caller(req))
        identity = Identity.new("chatcmpl-", model)
        if request.stream:
            events = ChatEvents(identity, request.n, request.include_usage, request.legacy)
            respond_stream(resp, server_sent(events, replies))
        else:
            respond_json(resp, await chat_completion(identity, replies, request))
