"""One GET to the engine over the loop, for the gateway's own needs."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import httptools

from lading.backends.interface import Endpoint

_READ_BYTES = 65536


class FetchFailed(Exception):
    """The engine did not give a whole, well-formed reply in time."""


@dataclass(frozen=True, slots=True)
class Fetched:
    """A reply, whole. ``content_type`` is empty when the engine named none."""

    status: int
    content_type: str
    body: bytes


async def fetch(endpoint: Endpoint, path: str, *, timeout_seconds: float, limit_bytes: int = 16 << 20) -> Fetched:
    """What the engine replies to ``GET path``; raises :class:`FetchFailed` when it does not, in that time and size."""
    try:
        async with asyncio.timeout(timeout_seconds):
            reader, writer = await _open(endpoint)
            try:
                writer.write(b"GET %b HTTP/1.1\r\nhost: engine\r\nconnection: close\r\n\r\n" % path.encode())
                return await _read(reader, limit_bytes)
            finally:
                writer.transport.abort()
    except (OSError, httptools.HttpParserError) as error:
        raise FetchFailed(f"{endpoint}{path}: {error or type(error).__name__}") from error


async def _open(endpoint: Endpoint) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    if endpoint.socket_path:
        return await asyncio.open_unix_connection(str(endpoint.socket_path))
    return await asyncio.open_connection("127.0.0.1", endpoint.port)


async def _read(reader: asyncio.StreamReader, limit_bytes: int) -> Fetched:
    reply = _Reply()
    while not reply.complete:
        data = await reader.read(_READ_BYTES)
        if not data:
            raise FetchFailed("the engine closed the connection before its reply was complete")
        reply.parser.feed_data(data)
        if len(reply.body) > limit_bytes:
            raise FetchFailed(f"the engine's reply is longer than {limit_bytes} bytes")
    return Fetched(reply.parser.get_status_code(), reply.content_type, bytes(reply.body))


class _Reply:
    """The callbacks of llhttp, put together."""

    def __init__(self) -> None:
        self.content_type = ""
        self.body = bytearray()
        self.complete = False
        self.parser = httptools.HttpResponseParser(self)

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"content-type":
            self.content_type = value.decode("latin-1").lower()

    def on_body(self, data: bytes) -> None:
        self.body += data

    def on_message_complete(self) -> None:
        self.complete = True
