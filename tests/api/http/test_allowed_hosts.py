"""Host and Origin checks: DNS rebinding and requests from other sites' pages are refused."""

import re
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.http.allowed_hosts import Hosts, RequestHead
from api.http.errors import RequestError
from shared.protocol import Ping
from shared.settings import Settings
from tests.api.conftest import Stack, run_stack
from tests.marks import examples

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
        *(
            ([("host", "localhost"), (name, "1.2.3.4")], "127.0.0.1", 403)
            for name in ("x-forwarded-for", "x-forwarded-proto", "x-real-ip", "via", "cf-connecting-ip")
        ),
        ([("host", "localhost"), ("origin", "null")], "127.0.0.1", 403),
        ([("host", "localhost"), ("origin", "http://evil.example")], "127.0.0.1", 403),
    ],
)
def test_admin_answers_requests_from_this_machine_only(
    headers: list[tuple[str, str]], client: str, status: int
) -> None:
    found = refusal(*headers, path="/admin/status", client=client, allowed_hosts=("*",), cors_origins=("*",))
    assert found == status


@pytest.mark.parametrize(
    ("host", "origin", "status"),
    [
        ("localhost:8000", "http://localhost:8000", 200),
        ("localhost", "https://localhost:443", 200),
        ("[::1]:8000", "http://[::1]:8000", 200),
        ("localhost:8000", "http://localhost:3000", 403),
        ("localhost:8000", "http://127.0.0.1:8000", 403),
        ("localhost", "http://localhost:8000", 403),
        ("localhost:8000", "tauri://localhost:8000", 403),
        ("localhost:8000", "http://dev.example", 200),
    ],
)
@pytest.mark.parametrize("path", ["/admin/reload", "/metrics"])
def test_admin_answers_its_own_page_and_configured_ones_but_no_page_of_another_port(
    host: str, origin: str, status: int, path: str
) -> None:
    """An order without a body needs no preflight, so a page of any port of this machine could give one."""
    found = refusal(("host", host), ("origin", origin), path=path, cors_origins=("http://dev.example",))
    assert found == status


def test_admin_answers_no_page_that_asks_without_a_host() -> None:
    assert refusal(("origin", "http://localhost"), path="/admin/status", version="1.0") == 403


@pytest.mark.parametrize(
    ("allowed", "origin"),
    [
        ("https://chat.example.com:443", "https://chat.example.com"),
        ("http://chat.example.com:80/", "http://chat.example.com"),
        ("HTTPS://Chat.Example.com/", "https://chat.example.com"),
    ],
)
def test_an_origin_may_be_configured_in_any_way_that_browsers_shorten(allowed: str, origin: str) -> None:
    assert refusal(("host", "localhost"), ("origin", origin), cors_origins=(allowed,)) == 200


ALLOWED = ("https://chat.example.com", "app://obsidian.md", "chrome-extension://*")
SCHEMES = ["https", "http", "chrome-extension", "app", "null"]
HOSTS = ["chat.example.com", "evil.example", "obsidian.md", "abcdef", "localhost", "EXAMPLE", ".com"]
ODD = [
    "*",
    ":",
    "://",
    "//",
    "/",
    ".",
    "@",
    ":443",
    ":8443",
    " ",
    ",",
    "\\",
    "#",
    "?",
    "%2e",
    "\t",
    "\xe9",
    "\0",
    '"',
]
PARTS = st.sampled_from([*SCHEMES, *HOSTS, *ODD])
ODD_ORIGINS = st.one_of(
    st.sampled_from(ALLOWED),
    st.lists(PARTS, max_size=6).map("".join),
    st.builds(lambda a, b, c: a + b + c, PARTS | st.just(""), st.sampled_from(ALLOWED), PARTS | st.just("")),
    st.text(st.characters(max_codepoint=255), max_size=30),
)


def must_be_granted(origin: str) -> bool:
    return origin in ALLOWED[:2] or re.fullmatch(r"chrome-extension://[a-z]+", origin) is not None


def may_be_granted(origin: str) -> bool:
    """Letters of either case are the same origin, and the port of an extension is its own affair."""
    origin = origin.lower()
    return origin in ALLOWED[:2] or re.fullmatch(r"chrome-extension://[\][a-z0-9:._-]*", origin) is not None


@examples(300)
@given(st.lists(ODD_ORIGINS, max_size=2), st.sampled_from(["/v1/models", "/admin/status"]), st.booleans())
def test_cors_headers_go_to_the_one_configured_origin_that_asked_whatever_it_is_spelled_like(
    origins: list[str], path: str, preflight: bool
) -> None:
    asked = [(b"access-control-request-method", b"POST")] if preflight else []
    headers = [
        (b"host", b"localhost:8000"),
        *asked,
        *((b"origin", each.encode("latin-1")) for each in origins),
    ]
    head = RequestHead(path, "1.1", path, headers, HERE, ("127.0.0.1", 1))
    none, some = Hosts(Settings()), Hosts(Settings(cors_origins=ALLOWED))
    assert (none.sharing(head), none.preflight(head, ["POST"])) == ([], None)

    shared = dict(some.sharing(head))
    assert shared.pop(b"vary") == b"Origin"
    assert b"access-control-allow-credentials" not in shared
    if allowed := shared.get(b"access-control-allow-origin"):
        assert [allowed.decode("latin-1")] == origins
        assert may_be_granted(origins[0])
        some.check(head)  # what may be read is also served
    else:
        assert len(origins) != 1 or not must_be_granted(origins[0])
        assert shared == {}
    assert (some.preflight(head, ["POST"]) is not None) == (preflight and bool(shared))


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
