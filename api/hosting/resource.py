"""POST /v1/audio/transcriptions, /v1/audio/speech and /v1/images/generations, which only hosted models serve."""

from falcon.asgi import Request, Response

from api.hosting.hosting import Hosting
from shared.hosting import Endpoint

ONLY_HOSTED: tuple[Endpoint, ...] = ("audio/transcriptions", "audio/speech", "images")


class OnlyHosted:
    def __init__(self, hosting: Hosting, endpoint: Endpoint) -> None:
        self._hosting = hosting
        self._endpoint = endpoint

    async def on_post(self, req: Request, resp: Response) -> None:
        await self._hosting.only_hosted(req, resp, self._endpoint)
