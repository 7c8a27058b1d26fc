"""/v1/embeddings as OpenAI has it, and /v1/rerank as Cohere and Jina have it: what is asked and what is answered."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, Tag, ValidationInfo, field_validator

from api.generation.schemas import (
    MAX_ITEMS,
    ModelName,
    Request,
    Response,
    TextOrTokens,
    either,
    whole_numbers,
)

NonEmpty = Annotated[str, Field(min_length=1)]


class EmbeddingsRequest(Request):
    """``prompt_name`` is the name that sentence-transformers has for one of the model's prompts."""

    BLANK: ClassVar = frozenset({"prompt_name"})

    model: ModelName | None = None
    input: TextOrTokens
    dimensions: int | None = Field(None, ge=1, le=1 << 20)
    encoding_format: Literal["float", "base64"] = "float"
    prompt_name: str | None = Field(None, max_length=256)

    @field_validator("input", mode="before")
    @classmethod
    def _ids_are_whole(cls, input: Any, info: ValidationInfo) -> Any:
        return whole_numbers(input) if info.context else input


class EmbeddingItem(Response):
    """``embedding``: numbers or, where base64 was asked for, their bytes as little-endian float32."""

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str


class EncodingUsage(Response):
    prompt_tokens: int
    total_tokens: int


class EmbeddingsResponse(Response):
    object: Literal["list"] = "list"
    data: list[EmbeddingItem]
    model: str
    usage: EncodingUsage


class TextDocument(Request):
    text: str


Document = Annotated[
    Annotated[str, Tag("string")] | Annotated[TextDocument, Tag("object")],
    either("object", dict),
]


class RerankRequest(Request):
    BLANK: ClassVar = frozenset({"instruction"})

    model: ModelName | None = None
    query: NonEmpty
    documents: list[Document] = Field(min_length=1, max_length=MAX_ITEMS, fail_fast=True)
    top_n: int | None = Field(None, ge=1)
    return_documents: bool = False
    instruction: str | None = None

    @property
    def texts(self) -> list[str]:
        return [each if isinstance(each, str) else each.text for each in self.documents]


class RankedText(Response):
    text: str


class RankedDocument(Response):
    """``index``: in the request's list. ``document``: where it was asked for."""

    index: int
    relevance_score: float
    document: RankedText | None = Field(None, exclude_if=lambda value: value is None)


class RerankTokens(Response):
    input_tokens: int


class RerankMeta(Response):
    tokens: RerankTokens


class RerankResponse(Response):
    """``meta`` is for Cohere's clients, ``usage`` for Jina's."""

    id: str
    object: Literal["list"] = "list"
    model: str
    results: list[RankedDocument]
    usage: EncodingUsage
    meta: RerankMeta
