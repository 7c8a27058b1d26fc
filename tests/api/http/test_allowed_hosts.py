"""Host and Origin checks: DNS rebinding and requests from other sites' pages are refused."""

from collections.abc import Iterator

import pytest

from api.http.allowed_hosts import Hosts, RequestHead
from api.http.errors import RequestError
from shared.protocol import Ping
from shared.settings import Settings
from tests.api.conftest import Stack, run_stack

HERE = ("127.0.0.1", 8000)


def refusal(
    *headers: tuple[str, str],
    path: str = "/health",
    version: str = "1.1",
    target: str = "/health",
    server: tuple[str, int] = HERE,
    client: str = "127.0.0.1",
    **settings: tuple[str, ...] | str,
) -> int:
    """The status; 200 for none."""
    encoded = [(name.encode(), value.encode()) for name, value in headers]
    try:
        Hosts(Settings(**settings)).check(RequestHead(path, version, target, encoded, server, (client, 1)))  # type: ignore[arg-type]
    except RequestError as error:
        return error.status
    return 200


@pytest.mark.parametrize(
    "host", ["localhost", "LocalHost:8000", "127.0.0.1", "127.0.0.1:1", "[::1]", "[::1]:8000", "127.0.0.1:"]
)
def test_a_request_for_a_name_of_this_machine_is_served(host: str) -> None:
    assert refusal(("host", host)) == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "127.0.0.1.evil.example",
        "localhost.evil.example",
        "169.254.169.254",
        "0.0.0.0:8000",
        "*",
    ],
)
def test_a_request_for_any_other_name_is_refused(host: str) -> None:
    assert refusal(("host", host)) in (400, 403)


@pytest.mark.parametrize(
    "host", ["", "a b", "evil@127.0.0.1", "127.0.0.1, evil.example", "127.0.0.1/x", "[::1"]
)
def test_an_invalid_host_header_is_a_400(host: str) -> None:
    assert refusal(("host", host)) == 400


def test_a_request_must_have_one_host_header_unless_it_is_http_1_0() -> None:
    assert refusal() == 400
    assert refusal(("host", "localhost"), ("host", "localhost")) == 400
    assert refusal(version="1.0") == 200
    assert refusal(("host", "evil.example"), version="1.0") == 403


def test_the_host_of_an_absolute_uri_is_checked_beside_the_host_header() -> None:
    assert refusal(("host", "localhost"), target="http://evil.example/health") == 403
    assert refusal(("host", "evil.example"), target="http://localhost/health") == 403
    assert refusal(("host", "localhost"), target="http://localhost:8000/health") == 200


def test_the_bound_host_the_connections_address_and_configured_names_are_served() -> None:
    assert refusal(("host", "box:8000"), host="Box") == 200
    assert refusal(("host", "192.168.1.5"), host="0.0.0.0", server=("192.168.1.5", 8000)) == 200
    assert refusal(("host", "192.168.1.6"), host="0.0.0.0", server=("192.168.1.5", 8000)) == 403
    assert refusal(("host", "llm.example.com"), allowed_hosts=("llm.example.com",)) == 200
    assert refusal(("host", "any.example"), allowed_hosts=("*",)) == 200


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("http://localhost:3000", 200),
        ("https://127.0.0.1", 200),
        ("http://evil.example", 403),
        ("http://localhost.evil.example", 403),
        ("null", 403),
        ("", 403),
        ("tauri://localhost", 403),
        ("file://", 403),
    ],
)
def test_an_origin_that_is_no_known_host_is_refused(origin: str, status: int) -> None:
    assert refusal(("host", "localhost"), ("origin", origin)) == status


@pytest.mark.parametrize(
    ("allowed", "origin", "status"),
    [
        ("https://chat.example.com", "https://chat.example.com", 200),
        ("https://chat.example.com", "http://chat.example.com", 403),
        ("https://chat.example.com", "https://chat.example.com.evil.example", 403),
        ("chrome-extension://*", "chrome-extension://abcdef", 200),
        ("chrome-extension://*", "https://abcdef", 403),
        ("null", "null", 200),
        ("*", "null", 200),
        ("*", "http://evil.example", 200),
    ],
)
def test_configured_origins_are_served(allowed: str, origin: str, status: int) -> None:
    assert refusal(("host", "localhost"), ("origin", origin), cors_origins=(allowed,)) == status


@pytest.mark.parametrize(
    ("headers", "client", "status"),
    [
        ([("host", "localhost")], "127.0.0.1", 200),
        ([("host", "localhost")], "::ffff:127.0.0.1", 200),
        ([("host", "localhost")], "192.168.1.9", 403),
        ([("host", "llm.example.com")], "127.0.0.1", 403),
        ([("host", "localhost"), ("x-forwarded-for", "1.2.3.4")], "127.0.0.1", 403),
        ([("host", "localhost"), ("origin", "null")], "127.0.0.1", 403),
        ([("host", "localhost"), ("origin", "http://evil.example")], "127.0.0.1", 403),
    ],
)
def test_admin_answers_requests_from_this_machine_only(
    headers: list[tuple[str, str]], client: str, status: int
) -> None:
    found = refusal(*headers, path="/admin/status", client=client, allowed_hosts=("*",), cors_origins=("*",))
    assert found == status


def test_a_refusal_of_a_host_names_the_setting_and_asks_the_broker_nothing(stack: Stack) -> None:
    response = stack.client.get("/v1/models", headers={"host": "llm.example.com"})
    assert (response.status_code, response.json()["error"]["code"]) == (403, "host_not_allowed")
    assert "MLX_SERVER_ALLOWED_HOSTS" in response.text
    assert all(isinstance(message, Ping) for message in stack.broker.received)


def test_no_page_may_read_answers_without_configured_origins(stack: Stack) -> None:
    response = stack.client.get("/health", headers={"origin": "http://localhost:3000"})
    assert response.status_code == 200
    assert not [name for name in response.headers if name.startswith("access-control")]


@pytest.fixture(scope="module")
def sharing() -> Iterator[Stack]:
    with run_stack(cors_origins=("https://chat.example.com",)) as stack:
        yield stack


PAGE = {"origin": "https://chat.example.com"}


def test_a_page_of_a_configured_origin_may_read_answers_and_refusals(sharing: Stack) -> None:
    for response in (sharing.client.get("/health", headers=PAGE), sharing.client.get("/no", headers=PAGE)):
        assert response.headers["access-control-allow-origin"] == PAGE["origin"]
        assert "x-request-id" in response.headers["access-control-expose-headers"]
        assert response.headers["vary"] == "Origin"
    assert sharing.client.get("/health").headers["vary"] == "Origin"


def test_a_cors_preflight_is_granted_to_configured_origins_only(sharing: Stack) -> None:
    asked = {
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization,content-type,x-stainless-os",
        "access-control-request-private-network": "true",
    }
    granted = sharing.client.options("/v1/chat/completions", headers={**PAGE, **asked})
    assert granted.status_code == 204
    assert "POST" in granted.headers["access-control-allow-methods"]
    assert "x-stainless-os" in granted.headers["access-control-allow-headers"]
    assert granted.headers["access-control-allow-private-network"] == "true"
    refused = sharing.client.options("/v1/models", headers={**asked, "origin": "https://evil.example"})
    assert refused.status_code == 403
    assert "access-control-allow-origin" not in refused.headers
