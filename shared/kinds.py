"""What each kind of model can be asked for."""

from typing import Literal

from shared.errors import WrongKind

Kind = Literal["chat", "embedding", "rerank"]
Asked = Literal["generation", "embedding", "ranking", "reading"]
"""``reading``: what a text is in tokens, and what tokens are as text."""

_CAN: dict[Kind, tuple[Asked, ...]] = {
    "chat": ("generation", "reading"),
    "embedding": ("embedding", "ranking", "reading"),
    "rerank": ("ranking", "reading"),
}
_CALLED: dict[Kind, str] = {"chat": "a chat model", "embedding": "an embedding model", "rerank": "a reranker"}
_AT: dict[Kind, str] = {"chat": "/v1/chat/completions", "embedding": "/v1/embeddings", "rerank": "/v1/rerank"}
_WANTED: dict[Asked, str] = {
    "generation": "a chat model",
    "embedding": "an embedding model",
    "ranking": "a reranker or an embedding model",
    "reading": "a model",
}


def asked_of(prompt: str, max_tokens: int | None) -> Asked:
    """``prompt``: as a SubmitHeader has it."""
    match prompt:
        case "embedding":
            return "embedding"
        case "ranking":
            return "ranking"
    return "reading" if max_tokens == 0 and prompt in ("text", "tokens") else "generation"


def wrong_kind(model: str, kind: Kind, asked: Asked) -> WrongKind | None:
    """The refusal, if the model cannot do it."""
    if asked in _CAN[kind]:
        return None
    return WrongKind(
        f"The model {model!r} is {_CALLED[kind]}, not {_WANTED[asked]}: ask it at {_AT[kind]}, or name "
        "another model here.",
        param="model",
    )
