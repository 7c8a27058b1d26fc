"""HTTPS: a context that shows the certificate of two files, and from the next connection on the one they then hold.

Rule 1: a renewed pair is proved before it is shown. One that cannot be used is logged once, and the earlier one stays.
Rule 2: a connection that has not ended its handshake after ``Loop.handshake`` seconds is cut.
"""

import asyncio
import logging
import ssl
from pathlib import Path
from typing import Any, cast

import uvloop

from shared.certificate import CertificateUnusable, prove

log = logging.getLogger(__name__)

Stamp = tuple[tuple[int, int, int], ...]  # of each file: its inode, time of change and size


class Certificate:
    def __init__(self, certificate: Path, key: Path) -> None:
        """Raises CertificateUnusable."""
        self._files = (certificate, key)
        self._stamp = self._look()
        self.context = prove(*self._files).context
        self.context.sni_callback = self._show
        self._newest = self.context

    def _show(self, connection: ssl.SSLObject, name: str | None, context: ssl.SSLContext) -> None:
        """Is called in each handshake, also of clients that ask for no name."""
        if (stamp := self._look()) != self._stamp:
            self._stamp = stamp
            self._renew()
        connection.context = self._newest

    def _renew(self) -> None:
        try:
            self._newest = prove(*self._files).context
        except CertificateUnusable as error:
            log.error("the certificate of the start stays, as the renewed one cannot be used: %s", error)
        else:
            log.info("a renewed certificate is shown from now on")

    def _look(self) -> Stamp | None:
        """None: one of them is not there."""
        try:
            found = [file.stat() for file in self._files]
        except OSError:
            return None
        return tuple((stat.st_ino, stat.st_mtime_ns, stat.st_size) for stat in found)


class Loop(uvloop.Loop):
    """Bounds handshakes, as uvicorn cannot be told to."""

    handshake = 15.0  # seconds

    async def create_server(self, *arguments: Any, **options: Any) -> asyncio.Server:
        if options.get("ssl"):
            options["ssl_handshake_timeout"] = self.handshake
        return cast(asyncio.Server, await super().create_server(*arguments, **options))
