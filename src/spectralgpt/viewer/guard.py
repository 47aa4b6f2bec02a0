"""What every request must pass: who asks, how, how much, and what browsers may do."""

import json
from collections.abc import Mapping

from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["HEADERS", "Guard", "error_body"]

HEADERS: Mapping[str, str] = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; "
        "img-src 'self' data:; connect-src 'self'; base-uri 'none'; "
        "form-action 'none'; frame-ancestors 'none'"
    ),
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}
_OWN_HOSTS = ("127.0.0.1", "localhost")
_METHODS = ("GET", "HEAD")
_OWN_SITES = (b"same-origin", b"none")
_MOST_REQUESTS = 64
"""Answered at once."""
_LONGEST_ADDRESS = 2048


class Guard:
    """Refuses what a page of this machine would not ask.

    A page of another site could reach this server by a name of its own that it lets
    point to 127.0.0.1 (DNS rebinding): the Host header gives that away.

    Args:
        app: answers what passes.
        port: of this server.
    """

    def __init__(self, app: ASGIApp, port: int) -> None:
        self._app, self._answering = app, 0
        self._hosts = {f"{host}:{port}".encode() for host in _OWN_HOSTS}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or pass it on."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        refusal = self._refuse(scope)
        if refusal is not None:
            await _answer(send, *refusal)
            return
        self._answering += 1
        try:
            await self._app(scope, receive, _with_headers(send))
        finally:
            self._answering -= 1

    def _refuse(self, scope: Scope) -> tuple[int, str] | None:
        headers = dict(scope["headers"])
        if headers.get(b"host", b"").lower() not in self._hosts:
            return 403, "this server answers 127.0.0.1 and localhost alone."
        # Browsers say which site a request comes from; other programs say nothing.
        if headers.get(b"sec-fetch-site", b"none") not in _OWN_SITES:
            return 403, "this server answers its own page alone."
        if scope["method"] not in _METHODS:
            return 405, "this server is read-only: it answers GET alone."
        address = len(scope.get("raw_path") or b"") + len(scope["query_string"])
        if address > _LONGEST_ADDRESS:
            return 414, f"the address is longer than {_LONGEST_ADDRESS} characters."
        if self._answering >= _MOST_REQUESTS:
            return 503, "too many requests at once: try again soon."
        return None


def error_body(message: str) -> bytes:
    """Return the one line of JSON that every error is."""
    return json.dumps({"error": " ".join(message.split())}).encode() + b"\n"


def _with_headers(send: Send) -> Send:
    extra = [(name.encode(), value.encode()) for name, value in HEADERS.items()]

    async def with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message["headers"], *extra]}
        await send(message)

    return with_headers


async def _answer(send: Send, status: int, text: str) -> None:
    body, send = error_body(text), _with_headers(send)
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
    ]
    start = {"type": "http.response.start", "status": status, "headers": headers}
    await send(start)
    await send({"type": "http.response.body", "body": body})
