"""POST /v1/chat/completions"""

from falcon.asgi import Request, Response

from api.generation.blocks import gather
from api.generation.broker_client import BrokerClient
from api.generation.catalog import Catalog
from api.generation.event_streams import server_sent
from api.generation.parse import read
from api.generation.usage import Identity
from api.hosting.hosting import Hosting
from api.http.caller import caller
from api.http.respond import respond_json, respond_stream
from api.openai.answer import chat_completion
from api.openai.events import ChatEvents
from api.openai.request import chat_generation
from api.openai.schemas import ChatCompletionRequest


class ChatCompletions:
    def __init__(self, catalog: Catalog, broker: BrokerClient, hosting: Hosting) -> None:
        self._catalog = catalog
        self._broker = broker
        self._hosting = hosting

    async def on_post(self, req: Request, resp: Response) -> None:
        if await self._hosting.passed(req, resp, "chat"):
            return
        request = await read(req, ChatCompletionRequest)
        model = self._catalog.resolve(request.model)
        replies = await self._broker.generate(model, [chat_generation(request)], caller(req))
        identity = Identity.new("chatcmpl-", model)
        if request.stream:
            events = ChatEvents(identity, request.n, request.include_usage, request.legacy)
            respond_stream(resp, server_sent(events, replies, lambda: replies.waiting))
        else:
            respond_json(resp, chat_completion(identity, await gather(replies, n=request.n), request))
