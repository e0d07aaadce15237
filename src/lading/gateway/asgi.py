"""An ASGI application called in this loop, for one request whose body does not matter.

No ASGI server is needed for that: the gateway has parsed the head, the application reads no body, and its replies are
small enough to be held whole.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import unquote

from lading.gateway.heads import RequestHead
from lading.gateway.replies import LocalReply

Message = MutableMapping[str, Any]
App = Callable[[Message, Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Awaitable[None]]


async def call(app: App, head: RequestHead) -> LocalReply:
    """What ``app`` replies to ``head`` with an empty body. Exceptions of ``app`` pass through."""
    reply = _Reply()
    await app(_scope(head), _no_body, reply.add)
    return LocalReply(reply.status, tuple(reply.headers), bytes(reply.body))


class _Reply:
    """The messages of an application, put together."""

    def __init__(self) -> None:
        self.status = 500
        self.headers: list[tuple[bytes, bytes]] = []
        self.body = bytearray()

    async def add(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = list(message.get("headers", ()))
        elif message["type"] == "http.response.body":
            self.body += message.get("body", b"")


async def _no_body() -> Message:
    return {"type": "http.request", "body": b"", "more_body": False}


def _scope(head: RequestHead) -> Message:
    path, _, query = head.target.partition("?")
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": head.http_version,
        "method": head.method,
        "scheme": "http",
        "path": unquote(path),
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": list(head.headers),
        "client": None,
        "server": None,
    }
