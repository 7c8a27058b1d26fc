"""/v1/embeddings as OpenAI has it, and /v1/rerank as Cohere and Jina have it: what is asked and what is answered."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import AliasChoices, Field, Tag, ValidationInfo, field_validator

from api.generation.refusals import RefusedParameter, each
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

_AS_TRAINED = "vectors and scores are as the model was trained to make them; leave it out"
_NOT_CUT = "a text that is too long is refused; 'truncate' in the model's table has it cut"
_REFUSED_OF_BOTH = {
    **each("normalize normalise normalized use_activation activation add_special_tokens", _AS_TRAINED, True),
    **each("softmax raw_scores late_chunking pooling pooling_type", _AS_TRAINED),
    **each("truncate_prompt_tokens", _NOT_CUT, -1),
    **each("truncation_direction", _NOT_CUT, "right", "Right"),
    **each("options extra_body", "give these at the top of the request"),
}


class EmbeddingsRequest(Request):
    """``prompt_name`` is the name that sentence-transformers has for one of the model's prompts."""

    BLANK: ClassVar = frozenset({"prompt_name"})
    REFUSES: ClassVar[dict[str, RefusedParameter]] = {
        **_REFUSED_OF_BOTH,
        **each("embd_normalize", _AS_TRAINED, 2),
        **each(
            "input_type task task_type prompt instruction instruct query_instruction",
            "use 'prompt_name' with one of the model's prompts, or put it before the text",
        ),
        **each("output_dimension output_dimensionality", "use 'dimensions'", None),
        **each(
            "output_dtype embedding_type embedding_types precision",
            "use 'encoding_format'",
            *("float", "float32", ["float"], "", []),
        ),
        **each("return_sparse return_colbert_vecs return_multivector", "a text has one dense vector here"),
    }

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
    REFUSES: ClassVar[dict[str, RefusedParameter]] = {
        **_REFUSED_OF_BOTH,
        **each("instruct task prompt prompt_name", "use 'instruction'"),
        **each("rank_fields", "a document is a text, or an object with 'text'", ["text"], []),
        **each("max_tokens_per_doc max_chunks_per_doc max_doc_length overlap overlap_tokens", _NOT_CUT),
        **each("return_text", "use 'return_documents'"),
    }

    model: ModelName | None = None
    query: NonEmpty
    documents: list[Document] = Field(min_length=1, max_length=MAX_ITEMS, fail_fast=True)
    top_n: int | None = Field(None, ge=1, validation_alias=AliasChoices("top_n", "top_k"))
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
