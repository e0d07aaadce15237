"""An HTTP/1.1 server for simulators: it answers calls, keeps a record of them, and commits faults on request.

A simulator derives from ``FaultyServer`` and implements ``answer``, a function from a ``Call`` to a ``Reply``. This
module does the rest once for all of them: keep-alive, ranges and preconditions (RFC 9110) for replies with an etag,
bodies sent from files without loading them, faults, and a stop that leaves no socket open. One port has two names: the
*hub* is ``127.0.0.1``, the *cdn* is ``localhost``, another host to every client.
"""

import os
import re
import socket
import struct
import sys
import termios
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from fcntl import ioctl
from hashlib import sha256
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from io import BufferedReader
from json import dumps
from pathlib import Path
from socketserver import ThreadingTCPServer
from threading import Condition, Event, Thread
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs, unquote, urlsplit

from .faults import (
    Fault,
    FaultQueue,
    HangUp,
    Host,
    IgnoreRange,
    Latency,
    Pause,
    Send,
    Status,
    Step,
    Target,
    WrongEtag,
    WrongRange,
    script,
)

_RANGE = re.compile(r"bytes=(\d*)-(\d*)")
_FLUSH_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Call:
    """A request as it came: ``path`` still percent-encoded, header names in lower case."""

    method: str
    host: Host
    path: str
    query: str
    headers: Mapping[str, str]
    body: bytes = b""

    @property
    def segments(self) -> list[str]:
        """The path's parts, each decoded after the split: ``refs%2Fpr%2F1`` stays one part."""
        return [unquote(part) for part in self.path.split("/")[1:]]

    @property
    def parameters(self) -> dict[str, list[str]]:
        """The query, decoded."""
        return parse_qs(self.query, keep_blank_values=True)


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer before ranges and faults; a ``Path`` body is streamed from disk.

    ``file`` is the repository file it is about. ``etag`` (unquoted) is the version of that file; with status 200 it
    makes the server send ``ETag`` and honour ranges and preconditions.
    """

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | Path = b""
    file: str | None = None
    etag: str | None = None

    @property
    def size_bytes(self) -> int:
        """Length of the whole body."""
        return len(self.body) if isinstance(self.body, bytes) else self.body.stat().st_size


@dataclass(frozen=True, slots=True)
class Request:
    """A request the server has answered, recorded just before the head of the response was sent."""

    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    host: Host
    file: str | None
    start: int | None
    status: int


@dataclass(frozen=True, slots=True)
class _Response:
    status: int
    headers: Mapping[str, str]
    body: bytes | Path
    span: range


def json_reply(status: int, value: object, headers: Mapping[str, str] | None = None) -> Reply:
    """``value`` as a JSON body."""
    return Reply(status, {"Content-Type": "application/json; charset=utf-8", **(headers or {})}, dumps(value).encode())


def requested_span(header: str | None, size_bytes: int) -> range | None:
    """The bytes a Range header asks for: None when it is absent or not understood, empty when it cannot be met."""
    match = _RANGE.fullmatch(header or "")
    if match is None or header == "bytes=-":
        return None
    first, last = match.groups()
    if not first:
        return range(max(0, size_bytes - int(last)), size_bytes)
    if last and int(last) < int(first):
        return None
    return range(int(first), min(size_bytes, int(last) + 1) if last else size_bytes)


def negotiate(headers: Mapping[str, str], etag: str, size_bytes: int) -> tuple[int, range]:
    """The status and the bytes a GET of this file gets, by its preconditions and range (RFC 9110, 13 and 14)."""
    quoted = f'"{etag}"'
    if not _names(headers.get("if-match", "*"), quoted):
        return 412, range(0)
    if _names(headers.get("if-none-match", ""), quoted):
        return 304, range(0)
    span = requested_span(headers.get("range"), size_bytes)
    if span is None or headers.get("if-range", quoted) != quoted:
        return 200, range(size_bytes)
    return (206, span) if span else (416, range(0))


def _names(header: str, etag: str) -> bool:
    return header.strip() == "*" or etag in (item.strip() for item in header.split(","))


class FaultyServer(ABC):
    """A server on a free port of 127.0.0.1 from construction to ``stop``; a context manager that stops it."""

    def __init__(self, *, port: int = 0) -> None:
        self.requests: list[Request] = []
        self._faults = FaultQueue()
        self._stopping = Event()
        self._server = _Server(self, port)
        self.port: int = self._server.server_address[1]
        self.endpoint = f"http://127.0.0.1:{self.port}"
        self.cdn_endpoint = f"http://localhost:{self.port}"
        self._accepting = Thread(target=self._accept, name=f"simulator-{self.port}", daemon=True)
        self._accepting.start()

    @abstractmethod
    def answer(self, call: Call) -> Reply:
        """The faultless answer. Called from many threads at once; must not block."""

    def fault(self, path: str | None, fault: Fault, *, times: int | None = 1, on: Host | None = None) -> None:
        """Commit ``fault`` the next ``times`` times (None: for ever) it can harm a response about ``path``.

        ``path`` is a file's path in its repository, a request path when it starts with ``/`` (every request below it),
        or None: every file, and for ``Status`` and ``Latency`` every request. ``on`` narrows it to one host.
        """
        self._faults.arm(path, fault, times=times, on=on)

    @property
    def unused_faults(self) -> list[Fault]:
        """Faults with uses left, for ever ones aside: what a test armed and never met."""
        return self._faults.unused()

    def requests_for(self, file: str) -> list[Request]:
        """The requests about one repository file, on either host, in order."""
        return [request for request in self.requests if request.file == file]

    def stop(self) -> None:
        """Close the port and every connection, interrupting stalls; returns when they are closed. Idempotent."""
        if not self._stopping.is_set():
            self._stopping.set()
            socket.create_connection(("127.0.0.1", self.port)).close()
            self._accepting.join()
            self._server.server_close()
            self._server.close_connections()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def pause(self, seconds: float) -> None:
        """Wait; a stop cuts the wait short and ends the connection (``ConnectionAbortedError``)."""
        if self._stopping.wait(seconds):
            raise ConnectionAbortedError("the server is stopping")

    def _accept(self) -> None:
        while not self._stopping.is_set():
            self._server.handle_request()

    def respond(self, call: Call) -> tuple[_Response, Iterator[Step]]:
        """The response to put on the wire and the steps that send its body, recorded and with its faults used up."""
        reply = self.answer(call)
        target = Target(call.path, reply.file, call.host)
        if latency := self._faults.take(Latency, target):
            self.pause(latency.seconds)
        if status := self._faults.take(Status, target):
            reply = replace(_status_reply(status), file=reply.file)
        response = self._in_range(call, reply, target)
        self.requests.append(_record(call, reply.file, response.status))
        if call.method == "HEAD":
            return response, iter(())
        harmed = response.status in {200, 206}
        return response, script(response.span, self._faults.take_body_faults(target, response.span) if harmed else [])

    def _in_range(self, call: Call, reply: Reply, target: Target) -> _Response:
        if reply.etag is None:
            return _Response(reply.status, reply.headers, reply.body, range(reply.size_bytes))
        etag = reply.etag
        headers = dict(reply.headers)
        if self._faults.take(WrongEtag, target):
            etag = sha256(b"replaced " + etag.encode()).hexdigest()[: len(etag)]
            if "X-Linked-ETag" in headers:
                headers["X-Linked-ETag"] = f'"{etag}"'
        if reply.status != HTTPStatus.OK:
            return _Response(reply.status, headers, reply.body, range(reply.size_bytes))
        wanted = dict(call.headers)
        if "range" in wanted and self._faults.take(IgnoreRange, target):
            del wanted["range"]
        size_bytes = reply.size_bytes
        status, span = negotiate(wanted, etag, size_bytes)
        headers |= {"ETag": f'"{etag}"', "Accept-Ranges": "bytes"}
        if status == HTTPStatus.PARTIAL_CONTENT:
            if len(span) < size_bytes and self._faults.take(WrongRange, target):
                shift = -1 if span.start else 1
                span = range(span.start + shift, span.stop + shift)
            headers["Content-Range"] = f"bytes {span.start}-{span.stop - 1}/{size_bytes}"
        if status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            headers["Content-Range"] = f"bytes */{size_bytes}"
        return _Response(status, headers, reply.body, span)


def _record(call: Call, file: str | None, status: int) -> Request:
    match = _RANGE.match(call.headers.get("range", ""))
    start = int(match[1]) if match and match[1] else None
    return Request(call.method, call.path, call.query, call.headers, call.host, file, start, status)


def _status_reply(fault: Status) -> Reply:
    headers = {}
    if fault.retry_after is not None:
        headers["Retry-After"] = str(fault.retry_after)
        if fault.code == HTTPStatus.TOO_MANY_REQUESTS:
            headers["RateLimit"] = f'"resolvers";r=0;t={fault.retry_after}'
    if fault.error_code is not None:
        headers["X-Error-Code"] = fault.error_code
    if fault.body is not None:
        return Reply(fault.code, headers, fault.body)
    return json_reply(fault.code, {"error": HTTPStatus(fault.code).phrase}, headers)


class _Server(ThreadingTCPServer):
    """Accepts connections and remembers the open ones, so that stopping can close them all."""

    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, simulator: FaultyServer, port: int) -> None:
        self.simulator = simulator
        self._open: set[Any] = set()
        self._changed = Condition()
        super().__init__(("127.0.0.1", port), _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._changed:
            self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        super().shutdown_request(request)
        with self._changed:
            self._open.discard(request)
            self._changed.notify_all()

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)

    def close_connections(self) -> None:
        """Wake every connection's thread by closing its socket, and wait for the threads to let go of them."""
        with self._changed:
            for connection in self._open:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
            self._changed.wait_for(lambda: not self._open, timeout=_FLUSH_SECONDS)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def do_GET(self) -> None:
        response, steps = self.server.simulator.respond(self._call())
        self.send_response(response.status)
        for name, value in response.headers.items():
            self.send_header(name, value)
        self.send_header("X-Request-Id", f"Root=1-{uuid.uuid4().hex[:8]}-{uuid.uuid4().hex[:24]}")
        if response.status != HTTPStatus.NOT_MODIFIED:
            self.send_header("Content-Length", str(len(response.span)))
        self.end_headers()
        with _opened(response.body) as body:
            for step in steps:
                self._carry_out(step, body)

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_POST(self) -> None:
        self.do_GET()

    def do_PUT(self) -> None:
        self.do_GET()

    def do_DELETE(self) -> None:
        self.do_GET()

    def log_message(self, format: str, *args: object) -> None:
        """Keep quiet: the record is ``FaultyServer.requests``."""

    def _call(self) -> Call:
        headers = {name.lower(): value for name, value in self.headers.items()}
        target = urlsplit(self.path)
        host: Host = "cdn" if headers.get("host", "").startswith("localhost") else "hub"
        body = self.rfile.read(int(headers.get("content-length", "0")))
        return Call(self.command, host, target.path, target.query, headers, body)

    def _carry_out(self, step: Step, body: memoryview | BufferedReader) -> None:
        match step:
            case Send():
                _send(self.connection, body, step)
            case Pause():
                self.server.simulator.pause(step.seconds)
            case HangUp():
                self.close_connection = True
                if step.reset:
                    _reset(self.connection)


