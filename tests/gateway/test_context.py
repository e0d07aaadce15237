"""The gateway's limits: deadlines and bounds, each met by a client that ignores it."""

from __future__ import annotations

import asyncio
import socket

import pytest

from lading.events import Phase
from lading.gateway.context import Limits
from tests.gateway.harness import LOOPS, scenario, service
from tests.gateway.test_connection import ECHO, LIVE

every_loop = pytest.mark.parametrize("loop", LOOPS)


@every_loop
@scenario
async def test_a_small_body_before_ready_is_answered_and_the_connection_kept(loop: str) -> None:
    async with service(phase=Phase.LOADING) as running:
        client = await running.client()
        for _ in range(3):
            reply = await client.post("/v1/chat/completions", b"x" * 300_000)
            assert (reply.status, reply.json()["error"]["phase"]) == (503, "loading")
            assert reply.headers["connection"] == "keep-alive"
        assert running.engine.requests == []


@scenario
async def test_a_large_body_before_ready_is_answered_and_then_the_connection_ends() -> None:
    async with service(phase=Phase.LOADING) as running:
        client = await running.client()
        size = 50 << 20
        await client.send(f"POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\ncontent-length: {size}\r\n\r\n".encode())
        reply = await client.reply()
        assert (reply.status, reply.headers["connection"]) == (503, "close")
        assert await client.at_end()


@scenario
async def test_pipelining_without_reading_is_bounded() -> None:
    async with service() as running:
        client = await running.client()
        client.writer.transport.set_write_buffer_limits(high=1 << 26)
        client.reader._transport.pause_reading()  # type: ignore[attr-defined]
        sock = client.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.writer.write(LIVE * 200_000)
        (connection,) = running.gateway._context.connections
        before = -1
        while before != (left := client.writer.transport.get_write_buffer_size()):
            assert connection._transport.get_write_buffer_size() <= 65536 + 1024
            assert len(connection._heads) < 65536 + 262144
            before = left
            await asyncio.sleep(0.1)
        assert left > 0


@every_loop
@scenario
async def test_a_long_queue_of_requests_is_answered_once_the_client_reads(loop: str) -> None:
    async with service() as running:
        client = await running.client()
        queue = b"".join((ECHO % n) + LIVE for n in range(3000))
        sending = asyncio.ensure_future(client.send(queue))
        await asyncio.sleep(0.3)
        for n in range(3000):
            assert (await client.reply()).body == b"/v1/echo?%d" % n
            assert (await client.reply()).status == 200
        await sending
        assert running.engine.connections < 10


@scenario
async def test_a_slow_head_is_cut_off_even_when_bytes_keep_coming() -> None:
    async with service(limits=Limits(head_seconds=0.2, sweep_seconds=0.05)) as running:
        client = await running.client()

        async def dribble() -> None:
            for byte in LIVE[:-2] * 50:
                client.writer.write(bytes([byte]))
                await asyncio.sleep(0.02)

        task = asyncio.ensure_future(dribble())
        reply = await client.reply()
        assert (reply.status, reply.headers["connection"]) == (408, "close")
        task.cancel()


@pytest.mark.parametrize("limits", [Limits(head_seconds=0.1, sweep_seconds=0.02)], ids=["silent"])
@scenario
async def test_a_connection_that_never_speaks_is_closed(limits: Limits) -> None:
    async with service(limits=limits) as running:
        assert await (await running.client()).at_end()


@scenario
async def test_an_idle_kept_connection_is_closed() -> None:
    async with service(limits=Limits(idle_seconds=0.1, sweep_seconds=0.02)) as running:
        client = await running.client()
        await client.get("/v1/health/live")
        assert await client.at_end()


@scenario
async def test_a_stream_outlives_every_deadline() -> None:
    limits = Limits(head_seconds=0.05, idle_seconds=0.05, linger_seconds=0.05, sweep_seconds=0.01)
    async with service(limits=limits) as running:
        client = await running.client()
        await client.send(b"GET /v1/stream HTTP/1.1\r\nhost: a\r\n\r\n")
        await client.reader.readuntil(b"\r\n\r\n")
        await asyncio.sleep(0.3)
        running.engine.chunks.put_nowait(b"late")
        assert await client.reader.readexactly(9) == b"4\r\nlate\r\n"


@scenario
async def test_who_is_refused_and_never_leaves_is_closed_after_a_while() -> None:
    async with service(limits=Limits(linger_seconds=0.1, sweep_seconds=0.02)) as running:
        client = await running.client()
        await client.send(b"nonsense\r\n\r\n")
        assert (await client.reply()).status == 400
        while running.gateway._context.connections:
            await asyncio.sleep(0.01)
