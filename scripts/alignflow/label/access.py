"""Who may talk to an annotation server: this machine alone, or those who have a token."""

from __future__ import annotations

import base64
import binascii
import hmac
import ipaddress
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from alignflow.errors import InputError

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

SHORTEST = 16
NO_VIEWER = "/ohif/ needs a DICOMweb server: start with its URL as STUDIES, or use another client"


def is_loopback(host: str) -> bool:
    """Whether an address (or the name localhost) is this machine, seen from itself."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def require_token(host: str, token: str | None) -> None:
    """Refuse to listen to the network without a token.

    Raises:
        InputError: a host other than loopback and no token; or a token that can be guessed.
    """
    if token is None and not is_loopback(host):
        raise InputError(
            f"host '{host}': reachable from the network, and images of patients lie behind it; "
            "set the environment variable ALIGNFLOW_LABEL_TOKEN, or host 127.0.0.1"
        )
    if token is not None and len(token) < SHORTEST:
        raise InputError(
            f"ALIGNFLOW_LABEL_TOKEN: {len(token)} characters; take at least {SHORTEST}, "
            "such as openssl rand -hex 16 gives"
        )


class Gate:
    """ASGI middleware: requests with the token, or without one those addressed to loopback.

    The token comes as `Authorization: Bearer TOKEN`, or as the password of basic authentication,
    which is what a browser asks for. Without a token the name in the request must be that of this
    machine: a web page elsewhere may have a name of its own resolve to it (DNS rebinding). Requests
    of pages from elsewhere are never admitted: MONAI Label itself lets every page read its answers.

    Args:
        app: behind the gate.
        token: None for a server on loopback.
    """

    def __init__(self, app: App, token: str | None) -> None:
        self.app = app
        self.token = token

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Pass on, or answer 401 (403 without a token)."""
        if scope["type"] == "lifespan" or self.admits(dict(scope["headers"])):
            await self.app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            status, headers = 403, [(b"content-type", b"text/plain")]
            if self.token is not None:
                status = 401
                headers.append((b"www-authenticate", b'Basic realm="token as password"'))
            await send({"type": "http.response.start", "status": status, "headers": headers})
            await send({"type": "http.response.body", "body": b"not admitted\n"})

    def admits(self, headers: dict[bytes, bytes]) -> bool:
        """Whether a request with these headers (names in lower case) may pass."""
        host = headers.get(b"host", b"").decode("latin-1")
        origin = headers.get(b"origin")
        if origin is not None and origin.decode("latin-1").partition("://")[2] != host:
            return False
        if self.token is None:
            return is_loopback(host if host.endswith("]") else host.rsplit(":", 1)[0])
        kind, _, value = headers.get(b"authorization", b"").partition(b" ")
        given = value.strip() if kind.lower() == b"bearer" else _password(kind, value)
        return hmac.compare_digest(given, self.token.encode())


def _password(kind: bytes, value: bytes) -> bytes:
    if kind.lower() != b"basic":
        return b""
    try:
        return base64.b64decode(value, validate=True).partition(b":")[2]
    except binascii.Error:
        return b""