@contextmanager
def _opened(body: bytes | Path) -> Iterator[memoryview | BufferedReader]:
    if isinstance(body, bytes):
        yield memoryview(body)
        return
    with body.open("rb") as file:
        yield file


def _send(connection: socket.socket, body: memoryview | BufferedReader, step: Send) -> None:
    size_bytes = step.stop - step.start
    if isinstance(body, memoryview):
        piece = body[step.start : step.stop]
        connection.sendall(bytes(byte ^ 0xFF for byte in piece) if step.inverted else piece)
    elif step.inverted:
        body.seek(step.start)
        connection.sendall(bytes(byte ^ 0xFF for byte in body.read(size_bytes)))
    elif connection.sendfile(body, step.start, size_bytes) != size_bytes:
        raise EOFError(f"{body.name} became shorter while it was served")


def _reset(connection: socket.socket) -> None:
    """Let the peer take what was sent, then send RST: SO_LINGER 0 drops anything still queued."""
    deadline = time.monotonic() + _FLUSH_SECONDS
    with suppress(OSError):
        while _unsent_bytes(connection) and time.monotonic() < deadline:
            time.sleep(0.001)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    os.close(connection.detach())


def _unsent_bytes(connection: socket.socket) -> int:
    queued: int = struct.unpack("i", ioctl(connection, termios.TIOCOUTQ, b"\0\0\0\0"))[0]
    return queued
