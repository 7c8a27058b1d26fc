"""Checks Host and Origin, so that a web page cannot use a server on its reader's machine. Pure.

Rule 1: only known host names are served. After DNS rebinding a browser still sends the attacker's name as Host. The
address that the connection came in at is known too, as DNS cannot rebind an address.
Rule 2: an Origin that is neither a known host nor configured is refused before the body is read. CORS headers go to
configured origins only: the very one that asked, never ``*``, and never with credentials.
Rule 3: ``/admin`` and ``/metrics`` need a loopback name, a peer on this machine and no proxy between. Of pages that are
not configured, only this server's own may ask them: pages of other ports of this machine are other people's.

An HTTP/1.0 request may lack Host: the version does not define it, and no browser speaks it.
"""

import ipaddress
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from api.http.errors import RequestError
from shared.settings import PREFIX, Settings

Headers = Sequence[tuple[bytes, bytes]]
Address = tuple[str, int | None] | None

ANY = "*"
HOSTS_SETTING, ORIGINS_SETTING = PREFIX + "ALLOWED_HOSTS", PREFIX + "CORS_ORIGINS"
LOOPBACK = frozenset({"localhost", "127.0.0.1", "[::1]"})
ADMIN, METRICS = "/admin", "/metrics"
EXPOSED = b"x-request-id, request-id, retry-after, x-should-retry"
PREFLIGHT_LASTS = b"600"  # seconds

_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::([0-9]{0,5}))?")
_ORIGIN = re.compile(rf"null|[a-z][a-z0-9+.-]*://(?:{_HOST.pattern})?")  # as browsers write it, in lower case
_DEFAULT_PORT = {"http": "80", "https": "443"}
_HEADER_NAMES = re.compile(rb"[A-Za-z0-9_\-, ]{0,1024}")
# What proxies and tunnels add; of X-Forwarded- and Cf- each has its own.
_FORWARDED = re.compile(
    rb"forwarded|via|(x-forwarded|x-original|cf)-.*|x-(real|client|cluster-client)-ip|(true|fly)-client-ip"
)


@dataclass(frozen=True)
class RequestHead:
    """The parts of a request that are checked. ``target`` is the raw one of the request line."""

    path: str
    http_version: str
    target: str
    headers: Headers
    server: Address = None
    client: Address = None

    def all(self, name: bytes) -> list[str]:
        return [value.decode("latin-1") for key, value in self.headers if key == name]


