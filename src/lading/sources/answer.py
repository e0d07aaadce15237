"""Answers of HTTP servers: small ones as values, bodies still on the wire, ranges that were checked.

:class:`~lading.sources.http.HttpClient` makes them; :func:`read_range` says whether one holds the bytes that were asked
for, and its caller does the retrying.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urljoin

from lading.errors import SizeMismatch, SourceProtocolError
from lading.sources.fault import Limits, explain, retry_after_seconds
from lading.sources.interface import LIST_AGAIN, PassingFault, RangeIgnored
from lading.sources.urls import redacted
from lading.units import format_bytes, format_seconds

if TYPE_CHECKING:
    from urllib3 import BaseHTTPResponse

_REDIRECTS = {301, 302, 303, 307, 308}
_DISCARD_BYTES = 64 << 10
_Json = TypeVar("_Json", dict[str, object], list[object])
_ODD_SERVER = "try again; if it stays so, a proxy or mirror on the way serves byte ranges wrongly: go round it"
_CONTENT_RANGE = re.compile(r"bytes (?:(\d{1,19})-(\d{1,19})|\*)/(?:(\d{1,19})|\*)", re.ASCII)


@dataclass(frozen=True, slots=True)
class Answer:
    """A small answer, read to its end. ``headers`` ignore case; ``url`` is where the last redirect led."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    url: str

    def json(self, kind: type[_Json]) -> _Json:
        """The body as a JSON object or array; ValueError, whose text completes "it answers with …", for another."""
        try:
            value = json.loads(self.body)
        except (ValueError, RecursionError):
            raise ValueError("something that is not JSON") from None
        if not isinstance(value, kind):
            raise ValueError("other JSON")  # noqa: TRY004  # one kind of error for what is wrong with an answer
        return value


class Response:
    """An answer whose body is still on the wire. Used by one thread at a time; :meth:`HttpClient.open` closes it."""

    def __init__(self, raw: BaseHTTPResponse, url: str, limits: Limits, clock: Callable[[], float]) -> None:
        self.status: int = raw.status
        self.headers: Mapping[str, str] = raw.headers
        self.url = url
        self._raw = raw
        self._limits = limits
        self._clock = clock

    @property
    def redirect(self) -> str | None:
        """Where this answer sends us, or None. An absolute URL, or what was sent where that makes none."""
        location = self.headers.get("Location")
        if self.status not in _REDIRECTS or not location:
            return None
        try:
            return urljoin(self.url, location)
        except ValueError:
            return location

    def raise_if_passing(self) -> None:
        """Raise PassingFault for the statuses that another try may not meet: 408, 429 and 5xx."""
        if self.status not in (408, 429) and self.status < 500:
            return
        wait = retry_after_seconds(self.headers, self._clock())
        asks = "" if wait is None else f" and asks to wait {format_seconds(wait)}"
        raise PassingFault(
            f"{redacted(self.url)} answers HTTP {self.status}{asks}", retry_after_seconds=wait, status=self.status
        )

    def readinto(self, buffer: memoryview) -> int:
        """Fill the start of ``buffer`` with the next bytes as they are on the wire; how many, 0 at the body's end."""
        from lading.sources.connections import read_body

        with self._faults_explained():
            return read_body(self._raw, buffer[: self._limits.slice_bytes])

    def read_all(self) -> bytes:
        """The whole body, decoded where the server encoded it unasked; SourceProtocolError when over the limit."""
        body = bytearray()
        with self._faults_explained():
            while piece := self._raw.read(self._limits.slice_bytes, decode_content=True):
                body += piece
                if len(body) > self._limits.body_bytes:
                    limit = format_bytes(self._limits.body_bytes)
                    raise SourceProtocolError(f"{redacted(self.url)} answers with more than {limit}")
        return bytes(body)

    def discard(self) -> None:
        """Be done with an answer whose body does not matter; a short body is read, to keep the connection."""
        length = _count(self.headers.get("Content-Length"))
        if length is not None and length <= _DISCARD_BYTES:
            self._raw.drain_conn()
        self.close()

    def close(self) -> None:
        """Give the connection back; it is closed unless the body was read to its end."""
        self._raw.close()
        self._raw.release_conn()

    @contextmanager
    def _faults_explained(self) -> Iterator[None]:
        from urllib3.exceptions import HTTPError

        try:
            yield
        except (HTTPError, HTTPException, OSError) as error:
            raise explain(error, self.url, None, self._limits) from error


