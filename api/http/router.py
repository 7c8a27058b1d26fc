"""Falcon's router, which also tells the route and the methods of a path before a body is read.

A route that answers GET answers HEAD.
"""

import re
from dataclasses import dataclass
from typing import Any

from falcon.routing import CompiledRouter

_SLASHES = re.compile("/{2,}")


@dataclass(frozen=True)
class Route:
    template: str
    methods: tuple[str, ...]


class Routes(CompiledRouter):
    def __init__(self) -> None:
        super().__init__()
        self._methods: dict[str, tuple[str, ...]] = {}

    def map_http_methods(self, resource: object, **kwargs: Any) -> Any:
        methods: dict[str, Any] = dict(super().map_http_methods(resource, **kwargs))
        if "GET" in methods:
            methods.setdefault("HEAD", methods["GET"])
        return methods

    def add_route(self, uri_template: str, resource: object, **kwargs: Any) -> None:
        super().add_route(uri_template, resource, **kwargs)
        self._methods[uri_template] = (*sorted(self.map_http_methods(resource, **kwargs)), "OPTIONS")

    def at(self, path: str) -> Route | None:
        found = self.find(path)
        if found is None or found[3] is None:
            return None
        return Route(found[3], self._methods[found[3]])

    @property
    def templates(self) -> list[str]:
        return list(self._methods)


def tidy(path: str) -> str:
    """Removes doubled slashes and a trailing one: clients join a base URL and a path in different ways."""
    return _SLASHES.sub("/", path).rstrip("/") or "/"