class Hosts:
    def __init__(self, settings: Settings) -> None:
        self._any_host = ANY in settings.allowed_hosts
        bound = {_bracketed(settings.host)} if settings.host not in ("", "0.0.0.0", "::") else set()  # noqa: S104
        self._names = LOOPBACK | bound | {host.lower() for host in settings.allowed_hosts}
        self._origins = frozenset(_as_browsers_write(origin) for origin in settings.cors_origins)

    def check(self, head: RequestHead) -> None:
        """Raises RequestError: 400 for an invalid Host, 403 for a host or an origin that is not allowed."""
        asked_for = self._named_hosts(head)
        for host, _ in asked_for:
            self._check_host(host, head)
        admin = is_admin(head.path)
        for origin in head.all(b"origin"):
            ours = _same_server(origin, asked_for) if admin else self._is_ours(origin, head)
            if not (ours or self._may_share(origin, admin)):
                raise RequestError(
                    403,
                    f"Requests from the web page at {_quoted(origin)} are not allowed here. If they should be, set"
                    f" {ORIGINS_SETTING} to its origin.",
                    code="origin_not_allowed",
                )
        if admin and not (_is_here(head) and all(self._is_local(host, head) for host, _ in asked_for)):
            raise RequestError(
                403,
                f"{METRICS if head.path == METRICS else ADMIN} is for this machine alone: "
                "ask for it as http://127.0.0.1, not through a proxy.",
                code="admin_is_local",
            )

    def sharing(self, head: RequestHead) -> list[tuple[bytes, bytes]]:
        """The CORS headers that let a page read the answer; empty where no origins are configured."""
        if not self._origins:
            return []
        origins = head.all(b"origin")
        vary = (b"vary", b"Origin")
        if len(origins) != 1 or not self._may_share(origins[0], is_admin(head.path)):
            return [vary]
        allowed = (b"access-control-allow-origin", origins[0].encode("latin-1"))
        return [vary, allowed, (b"access-control-expose-headers", EXPOSED)]

    def preflight(self, head: RequestHead, methods: Iterable[str]) -> list[tuple[bytes, bytes]] | None:
        """The headers that answer a CORS preflight, beside those of ``sharing``; None if it is not granted."""
        headers = dict(head.headers)
        if b"access-control-request-method" not in headers or len(self.sharing(head)) < 2:
            return None
        wanted = headers.get(b"access-control-request-headers", b"")
        names = wanted if wanted and _HEADER_NAMES.fullmatch(wanted) else b"authorization, content-type"
        granted = [
            (b"access-control-allow-methods", ", ".join(methods).encode()),
            (b"access-control-allow-headers", names),
            (b"access-control-max-age", PREFLIGHT_LASTS),
        ]
        if headers.get(b"access-control-request-private-network") == b"true":
            granted.append((b"access-control-allow-private-network", b"true"))
        return granted

    def _named_hosts(self, head: RequestHead) -> list[tuple[str, str | None]]:
        """The hosts of the Host header and of an absolute target, in lower case, and their ports."""
        named = head.all(b"host")
        if len(named) > 1 or (not named and head.http_version != "1.0"):
            raise RequestError(400, "The request must have exactly one Host header.", code="invalid_host")
        if not head.target.startswith("/") and "://" in head.target:
            named.append(head.target.split("://", 1)[1].split("/", 1)[0].split("?", 1)[0])
        hosts = []
        for one in named:
            found = _HOST.fullmatch(one.strip().lower())
            if found is None:
                raise RequestError(400, f"{_quoted(one)} is not a host.", code="invalid_host")
            hosts.append((found[1], found[2]))
        return hosts

    def _check_host(self, host: str, head: RequestHead) -> None:
        if not (self._any_host or self._is_local(host, head) or host in self._names):
            raise RequestError(
                403,
                f"This server is not known as {_quoted(host)}. If it should be, set {HOSTS_SETTING}={_quoted(host)}.",
                code="host_not_allowed",
            )

    def _is_local(self, host: str, head: RequestHead) -> bool:
        return host in LOOPBACK or (head.server is not None and _same(host, head.server[0]))

    def _is_ours(self, origin: str, head: RequestHead) -> bool:
        """Whether a known host served the page, from any port."""
        scheme, separator, rest = origin.lower().partition("://")
        found = _HOST.fullmatch(rest) if separator and scheme in ("http", "https") else None
        return found is not None and (self._is_local(found[1], head) or found[1] in self._names - {ANY})

    def _may_share(self, origin: str, admin: bool) -> bool:
        origin = origin.lower()
        return _ORIGIN.fullmatch(origin) is not None and (
            origin in self._origins - {ANY}
            or f"{origin.partition('://')[0]}://{ANY}" in self._origins
            or (ANY in self._origins and not admin)
        )


def _as_browsers_write(origin: str) -> str:
    """Of a configured one: in lower case, without a slash at its end or the port that its scheme has anyway."""
    origin = origin.lower().rstrip("/")
    port = _DEFAULT_PORT.get(origin.partition("://")[0])
    return origin.removesuffix(f":{port}") if port else origin


def _same_server(origin: str, asked_for: Sequence[tuple[str, str | None]]) -> bool:
    """Whether this server, by the name and port that it was asked for, served the page."""
    scheme, _, rest = origin.lower().partition("://")
    port = _DEFAULT_PORT.get(scheme)
    found = _HOST.fullmatch(rest)
    if port is None or found is None or not asked_for:
        return False
    page = (found[1], found[2] or port)
    return all((host, named or port) == page for host, named in asked_for)


def is_admin(path: str) -> bool:
    return path in (ADMIN, METRICS) or path.startswith(ADMIN + "/")


def _is_here(head: RequestHead) -> bool:
    """Whether the peer is on this machine and no proxy forwarded the request."""
    if head.client is None or any(_FORWARDED.fullmatch(name) for name, _ in head.headers):
        return False
    peer = head.client[0]
    return _loopback(peer) or (head.server is not None and peer == head.server[0])


def _loopback(address: str) -> bool:
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return False
    mapped = getattr(ip, "ipv4_mapped", None)
    return ip.is_loopback or bool(mapped and mapped.is_loopback)


def _same(host: str, address: str) -> bool:
    try:
        return ipaddress.ip_address(host.strip("[]")) == ipaddress.ip_address(address)
    except ValueError:
        return False


def _bracketed(host: str) -> str:
    return f"[{host}]".lower() if ":" in host and not host.startswith("[") else host.lower()


def _quoted(text: str) -> str:
    """A client's text, cut short and escaped to one line."""
    return ascii(text[:100])
