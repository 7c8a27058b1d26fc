"""GET /openapi.json and GET /docs, made once, as they never change."""

from functools import cache

from falcon.asgi import Request, Response
from pydantic_core import to_json

from api.docs.openapi import document
from api.docs.page import page

NOTHING_FROM_ELSEWHERE = "default-src 'none'; style-src 'unsafe-inline'"


@cache
def _document() -> bytes:
    return to_json(document())


@cache
def _page() -> bytes:
    return page(document()).encode()


class OpenApi:
    async def on_get(self, req: Request, resp: Response) -> None:
        resp.content_type = "application/json"
        resp.data = _document()


class Docs:
    async def on_get(self, req: Request, resp: Response) -> None:
        resp.content_type = "text/html; charset=utf-8"
        resp.set_header("content-security-policy", NOTHING_FROM_ELSEWHERE)
        resp.data = _page()
