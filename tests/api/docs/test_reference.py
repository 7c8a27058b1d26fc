"""The OpenAPI document and the page that shows it."""

import asyncio
import json
import re
import tomllib
from hashlib import sha256
from typing import Any

from falcon.asgi import Response

from api.app import make_routes
from api.docs.openapi import FIELDS, OPERATIONS, REFS, document
from api.docs.reference import FOLDERS, OpenApi
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
        for method in routes.at(re.sub("{.*?}", "resp_x", template)).methods  # type: ignore[union-attr]
        if method not in ("OPTIONS", "HEAD")
    }
    assert known == {(one.method, one.path) for one in OPERATIONS}


def test_the_openapi_document_is_made_once_however_many_ask_for_it() -> None:
    answers = [Response() for _ in range(2)]
    for answer in answers:
        asyncio.run(OpenApi().on_get(None, answer))  # type: ignore[arg-type]
    assert answers[0].data is answers[1].data is not None


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


def test_swagger_ui_is_as_it_was_published() -> None:
    origin = json.loads((FOLDERS[0] / "ORIGIN.json").read_text())
    found = {path.name: sha256(path.read_bytes()).hexdigest() for path in FOLDERS[0].iterdir()}
    assert {name: found.get(name) for name in origin["sha256"]} == origin["sha256"]
    assert found.keys() - origin["sha256"].keys() == {"ORIGIN.json"}


def test_swagger_ui_asks_no_other_server_and_reads_our_document() -> None:
    script = (FOLDERS[1] / "reference.js").read_text()
    assert 'url: "/openapi.json"' in script
    assert "validatorUrl: null" in script


def fields() -> set[tuple[str, str]]:
    schemas = document()["components"]["schemas"]
    return {(name, field) for name, schema in schemas.items() for field in schema.get("properties", {})}


def test_every_field_of_the_openapi_document_is_one_sentence_in_fields_toml() -> None:
    schemas = document()["components"]["schemas"]
    said = {
        (name, field): schemas[name]["properties"][field].get("description", "") for name, field in fields()
    }
    assert not [where for where, words in said.items() if not re.fullmatch(r"[^\n]{6,199}\.", words)]


def test_every_sentence_of_fields_toml_is_used_and_stands_there_once() -> None:
    sentences = tomllib.loads(FIELDS.read_text())
    shared = sentences.pop("any")
    own = {(name, field) for name, table in sentences.items() for field in table}
    assert own <= fields()
    assert shared.keys() == {field for _, field in fields() - own}
    assert not {(name, field) for name, field in own if sentences[name][field] == shared.get(field)}


def test_a_field_that_may_be_left_out_has_its_default_in_the_openapi_document() -> None:
    schemas = document()["components"]["schemas"]
    lacking = {
        (name, field)
        for name, field in fields()
        if field not in schemas[name].get("required", [])
        and "default" not in schemas[name]["properties"][field]
    }
    assert not lacking
