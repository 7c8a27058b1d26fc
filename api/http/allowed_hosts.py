"""Who may ask, as far as Host and Origin say: what keeps a web page from driving a server on its reader's machine.

Rule 1: a browser sends the name it looked up as Host. A page whose name was pointed at 127.0.0.1 (DNS rebinding) sends
its own, so only names that are ours are served. The address a connection came in at counts, as an address cannot be
rebound.
Rule 2: Origin is the page's. One that is neither of our hosts nor configured is refused before its body is read.
Rule 3: ``/admin`` is for this machine: for a loopback name, a peer that is here, and no proxy between.

HTTP/1.0 knows no Host, and no browser speaks it: it may be missing there. Pure.
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
ADMIN = "/admin"
EXPOSED = b"x-request-id, request-id, retry-after, x-should-retry"
PREFLIGHT_LASTS = b"600"  # seconds

_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::[0-9]{0,5})?")
_HEADER_NAMES = re.compile(rb"[A-Za-z0-9_\-, ]{0,1024}")
_FORWARDED = frozenset({b"forwarded", b"x-forwarded-for", b"x-forwarded-host", b"x-real-ip", b"via"})


@dataclass(frozen=True)
class Asked:
    """One request, as far as this module looks at it. ``target`` is as it stood in the request line."""

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
        self._origins = frozenset(origin.lower().rstrip("/") for origin in settings.cors_origins)

    def check(self, asked: Asked) -> None:
        """Raises RequestError: 400 for a Host that is none, 403 for whoever may not ask."""
        asked_for = self._asked_for(asked)
        for host in asked_for:
            self._check_host(host, asked)
        admin = is_admin(asked.path)
        for origin in asked.all(b"origin"):
            if not (self._is_ours(origin, asked) or self._may_share(origin, admin)):
                raise RequestError(
                    403,
                    f"Requests from the web page at {_shown(origin)} are not allowed here. If they should be, set"
                    f" {ORIGINS_SETTING} to its origin.",
                    code="origin_not_allowed",
                )
        if admin and not (_is_here(asked) and all(self._is_local(host, asked) for host in asked_for)):
            raise RequestError(
                403,
                f"{ADMIN} is for this machine alone: ask for it as http://127.0.0.1, not through a proxy.",
                code="admin_is_local",
            )

    def sharing(self, asked: Asked) -> list[tuple[bytes, bytes]]:
        """What lets the page read the answer. Without configured origins nothing is said of any."""
        if not self._origins:
            return []
        origins = asked.all(b"origin")
        vary = (b"vary", b"Origin")
        if len(origins) != 1 or not self._may_share(origins[0], is_admin(asked.path)):
            return [vary]
        allowed = (b"access-control-allow-origin", origins[0].encode("latin-1"))
        return [vary, allowed, (b"access-control-expose-headers", EXPOSED)]

    def preflight(self, asked: Asked, methods: Iterable[str]) -> list[tuple[bytes, bytes]] | None:
        """The answer's headers, beside those of ``sharing``; None if it is no preflight that we would grant."""
        headers = dict(asked.headers)
        if b"access-control-request-method" not in headers or len(self.sharing(asked)) < 2:
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

    def _asked_for(self, asked: Asked) -> list[str]:
        """Each host that the request names, in lower case and without its port."""
        named = asked.all(b"host")
        if len(named) > 1 or (not named and asked.http_version != "1.0"):
            raise RequestError(400, "The request must have exactly one Host header.", code="invalid_host")
        if not asked.target.startswith("/") and "://" in asked.target:
            named.append(asked.target.split("://", 1)[1].split("/", 1)[0].split("?", 1)[0])
        hosts = []
        for one in named:
            found = _HOST.fullmatch(one.strip().lower())
            if found is None:
                raise RequestError(400, f"{_shown(one)} is not a host.", code="invalid_host")
            hosts.append(found[1])
        return hosts

    def _check_host(self, host: str, asked: Asked) -> None:
        if not (self._any_host or self._is_local(host, asked) or host in self._names):
            raise RequestError(
                403,
                f"This server is not known as {_shown(host)}. If it should be, set {HOSTS_SETTING}={_shown(host)}.",
                code="host_not_allowed",
            )

    def _is_local(self, host: str, asked: Asked) -> bool:
        return host in LOOPBACK or (asked.server is not None and _same(host, asked.server[0]))

    def _is_ours(self, origin: str, asked: Asked) -> bool:
        """A page that one of our hosts served, from whichever port."""
        scheme, separator, rest = origin.lower().partition("://")
        found = _HOST.fullmatch(rest) if separator and scheme in ("http", "https") else None
        return found is not None and (self._is_local(found[1], asked) or found[1] in self._names - {ANY})

    def _may_share(self, origin: str, admin: bool) -> bool:
        origin = origin.lower()
        return (
            origin in self._origins - {ANY}
            or f"{origin.partition('://')[0]}://{ANY}" in self._origins
            or (ANY in self._origins and not admin)
        )


def is_admin(path: str) -> bool:
    return path == ADMIN or path.startswith(ADMIN + "/")


def _is_here(asked: Asked) -> bool:
    """Whether the peer is on this machine, and speaks for itself."""
    if asked.client is None or _FORWARDED & dict(asked.headers).keys():
        return False
    peer = asked.client[0]
    return _loopback(peer) or (asked.server is not None and peer == asked.server[0])


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


def _shown(text: str) -> str:
    """A client's word, short and on one line."""
    return ascii(text[:100])
