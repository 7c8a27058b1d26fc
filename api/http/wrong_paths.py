"""Suggests the path that a client probably meant when it asked for one that does not exist. Pure.

The paths of other servers are from their documentation: Ollama's ``/api``, LM Studio's ``/api/v0`` and ``/api/v1``,
llama.cpp's server, TGI, and Azure's and Google's forms of the same dialects.
"""

from collections.abc import Collection
from difflib import get_close_matches

CHAT, MESSAGES, RESPONSES = "/v1/chat/completions", "/v1/messages", "/v1/responses"
EMBEDDINGS = "/v1/embeddings"
_ELSEWHERE = {
    "/api/chat": ("Ollama's", CHAT),
    "/api/generate": ("Ollama's", "/v1/completions"),
    "/api/embed": ("Ollama's", EMBEDDINGS),
    "/api/embeddings": ("Ollama's", EMBEDDINGS),
    "/embed": ("TEI's", EMBEDDINGS),
    "/embedding": ("llama.cpp's", EMBEDDINGS),
    "/v1/embed": ("Cohere's", EMBEDDINGS),
    "/v2/embed": ("Cohere's", EMBEDDINGS),
    "/api/tags": ("Ollama's", "/v1/models"),
    "/api/ps": ("Ollama's", "/v1/models"),
    "/api/show": ("Ollama's", "/v1/models/{id}"),
    "/api/version": ("Ollama's", "/"),
    "/api/pull": ("Ollama's", "/v1/models"),
    "/completion": ("llama.cpp's", "/v1/completions"),
    "/completions": ("llama.cpp's", "/v1/completions"),
    "/infill": ("llama.cpp's", "/v1/completions"),
    "/props": ("llama.cpp's", "/v1/models"),
    "/slots": ("llama.cpp's", "/admin/status"),
    "/v1/health": ("llama.cpp's", "/health"),
    "/healthz": ("Kubernetes'", "/health"),
    "/livez": ("Kubernetes'", "/health"),
    "/readyz": ("Kubernetes'", "/ready"),
    "/ping": ("vLLM's", "/health"),
    "/version": ("vLLM's", "/"),
    "/generate": ("TGI's", "/v1/completions"),
    "/generate_stream": ("TGI's", "/v1/completions"),
    "/invocations": ("SageMaker's", CHAT),
}
_NOT_HERE = {
    "moderations": "moderation is not served",
    "images": "of images only /v1/images/generations is served, by hosted models",
    "audio": "of audio only /v1/audio/transcriptions and /v1/audio/speech are served, by hosted models",
    "realtime": "the realtime API is not served",
    "batches": "batches are not served",
    "files": "files are not served",
    "fine_tuning": "fine-tuning is not served",
    "assistants": "assistants are not served; " + RESPONSES + " keeps conversations",
    "threads": "threads are not served; " + RESPONSES + " keeps conversations",
    "compact": "compaction is not served",
}


def advice(path: str, known: Collection[str]) -> str:
    """One or two sentences. ``known``: the templates of all routes; ``path`` is tidy."""
    there = f"There is nothing at {path[:200]!a}"
    if theirs := _ELSEWHERE.get(path):
        return f"{there}, which is {theirs[0]}: here it is {theirs[1]}."
    words = path.lower().replace(":", "/").split("/")
    if why := next((_NOT_HERE[word] for word in _aliases(words) if word in _NOT_HERE), None):
        return f"{there}: {why}."
    if meant := _meant(path, words, known):
        return f"{there}; {meant}"
    return f"{there}. GET /docs shows every path."


def _meant(path: str, words: list[str], known: Collection[str]) -> str | None:
    if words.count("v1") > 1:
        right = "/v1/" + path.rpartition("/v1/")[2]
        return f"/v1 stands in it twice, so the base URL should end before it or with it once: {right}."
    if path.startswith(("/api/v0/", "/api/v1/")):
        ending = path.split("/", 3)[3]
        right = {"chat": CHAT, "models": "/v1/models"}.get(ending, f"/v1/{ending}")
        return f"LM Studio's paths are here as OpenAI's: {right}." if right in known else None
    endings = (
        CHAT,
        "/completions",
        MESSAGES,
        RESPONSES,
        EMBEDDINGS,
        "/models",
        "/chat",
        "/messages/count_tokens",
    )
    for ending in (*endings, "/rerank"):
        bare = ending.removeprefix("/v1")
        right = CHAT if bare == "/chat" else "/v1" + bare
        if path.endswith(bare) and right in known:
            return f"it is {right}: the base URL ends with /v1, or before it for Anthropic's clients."
    if ":generatecontent" in path.lower() or ":streamgeneratecontent" in path.lower():
        return f"Google's dialect is not served: ask {CHAT}."
    if "embedcontent" in path.lower():
        return f"Google's dialect is not served: ask {EMBEDDINGS}."
    if path.startswith("/api/"):
        return f"Ollama's API is not served: ask {CHAT}, with a base URL that ends with /v1."
    near = get_close_matches(path, [one for one in known if "{" not in one], n=1, cutoff=0.75)
    return f"did you mean {near[0]}?" if near else None


def _aliases(words: list[str]) -> list[str]:
    """The words of a path as ``_NOT_HERE`` has them."""
    return [one for word in words for one in (word, word.removesuffix("s"))]
