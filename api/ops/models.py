"""POST /admin/models/{id}/load, /unload, /reload, /pull, DELETE …/pull, POST /admin/reload: what operators order.

A model is named by its name or an alias. ``/admin/reload`` reads the settings anew.
"""

from falcon.asgi import Request, Response
from pydantic import BaseModel, ConfigDict

from api.generation.broker_client import Action, BrokerClient
from api.generation.catalog import Catalog
from api.generation.parse import parse
from api.http.errors import RequestError
from api.http.respond import respond_json

ACTIONS: dict[str, Action] = {"load": "load", "unload": "unload", "reload": "reload", "pull": "pull"}


class ModelOrder(BaseModel):
    """``wait``: the answer comes when it is done, else at once with 202. ``force``: of a pinned model too."""

    model_config = ConfigDict(extra="forbid")

    wait: bool = False
    force: bool = False


class ModelOrdered(BaseModel):
    """``status``: of the model now, as in /v1/models; ``done``: whether it is as was ordered."""

    model: str
    action: Action
    done: bool
    status: str


class SettingsReloaded(BaseModel):
    """What has changed, in lines."""

    changes: list[str]


class AdminReload:
    def __init__(self, broker: BrokerClient) -> None:
        self._broker = broker

    async def on_post(self, req: Request, resp: Response) -> None:
        respond_json(resp, SettingsReloaded(changes=await self._broker.reload()))


class AdminModels:
    def __init__(self, catalog: Catalog, broker: BrokerClient) -> None:
        self._catalog = catalog
        self._broker = broker

    async def on_post(self, req: Request, resp: Response, id: str) -> None:
        """``id`` has the action behind its last slash, as Falcon's paths of any length stand last in a route."""
        name, _, word = id.rpartition("/")
        action = ACTIONS.get(word)
        if action is None or not name:
            raise RequestError(404, f"POST /admin/models/MODEL/ACTION, where ACTION is {', '.join(ACTIONS)}.")
        await self._order(req, resp, name, action)

    async def on_delete(self, req: Request, resp: Response, id: str) -> None:
        """Cancels a download; what has arrived is kept."""
        name, _, word = id.rpartition("/")
        if word != "pull" or not name:
            raise RequestError(404, "DELETE /admin/models/MODEL/pull cancels the download of a model.")
        await self._order(req, resp, name, "cancel")

    async def _order(self, req: Request, resp: Response, name: str, action: Action) -> None:
        order = parse(await req.stream.read() or b"{}", ModelOrder)
        model = self._catalog.model(name)
        reply = await self._broker.order(action, model, wait=order.wait, force=order.force)
        resp.status = 200 if reply.done else 202
        respond_json(resp, ModelOrdered(model=model, action=action, done=reply.done, status=reply.state))
