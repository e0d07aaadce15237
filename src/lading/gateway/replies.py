"""Replies: where the engine's ends, and how ours are written.

The engine's bytes are never changed. llhttp reads them beside the splice, with no callback for the body, to know the
status, the first byte and the end; from that follow keep-alive and the order of pipelined requests.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from email.utils import formatdate
from http import HTTPStatus
from typing import Any

import httptools

from lading.gateway.heads import BadRequest, Headers

_BODILESS = frozenset((204, 304))


class BadReply(Exception):
    """The engine sent what is not the one reply that was due."""


class ReplyScanner:
    """Follows one reply, interim (1xx) ones before it included.

    ``status`` is 0 until the final status was read. ``upgraded`` says that it is 101: all bytes after its head belong
    to the other protocol. ``keep_alive`` is the engine's word on its connection, known with the status.
    """

    __slots__ = (
        "_framed",
        "_is_head",
        "_junk",
        "_parser",
        "_upgrade_offered",
        "complete",
        "keep_alive",
        "status",
        "upgraded",
    )

    def __init__(self, *, is_head: bool, upgrade_offered: bool) -> None:
        self._is_head = is_head
        self._upgrade_offered = upgrade_offered
        self._framed = False
        self._junk = False
        self.status = 0
        self.keep_alive = False
        self.complete = False
        self.upgraded = False
        self._parser = httptools.HttpResponseParser(self)

    @property
    def ends_with_connection(self) -> bool:
        """Whether the end of the engine's connection is the proper end of this reply."""
        return self.status != 0 and not self._framed

    def feed(self, data: bytes) -> None:
        """Read on; raises :class:`BadReply`, and then ``data`` must not reach the client."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            pass
        except httptools.HttpParserError as error:
            if not self.upgraded:
                raise BadReply(f"its reply is malformed: {error}") from error
        if self.upgraded and not self._upgrade_offered:
            raise BadReply("it switched protocols without being asked")
        if self._junk or (self._is_head and self.complete and not data.endswith(b"\r\n\r\n")):
            raise BadReply("bytes follow the end of its reply")

    def on_message_begin(self) -> None:
        """Llhttp saw a byte of a reply; after a complete one, none is due."""
        self._framed = False
        self._junk = self.complete

    def on_header(self, name: bytes, _value: bytes) -> None:
        """Note whether the reply announces its own end."""
        if name.lower() in (b"content-length", b"transfer-encoding"):
            self._framed = True

    def on_headers_complete(self) -> None:
        """Read the status of a final reply."""
        status = self._parser.get_status_code()
        if 100 <= status < 200 and status != HTTPStatus.SWITCHING_PROTOCOLS:
            return
        self.status = status
        self.upgraded = status == HTTPStatus.SWITCHING_PROTOCOLS
        self.keep_alive = self._parser.should_keep_alive()
        # llhttp cannot be told that a reply to HEAD has no body.
        self.complete = self._is_head

    def on_message_complete(self) -> None:
        """The end of an interim or the final reply."""
        self.complete = self.status != 0


@dataclass(frozen=True, slots=True)
class LocalReply:
    """A reply of ours, whole."""

    status: int
    headers: Headers
    body: bytes

    def encode(self, *, with_body: bool, keep_alive: bool) -> bytes:
        """The bytes for the wire. ``with_body`` is False for HEAD: the length stays, the body goes."""
        skip = (b"content-length", b"connection", b"date")
        lines = [
            b"HTTP/1.1 %d %s" % (self.status, _phrase(self.status)),
            b"date: " + formatdate(usegmt=True).encode(),
            b"connection: " + (b"keep-alive" if keep_alive else b"close"),
            *(name + b": " + value for name, value in self.headers if name.lower() not in skip),
        ]
        if self.status not in _BODILESS:
            lines.append(b"content-length: %d" % len(self.body))
        return b"\r\n".join(lines) + b"\r\n\r\n" + (self.body if with_body else b"")


def error_reply(
    status: int, message: str, kind: str, *, headers: Headers = (), more: Mapping[str, object] | None = None
) -> LocalReply:
    """An error in the form of the OpenAI API; ``more`` is added to its ``error`` object."""
    error = {"message": message, "type": kind, "code": status} | dict(more or {})
    body = json.dumps({"error": error}).encode()
    return LocalReply(status, ((b"content-type", b"application/json"), *headers), body)


def as_answer(reply: LocalReply) -> Callable[[], Coroutine[Any, Any, LocalReply]]:
    """Someone who answers with ``reply``."""

    async def answer() -> LocalReply:
        return reply

    return answer


def refusal(verdict: BadRequest) -> LocalReply:
    """The reply to a request that was refused."""
    return error_reply(verdict.status, verdict.reason, "invalid_request_error")


def _phrase(status: int) -> bytes:
    try:
        return HTTPStatus(status).phrase.encode()
    except ValueError:
        return b"Unknown"
