"""The OpenAPI document, made from the schemas that check requests and shape answers.

Rule 1: every route is in ``OPERATIONS``; a test compares it with the app.
Rule 2: nothing that a schema can say is described by hand.
Rule 3: what a field means is one sentence in `fields.toml`.
Rule 4: a schema is named after its class, with its dialect in front where dialects share that name.
"""

import re
import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaMode, models_json_schema

from api.embeddings import schemas as embeddings
from api.messages import schemas as anthropic
from api.openai import schemas as openai
from api.ops.admin import AdminStatus
from api.ops.models import ModelOrder, ModelOrdered, SettingsReloaded
from api.ops.prompts import ForgetOrder, PromptsDeleted
from api.responses import schemas as responses

VERSION = "3.1.0"
FIELDS = Path(__file__).parent / "fields.toml"
REFS = "#/components/schemas/"
_QUALIFIED = re.compile(r"api\.(openai|messages|responses|embeddings)\.schemas(?:\.[a-z]+)?\.(\w+)")


# The groups of paths, by how they begin; the first that fits.
TAGS = {
    "/v1/chat": "Chat and completions",
    "/v1/completions": "Chat and completions",
    "/v1/responses": "Responses",
    "/v1/messages": "Messages",
    "/v1/embeddings": "Embeddings and rerank",
    "/v1/rerank": "Embeddings and rerank",
    "/v2/rerank": "Embeddings and rerank",
    "/rerank": "Embeddings and rerank",
    "/v1/models": "Models",
    "/v1/audio": "Audio and images of hosted models",
    "/v1/images": "Audio and images of hosted models",
    "/tokenize": "Tokens",
    "/detokenize": "Tokens",
    "/apply-template": "Tokens",
    "/admin": "Administration",
    "/": "Server",
}
KEY = {"type": "http", "scheme": "bearer", "description": "Only if this server has keys."}


@dataclass(frozen=True)
class Operation:
    method: str
    path: str
    summary: str
    answer: type[BaseModel] | None = None
    request: type[BaseModel] | None = None
    streams: bool = False

    @property
    def error(self) -> type[BaseModel]:
        return anthropic.ErrorResponse if self.path.startswith("/v1/messages") else openai.ErrorResponse

    @property
    def tag(self) -> str:
        return next(tag for start, tag in TAGS.items() if self.path.startswith(start))

    @property
    def parameters(self) -> list[str]:
        """The names in the path."""
        return [part.strip("{}") for part in self.path.split("/") if part.startswith("{")]


OPERATIONS = (
    Operation(
        "post",
        "/v1/chat/completions",
        "Answers a conversation",
        openai.ChatCompletionResponse,
        openai.ChatCompletionRequest,
        True,
    ),
    Operation(
        "post",
        "/v1/completions",
        "Continues texts or tokens",
        openai.CompletionResponse,
        openai.CompletionRequest,
        True,
    ),
    Operation(
        "post",
        "/v1/responses",
        "Answers a conversation, and keeps it to be continued",
        responses.ResponseObject,
        responses.ResponsesRequest,
        True,
    ),
    Operation(
        "post",
        "/v1/responses/input_tokens",
        "Counts what a response would read",
        responses.InputTokensResponse,
        responses.ResponsesRequest,
    ),
    Operation("get", "/v1/responses/{id}", "A response that was kept", responses.ResponseObject),
    Operation("delete", "/v1/responses/{id}", "Forgets a response", responses.DeletedResponse),
    Operation("post", "/v1/responses/{id}/cancel", "Refused: no response is made in the background"),
    Operation("get", "/v1/responses/{id}/input_items", "What went into a response", responses.InputItemList),
    Operation(
        "post",
        "/v1/messages",
        "Answers a conversation, in Anthropic's dialect",
        anthropic.Message,
        anthropic.MessagesRequest,
        True,
    ),
    Operation(
        "post",
        "/v1/messages/count_tokens",
        "Counts what a message would read",
        anthropic.CountTokensResponse,
        anthropic.CountTokensRequest,
    ),
    Operation(
        "post",
        "/v1/embeddings",
        "Vectors of texts",
        embeddings.EmbeddingsResponse,
        embeddings.EmbeddingsRequest,
    ),
    *(
        Operation(
            "post",
            path,
            "Documents by how well they answer a query, the best first",
            embeddings.RerankResponse,
            embeddings.RerankRequest,
        )
        for path in ("/v1/rerank", "/v2/rerank", "/rerank")
    ),
    Operation("post", "/v1/audio/transcriptions", "The text of a recording, from a hosted model"),
    Operation("post", "/v1/audio/speech", "A recording of a text, from a hosted model"),
    Operation("post", "/v1/images/generations", "Images by their description, from a hosted model"),
    Operation("get", "/v1/models", "What may be asked for, the hot models first", openai.ModelListResponse),
    Operation("get", "/v1/models/{id}", "One model", openai.ModelInfo),
    Operation(
        "post",
        "/tokenize",
        "What a text or a conversation is in tokens",
        openai.TokenizeResponse,
        openai.TokenizeRequest,
    ),
    Operation(
        "post",
        "/detokenize",
        "What tokens are as text",
        openai.DetokenizeResponse,
        openai.DetokenizeRequest,
    ),
    Operation(
        "post",
        "/apply-template",
        "A conversation as the model reads it",
        openai.ApplyTemplateResponse,
        openai.ApplyTemplateRequest,
    ),
    Operation("get", "/health", "Whether this process turns"),
    Operation("get", "/ready", "Whether it could serve now"),
    Operation("get", "/admin/status", "Models, workers and queues", AdminStatus),
    Operation(
        "post",
        "/admin/models/{id}",
        "Loads, unloads, reloads or fetches a model: the path ends in /load, /unload, /reload or /pull",
        ModelOrdered,
        ModelOrder,
    ),
    Operation(
        "delete",
        "/admin/models/{id}",
        "Cancels the download of a model: the path ends in /pull",
        ModelOrdered,
    ),
    Operation(
        "get", "/admin/events", "Follows what changes in models, workers, downloads and memory", streams=True
    ),
    Operation("get", "/metrics", "What the whole server has counted, as Prometheus reads it"),
    Operation(
        "post", "/admin/prompts/forget", "Forgets what workers keep of prompts", PromptsDeleted, ForgetOrder
    ),
    Operation("post", "/admin/reload", "Reads mlx-server.toml anew", SettingsReloaded),
    Operation("get", "/", "What this is"),
    Operation("get", "/openapi.json", "This document"),
    Operation("get", "/docs", "This document, to be read and tried"),
    Operation("get", "/docs/{file}", "A style or script of that page"),
    Operation("get", "/ui", "The dashboard: workers, models, memory, and a chat"),
    Operation("get", "/ui/{file}", "A style or script of the dashboard"),
)


