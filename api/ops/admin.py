"""GET /admin/status: the broker's report, and the api process that asked for it."""

import os

from falcon.asgi import Request, Response

from api.generation.broker_client import BrokerClient
from api.http.respond import respond_json
from shared.protocol import StatusReport

ASK_WITHIN = 2.0


class AdminStatus(StatusReport):
    api_pid: int


class Admin:
    def __init__(self, broker: BrokerClient) -> None:
        self._broker = broker

    async def on_get(self, req: Request, resp: Response) -> None:
        report = await self._broker.status(ASK_WITHIN)
        respond_json(resp, AdminStatus(**report.model_dump(), api_pid=os.getpid()))
