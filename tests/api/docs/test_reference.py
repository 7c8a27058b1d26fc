"""The OpenAPI document and the HTML page made from it."""

import re
from typing import Any

from api.app import make_routes
from api.docs.openapi import OPERATIONS, REFS, document
from api.generation.broker_client import BrokerClient
from api.http.router import Routes
from shared.settings import Settings
from tests.api.conftest import Stack


def test_the_openapi_document_has_every_route_and_no_other() -> None:
    settings, routes = Settings(available_models=("tiny=/none",)), Routes()
    make_routes(settings, BrokerClient(settings), routes)
    known = {
        (method.lower(), re.sub(r":\w+}", "}", template))
        for template in routes.templates
        for method in routes.at(re.sub("{id.*?}", "resp_x", template)).methods  # type: ignore[union-attr]
        if method not in ("OPTIONS", "HEAD")
    }
    assert known == {(one.method, one.path) for one in OPERATIONS}


def references(node: Any) -> set[str]:
    if isinstance(node, dict):
        own = {node["$ref"]} if isinstance(node.get("$ref"), str) else set()
        return own.union(*map(references, node.values()))
    return set().union(*map(references, node)) if isinstance(node, list) else set()


def test_every_reference_in_the_openapi_document_resolves() -> None:
    schemas = document()["components"]["schemas"]
    assert {one.removeprefix(REFS) for one in references(document())} <= schemas.keys()


def test_no_schema_of_the_openapi_document_is_named_after_a_module() -> None:
    assert not [name for name in document()["components"]["schemas"] if "__" in name]


def test_the_operation_ids_of_the_openapi_document_are_unique() -> None:
    ids = [one["operationId"] for methods in document()["paths"].values() for one in methods.values()]
    assert len(set(ids)) == len(ids)


def test_every_operation_of_the_openapi_document_has_its_dialects_error() -> None:
    for path, methods in document()["paths"].items():
        dialect = "Messages" if path.startswith("/v1/messages") else "OpenAI"
        for described in methods.values():
            [error] = references(described["responses"]["default"])
            assert error == f"{REFS}{dialect}ErrorResponse"


def test_the_openapi_document_is_served(stack: Stack) -> None:
    served = stack.client.get("/openapi.json").json()
    assert served["openapi"].startswith("3.1")
    assert served == document()


def test_the_docs_page_has_every_path_and_loads_nothing(stack: Stack) -> None:
    response = stack.client.get("/docs")
    assert response.headers["content-type"].startswith("text/html")
    assert all(path in response.text for path in document()["paths"])
    assert "<code>messages</code>" in response.text
    assert not re.search(r"<script|<link|<img|src=|https?://", response.text)
