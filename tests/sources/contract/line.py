"""The line between a source and the server of a stand: it passes bytes on, cuts answers on request, can speak TLS.

A server's own faults harm the bodies of files. What harms the head of an answer, or any answer at all, is done here. As
a *tunnel* it is the forward proxy that ``HTTPS_PROXY`` names, and every https host behind it.
"""

from __future__ import annotations

import select
import socket
import ssl
import struct
from base64 import b64encode
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from socketserver import BaseRequestHandler, ThreadingTCPServer
from threading import Lock, Thread
from types import TracebackType
from typing import Self

TLS = Path(__file__).parent / "tls"
AUTHORITY = TLS / "ca.pem"
_HEAD = b"HTTP/1."


@dataclass(frozen=True, slots=True)
class Cut:
    """What is left of an answer: its first ``after_bytes`` bytes, head included, then FIN, or RST with ``reset``."""

    after_bytes: int
    reset: bool = False


class Line:
    """A port of 127.0.0.1 that leads to another one, until ``close``; a context manager that closes it.

    ``tls``: clients speak TLS to it. ``credentials``: clients ask it for a tunnel first (CONNECT), as ``user:password``.
    ``byte_by_byte`` makes answers arrive in single bytes. ``without_lengths`` takes Content-Length away: bodies end where
    the connection does, as those of old proxies do. ``connections`` counts those it accepted.
    """

    def __init__(self, port: int, *, tls: bool = False, credentials: str | None = None) -> None:
        self.connections = 0
        self.byte_by_byte = False
        self.without_lengths = False
        self.tunnels: list[str] = []
        self._far_port = port
        self._tls = _server_context() if tls or credentials else None
        self._wanted = f"Basic {b64encode(credentials.encode()).decode()}" if credentials else None
        self._cuts: deque[Cut] = deque()
        self._open: set[socket.socket] = set()
        self._lock = Lock()
        self._server = _Server(self)
        self.port: int = self._server.server_address[1]
        self.endpoint = f"{'https' if tls else 'http'}://127.0.0.1:{self.port}"
        Thread(target=self._server.serve_forever, args=(0.005,), daemon=True).start()

    def cut(self, *cuts: Cut) -> None:
        """Cut the next answers, one each."""
        self._cuts.extend(cuts)

    def close(self) -> None:
        """Close the port and every connection; returns when their threads have ended."""
        self._server.shutdown()
        with self._lock:
            for connection in self._open:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
        self._server.server_close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def carry(self, accepted: socket.socket) -> None:
        """Serve one connection to its end."""
        with self._lock:
            self.connections += 1
            self._open.add(accepted)
        try:
            if self._wanted is None or self._is_let_through(accepted):
                self._join(accepted)
        finally:
            with self._lock:
                self._open.discard(accepted)

    def _is_let_through(self, accepted: socket.socket) -> bool:
        head = b""
        while b"\r\n\r\n" not in head:
            piece = accepted.recv(4096)
            if not piece:
                return False
            head += piece
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        self.tunnels.append(first)
        allowed = first.startswith("CONNECT ") and headers.get("proxy-authorization") == self._wanted
        status = "200 Connection established" if allowed else "407 Proxy Authentication Required"
        accepted.sendall(f"HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n".encode())
        return allowed

    def _join(self, accepted: socket.socket) -> None:
        near = self._tls.wrap_socket(accepted, server_side=True) if self._tls else accepted
        with near, socket.create_connection(("127.0.0.1", self._far_port)) as far:
            near.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._lock:
                self._open |= {near, far}
            try:
                self._pass_on(near, far)
            finally:
                with self._lock:
                    self._open -= {near, far}

    def _pass_on(self, near: socket.socket, far: socket.socket) -> None:
        if self.without_lengths:
            _pass_one(near, far)
            return
        while True:
            waiting = isinstance(near, ssl.SSLSocket) and near.pending()
            ready = [near] if waiting else select.select([near, far], [], [])[0]
            if near in ready:
                data = near.recv(65536)
                if not data:
                    return
                far.sendall(data)
            elif not self._pass_back(near, far):
                return

    def _pass_back(self, near: socket.socket, far: socket.socket) -> bool:
        """Pass the next piece of an answer on; False at the end."""
        try:
            data = far.recv(65536)
        except ConnectionResetError:
            _reset(near)
            return False
        cut = self._cuts.popleft() if data.startswith(_HEAD) and self._cuts else None
        if cut is not None:
            near.sendall(data[: cut.after_bytes])
            if cut.reset:
                _reset(near)
            return False
        for piece in (data[at : at + 1] for at in range(len(data))) if self.byte_by_byte else (data,):
            near.sendall(piece)
        return bool(data)


def _pass_one(near: socket.socket, far: socket.socket) -> None:
    """Carry one request and its answer, less the length that its head tells; the server's own end is told by that."""
    far.sendall(near.recv(65536))
    answer = b""
    while b"\r\n\r\n" not in answer and (data := far.recv(65536)):
        answer += data
    head, _, body = answer.partition(b"\r\n\r\n")
    lines = [line for line in head.split(b"\r\n") if not line.lower().startswith(b"content-length:")]
    length = next((int(line.split(b":")[1]) for line in head.split(b"\r\n") if line not in lines), 0)
    near.sendall(b"\r\n".join([*lines, b"Connection: close", b"", body]))
    left = length - len(body)
    while left > 0 and (data := far.recv(65536)):
        near.sendall(data)
        left -= len(data)


class _Server(ThreadingTCPServer):
    daemon_threads = False
    request_queue_size = 128

    def __init__(self, line: Line) -> None:
        self.line = line
        super().__init__(("127.0.0.1", 0), _Handler)


class _Handler(BaseRequestHandler):
    server: _Server

    def handle(self) -> None:
        with suppress(OSError, ValueError):  # ValueError: select() on a socket that is closed by now
            self.server.line.carry(self.request)


def _reset(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def _server_context() -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(TLS / "server.pem")
    return context
