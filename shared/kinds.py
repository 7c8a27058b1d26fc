"""What each kind of model can be asked for."""

from typing import Literal

from shared.errors import WrongKind

Kind = Literal["chat", "embedding", "rerank", "hosted"]
Asked = Literal["generation", "embedding", "ranking", "reading", "hosted"]
"""``reading``: what a text is in tokens, and tokens as text. ``hosted``: a place at the server of a hosted model."""

_CAN: dict[Kind, tuple[Asked, ...]] = {
    "chat": ("generation", "reading"),
    "embedding": ("embedding", "ranking", "reading"),
    "rerank": ("ranking", "reading"),
    "hosted": ("hosted",),
}
_CALLED: dict[Kind, str] = {
    "chat": "a chat model",
    "embedding": "an embedding model",
    "rerank": "a reranker",
    "hosted": "a model of another server",
}
_AT: dict[Kind, str] = {
    "chat": "/v1/chat/completions",
    "embedding": "/v1/embeddings",
    "rerank": "/v1/rerank",
    "hosted": "an endpoint that /v1/models lists for it",
}
_WANTED: dict[Asked, str] = {
    "generation": "a chat model",
    "embedding": "an embedding model",
    "ranking": "a reranker or an embedding model",
    "reading": "a model of this server's own",
    "hosted": "a model of another server",
}


def asked_of(prompt: str, max_tokens: int | None) -> Asked:
    """``prompt``: as a SubmitHeader has it."""
    match prompt:
        case "embedding":
            return "embedding"
        case "ranking":
            return "ranking"
        case "hosted":
            return "hosted"
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
