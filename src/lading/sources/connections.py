"""urllib3's connections with one check more, and its bodies with two copies less.

``http.client`` takes a head that breaks off for a whole one with fewer headers: here it must have come to its end.
Imports urllib3: to be imported where that is first needed.
"""

from __future__ import annotations

from collections.abc import Callable
from http.client import HTTPResponse, RemoteDisconnected
from io import BufferedReader
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


class _Body:
    """A body of known length: read from the socket itself once the file object's buffer is empty.

    TLS gives 16 KiB at a time, and each passes through three layers of Python in a file object, with its lock; a third
    of the time that a fast download takes is theirs.
    """

    def __init__(self, file: BufferedReader, receive: Callable[[memoryview], int]) -> None:
        self._file = file
        self._receive = receive
        self._is_buffer_empty = False
        self._fault: OSError | None = None

    def readinto(self, buffer: memoryview) -> int:
        """Fill ``buffer``, or less of it before the end or a fault, which the next call raises."""
        if self._fault:
            raise self._fault
        if not self._is_buffer_empty:
            waiting = len(self._file.peek())
            count = min(waiting, len(buffer))
            buffer[:count] = self._file.read(count)
            self._is_buffer_empty = count == waiting
            return count
        count = 0
        try:
            while count < len(buffer) and (received := self._receive(buffer[count:])):
                count += received
        except OSError as fault:
            if not count:
                raise
            self._fault = fault
        return count

    def read(self, amount: int = -1) -> bytes:
        self._is_buffer_empty = False
        return self._file.read(amount)

    def flush(self) -> None:
        """Nothing is written."""

    def close(self) -> None:
        self._file.close()


class _Response(HTTPResponse):
    fp: Any

    def __init__(self, sock: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        self._receive = sock.recv_into

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
        if self.length and not self.chunked:
            self.fp = _Body(self.fp, self._receive)


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
