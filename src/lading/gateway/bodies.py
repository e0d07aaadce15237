"""Where a request's body ends. Bytes are only counted, never changed or kept.

A chunked body is followed by a scanner of ours, which knows the position of its end, and by llhttp, which knows the
grammar but not the position. They must agree on the byte: a disagreement is a :class:`BadRequest`, never a guess.
"""

from __future__ import annotations

import re
from enum import Enum, auto
from typing import Protocol

import httptools

from lading.gateway.heads import FIELD_LINE, BadRequest, RequestHead

_CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})(?:;[\t\x20-\x7e]*)?\r\n")
_LINE_LIMIT_BYTES = 4096
_TRAILER_LIMIT_BYTES = 65536
_FORBIDDEN_TRAILERS = (b"content-length", b"transfer-encoding", b"host")


class Body(Protocol):
    """A request's body on its way."""

    @property
    def complete(self) -> bool:
        """Whether its last byte was taken."""

    @property
    def remaining_bytes(self) -> int | None:
        """Bytes still to come, None when the client has not said."""

    def take(self, data: bytes) -> int:
        """How many bytes at the start of ``data`` belong to the body; raises :class:`BadRequest`.

        Fewer than all only when the body is complete.
        """


def open_body(head: RequestHead, limit_bytes: int | None = None) -> Body:
    """The body that ``head`` announces; one in chunks may not grow beyond the limit."""
    return ChunkedBody(head.raw, limit_bytes) if head.chunked else LengthBody(head.content_length)


def too_large(limit_bytes: int) -> str:
    """Why a body is refused."""
    return f"the request body is larger than {limit_bytes} bytes (NIM_PROXY_CLIENT_MAX_BODY_SIZE)"


class LengthBody:
    """A body of a known length, 0 for none."""

    __slots__ = ("_remaining_bytes",)

    def __init__(self, length: int) -> None:
        self._remaining_bytes = length

    @property
    def complete(self) -> bool:
        """Whether its last byte was taken."""
        return self._remaining_bytes == 0

    @property
    def remaining_bytes(self) -> int:
        """Bytes still to come."""
        return self._remaining_bytes

    def take(self, data: bytes) -> int:
        """How many bytes at the start of ``data`` belong to the body."""
        taken = min(self._remaining_bytes, len(data))
        self._remaining_bytes -= taken
        return taken


class _Expect(Enum):
    SIZE = auto()
    DATA = auto()
    END_OF_DATA = auto()
    TRAILER = auto()
    NOTHING = auto()


class ChunkedBody:
    """A body in chunks. Made with its head, from which llhttp learns that chunks follow."""

    def __init__(self, raw_head: bytes, limit_bytes: int | None = None) -> None:
        self._limit_bytes = limit_bytes
        self._announced_bytes = 0
        self._expect = _Expect.SIZE
        self._data_left = 0
        self._line = bytearray()
        self._trailer_bytes = 0
        self._llhttp_complete = False
        self._llhttp = httptools.HttpRequestParser(self)
        self._llhttp.feed_data(raw_head)

    @property
    def complete(self) -> bool:
        """Whether the last line of its trailer section was taken."""
        return self._expect is _Expect.NOTHING

    @property
    def remaining_bytes(self) -> int | None:
        """0 at its end, unknown before."""
        return 0 if self.complete else None

    def take(self, data: bytes) -> int:
        """How many bytes at the start of ``data`` belong to the body; raises :class:`BadRequest`."""
        position = 0
        while position < len(data) and not self.complete:
            if self._expect is _Expect.DATA:
                position = self._skip_data(data, position)
            else:
                position = self._add_to_line(data, position)
        self._confirm(data[:position])
        return position

    def on_message_complete(self) -> None:
        """Llhttp saw the end."""
        self._llhttp_complete = True

    def _skip_data(self, data: bytes, position: int) -> int:
        skipped = min(self._data_left, len(data) - position)
        self._data_left -= skipped
        if self._data_left == 0:
            self._expect = _Expect.END_OF_DATA
        return position + skipped

    def _add_to_line(self, data: bytes, position: int) -> int:
        end = data.find(b"\n", position) + 1
        self._line += data[position : end or len(data)]
        if len(self._line) > _LINE_LIMIT_BYTES:
            raise BadRequest(400, "a line of the chunked body is too long")
        if end:
            self._read_line(bytes(self._line))
            self._line.clear()
        return end or len(data)

    def _read_line(self, line: bytes) -> None:
        match self._expect:
            case _Expect.SIZE:
                self._read_size(line)
            case _Expect.END_OF_DATA if line == b"\r\n":
                self._expect = _Expect.SIZE
            case _Expect.TRAILER:
                self._read_trailer(line)
            case _:
                raise BadRequest(400, "a chunk is longer than it says")

    def _read_size(self, line: bytes) -> None:
        found = _CHUNK_SIZE.fullmatch(line)
        if not found:
            raise BadRequest(400, "a chunk size is malformed")
        self._data_left = int(found[1], 16)
        self._announced_bytes += self._data_left
        if self._limit_bytes is not None and self._announced_bytes > self._limit_bytes:
            raise BadRequest(413, too_large(self._limit_bytes))
        self._expect = _Expect.DATA if self._data_left else _Expect.TRAILER

    def _read_trailer(self, line: bytes) -> None:
        self._trailer_bytes += len(line)
        if line == b"\r\n":
            self._expect = _Expect.NOTHING
        elif self._trailer_bytes > _TRAILER_LIMIT_BYTES or not FIELD_LINE.fullmatch(line):
            raise BadRequest(400, "the trailer section is malformed or too long")
        elif line.partition(b":")[0].lower() in _FORBIDDEN_TRAILERS:
            raise BadRequest(400, "a trailer may not change the framing")

    def _confirm(self, taken: bytes) -> None:
        try:
            self._llhttp.feed_data(taken)
        except httptools.HttpParserError as error:
            raise BadRequest(400, f"the chunked body is malformed: {error}") from error
        if self._llhttp_complete is not self.complete:
            raise BadRequest(400, "the end of the chunked body is ambiguous")
