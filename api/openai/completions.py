"""POST /v1/completions"""

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
from api.openai.answer import completion
from api.openai.events import CompletionEvents
from api.openai.request import completion_generations
from api.openai.schemas import CompletionRequest


class Completions:
    def __init__(self, catalog: Catalog, broker: BrokerClient, hosting: Hosting) -> None:
        self._catalog = catalog
        self._broker = broker
        self._hosting = hosting

    async def on_post(self, req: Request, resp: Response) -> None:
        if await self._hosting.passed(req, resp, "completions"):
            return
        request = await read(req, CompletionRequest)
        model = self._catalog.resolve(request.model)
        generations = completion_generations(request)
        replies = await self._broker.generate(model, generations, caller(req))
        identity = Identity.new("cmpl-", model)
        if request.stream:
            events = CompletionEvents(identity, request.n, request.include_usage)
            respond_stream(resp, server_sent(events, replies, lambda: replies.waiting))
        else:
            choices = await gather(replies, len(generations), request.choices)
            respond_json(resp, completion(identity, choices, request))
