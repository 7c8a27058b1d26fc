"""GET /openapi.json, and GET /docs: that document in Swagger UI, whose files come with this package."""

from functools import cache
from pathlib import Path

from falcon.asgi import Request, Response
from pydantic_core import to_json

from api.docs.openapi import document
from api.http.assets import POLICY, Assets

FOLDERS = tuple(Path(__file__).parent / name for name in ("swagger_ui", "page"))
# Swagger UI sets style attributes, and its style sheet has pictures in it.
LETS_SWAGGER_UI = {**POLICY, "style-src": "'self' 'unsafe-inline'", "img-src": "'self' data:"}


@cache
def _document() -> bytes:
    return to_json(document())


class OpenApi:
    async def on_get(self, req: Request, resp: Response) -> None:
        resp.content_type = "application/json"
        resp.data = _document()


class Docs(Assets):
    def __init__(self) -> None:
        super().__init__(*FOLDERS, policy=LETS_SWAGGER_UI)
