"""GET /openapi.json and GET /docs: what can be asked of this server."""

from falcon.asgi import Request, Response

from api.openapi import document
from api.page import page

NOTHING_FROM_ELSEWHERE = "default-src 'none'; style-src 'unsafe-inline'"


class OpenApi:
    async def on_get(self, req: Request, resp: Response) -> None:
        resp.media = document()


class Docs:
    async def on_get(self, req: Request, resp: Response) -> None:
        resp.content_type = "text/html; charset=utf-8"
        resp.set_header("content-security-policy", NOTHING_FROM_ELSEWHERE)
        resp.text = page(document())
