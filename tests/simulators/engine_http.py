"""An engine that speaks HTTP/1.1 on a real socket and misbehaves on request.

The path picks the behaviour (:class:`_Behaviour`); every request is recorded with the raw bytes of its head and its
decoded body. Nothing here sleeps: streams move when the test pushes a chunk, and what a test waits for is an event.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from lading.backends.interface import Endpoint

METRICS = (
    b"# HELP vllm:num_requests_running Requests.\n# TYPE vllm:num_requests_running gauge\n"
    b'vllm:num_requests_running{engine="0"} 2.0\n'
)
STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"


@dataclass(slots=True)
class Received:
    """One request as the engine saw it. ``raw_body`` keeps the chunk framing, ``body`` does not."""

    head: bytes
    connection: int
    raw_body: bytes = b""
    body: bytes = b""

    @property
    def method(self) -> str:
        return self.head.split(b" ", 1)[0].decode()

    @property
    def target(self) -> str:
        return self.head.split(b" ", 2)[1].decode()

    def header(self, name: str) -> str | None:
        for line in self.head.split(b"\r\n")[1:]:
            key, _, value = line.partition(b":")
            if key.decode().lower() == name:
                return value.strip().decode()
        return None


@dataclass(eq=False)
class EngineSimulator:
    """``async with EngineSimulator() as engine`` listens on ``engine.endpoint``: loopback, or ``socket_path``."""

    socket_path: Path | None = None
    requests: list[Received] = field(default_factory=list)
    connections: int = 0
    flooded_bytes: int = 0
    close_idle: bool = False

    def __post_init__(self) -> None:
        self.chunks: asyncio.Queue[bytes | None] = asyncio.Queue()
        self.aborted = asyncio.Event()
        self.arrived = asyncio.Event()
        self.released = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()

    async def __aenter__(self) -> Self:
        if self.socket_path:
            self._server = await asyncio.start_unix_server(self._serve, str(self.socket_path))
            self.endpoint = Endpoint(socket_path=self.socket_path)
        else:
            self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
            self.endpoint = Endpoint(port=self._server.sockets[0].getsockname()[1])
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        for writer in list(self._writers):
            writer.transport.abort()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    def die(self) -> None:
        """Every connection is reset, as when the process is killed."""
        for writer in list(self._writers):
            reset(writer)

    def stop_listening(self) -> None:
        """New connections are refused, open ones stay."""
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self._tasks.add(task)
        self._writers.add(writer)
        self.connections += 1
        try:
            await _Behaviour(self, self.connections, reader, writer).run()
        except (ConnectionError, asyncio.IncompleteReadError):
            self.aborted.set()
        except asyncio.CancelledError:
            pass
        finally:
            self._tasks.discard(task)
            self._writers.discard(writer)
            writer.transport.abort()


def reset(writer: asyncio.StreamWriter) -> None:
    """Close with RST, as a killed peer does."""
    sock = writer.get_extra_info("socket")
    if sock.family != socket.AF_UNIX:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


class _Behaviour:
    """One connection of the engine: what each path does."""

    def __init__(
        self, engine: EngineSimulator, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.engine = engine
        self.number = number
        self.reader = reader
        self.writer = writer
        self.open = True
        self.paths: dict[str, Callable[[Received], Awaitable[None]]] = {
            "/metrics": self.metrics,
            "/v1/stream": self.stream,
            "/v1/hold": self.hold,
            "/v1/flood": self.flood,
            "/v1/never-read": self.never_read,
            "/v1/close-early": self.close_early,
            "/v1/close-mid-chunk": self.close_mid_chunk,
            "/v1/close-mid-length": self.close_mid_length,
            "/v1/until-eof": self.until_eof,
            "/v1/until-reset": self.until_reset,
            "/v1/upgrade": self.upgrade,
            "/v1/upgrade-unasked": self.upgrade_unasked,
            "/v1/no-content": self.no_content,
            "/v1/not-modified": self.not_modified,
            "/v1/too-large": self.too_large,
            "/v1/garbage": self.garbage,
            "/v1/two-replies": self.two_replies,
            "/v1/last": self.last,
            "/v1/early-hints": self.early_hints,
            "/v1/own-cors": self.own_cors,
            "/v1/half-head": self.half_head,
        }

    async def run(self) -> None:
        while self.open:
            try:
                head = await self.reader.readuntil(b"\r\n\r\n")
            except asyncio.IncompleteReadError:
                return
            request = Received(head, self.number)
            self.engine.requests.append(request)
            self.engine.arrived.set()
            await self.paths.get(request.target.partition("?")[0], self.echo)(request)

    async def read_body(self, request: Received) -> None:
        if request.header("expect") == "100-continue":
            await self.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        if request.header("transfer-encoding") == "chunked":
            await self._read_chunks(request)
        else:
            request.raw_body = request.body = await self.reader.readexactly(int(request.header("content-length") or 0))

    async def _read_chunks(self, request: Received) -> None:
        while True:
            line = await self.reader.readuntil(b"\r\n")
            request.raw_body += line
            size = int(line.partition(b";")[0], 16)
            if not size:
                break
            data = await self.reader.readexactly(size + 2)
            request.raw_body += data
            request.body += data[:-2]
        while line != b"\r\n":
            line = await self.reader.readuntil(b"\r\n")
            request.raw_body += line

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def reply(self, body: bytes, status: bytes = b"200 OK", more: bytes = b"", *, with_body: bool = True) -> None:
        head = b"HTTP/1.1 %b\r\ncontent-type: application/json\r\n%bcontent-length: %d\r\n\r\n"
        await self.send(head % (status, more, len(body)) + (body if with_body else b""))

    async def send_chunk(self, data: bytes) -> None:
        await self.send(b"%x\r\n%b\r\n" % (len(data), data))

    async def watch(self) -> None:
        """Return when the peer hangs up."""
        while await self.reader.read(65536):
            pass
        self.engine.aborted.set()
        self.open = False

    async def echo(self, request: Received) -> None:
        await self.read_body(request)
        keep = not self.engine.close_idle
        with_body = request.method != "HEAD"
        await self.reply(request.body or request.target.encode(), more=b"x-engine: simulator\r\n", with_body=with_body)
        self.open = keep

    async def metrics(self, request: Received) -> None:
        head = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain; version=0.0.4\r\ncontent-length: %d\r\n\r\n"
        await self.send(head % len(METRICS) + METRICS)

    async def stream(self, request: Received) -> None:
        await self.read_body(request)
        await self.send(STREAM_HEAD)
        while (chunk := await self.engine.chunks.get()) is not None:
            await self.send_chunk(chunk)
        await self.send(b"0\r\n\r\n")

    async def hold(self, request: Received) -> None:
        await self.read_body(request)
        await self.send(STREAM_HEAD)
        await self.send_chunk(b"data: first\n\n")
        await self.watch()

    async def flood(self, request: Received) -> None:
        await self.send(STREAM_HEAD)
        block = b"x" * 65536
        try:
            while True:
                await self.send_chunk(block)
                self.engine.flooded_bytes += len(block)
        except ConnectionError:
            self.engine.aborted.set()
            raise

    async def never_read(self, request: Received) -> None:
        self.writer.transport.pause_reading()  # type: ignore[attr-defined]  # a stream's transport has it
        await self.engine.released.wait()
        self.writer.transport.resume_reading()  # type: ignore[attr-defined]
        await self.echo(request)

    async def close_early(self, request: Received) -> None:
        await self.read_body(request)
        self.open = False

    async def close_mid_chunk(self, request: Received) -> None:
        await self.send(STREAM_HEAD)
        await self.send_chunk(b"data: half\n\n")
        await self.engine.released.wait()
        reset(self.writer)
        self.open = False

    async def close_mid_length(self, request: Received) -> None:
        await self.send(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf")
        self.open = False

    async def until_eof(self, request: Received) -> None:
        await self.send(b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\n\r\nall of it")
        self.writer.write_eof() if self.writer.can_write_eof() else None
        self.open = False

    async def until_reset(self, request: Received) -> None:
        await self.send(b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\n\r\nsome of it")
        await self.engine.released.wait()
        reset(self.writer)
        self.open = False

    async def upgrade(self, request: Received) -> None:
        await self.send(b"HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\r\nhello ")
        while (data := await self.reader.read(65536)) and data != b"close":
            await self.send(data)
        await self.send(b" goodbye")
        self.open = False

    async def upgrade_unasked(self, request: Received) -> None:
        await self.send(b"HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\r\n")
        await self.watch()

    async def no_content(self, request: Received) -> None:
        await self.send(b"HTTP/1.1 204 No Content\r\n\r\n")

    async def not_modified(self, request: Received) -> None:
        await self.send(b"HTTP/1.1 304 Not Modified\r\ncontent-length: 10\r\n\r\n")

    async def too_large(self, request: Received) -> None:
        await self.reply(b"{}", b"413 Content Too Large")
        await self.watch()

    async def garbage(self, request: Received) -> None:
        await self.send(b"SSH-2.0-OpenSSH_9.2\r\n")
        await self.watch()

    async def two_replies(self, request: Received) -> None:
        await self.send(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")
        await self.watch()

    async def last(self, request: Received) -> None:
        await self.reply(b"bye", more=b"connection: close\r\n")
        self.open = False

    async def early_hints(self, request: Received) -> None:
        await self.send(b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n")
        await self.reply(b"after hints")

    async def own_cors(self, request: Received) -> None:
        own = b"Access-Control-Allow-Origin: https://engine.test\r\nx-engine: simulator\r\n"
        await self.reply(b"cors", more=own)

    async def half_head(self, request: Received) -> None:
        await self.send(b"HTTP/1.1 200 OK\r\nx-engine: sim")
        self.open = False
