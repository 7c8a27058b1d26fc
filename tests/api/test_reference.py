"""The OpenAPI document and the page made from it."""

import re
from typing import Any

import falcon.inspect

from api.app import make_routes
from api.broker_client import BrokerClient
from api.openapi import OPERATIONS, REFS, document
from shared.settings import Settings
from tests.api.conftest import Stack


def test_every_route_is_in_the_document_and_nothing_else() -> None:
    settings = Settings(available_models=("tiny=/none",))
    app = make_routes(settings, BrokerClient(settings))
    routes = {
        (method.method.lower(), re.sub(r":\w+}", "}", route.path))
        for route in falcon.inspect.inspect_routes(app)
        for method in route.methods
        if method.method not in ("OPTIONS", "HEAD") and not method.internal
    }
    assert routes == {(one.method, one.path) for one in OPERATIONS}


def references(node: Any) -> set[str]:
    if isinstance(node, dict):
        own = {node["$ref"]} if isinstance(node.get("$ref"), str) else set()
        return own.union(*map(references, node.values()))
    return set().union(*map(references, node)) if isinstance(node, list) else set()


def test_every_reference_leads_somewhere() -> None:
    schemas = document()["components"]["schemas"]
    assert {one.removeprefix(REFS) for one in references(document())} <= schemas.keys()


def test_operations_have_ids_of_their_own() -> None:
    ids = [one["operationId"] for methods in document()["paths"].values() for one in methods.values()]
    assert len(set(ids)) == len(ids)


def test_every_operation_says_how_its_errors_look() -> None:
    for path, methods in document()["paths"].items():
        dialect = "anthropic" if path.startswith("/v1/messages") else "openai"
        for described in methods.values():
            [error] = references(described["responses"]["default"])
            assert error == f"{REFS}shared__{dialect}__ErrorResponse"


def test_the_document_is_served(stack: Stack) -> None:
    served = stack.client.get("/openapi.json").json()
    assert served["openapi"].startswith("3.1")
    assert served == document()


def test_the_page_names_every_path_and_fetches_nothing(stack: Stack) -> None:
    response = stack.client.get("/docs")
    assert response.headers["content-type"].startswith("text/html")
    assert all(path in response.text for path in document()["paths"])
    assert "<code>messages</code>" in response.text
    assert not re.search(r"<script|<link|<img|src=|https?://", response.text)
