"""POST /admin/prompts/forget: workers forget what they keep of prompts, in memory and on disk, and go on."""

from typing import Annotated

from falcon.asgi import Request, Response
from pydantic import BaseModel, ConfigDict, Field

from api.generation.broker_client import BrokerClient
from api.generation.parse import parse
from api.http.errors import RequestError
from api.http.respond import respond_json


class ForgetOrder(BaseModel):
    """Exactly one of the two. ``namespace``: the SHA-256 digest of an API key, as the key file has it."""

    model_config = ConfigDict(extra="forbid")

    namespace: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = None
    all: bool = False


class PromptsDeleted(BaseModel):
    """``models``: whose workers have confirmed; bytes; ``failed``: why some of it is still on disk."""

    models: list[str]
    memory_bytes: int
    disk_bytes: int
    failed: str


class AdminForget:
    def __init__(self, broker: BrokerClient) -> None:
        self._broker = broker

    async def on_post(self, req: Request, resp: Response) -> None:
        order = parse(await req.stream.read() or b"{}", ForgetOrder)
        if order.all == (order.namespace is not None):
            raise RequestError(400, "Say `namespace`, the digest of an API key, or `all`: true.")
        said = await self._broker.forget_prompts(order.namespace)
        respond_json(
            resp,
            PromptsDeleted(
                models=said.models, memory_bytes=said.memory, disk_bytes=said.disk, failed=said.reason
            ),
        )
