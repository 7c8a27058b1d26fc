"""What every resource asks: is this request for a hosted model, and then, pass it on or translate it.

Where no model is hosted, nothing of this folder runs.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial

from falcon.asgi import Request, Response

from api.generation.broker_client import BrokerClient
from api.generation.catalog import Catalog
from api.generation.parse import BOM, read_object, received
from api.generation.replies import Replies
from api.hosting.forms import MULTIPART, boundary_of, value_of, with_value
from api.hosting.lease import Lease
from api.hosting.proxy import Passing, Patience, Translation, missing
from api.hosting.renaming import named
from api.hosting.translated import Translated
from api.hosting.upstream import Upstreams
from api.http.caller import caller
from api.http.json_limits import SMALL
from api.http.side_thread import in_side_thread
from shared.errors import EndpointMissing, InvalidRequest
from shared.hosting import PATHS, STREAMED, Endpoint
from shared.protocol import Generation, Place, Task
from shared.settings import Settings


class Hosting:
    def __init__(self, settings: Settings, catalog: Catalog, broker: BrokerClient) -> None:
        self._catalog = catalog
        self._broker = broker
        self._upstreams = Upstreams()
        self._lacking: set[tuple[str, Endpoint]] = set()  # (model, endpoint) that were found to be missing
        self.use(settings)

    def use(self, settings: Settings) -> None:
        """Also later: an operator may change models while the server runs."""
        self._settings = settings
        self._patience = Patience(settings.first_token_silence, settings.keepalive)
        self._lacking.clear()

    async def close(self) -> None:
        await self._upstreams.close()

    def serves(self, model: str) -> bool:
        """``model``: a name that was asked for."""
        return (self._catalog.registry.resolve(model) or model) in self._catalog.hosted

    async def passed(
        self, req: Request, resp: Response, endpoint: Endpoint, translated: Translation | None = None
    ) -> bool:
        """False: the request is not for a hosted model, or its server leaves this dialect to ``translated``.

        ``translated`` is called here only where the head of a stream had to go out before that was known.
        """
        if not self._catalog.hosted:
            return False
        asked = await self._asked(req)
        if not self.serves(asked.model) or (asked.model, endpoint) in self._lacking:
            return False
        model, who = self._catalog.resolve(asked.model), caller(req)
        data = await received(req)
        lease = await Lease.take(self._broker, model, endpoint, data, who)
        streams = asked.streams and endpoint in STREAMED
        place = await _first_place(lease, streams)
        if place and endpoint not in place.endpoints:
            lease.give_back()
            if translated is None:
                raise missing(model, endpoint, place)
            self._lacking.add((model, endpoint))
            return False
        passing = Passing(
            self._upstreams, endpoint, model, asked.named, _headers(req), streams, self._patience
        )
        await passing.answer(resp, lease, place, translated)
        return True

    async def only_hosted(self, req: Request, resp: Response, endpoint: Endpoint) -> None:
        """For endpoints that this server has no model of its own for. Raises EndpointMissing."""
        if await self.passed(req, resp, endpoint):
            return
        model = self._catalog.resolve((await self._asked(req)).model or None)
        raise EndpointMissing(
            f"The model {model!r} does not serve {PATHS[endpoint]}: only models of other servers do, which an operator "
            "names with `serve` in mlx-server.toml.",
            param="model",
        )

    async def generate(self, model: str, tasks: Sequence[Task], caller: str) -> Replies:
        """As BrokerClient.generate, of any model."""
        if not self.serves(model):
            return await self._broker.generate(model, tasks, caller)
        if len(tasks) != 1 or not isinstance(tasks[0], Generation) or tasks[0].n != 1:
            raise InvalidRequest("The server of this model gives one answer to one prompt here.", param="n")
        translated = Translated(self._broker, self._upstreams, self._settings, model, tasks[0], caller)
        return await translated.replies()

    async def _asked(self, req: Request) -> "Asked":
        """Raises InvalidField for what is no JSON object and no form."""
        kind = req.content_type or ""
        if kind.partition(";")[0].strip().lower() == MULTIPART:
            data, boundary = await received(req), boundary_of(kind)
            model = value_of(data, boundary, "model") or self._catalog.default
            streams = value_of(data, boundary, "stream") in ("true", "True", "1")
            return Asked(
                model, streams, lambda name: in_side_thread(with_value, data, boundary, "model", name)
            )
        body, data = await read_object(req), await received(req)
        name = body.get("model", self._catalog.default)
        return Asked(name if isinstance(name, str) else "", body.get("stream") is True, partial(_named, data))


@dataclass(frozen=True)
class Asked:
    """``model``: empty where none is named; ``named``: the body with another model's name."""

    model: str
    streams: bool
    named: Callable[[str], Awaitable[bytes]]


async def _named(data: bytes, name: str) -> bytes:
    """``data``: a JSON object."""

    def written() -> bytes:
        return named(data.removeprefix(BOM).decode(), name).encode()

    return written() if len(data) <= SMALL else await in_side_thread(written)


def _headers(req: Request) -> dict[str, str]:
    return {name.lower(): value for name, value in req.headers.items()}


async def _first_place(lease: Lease, streams: bool) -> Place | None:
    """None: it comes so late that the head of a stream goes out before."""
    place = await lease.next()
    while place is None and not streams:
        place = await lease.next()
    return place
