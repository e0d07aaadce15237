"""Connections to the engine: made, kept, lost, replaced."""

from __future__ import annotations

import asyncio
import errno
import socket
from pathlib import Path

import pytest

from lading.backends.interface import Endpoint
from lading.gateway.upstream import end_output
from tests.gateway.harness import LOOPS, RawClient, Service, scenario, service
from tests.simulators.engine_http import EngineSimulator

every_loop = pytest.mark.parametrize("loop", LOOPS)


@every_loop
@scenario
async def test_an_engine_that_cannot_be_reached_is_a_503_with_advice(loop: str, socket_path: Path | None) -> None:
    async with service(socket_path=socket_path) as running:
        nobody = Endpoint(socket_path=Path("/nowhere/engine.sock")) if socket_path else Endpoint(port=free_port())
        running.gateway.attach_engine(nobody)
        client = await running.client()
        reply = await client.post("/v1/chat/completions", b"{}")
        assert (reply.status, reply.headers["retry-after"]) == (503, "5")
        assert str(nobody) in reply.json()["error"]["message"]
        assert (await client.get("/v1/health/live")).status == 200


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
        assert isinstance(port, int)
        return port


async def stale(running: Service) -> RawClient:
    """A client whose kept engine connection is gone while nobody has noticed."""
    client = await running.client()
    await client.get("/v1/echo")
    (connection,) = running.gateway._context.connections
    upstream = connection._upstream
    assert upstream
    upstream.pause()  # the end of the connection stays unread in the kernel
    running.engine.die()
    while running.engine._writers:
        await asyncio.sleep(0.01)
    return client


@every_loop
@scenario
async def test_a_kept_engine_connection_that_is_gone_is_replaced_for_a_get(loop: str) -> None:
    async with service() as running:
        client = await stale(running)
        assert (await client.get("/v1/echo?again")).body == b"/v1/echo?again"


@scenario
async def test_a_kept_engine_connection_that_is_gone_is_replaced_while_no_body_was_sent() -> None:
    async with service() as running:
        client = await stale(running)
        await client.send(b"POST /v1/echo HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 5\r\n\r\n")
        assert await client.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        await client.send(b"hello")
        assert (await client.reply()).body == b"hello"


@scenario
async def test_a_request_that_the_engine_may_have_acted_on_is_not_made_twice() -> None:
    async with service() as running:
        client = await stale(running)
        seen = len(running.engine.requests)
        assert (await client.post("/v1/echo", b"once")).status == 502
        assert len(running.engine.requests) == seen


@scenario
async def test_an_engine_that_closes_idle_connections_is_connected_to_anew() -> None:
    async with service() as running:
        running.engine.close_idle = True
        client = await running.client()
        for n in range(5):
            reply = await client.post("/v1/echo", b"%d" % n)
            assert (reply.status, reply.body) == (200, b"%d" % n)
            while running.engine._writers:
                await asyncio.sleep(0.001)
            await asyncio.sleep(0.01)
        assert running.engine.connections == 5


@scenario
async def test_an_old_idle_engine_connection_is_not_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    async with service() as running:
        client = await running.client()
        await client.get("/v1/echo")
        (connection,) = running.gateway._context.connections
        assert connection._upstream
        connection._upstream.idle_since -= 60
        assert (await client.post("/v1/echo", b"x")).status == 200
        assert running.engine.connections == 2


@scenario
async def test_an_idle_engine_connection_on_which_the_engine_speaks_is_dropped() -> None:
    async with service() as running:
        client = await running.client()
        await client.get("/v1/echo")
        (writer,) = running.engine._writers
        writer.write(b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\n\r\n")
        while running.engine._writers:
            await asyncio.sleep(0.001)
        reply = await client.post("/v1/echo", b"mine")
        assert (reply.status, reply.body) == (200, b"mine")


@scenario
async def test_an_engine_connection_with_unread_bytes_is_not_used_again() -> None:
    async with service() as running:
        client = await running.client()
        await client.get("/v1/echo")
        (connection,) = running.gateway._context.connections
        assert connection._upstream
        connection._upstream.pause_writing()
        assert (await client.post("/v1/echo", b"x")).status == 200
        assert running.engine.connections == 2


@scenario
async def test_the_engine_can_be_exchanged_under_a_kept_connection() -> None:
    async with service() as running, EngineSimulator() as other:
        client = await running.client()
        await client.get("/v1/echo?1")
        running.gateway.attach_engine(other.endpoint)
        await client.get("/v1/echo?2")
        running.gateway.attach_engine(None)
        assert (await client.get("/v1/echo?3")).status == 503
        running.gateway.attach_engine(running.engine.endpoint)
        await client.get("/v1/echo?4")
        assert [each.target for each in running.engine.requests] == ["/v1/echo?1", "/v1/echo?4"]
        assert [each.target for each in other.requests] == ["/v1/echo?2"]


class GoneTransport(asyncio.Transport):
    """What a socket transport is between the peer's reset and the loop's notice of it."""

    aborted = False

    def write_eof(self) -> None:
        raise OSError(errno.ENOTCONN, "Transport endpoint is not connected")

    def abort(self) -> None:
        self.aborted = True


def test_ending_the_output_to_a_peer_that_is_gone_is_no_trouble() -> None:
    transport = GoneTransport()
    end_output(transport)
    assert transport.aborted
