"""Requests through the engine: bytes, order, back-pressure, failures. Real sockets, a real stand-in engine."""

from __future__ import annotations

import asyncio
import hashlib
import os
import socket
from pathlib import Path

import pytest

from tests.gateway.harness import LOOPS, Service, post, scenario, service

every_loop = pytest.mark.parametrize("loop", LOOPS)


def get(path: str, *headers: str) -> bytes:
    return "\r\n".join([f"GET {path} HTTP/1.1", "host: a", *headers, "", ""]).encode()


@every_loop
@scenario
async def test_heads_reach_the_engine_and_come_back_byte_for_byte(loop: str, socket_path: Path | None) -> None:
    async with service(socket_path=socket_path) as running:
        client = await running.client()
        head = (
            b"POST /v1/echo?q=%2F HTTP/1.1\r\nHost: a:8000\r\nX-Request-Id: 42\r\n"
            b"traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n"
            b"Authorization: Bearer  secret\r\nx-odd:\t caf\xe9 \r\nConnection: keep-alive\r\nTE: trailers\r\n"
            b"Content-Length: 4\r\n\r\n"
        )
        await client.send(head + b"body")
        reply = await client.reply()
        assert running.engine.requests[0].head == head
        assert reply.raw == (
            b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nx-engine: simulator\r\ncontent-length: 4\r\n\r\n"
        )
        assert reply.body == b"body"


@every_loop
@scenario
async def test_a_large_upload_and_its_echo_are_exact(loop: str, socket_path: Path | None) -> None:
    data = os.urandom((1 << 20) + 7)
    async with service(socket_path=socket_path) as running:
        client = await running.client()
        sending = asyncio.ensure_future(client.send(post("/v1/echo", data)))
        reply = await client.reply()
        await sending
        assert hashlib.sha256(reply.body).digest() == hashlib.sha256(data).digest()


@every_loop
@scenario
async def test_a_chunked_upload_keeps_its_framing(loop: str) -> None:
    pieces = [os.urandom(size) for size in (1, 70_000, 15, 300_000)]
    framed = b"".join(b"%x;n=%d\r\n%b\r\n" % (len(each), n, each) for n, each in enumerate(pieces))
    framed += b"0\r\nx-digest: abc\r\n\r\n"
    async with service() as running:
        client = await running.client()
        await client.send(b"POST /v1/echo HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n")
        sending = asyncio.ensure_future(client.send(framed))
        reply = await client.reply()
        await sending
        assert reply.body == b"".join(pieces)
        assert running.engine.requests[0].raw_body == framed


@every_loop
@scenario
async def test_each_chunk_of_a_stream_arrives_when_it_is_sent(loop: str, socket_path: Path | None) -> None:
    async with service(socket_path=socket_path) as running:
        client = await running.client()
        await client.send(post("/v1/stream", b'{"stream":true}'))
        assert (await client.reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 OK")
        for n in range(20):
            chunk = b"data: %02d\n\n" % n
            running.engine.chunks.put_nowait(chunk)
            assert await client.reader.readexactly(len(chunk) + 5) == b"a\r\n" + chunk + b"\r\n"
        running.engine.chunks.put_nowait(None)
        assert await client.reader.readexactly(5) == b"0\r\n\r\n"
        assert (await client.get("/v1/echo")).status == 200


@every_loop
@pytest.mark.parametrize("how", ["close", "reset", "end of input"])
@scenario
async def test_a_client_that_leaves_aborts_its_generation(loop: str, how: str, socket_path: Path | None) -> None:
    async with service(socket_path=socket_path) as running:
        client = await running.client()
        await client.send(post("/v1/hold", b"{}"))
        await client.reader.readuntil(b"data: first\n\n\r\n")
        match how:
            case "close":
                client.writer.close()
            case "reset":
                client.writer.transport.abort()
            case _:
                client.writer.write_eof()
        await running.engine.aborted.wait()


@scenario
async def test_a_client_that_leaves_before_the_reply_aborts_too() -> None:
    async with service() as running:
        client = await running.client()
        await client.send(b"POST /v1/echo HTTP/1.1\r\nhost: a\r\ncontent-length: 100\r\n\r\npart")
        await running.engine.arrived.wait()
        client.writer.transport.abort()
        await running.engine.aborted.wait()


@every_loop
@scenario
async def test_a_client_that_never_reads_stops_the_engine_and_fills_no_memory(loop: str) -> None:
    async with service() as running:
        client = await running.client()
        client.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        await client.send(get("/v1/flood"))
        await client.reader.readuntil(b"\r\n\r\n")
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]  # a stream's transport has it
        before = -1
        while running.engine.flooded_bytes != before:
            before = running.engine.flooded_bytes
            await asyncio.sleep(0.2)
        (connection,) = running.gateway._context.connections
        assert connection._transport.get_write_buffer_size() <= 65536 + 262144
        assert running.engine.flooded_bytes < 32 << 20
        client.writer.transport.abort()
        await running.engine.aborted.wait()


