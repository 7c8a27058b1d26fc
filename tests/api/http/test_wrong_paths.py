"""The suggestions for paths that do not exist."""

import pytest

from tests.api.conftest import Stack


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/chat/completions", "/v1/chat/completions"),
        ("/v1/v1/chat/completions", "/v1/chat/completions"),
        ("/v1/v1/messages", "/v1/messages"),
        ("/messages", "/v1/messages"),
        ("/models", "/v1/models"),
        ("/openai/deployments/x/chat/completions", "/v1/chat/completions"),
        ("/api/chat", "Ollama"),
        ("/api/generate", "Ollama"),
        ("/api/tags", "/v1/models"),
        ("/api/create", "Ollama"),
        ("/api/v0/chat/completions", "LM Studio"),
        ("/completion", "llama.cpp"),
        ("/api/embed", "/v1/embeddings"),
        ("/v1/v1/embeddings", "/v1/embeddings"),
        ("/embeddings", "/v1/embeddings"),
        ("/v1beta/models/x:embedContent", "/v1/embeddings"),
        ("/v1/v1/rerank", "/v1/rerank"),
        ("/v1/chat/completion", "/v1/chat/completions"),
        ("/v1beta/models/x:generateContent", "Google"),
        ("/favicon.ico", "/docs"),
    ],
)
def test_an_unknown_path_is_a_404_that_suggests_the_right_one(stack: Stack, path: str, said: str) -> None:
    response = stack.client.post(path, content=b"a=b", headers={"content-type": "text/plain"})
    assert response.status_code == 404
    assert repr(path) in response.json()["error"]["message"]
    assert said in response.json()["error"]["message"]


@pytest.mark.parametrize("path", ["//v1/models", "/v1//models/", "/v1/models/", "//health"])
def test_doubled_and_trailing_slashes_of_a_path_are_ignored(stack: Stack, path: str) -> None:
    with stack.connect() as client:
        client.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        assert client.recv(1 << 16).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(
    "path", ["/", "/health", "/ready", "/v1/models", "/docs", "/openapi.json", "/admin/status"]
)
def test_every_route_that_answers_get_answers_head(stack: Stack, path: str) -> None:
    got, head = stack.client.get(path), stack.client.head(path)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == got.headers["content-length"]
