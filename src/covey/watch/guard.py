"""The guard of the page: names of this server, the token, requests of other sites, and headers of answers."""

import hmac
import ipaddress
import socket
from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from covey.runtime.emulation.transport.address import Address

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
"""The headers of every answer. Nothing is loaded from elsewhere, and no other page may show or read this one."""


class Guard:
    """The guard before the application.

    Args:
        app: the application.
        address: the address at which the server listens.
        token: the secret of the command line.
        is_private: True if reading needs the token, too. Stopping and resuming always do.
    """

    def __init__(self, app: ASGIApp, address: Address, token: str, *, is_private: bool) -> None:
        self._app, self._token, self._is_private = app, token, is_private
        self._names = names_of(address)
        self._takes_any_address = ipaddress_of(address.host) is not None and not address.is_loopback

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        refused = self._refusal(scope, Headers(scope=scope))
        await (self._app if refused is None else refused)(scope, receive, with_headers)

    def _refusal(self, scope: Scope, headers: Headers) -> PlainTextResponse | None:
        host = headers.get("host", "")
        if not self._is_own(host):
            # A page elsewhere may have its name resolve to this machine (DNS rebinding).
            return PlainTextResponse("This server has another name.\n", 421)
        reads = scope["method"] in ("GET", "HEAD")
        if not reads and not _is_same_origin(headers, host):
            return PlainTextResponse("Only the page of this server may ask for this.\n", 403)
        if scope["path"].startswith("/api/") and (self._is_private or not reads):
            kind, _, shown = headers.get("authorization", "").partition(" ")
            if kind != "Bearer" or not hmac.compare_digest(shown.encode(), self._token.encode()):
                return PlainTextResponse("This needs the link that covey watch has printed.\n", 401)
        return None

    def _is_own(self, host: str) -> bool:
        name = _without_port(host)
        return name in self._names or (self._takes_any_address and ipaddress_of(name) is not None)


def names_of(address: Address) -> Collection[str]:
    """The names by which a server may be called."""
    if address.is_loopback:
        return {"localhost", "127.0.0.1", "::1", address.host}
    return {address.host, socket.gethostname().lower(), socket.getfqdn().lower()}


def ipaddress_of(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The IP address of a text; None if it is a name."""
    try:
        return ipaddress.ip_address(name)
    except ValueError:
        return None


def _without_port(host: str) -> str:
    name, colon, port = host.rpartition(":")
    return (name if colon and port.isdecimal() else host).removeprefix("[").removesuffix("]").lower()


def _is_same_origin(headers: Headers, host: str) -> bool:
    """True if no other site's page has made a request: browsers name its origin."""
    origin = headers.get("origin")
    site = headers.get("sec-fetch-site", "same-origin")
    return site in ("same-origin", "none") and (origin is None or urlsplit(origin).netloc == host)
