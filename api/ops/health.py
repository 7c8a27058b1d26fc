"""GET /health (this process runs), /ready (it can serve) and / (what it is)."""

from falcon.asgi import Request, Response

from api.generation.broker_client import BrokerClient
from api.http.respond import respond_object
from shared.errors import BrokerLost


class Health:
    async def on_get(self, req: Request, resp: Response) -> None:
        respond_object(resp, {"status": "ok"})


class Ready:
    def __init__(self, broker: BrokerClient) -> None:
        self._broker = broker

    async def on_get(self, req: Request, resp: Response) -> None:
        if not self._broker.seen:
            raise BrokerLost("Not ready: no broker is seen.", retry_after=1)
        respond_object(resp, {"status": "ready"})


class Root:
    async def on_get(self, req: Request, resp: Response) -> None:
        links = (
            "/v1/models",
            "/v1/chat/completions",
            "/v1/completions",
            "/v1/responses",
            "/v1/messages",
            "/health",
            "/ready",
            "/docs",
            "/ui",
        )
        respond_object(resp, {"name": "mlx-server", "links": links})