class NamedByClass(GenerateJsonSchema):
    """By default, pydantic puts the path of the module in front of a class name that occurs twice."""

    def normalize_name(self, name: str) -> str:
        if qualified := _QUALIFIED.fullmatch(name):
            dialect = qualified[1].replace("openai", "openAI")
            name = f"{dialect[0].upper()}{dialect[1:]}{qualified[2]}"
        return super().normalize_name(name)


@cache
def document() -> dict[str, Any]:
    wanted: list[tuple[type[BaseModel], JsonSchemaMode]] = []
    for one in OPERATIONS:
        wanted += [(one.request, "validation")] if one.request else []
        wanted += [(one.answer, "serialization")] if one.answer else []
        wanted.append((one.error, "serialization"))
    schemas, definitions = models_json_schema(
        list(dict.fromkeys(wanted)), ref_template=REFS + "{model}", schema_generator=NamedByClass
    )
    paths: dict[str, dict[str, Any]] = {}
    for one in OPERATIONS:
        paths.setdefault(one.path, {})[one.method] = _described(one, schemas)
    return {
        "openapi": VERSION,
        "info": {
            "title": "mlx-server",
            "version": "1",
            "description": "OpenAI's and Anthropic's APIs for MLX models.",
        },
        "paths": paths,
        "tags": [{"name": tag} for tag in dict.fromkeys(TAGS.values())],
        "security": [{}, {"key": []}],
        "components": {"schemas": explained(definitions.get("$defs", {})), "securitySchemes": {"key": KEY}},
    }


def explained(schemas: dict[str, Any]) -> dict[str, Any]:
    """The same schemas, with a sentence for each of their fields."""
    sentences = tomllib.loads(FIELDS.read_text())
    for name, schema in schemas.items():
        own = {**sentences["any"], **sentences.get(name, {})}
        for field, described in schema.get("properties", {}).items():
            if field in own:
                described["description"] = own[field]
    return schemas


def _described(one: Operation, schemas: dict[Any, dict[str, Any]]) -> dict[str, Any]:
    described: dict[str, Any] = {
        "summary": one.summary,
        "operationId": _operation_id(one),
        "tags": [one.tag],
    }
    if one.parameters:
        described["parameters"] = [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
            for name in one.parameters
        ]
    if one.request:
        content = {"application/json": {"schema": schemas[one.request, "validation"]}}
        described["requestBody"] = {"required": True, "content": content}
    answers: dict[str, Any] = {}
    if one.answer:
        answers["application/json"] = {"schema": schemas[one.answer, "serialization"]}
    if one.streams:
        answers["text/event-stream"] = {"schema": {"type": "string"}}
    error = {"application/json": {"schema": schemas[one.error, "serialization"]}}
    described["responses"] = {
        "200": {"description": one.summary, **({"content": answers} if answers else {})},
        "default": {"description": "What was wrong, and what is allowed", "content": error},
    }
    return described


def _operation_id(one: Operation) -> str:
    words = one.path.replace("{", "").replace("}", "").replace(".", "_").replace("-", "_").strip("/")
    return f"{one.method}_{words.replace('/', '_') or 'root'}"
