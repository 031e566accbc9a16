"""What protects a server from web pages of others and from large or slow uploads, as ASGI middleware."""

from __future__ import annotations

import asyncio
import ipaddress
import json
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from tasks.serve.rejected import Rejected

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

MAX_REQUESTS = 256  # that are answered or waiting at a time
_FORM_BYTES = 1 << 16  # of a multipart form, besides its image
# Nothing is loaded from elsewhere, and no other page may show, embed or read what the server sends.
_HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


@dataclass
class Counts:
    """Requests so far.

    Attributes:
        requests: all of them.
        rejected: answered with a status 4xx or 503.
        failed: answered with another status 5xx.
        open: not answered yet.
    """

    requests: int = 0
    rejected: int = 0
    failed: int = 0
    open: int = 0

    def answered(self, status: int) -> None:
        self.rejected += 400 <= status < 500 or status == 503
        self.failed += status >= 500 and status != 503


@dataclass
class Guard:
    """Checks every request before the application gets it.

    The Host header must be an IP address or an allowed name: otherwise a page of another site could let its own name lead
    to this machine (DNS rebinding) and read answers. A request that another page sends (Origin, or Sec-Fetch-Site where
    browsers send no Origin, as for images) is rejected; following a link to the page is not.

    Attributes:
        app: the application.
        names: allowed names, besides localhost.
        max_upload: bytes of an uploaded file.
        upload_timeout: seconds within which a body must have arrived.
    """

    app: App
    names: frozenset[str]
    max_upload: int
    upload_timeout: float
    counts: Counts = field(default_factory=Counts)

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http":  # no WebSockets, and uvicorn runs without lifespan events
            return
        self.counts.requests += 1
        self.counts.open += 1
        rejection: Rejected | None = None
        started = complete = False
        received, deadline = 0, asyncio.get_running_loop().time() + self.upload_timeout

        async def limited() -> Message:
            nonlocal received, complete, rejection
            try:
                async with asyncio.timeout_at(None if complete else deadline):
                    message = await receive()
            except TimeoutError:
                rejection = Rejected(408, f"The upload took longer than {self.upload_timeout:g} seconds.")
                raise rejection from None
            complete = not message.get("more_body", False)
            received += len(message.get("body", b""))
            if received > self.max_upload + _FORM_BYTES:
                rejection = self.too_large()
                raise rejection
            return message

        async def protected(message: Message) -> None:
            nonlocal started
            if rejection is not None and not started:
                return  # what the application makes of the exception
            if message["type"] == "http.response.start":
                started = True
                self.counts.answered(message["status"])
                headers = [(name.encode(), value.encode()) for name, value in _HEADERS.items()]
                message["headers"] = [*message.get("headers", []), *headers]
            await send(message)

        try:
            try:
                self._check(scope)
                await self.app(scope, limited, protected)
            except Rejected as error:
                rejection = error
            except Exception:
                if rejection is None:
                    raise
            if rejection is not None and not started:
                answer, rejection = rejection, None
                await _respond(protected, answer)
        finally:
            self.counts.open -= 1

    def too_large(self) -> Rejected:
        return Rejected(413, f"The upload is larger than {self.max_upload / 1e6:g} MB.")

    def _check(self, scope: MutableMapping[str, Any]) -> None:
        """Raise the rejection of a request that is known before its body."""
        headers: dict[str, list[str]] = {}
        for name, value in scope["headers"]:
            headers.setdefault(name.decode("latin-1").lower(), []).append(value.decode("latin-1"))
        hosts, origins = headers.get("host", []), headers.get("origin", [])
        if len(hosts) != 1 or not self._allowed(hosts[0]):
            shown = ", ".join(hosts)[:100] or "none"
            raise Rejected(
                400, f"Host {shown!r} is not a name of this server; use its address, or start it with --allow-host."
            )
        foreign = {"cross-site", "same-site"} & set(headers.get("sec-fetch-site", []))
        embedded = foreign and headers.get("sec-fetch-mode", []) != ["navigate"]
        if embedded or any(origin.partition("://")[2] != hosts[0] for origin in origins):
            raise Rejected(403, "Pages of other sites may not use this server.")
        if self.counts.open > MAX_REQUESTS:
            raise Rejected(503, f"{MAX_REQUESTS} requests are waiting already; try again later.")
        length = headers.get("content-length", ["0"])[0]
        if length.isascii() and length.isdigit() and int(length) > self.max_upload + _FORM_BYTES:
            raise self.too_large()

    def _allowed(self, host: str) -> bool:
        try:
            name = (urlsplit(f"//{host}").hostname or "").rstrip(".")
            if name in self.names or name == "localhost":
                return True
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True


async def _respond(send: Send, rejection: Rejected) -> None:
    body = json.dumps({"detail": rejection.detail}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if rejection.status == 503:
        headers.append((b"retry-after", b"1"))
    await send({"type": "http.response.start", "status": rejection.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
