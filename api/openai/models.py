"""GET /v1/models and /v1/models/{id}: the models that may be asked for, loaded ones first, and their aliases."""

import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Literal, get_args

from falcon.asgi import Request, Response

from api.generation.broker_client import BrokerClient
from api.generation.catalog import Catalog
from api.http.respond import respond_json
from api.openai.schemas import Downloading, Loading, ModelCapabilities, ModelInfo, ModelListResponse
from shared.errors import BrokerLost
from shared.protocol import ModelStatus

ASK_WITHIN = 1.0  # seconds; without an answer, every model is shown as loadable

Known = Literal["hot", "loading", "downloading", "queued", "loadable", "failed"]
_ORDER = get_args(Known)
NOT_PROMISED = ["resume", "seed", "prompt_cache_by_key"]  # of a hosted model
_NOT_TOLD = dict.fromkeys(("tools", "content", "reasoning", "json_schema", "infill", "speculation"))


class Models:
    def __init__(self, catalog: Catalog, broker: BrokerClient) -> None:
        self._catalog = catalog
        self._broker = broker
        self._created = int(time.time())

    async def on_get(self, req: Request, resp: Response) -> None:
        states = await model_states(self._broker)
        infos = [self._info(name, states) for name in self._catalog.names]
        infos.sort(key=lambda info: _ORDER.index(info.status))
        first, last = (infos[0].id, infos[-1].id) if infos else (None, None)
        respond_json(resp, ModelListResponse(data=infos, first_id=first, last_id=last))

    async def on_get_one(self, req: Request, resp: Response, id: str) -> None:
        name = self._catalog.resolve(id)
        respond_json(resp, self._info(name, await model_states(self._broker)))

    def _info(self, id: str, states: Mapping[str, ModelStatus]) -> ModelInfo:
        model = self._catalog.model(id)
        state = states.get(model)
        status = _status(state)
        return ModelInfo(
            id=id,
            created=self._created,
            display_name=id,
            created_at=datetime.fromtimestamp(self._created, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            status=status,
            aliases=self._catalog.registry.aliases_of(model) if id == model else [],
            alias_of=None if id == model else model,
            lifecycle="retired" if status == "failed" else "active",
            capabilities=self._capabilities(model, state),
            **_known(state),
        )

    def _capabilities(self, model: str, state: ModelStatus | None) -> ModelCapabilities | None:
        """None: it was never loaded; what a hosted model is is known before."""
        can = state.capabilities if state else None
        if model in self._catalog.hosted:
            endpoints = can.endpoints if can else self._catalog.hosted[model]
            return ModelCapabilities(
                kind="hosted", endpoints=list(endpoints), not_promised=NOT_PROMISED, **_NOT_TOLD
            )
        return None if can is None else ModelCapabilities(**can.model_dump(exclude={"bytes", "sampling"}))


async def model_states(broker: BrokerClient) -> dict[str, ModelStatus]:
    """What the broker knows, by model; nothing while there is none."""
    try:
        report = await broker.status(ASK_WITHIN)
    except BrokerLost:
        return {}
    return {state.id: state for state in report.models}


def _known(state: ModelStatus | None) -> dict[str, Any]:
    if state is None:
        return {}
    can = state.capabilities
    return {
        "reason": state.reason,
        "loading": Loading(phase=state.phase, bytes=state.done, of=state.total)
        if state.phase and state.state != "downloading"
        else None,
        "download": Downloading(bytes=state.done, of=state.total, rate=state.rate, eta=state.eta)
        if state.state == "downloading"
        else None,
        "absent": state.absent,
        "pinned": state.pinned,
        "ttl": state.ttl,
        "workers": state.workers,
        "replicas": state.replicas,
        "context_length": state.context_length or None,
        "max_input_tokens": state.context_length or None,
        "size": None if can is None else can.bytes,
        "default_sampling": None if can is None else can.sampling,
    }


def _status(state: ModelStatus | None) -> Known:
    return next((known for known in _ORDER if state and state.state == known), "loadable")
