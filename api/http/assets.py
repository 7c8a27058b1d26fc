"""Serves the files of a web page as they are: its style, its scripts, its pictures.

Rule 1: only files that were in the folders at the start are served, by name; a request's path is never opened.
Rule 2: the policy in the headers lets a browser run these files only, and ask this server only.
"""

from collections.abc import Mapping
from functools import cached_property
from hashlib import sha256
from pathlib import Path

from falcon.asgi import Request, Response

from api.http.errors import RequestError

PAGE = "index.html"
POLICY = {
    "default-src": "'none'",
    "script-src": "'self'",
    "style-src": "'self'",
    "connect-src": "'self'",
    "img-src": "'self'",
    "base-uri": "'none'",
    "form-action": "'none'",
    "frame-ancestors": "'none'",
}
HEADERS = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    "cache-control": "no-cache",  # ask again each time, by the ETag
}
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}


class Asset:
    """One file, read when it is first asked for."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @cached_property
    def data(self) -> bytes:
        return self.path.read_bytes()

    @cached_property
    def tag(self) -> str:
        return sha256(self.data).hexdigest()[:32]


class Assets:
    """``GET`` of a folder is its PAGE; of a name in it, that file."""

    def __init__(self, *folders: Path, policy: Mapping[str, str] = POLICY) -> None:
        self.files = {
            path.name: Asset(path) for folder in folders for path in folder.iterdir() if path.suffix in TYPES
        }
        self._headers = {
            **HEADERS,
            "content-security-policy": "; ".join(f"{name} {value}" for name, value in policy.items()),
        }

    async def on_get(self, req: Request, resp: Response) -> None:
        await self.on_get_file(req, resp, PAGE)

    async def on_get_file(self, req: Request, resp: Response, file: str) -> None:
        asset = self.files.get(file)
        if asset is None:
            raise RequestError(404, "There is no such file.")
        resp.set_headers(self._headers)
        resp.content_type = TYPES[asset.path.suffix]
        resp.etag = asset.tag
        if asset.tag in (req.if_none_match or ()):
            resp.status = 304
        else:
            resp.data = asset.data
