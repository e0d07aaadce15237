"""urllib3's connections with one check more: the head of an answer must have come to its end.

``http.client`` takes a head that breaks off for a whole one with fewer headers. Imports urllib3: to be imported where
that is first needed.
"""

from __future__ import annotations

from http.client import HTTPResponse, RemoteDisconnected
from typing import Any, BinaryIO

from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.connection import HTTPConnection, HTTPSConnection


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
