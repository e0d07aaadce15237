"""urllib3's connections with one check more, and its bodies with two copies less.

``http.client`` takes a head that breaks off for a whole one with fewer headers: here it must have come to its end.
Imports urllib3: to be imported where that is first needed.
"""

from __future__ import annotations

from http.client import HTTPResponse, RemoteDisconnected
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.connection import HTTPConnection, HTTPSConnection

if TYPE_CHECKING:
    from urllib3 import BaseHTTPResponse
    from urllib3.response import HTTPResponse as Urllib3Response


class _Head:
    """A file that remembers the last line that was read from it."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.line = b""

    def readline(self, limit: int = -1) -> bytes:
        self.line = self.file.readline(limit)
        return self.line

    def close(self) -> None:
        self.file.close()


class _Response(HTTPResponse):
    fp: Any

    def begin(self) -> None:
        head = self.fp = _Head(self.fp)
        try:
            super().begin()
        finally:
            if self.fp is head:
                self.fp = head.file
        if head.line not in (b"\r\n", b"\n"):
            self.close()
            raise RemoteDisconnected("the head of the answer broke off")


class _Connection(HTTPConnection):
    response_class = _Response


class _TlsConnection(HTTPSConnection):
    response_class = _Response


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Connection


class _TlsPool(HTTPSConnectionPool):
    ConnectionCls = _TlsConnection


POOLS = {"http": _Pool, "https": _TlsPool}


def read_body(response: BaseHTTPResponse, buffer: memoryview) -> int:
    """Fill the start of ``buffer`` with the next bytes of a body; how many, 0 where it ends, rightly or not.

    urllib3's ``readinto`` reads into an object of its own and copies that: at a gigabyte per second, a third of all the
    time. The answer of ``http.client`` below it reads in place; ``requests`` relies on the same attribute. What is
    raised are OSError and HTTPException as they come; a body read to its end gives its connection back.
    """
    body = cast("Urllib3Response", response)._original_response
    if body is None:
        return 0
    count = body.readinto(buffer)
    if body.isclosed():
        response.release_conn()
    return count