@every_loop
@scenario
async def test_an_engine_that_does_not_read_stops_the_client(loop: str) -> None:
    data = os.urandom(32 << 20)
    async with service() as running:
        client = await running.client()
        sending = asyncio.ensure_future(client.send(post("/v1/never-read", data)))
        await running.engine.arrived.wait()
        (connection,) = running.gateway._context.connections
        before = -1
        while before != (left := client.writer.transport.get_write_buffer_size()):
            before = left
            await asyncio.sleep(0.2)
        upstream = connection._exchange._upstream  # type: ignore[union-attr]
        assert upstream._transport.get_write_buffer_size() <= 65536 + 262144
        assert not sending.done()
        running.engine.released.set()
        reply = await client.reply()
        assert reply.body == data
        await sending


@every_loop
@scenario
async def test_who_waits_to_continue_is_told_by_the_engine(loop: str) -> None:
    async with service() as running:
        client = await running.client()
        await client.send(b"POST /v1/echo HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 5\r\n\r\n")
        assert await client.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        await client.send(b"hello")
        assert (await client.reply()).body == b"hello"
        assert (await client.get("/v1/echo")).status == 200


@scenario
async def test_interim_replies_pass() -> None:
    async with service() as running:
        client = await running.client()
        await client.send(get("/v1/early-hints"))
        assert (await client.reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 103 ")
        assert (await client.reply()).body == b"after hints"


WEBSOCKET = ("connection: Upgrade", "upgrade: websocket")


@every_loop
@scenario
async def test_an_upgraded_connection_is_a_pipe_in_both_directions(loop: str, socket_path: Path | None) -> None:
    async with service(socket_path=socket_path) as running:
        client = await running.client()
        await client.send(get("/v1/upgrade", *WEBSOCKET) + b"early ")
        assert (await client.reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
        assert await client.reader.readexactly(12) == b"hello early "
        await client.send(b"GET /v1/health/live HTTP/1.1\r\n\r\n")
        assert await client.reader.readexactly(32) == b"GET /v1/health/live HTTP/1.1\r\n\r\n"
        client.writer.write_eof()
        assert await client.reader.read() == b" goodbye"


@scenario
async def test_an_upgraded_connection_ends_with_the_engine() -> None:
    async with service() as running:
        client = await running.client()
        await client.send(get("/v1/upgrade", *WEBSOCKET))
        await client.reader.readuntil(b"hello ")
        running.engine.die()
        assert await client.reader.read() == b""


@scenario
async def test_an_upgraded_connection_that_the_client_resets_ends_at_the_engine() -> None:
    async with service() as running:
        client = await running.client()
        await client.send(get("/v1/upgrade", *WEBSOCKET))
        await client.reader.readuntil(b"hello ")
        client.writer.transport.abort()
        while running.engine._writers:
            await asyncio.sleep(0.01)


@scenario
async def test_an_offer_that_is_declined_leaves_plain_requests() -> None:
    async with service() as running:
        client = await running.client()
        await client.send(get("/v1/echo?1", *WEBSOCKET) + get("/v1/echo?2"))
        assert [(await client.reply()).body for _ in range(2)] == [b"/v1/echo?1", b"/v1/echo?2"]


@scenario
async def test_an_upgrade_that_nobody_offered_is_a_502() -> None:
    async with service() as running:
        client = await running.client()
        reply = await client.get("/v1/upgrade-unasked")
        assert reply.status == 502
        await running.engine.aborted.wait()


@scenario
async def test_a_java_client_offering_http2_is_served_with_its_body() -> None:
    async with service() as running:
        client = await running.client()
        headers = "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAA\r\n"
        reply = await client.post("/v1/echo", b'{"model":"m"}', headers)
        assert reply.body == b'{"model":"m"}'
        assert b"pgrade" not in running.engine.requests[0].head


@every_loop
@scenario
async def test_replies_without_bodies_end_at_their_head(loop: str) -> None:
    async with service() as running:
        client = await running.client()
        head = await client.get("/v1/echo", method="HEAD")
        assert head.headers["content-length"] == "8"
        assert (await client.get("/v1/no-content")).status == 204
        assert (await client.get("/v1/not-modified")).status == 304
        assert (await client.get("/v1/echo")).body == b"/v1/echo"
        assert [each.connection for each in running.engine.requests] == [1] * 4


@scenario
async def test_a_reply_that_ends_with_the_connection_is_passed_whole() -> None:
    async with service() as running:
        client = await running.client()
        reply = await client.get("/v1/until-eof")
        assert (reply.body, reply.whole) == (b"all of it", True)


@every_loop
@scenario
async def test_a_reply_that_only_a_reset_ends_is_reset_for_the_client_too(loop: str) -> None:
    async with service() as running:
        client = await running.client()
        await client.send(get("/v1/until-reset"))
        await client.reader.readuntil(b"some of it")
        running.engine.released.set()
        with pytest.raises(ConnectionResetError):
            await client.reader.read()


@every_loop
@scenario
async def test_an_engine_that_dies_in_a_stream_leaves_no_proper_end(loop: str, socket_path: Path | None) -> None:
    async with service(socket_path=socket_path) as running:
        client = await running.client()
        await client.send(get("/v1/close-mid-chunk"))
        await client.reader.readuntil(b"data: half\n\n\r\n")
        running.engine.released.set()
        assert await client.reader.read() == b""


@scenario
async def test_a_reply_shorter_than_it_says_stays_short() -> None:
    async with service() as running:
        client = await running.client()
        reply = await client.get("/v1/close-mid-length")
        assert (reply.body, reply.whole) == (b"half", False)


@pytest.mark.parametrize("path", ["/v1/close-early", "/v1/garbage", "/v1/two-replies"])
@scenario
async def test_an_engine_that_does_not_answer_properly_is_a_502(path: str) -> None:
    async with service() as running:
        client = await running.client()
        reply = await client.post(path, b"{}")
        assert (reply.status, reply.json()["error"]["type"]) == (502, "engine_unavailable")
        assert (await client.get("/v1/echo")).status == 200


@scenario
async def test_an_early_reply_to_an_unfinished_upload_is_passed_and_the_rest_dropped() -> None:
    async with service() as running:
        client = await running.client()
        await client.send(b"POST /v1/too-large HTTP/1.1\r\nhost: a\r\ncontent-length: 500000\r\n\r\n" + b"x" * 1000)
        assert (await client.reply()).status == 413
        await running.engine.aborted.wait()
        await client.send(b"x" * 499_000)
        assert (await client.get("/v1/echo")).status == 200


@scenario
async def test_an_early_reply_to_a_chunked_upload_ends_the_connection_after_it() -> None:
    async with service() as running:
        client = await running.client()
        await client.send(b"POST /v1/too-large HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n5\r\nab")
        assert (await client.reply()).status == 413
        assert await client.at_end()


@every_loop
@scenario
async def test_a_malformed_chunk_in_an_upload_aborts_it(loop: str) -> None:
    async with service() as running:
        client = await running.client()
        await client.send(b"POST /v1/echo HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n")
        await running.engine.arrived.wait()
        await client.send(b"nonsense\r\n")
        reply = await client.reply()
        assert (reply.status, reply.headers["connection"]) == (400, "close")
        assert await client.at_end()
        await running.engine.aborted.wait()


@scenario
async def test_a_malformed_chunk_after_the_reply_began_cuts_it() -> None:
    async with service() as running:
        client = await running.client()
        await client.send(b"POST /v1/flood HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n")
        await client.reader.readuntil(b"\r\n\r\n")
        await client.send(b"nonsense\r\n")
        rest = await client.reader.read()
        while block := await client.reader.read(1 << 20):
            rest = block
        assert not rest.endswith(b"0\r\n\r\n")


@every_loop
@scenario
async def test_many_clients_at_once_get_their_own_replies(loop: str, socket_path: Path | None) -> None:
    async def one(running: Service, number: int) -> None:
        client = await running.client()
        for n in range(5):
            body = b"%d-%d" % (number, n)
            assert (await client.post("/v1/echo", body)).body == body

    async with service(socket_path=socket_path) as running:
        await asyncio.gather(*(one(running, number) for number in range(60)))
        assert running.engine.connections == 60