class RangeBody:
    """The bytes of a range whose answer was checked: see :class:`~lading.sources.interface.RangeReader`."""

    def __init__(self, response: Response, size_bytes: int) -> None:
        self._response = response
        self._left = size_bytes

    def readinto(self, buffer: memoryview, /) -> int:
        """Fill the start of ``buffer`` and return how many; PassingFault when the body ends before the range."""
        buffer = buffer[: self._left]
        if not buffer:
            return 0
        filled = self._response.readinto(buffer)
        if filled == 0:
            raise PassingFault(f"{redacted(self._response.url)} ended {self._left} bytes early")
        self._left -= filled
        return filled


def range_header(start: int, end: int) -> dict[str, str]:
    """The header that asks for the bytes ``start`` (included) to ``end`` (excluded), of which there must be some."""
    return {"Range": f"bytes={start}-{end - 1}"}


def strong_etag(headers: Mapping[str, str]) -> str | None:
    """The etag of an answer, in its quotes; None where it has none that tells versions apart (RFC 9110, 8.8.3)."""
    etag = headers.get("ETag", "").strip()
    return etag if is_strong_etag(etag) else None


def is_strong_etag(value: str) -> bool:
    """Whether this is an etag that tells versions apart and may be sent back: in quotes, not weak, printable ASCII."""
    return value.startswith('"') and value.isascii() and value.isprintable()


def read_range(response: Response, start: int, end: int, size_bytes: int) -> RangeBody:
    """The body of the answer to :func:`range_header`, where the file was listed with ``size_bytes``.

    206 must name exactly the range asked for. 200 is read up to ``end`` when ``start`` is 0. Raises RangeIgnored for
    any other 200, SizeMismatch when the answer tells another size, SourceProtocolError for any other answer.
    """
    where = redacted(response.url)
    if response.headers.get("Content-Encoding", "identity") != "identity":
        raise SourceProtocolError(
            f"{where} answers with encoded bytes where the file's own were asked for", remedy=_ODD_SERVER
        )
    found = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", "").strip())
    first, last, total = (_count(group) for group in found.groups()) if found else (None, None, None)
    match response.status:
        case 206 | 416 if total is not None and total != size_bytes:
            raise _other_size(where, total, size_bytes)
        case 206 if (first, last) == (start, end - 1):
            return RangeBody(response, end - start)
        case 206:
            answered = response.headers.get("Content-Range", "no Content-Range")
            raise SourceProtocolError(
                f"{where}: asked for bytes {start}-{end - 1}, answered {answered[:80]!r}", remedy=_ODD_SERVER
            )
        case 200:
            length = _count(response.headers.get("Content-Length"))
            if length is not None and length != size_bytes:
                raise _other_size(where, length, size_bytes)
            if start:
                raise RangeIgnored(f"{where} ignores byte ranges")
            return RangeBody(response, end)
    raise SourceProtocolError(f"{where} answers a range request with HTTP {response.status}", remedy=_ODD_SERVER)


def file_bytes(response: Response | Answer) -> int | None:
    """The size of the whole file, as the answer to a request for all or a range of it tells; None where it does not."""
    if response.status == 200:
        return _count(response.headers.get("Content-Length"))
    found = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", "").strip())
    return _count(found[3]) if found and response.status in (206, 416) else None


def _count(text: str | None) -> int | None:
    """The number that a header field says; None where it says none, or one that no file has."""
    return int(text) if text and text.isascii() and text.isdecimal() and len(text) < 20 else None


def _other_size(where: str, size_bytes: int, listed_bytes: int) -> SizeMismatch:
    return SizeMismatch(f"{where} has {size_bytes} bytes, {listed_bytes} were listed", remedy=LIST_AGAIN)
