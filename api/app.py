"""Every route on one screen. Errors pass through Falcon to the guard, which renders them."""

from collections.abc import Mapping
from typing import Any, NoReturn

import falcon
import falcon.asgi
from falcon.routing import BaseConverter

from api.docs.reference import Docs, OpenApi
from api.embeddings.resource import Embeddings, Rerank
from api.generation.broker_client import BrokerClient
from api.generation.catalog import Catalog
from api.hosting.hosting import Hosting
from api.hosting.resource import ONLY_HOSTED, OnlyHosted
from api.http.errors import ErrorDialect, OpenAIErrors, from_falcon
from api.http.guard import Guard
from api.http.router import Routes
from api.messages.errors import AnthropicErrors
from api.messages.resource import Messages
from api.metrics.resource import Metrics
from api.openai.chat import ChatCompletions
from api.openai.completions import Completions
from api.openai.models import Models
from api.openai.tokens import ApplyTemplate, Detokenize, Tokenize
from api.ops.admin import Admin
from api.ops.events import AdminEvents
from api.ops.health import Health, Ready, Root
from api.ops.models import AdminModels, AdminReload
from api.ops.prompts import AdminForget
from api.responses.answer import PREFIX
from api.responses.conversations import Conversations
from api.responses.resource import Responses, StoredResponses
from api.responses.store import Store
from api.ui.resource import Dashboard
from shared.hosting import PATHS
from shared.settings import Settings


def make_app(settings: Settings, broker: BrokerClient) -> Guard:
    routes = Routes()
    app = make_routes(settings, broker, routes)
    return Guard(app, settings, routes, error_dialect, broker.counters)


def error_dialect(path: str, headers: Mapping[bytes, bytes]) -> ErrorDialect:
    """By the path. Anthropic's clients also send a header of their own, on every path."""
    messages = path == "/v1/messages" or path.startswith("/v1/messages/")
    return AnthropicErrors() if messages or b"anthropic-version" in headers else OpenAIErrors()


def make_routes(
    settings: Settings, broker: BrokerClient, routes: Routes | None = None
) -> falcon.asgi.App[Any, Any]:
    catalog = Catalog(settings)
    broker.on_new_settings(catalog.use)
    hosting = Hosting(settings, catalog, broker)
    broker.on_new_settings(hosting.use)
    models = Models(catalog, broker)
    app = falcon.asgi.App(middleware=[Lifespan(broker, hosting)], router=routes or Routes())
    app.router_options.converters["response"] = ResponseId
    app.add_route("/v1/models", models)
    app.add_route("/v1/models/{id:path}", models, suffix="one")
    app.add_route("/v1/chat/completions", ChatCompletions(catalog, broker, hosting))
    app.add_route("/v1/completions", Completions(catalog, broker, hosting))
    app.add_route("/v1/embeddings", Embeddings(catalog, broker, hosting))
    for path in ("/v1/rerank", "/v2/rerank", "/rerank"):
        app.add_route(path, Rerank(catalog, broker, hosting))
    conversations = Conversations(Store(settings.responses_file, settings.response_store_bytes))
    responses, stored = Responses(catalog, broker, hosting, conversations), StoredResponses(conversations)
    app.add_route("/v1/responses", responses)
    app.add_route("/v1/responses/input_tokens", responses, suffix="count")
    app.add_route("/v1/responses/{id:response}", stored)
    app.add_route("/v1/responses/{id:response}/cancel", stored, suffix="cancel")
    app.add_route("/v1/responses/{id:response}/input_items", stored, suffix="input")
    messages = Messages(catalog, broker, hosting)
    app.add_route("/v1/messages", messages)
    app.add_route("/v1/messages/count_tokens", messages, suffix="count")
    for endpoint in ONLY_HOSTED:
        app.add_route(PATHS[endpoint], OnlyHosted(hosting, endpoint))
    app.add_route("/tokenize", Tokenize(catalog, broker))
    app.add_route("/detokenize", Detokenize(catalog, broker))
    app.add_route("/apply-template", ApplyTemplate(catalog, broker))
    app.add_route("/health", Health())
    app.add_route("/ready", Ready(broker))
    app.add_route("/metrics", Metrics(broker, 2 * settings.heartbeat_interval))
    app.add_route("/admin/status", Admin(broker))
    app.add_route("/admin/events", AdminEvents(settings, broker))
    app.add_route("/admin/prompts/forget", AdminForget(broker))
    app.add_route("/admin/reload", AdminReload(broker))
    app.add_route("/admin/models/{id:path}", AdminModels(catalog, broker))
    app.add_route("/openapi.json", OpenApi())
    docs, dashboard = Docs(), Dashboard()
    app.add_route("/docs", docs)
    app.add_route("/docs/{file}", docs, suffix="file")
    app.add_route("/ui", dashboard)
    app.add_route("/ui/{file}", dashboard, suffix="file")
    app.add_route("/", Root())
    app.add_error_handler(Exception, pass_on)
    app.add_error_handler(falcon.HTTPError, pass_on_http)
    return app


class ResponseId(BaseConverter):
    """Keeps OpenAI's other paths beside the stored responses, such as ``compact``, from being read as an id."""

    def convert(self, value: str) -> str | None:
        return value if value.startswith(PREFIX) else None


class Lifespan:
    """Starts and closes with the server what has connections."""

    def __init__(self, broker: BrokerClient, hosting: Hosting) -> None:
        self._broker = broker
        self._hosting = hosting

    async def process_startup(self, scope: Mapping[str, Any], event: Mapping[str, Any]) -> None:
        await self._broker.start()

    async def process_shutdown(self, scope: Mapping[str, Any], event: Mapping[str, Any]) -> None:
        await self._broker.close()
        await self._hosting.close()


async def pass_on(
    req: falcon.asgi.Request, resp: falcon.asgi.Response, error: Exception, params: dict[str, Any]
) -> NoReturn:
    raise error


async def pass_on_http(
    req: falcon.asgi.Request, resp: falcon.asgi.Response, error: falcon.HTTPError, params: dict[str, Any]
) -> NoReturn:
    raise from_falcon(error)
