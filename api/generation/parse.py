"""Bytes -> a checked request. Strict JSON: UTF-8, no NaN, no lone surrogates, at most 64 levels deep.

jiter (inside pydantic_core) refuses the first three itself and any depth beyond 200. A body that is not small is parsed
off the event loop, on which all streams run.
"""

from typing import TypeVar

import falcon.asgi
from pydantic import BaseModel, ValidationError
from pydantic_core import from_json

from api.generation.end_user import current_end_user, end_user
from api.generation.foreign_parameters import refuse
from api.generation.schemas import LENIENT
from api.http.body import PARSED
from api.http.errors import InvalidField, invalid
from api.http.json_limits import SMALL, check_json_limits
from api.http.side_thread import in_side_thread

BOM = b"\xef\xbb\xbf"
MAX_DEPTH = 64

R = TypeVar("R", bound=BaseModel)


async def read(request: falcon.asgi.Request, schema: type[R]) -> R:
    data = await received(request)
    request.context.body = None
    try:
        small = len(data) <= SMALL
        checked, user = _parse(data, schema) if small else await in_side_thread(_parse, data, schema)
        current_end_user.set(user)
        return checked
    finally:
        if parsed := request.scope.get("extensions", {}).get(PARSED):
            parsed()


async def received(request: falcon.asgi.Request) -> bytes:
    """The body, for several readers; ``read`` is the last of them."""
    data: bytes | None = getattr(request.context, "body", None)
    if data is None:
        data = request.context.body = await request.stream.read()
    return data


async def read_object(request: falcon.asgi.Request) -> dict[str, object]:
    """The JSON object of a body that another server reads next, within the bounds of all. Raises InvalidField."""
    data = await received(request)
    return json_object(data) if len(data) <= SMALL else await in_side_thread(json_object, data)


def parse(data: bytes, schema: type[R]) -> R:
    """Raises InvalidField, or UnsupportedParameter for another server's parameter that would change the answer."""
    return _parse(data, schema)[0]


def _parse(data: bytes, schema: type[R]) -> tuple[R, str]:
    """The request, and for whom it is."""
    body = json_object(data)
    refuse(body, schema)
    try:
        return schema.model_validate(body, context=LENIENT), end_user(body)
    except ValidationError as error:
        raise invalid(error, body) from error


def json_object(data: bytes) -> dict[str, object]:
    data = data.removeprefix(BOM)
    if not data or data.isspace():
        raise InvalidField(
            "The request has no body; it must be a JSON object.", param=None, code="invalid_json"
        )
    check_json_limits(data)
    try:
        body: object = from_json(data, allow_inf_nan=False)
    except ValueError as error:
        raise InvalidField(
            f"The request body is not valid JSON: {error}.", param=None, code="invalid_json"
        ) from error
    if not isinstance(body, dict):
        raise InvalidField("The request body must be a JSON object.", param=None, code="invalid_type")
    if data.count(b"{") + data.count(b"[") > MAX_DEPTH and deeper_than(MAX_DEPTH, body):
        raise InvalidField(
            f"The request body is nested more than {MAX_DEPTH} levels deep.", param=None, code="invalid_json"
        )
    return body


def deeper_than(limit: int, body: object) -> bool:
    level: list[object] = [body]
    for _ in range(limit):
        inner = [
            item.values() if isinstance(item, dict) else item
            for item in level
            if isinstance(item, dict | list)
        ]
        level = [value for values in inner for value in values if isinstance(value, dict | list)]
        if not level:
            return False
    return True
