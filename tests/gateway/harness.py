"""A gateway with an engine behind it, a client that speaks raw bytes, and a way to run async tests on either loop."""

from __future__ import annotations

import asyncio
import functools
import importlib
import importlib.util
import json
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ParamSpec

from lading.events import Event, Note, Phase, PhaseChanged
from lading.gateway.access import Access
from lading.gateway.context import Limits
from lading.gateway.server import Gateway
from lading.gateway.status import ServiceStatus
from tests.simulators.engine_http import EngineSimulator

LOOPS = ["asyncio", *(["uvloop"] if importlib.util.find_spec("uvloop") else [])]
PATIENCE_SECONDS = 20.0
PLAIN = Access("127.0.0.1", 0)

P = ParamSpec("P")


def scenario(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Make an async test a plain one. A parameter ``loop`` picks the loop; errors that nobody awaited fail the test."""

    @functools.wraps(test)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> None:
        factory = importlib.import_module("uvloop").new_event_loop if kwargs.get("loop") == "uvloop" else None
        stray: list[dict[str, Any]] = []
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.get_loop().set_exception_handler(lambda _loop, context: stray.append(context))
            runner.run(_patiently(test(*args, **kwargs)))
        assert not stray, stray

    return wrapper


async def _patiently(work: Coroutine[Any, Any, None]) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        await work


@dataclass(slots=True)
class Reply:
    """A reply as a client sees it; ``raw`` has every byte of it. ``whole`` is False when it was cut short."""

    raw: bytes
    status: int
    headers: dict[str, str]
    body: bytes
    whole: bool = True

    def json(self) -> Any:
        return json.loads(self.body)


class RawClient:
    """Writes bytes, reads replies."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def get(self, path: str, *, method: str = "GET", headers: str = "") -> Reply:
        await self.send(f"{method} {path} HTTP/1.1\r\nhost: test\r\n{headers}\r\n".encode())
        return await self.reply(method)

    async def post(self, path: str, body: bytes, headers: str = "") -> Reply:
        await self.send(post(path, body, headers))
        return await self.reply("POST")

    async def reply(self, method: str = "GET") -> Reply:
        """The next final reply."""
        while True:
            head = await self.reader.readuntil(b"\r\n\r\n")
            status = int(head.split(b" ", 2)[1])
            headers = {
                name.strip().lower(): value.strip()
                for name, _, value in (line.partition(":") for line in head.decode("latin-1").split("\r\n")[1:-2])
            }
            if status >= 200:
                return await self._with_body(Reply(head, status, headers, b""), method)

    async def at_end(self) -> bool:
        """Whether the gateway closes without another byte."""
        return await self.reader.read(1) == b""

    async def _with_body(self, reply: Reply, method: str) -> Reply:
        try:
            if method == "HEAD" or reply.status in (204, 304):
                pass
            elif reply.headers.get("transfer-encoding") == "chunked":
                await self._read_chunks(reply)
            elif "content-length" in reply.headers:
                reply.body = await self.reader.readexactly(int(reply.headers["content-length"]))
            else:
                reply.body = await self.reader.read()
        except asyncio.IncompleteReadError as error:
            reply.body += error.partial
            reply.whole = False
        except ConnectionError:
            reply.whole = False
        return reply

    async def _read_chunks(self, reply: Reply) -> None:
        while size := int(await self.reader.readuntil(b"\r\n"), 16):
            reply.body += (await self.reader.readexactly(size + 2))[:-2]
        await self.reader.readexactly(2)


def post(path: str, body: bytes, headers: str = "") -> bytes:
    """A POST with a length."""
    head = f"POST {path} HTTP/1.1\r\nhost: test\r\n{headers}content-length: {len(body)}\r\n\r\n"
    return head.encode() + body


@dataclass(slots=True)
class Service:
    """A running gateway. ``engine`` is attached, the status is ready."""

    gateway: Gateway
    status: ServiceStatus
    engine: EngineSimulator
    port: int
    clients: list[RawClient]
    events: list[Event]

    @property
    def warnings(self) -> list[str]:
        return [each.text for each in self.events if isinstance(each, Note) and each.level == "WARNING"]

    async def client(self, tls: ssl.SSLContext | None = None, port: int | None = None) -> RawClient:
        client = RawClient(*await asyncio.open_connection("127.0.0.1", port or self.port, ssl=tls))
        self.clients.append(client)
        return client


@asynccontextmanager
async def service(
    *,
    socket_path: Path | None = None,
    limits: Limits | None = None,
    phase: Phase = Phase.READY,
    access: Access = PLAIN,
) -> AsyncIterator[Service]:
    """A gateway on a free port with an engine attached; both are gone afterwards."""
    async with AsyncExitStack() as stack:
        engine = await stack.enter_async_context(EngineSimulator(socket_path))
        status = ServiceStatus()
        status.report(PhaseChanged(phase))
        events: list[Event] = []
        gateway = Gateway(access, status, version="1.2.3", limits=limits, report=events.append)
        port = await gateway.start()
        stack.push_async_callback(gateway.close)
        gateway.attach_engine(engine.endpoint)
        running = Service(gateway, status, engine, port, [], events)
        try:
            yield running
        finally:
            for client in running.clients:
                client.writer.transport.abort()
