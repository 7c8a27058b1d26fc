"""POST /v1/embeddings and POST /v1/rerank."""

from falcon.asgi import Request, Response

from api.embeddings.answer import embeddings_body, rerank_response, whole
from api.embeddings.request import embedding, ranking
from api.embeddings.schemas import EmbeddingsRequest, RerankRequest
from api.generation.broker_client import BrokerClient
from api.generation.catalog import Catalog
from api.generation.parse import read
from api.hosting.hosting import Hosting
from api.http.caller import caller
from api.http.respond import respond_json, respond_with
from shared.errors import WorkerLost
from shared.protocol import Delta


class Embeddings:
    def __init__(self, catalog: Catalog, broker: BrokerClient, hosting: Hosting) -> None:
        self._catalog = catalog
        self._broker = broker
        self._hosting = hosting

    async def on_post(self, req: Request, resp: Response) -> None:
        if await self._hosting.passed(req, resp, "embeddings"):
            return
        request = await read(req, EmbeddingsRequest)
        model = self._catalog.resolve(request.model)
        answer = await whole(await self._broker.generate(model, [embedding(request)], caller(req)))
        if answer.vectors is None:
            raise _another_answer()
        respond_with(resp, await embeddings_body(request, model, answer.vectors, tokens_of(answer)))


class Rerank:
    def __init__(self, catalog: Catalog, broker: BrokerClient, hosting: Hosting) -> None:
        self._catalog = catalog
        self._broker = broker
        self._hosting = hosting

    async def on_post(self, req: Request, resp: Response) -> None:
        if await self._hosting.passed(req, resp, "rerank"):
            return
        request = await read(req, RerankRequest)
        model = self._catalog.resolve(request.model)
        answer = await whole(await self._broker.generate(model, [ranking(request)], caller(req)))
        if answer.scores is None:
            raise _another_answer()
        respond_json(resp, rerank_response(request, model, answer.scores, tokens_of(answer)))


def tokens_of(answer: Delta) -> int:
    return answer.start.prompt_tokens if answer.start else 0


def _another_answer() -> WorkerLost:
    return WorkerLost("The worker gave another answer than it was asked for.")
