"""One client connection: order, framing, keep-alive, deadlines. Real sockets, a real stand-in engine."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Awaitable, Callable
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lading.events import Phase, PhaseChanged
from tests.gateway.harness import LOOPS, RawClient, Service, post, scenario, service
from tests.gateway.test_heads import REFUSED

every_loop = pytest.mark.parametrize("loop", LOOPS)
LIVE = b"GET /v1/health/live HTTP/1.1\r\nhost: a\r\n\r\n"
ECHO = b"GET /v1/echo?%d HTTP/1.1\r\nhost: a\r\n\r\n"


@every_loop
@scenario
async def test_live_is_answered_from_the_first_second_without_an_engine(loop: str) -> None:
    async with service(phase=Phase.RESOLVING) as running:
        running.gateway.attach_engine(None)
        client = await running.client()
        live = await client.get("/v1/health/live")
        assert (live.status, live.json()["status"]) == (200, "live")
        assert live.headers["content-type"] == "application/json"
        assert "date" in live.headers
        ready = await client.get("/v1/health/ready")
        assert (ready.status, ready.headers["retry-after"]) == (503, "5")
        assert running.engine.connections == 0


@scenario
async def test_who_waits_to_continue_before_ready_is_told_at_once() -> None:
    async with service(phase=Phase.LOADING) as running:
        client = await running.client()
        await client.send(b"POST /v1/x HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 5\r\n\r\n")
        reply = await client.reply()
        assert (reply.status, reply.headers["connection"]) == (503, "close")
        assert await client.at_end()


@scenario
async def test_a_chunked_body_before_ready_that_came_with_its_head_keeps_the_connection() -> None:
    async with service(phase=Phase.LOADING) as running:
        client = await running.client()
        body = b"3\r\nabc\r\n0\r\n\r\n"
        await client.send(b"POST /v1/x HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n" + body)
        assert (await client.reply()).status == 503
        assert (await client.get("/v1/health/live")).status == 200


@scenario
async def test_head_has_no_body() -> None:
    async with service() as running:
        client = await running.client()
        reply = await client.get("/v1/health/live", method="HEAD")
        assert reply.headers["content-length"] == str(len((await client.get("/v1/health/live")).body))


@scenario
async def test_wrong_methods_on_our_paths_are_405_and_never_reach_the_engine() -> None:
    async with service() as running:
        client = await running.client()
        for path in ("/v1/health/live", "/metrics"):
            reply = await client.post(path, b"{}")
            assert (reply.status, reply.headers["allow"] in ("GET, HEAD", "HEAD, GET")) == (405, True)
        assert running.engine.requests == []


@scenario
async def test_paths_that_only_look_like_ours_are_the_engines() -> None:
    async with service() as running:
        client = await running.client()
        for path in (
            "/v1/health/live/",
            "/v1//health/live",
            "/v1/health/%6cive",
            "/v1/x/../health/live",
            "/V1/health/live",
        ):
            assert (await client.get(path)).body.decode() == path
        assert running.engine.requests[0].target == "/v1/health/live/"
        assert (await client.get("/v1/health/live?probe=1")).json()["status"] == "live"


SHORT_REFUSED = {name: case for name, case in REFUSED.items() if name != "http/0.9 without an end"}


@pytest.mark.parametrize(("data", "status"), SHORT_REFUSED.values(), ids=SHORT_REFUSED.keys())
@scenario
async def test_ambiguous_requests_are_refused_and_the_connection_closed(data: bytes, status: int) -> None:
    async with service() as running:
        client = await running.client()
        await client.send(data + LIVE)
        reply = await client.reply()
        assert (reply.status, reply.headers["connection"]) == (status, "close")
        assert reply.json()["error"]["code"] == status
        assert await client.at_end()
        assert running.engine.requests == []


@scenario
async def test_http_0_9_is_refused_without_waiting_for_more() -> None:
    async with service() as running:
        client = await running.client()
        await client.send(b"GET /\r\n")
        assert (await client.reply()).status == 400
        assert await client.at_end()


SMUGGLED = b"GET /v1/smuggled HTTP/1.1\r\nhost: a\r\n\r\n"
POST = b"POST /v1/x HTTP/1.1\r\nhost: a\r\n"
CHUNKED = POST + b"transfer-encoding: chunked\r\n"
WEBSOCKET = b"GET /v1/upgrade HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n"
SMUGGLING = {
    "cl.te": POST + b"content-length: 6\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\nG",
    "te.cl": CHUNKED + b"content-length: 3\r\n\r\n1\r\nZ\r\n0\r\n\r\n",
    "te.te": CHUNKED + b"transfer-encoding: cow\r\n\r\n0\r\n\r\n",
    "te with space before the colon": POST + b"transfer-encoding : chunked\r\n\r\n0\r\n\r\n",
    "cl behind a bare lf": POST[:-2] + b"\ncontent-length: 0\r\ncontent-length: 40\r\n\r\n",
    "te in a folded line": POST + b"x: y\r\n transfer-encoding: chunked\r\n\r\n",
    "bare cr splits a field": POST + b"x: y\rcontent-length: 40\r\n\r\n",
    "chunk size with 0x": CHUNKED + b"\r\n0x0\r\n\r\n",
    "bare lf in a chunk extension": CHUNKED + b"\r\n2;\nxx\r\n0\r\n\r\n",
    "bare lf ends a chunk": CHUNKED + b"\r\n5\r\nAAAAA\n0\r\n\r\n",
    "chunk size overflows": CHUNKED + b"\r\n10000000000000000\r\n",
    "trailer changes the framing": CHUNKED + b"\r\n0\r\ncontent-length: 40\r\n\r\n",
    "upgrade with a body": WEBSOCKET + b"content-length: 40\r\n\r\n",
}


@pytest.mark.parametrize("data", SMUGGLING.values(), ids=SMUGGLING.keys())
@scenario
async def test_nothing_is_smuggled(data: bytes) -> None:
    async with service() as running:
        client = await running.client()
        await client.send(data + SMUGGLED)
        assert (await client.reply()).status == 400
        assert await client.at_end()
        await (await running.client()).get("/v1/echo")
        assert all(b"smuggled" not in each.head for each in running.engine.requests)


@scenario
async def test_a_request_inside_a_body_stays_in_the_body() -> None:
    async with service() as running:
        client = await running.client()
        assert (await client.post("/v1/echo", SMUGGLED)).body == SMUGGLED
        framed = b"%x\r\n%b\r\n0\r\n\r\n" % (len(SMUGGLED), SMUGGLED)
        await client.send(b"POST /v1/echo HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n" + framed)
        assert (await client.reply()).body == SMUGGLED
        assert [each.target for each in running.engine.requests] == ["/v1/echo", "/v1/echo"]


@every_loop
@scenario
async def test_pipelined_requests_are_answered_in_order_whoever_answers(loop: str) -> None:
    async with service() as running:
        client = await running.client()
        chunked = (
            b"POST /v1/echo HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n4\r\nfive\r\n0\r\nx: y\r\n\r\n"
        )
        await client.send(ECHO % 1 + LIVE + post("/v1/echo", b"three") + LIVE + chunked + ECHO % 6)
        bodies = [(await client.reply()).body for _ in range(6)]
        assert bodies[0::2] == [b"/v1/echo?1", b"three", b"five"]
        assert [json.loads(bodies[i])["status"] for i in (1, 3)] == ["live", "live"]
        assert bodies[5] == b"/v1/echo?6"


@scenario
async def test_the_next_request_waits_for_the_end_of_a_stream() -> None:
    async with service() as running:
        client = await running.client()
        await client.send(b"GET /v1/stream HTTP/1.1\r\nhost: a\r\n\r\n" + LIVE + ECHO % 2)
        running.engine.chunks.put_nowait(b"one")
        head = await client.reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 OK")
        assert await client.reader.readexactly(8) == b"3\r\none\r\n"
        assert len(running.engine.requests) == 1
        running.engine.chunks.put_nowait(None)
        assert await client.reader.readexactly(5) == b"0\r\n\r\n"
        assert (await client.reply()).json()["status"] == "live"
        assert (await client.reply()).body == b"/v1/echo?2"


@scenario
async def test_a_client_that_leaves_while_we_answer_gets_no_further_requests_done() -> None:
    async with service() as running:
        finish = asyncio.Event()
        begun = asyncio.Event()

        async def slow(_scope: object, _receive: object, send: Callable[[dict[str, object]], Awaitable[None]]) -> None:
            begun.set()
            await finish.wait()
            await send({"type": "http.response.start", "status": 200, "headers": []})

        running.gateway._context.app = slow
        client = await running.client()
        await client.send(LIVE + ECHO % 1)
        await begun.wait()
        (connection,) = running.gateway._context.connections
        finish.set()
        await asyncio.sleep(0)
        connection.connection_lost(None)
        connection.abort()
        for _ in range(10):
            await asyncio.sleep(0)
        assert running.engine.requests == []


@every_loop
@scenario
async def test_one_connection_to_the_engine_serves_one_client_connection(loop: str) -> None:
    async with service() as running:
        client = await running.client()
        for n in range(5):
            assert (await client.get(f"/v1/echo?{n}")).status == 200
        assert [each.connection for each in running.engine.requests] == [1] * 5


@pytest.mark.parametrize(
    ("request_head", "closes"),
    [
        (b"GET /v1/health/live HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n", True),
        (b"GET /v1/health/live HTTP/1.0\r\n\r\n", True),
        (b"GET /v1/health/live HTTP/1.0\r\nconnection: keep-alive\r\n\r\n", False),
        (b"GET /v1/echo HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n", True),
        (b"GET /v1/last HTTP/1.1\r\nhost: a\r\n\r\n", True),
        (b"GET /v1/echo HTTP/1.1\r\nhost: a\r\n\r\n", False),
    ],
    ids=["close", "1.0", "1.0 keep-alive", "engine, close", "engine closes", "engine"],
)
@scenario
async def test_connections_are_kept_as_both_sides_wish(request_head: bytes, closes: bool) -> None:
    async with service() as running:
        client = await running.client()
        await client.send(request_head)
        assert (await client.reply()).status == 200
        if closes:
            assert await client.at_end()
        else:
            assert (await client.get("/v1/echo")).status == 200


@scenario
async def test_a_client_that_ends_its_input_still_gets_our_replies() -> None:
    async with service() as running:
        client = await running.client()
        await client.send(LIVE + LIVE)
        client.writer.write_eof()
        assert (await client.reply()).json()["status"] == "live"
        assert (await client.reply()).json()["status"] == "live"
        assert await client.at_end()


@every_loop
@scenario
async def test_a_client_that_ends_its_input_gets_no_engine_request_begun(loop: str) -> None:
    async with service() as running:
        client = await running.client()
        await client.send(LIVE + b"POST /v1/echo HTTP/1.1\r\nhost: a\r\ncontent-length: 50\r\n\r\nhalf")
        client.writer.write_eof()
        assert (await client.reply()).json()["status"] == "live"
        assert await client.at_end()
        assert running.engine.requests == []
        assert running.gateway._context.traffic.in_flight == 0


@scenario
async def test_a_client_that_ends_its_input_in_a_body_is_answered_and_closed() -> None:
    async with service(phase=Phase.LOADING) as running:
        client = await running.client()
        await client.send(b"POST /v1/x HTTP/1.1\r\nhost: a\r\ncontent-length: 10\r\n\r\nhalf")
        client.writer.write_eof()
        assert (await client.reply()).status == 503
        assert await client.at_end()


@every_loop
@scenario
async def test_small_packets_go_out_at_once(loop: str) -> None:
    async with service() as running:
        client = await running.client()
        await client.get("/v1/health/live")
        (connection,) = running.gateway._context.connections
        sock = connection._transport.get_extra_info("socket")
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


@scenario
async def test_an_application_that_fails_is_a_500_and_is_reported() -> None:
    async with service() as running:

        async def broken(*_: object) -> None:
            raise RuntimeError("broken on purpose")

        reported: list[str] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(str(context["exception"])))
        running.gateway._context.app = broken
        client = await running.client()
        assert (await client.get("/v1/health/live")).status == 500
        assert reported == ["broken on purpose"]


STREAM = (
    ECHO % 1
    + LIVE
    + post("/v1/echo", b"abc")
    + b"\r\n"
    + b"POST /v1/echo HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n"
    + b"3;x=y\r\nabc\r\n2\r\nde\r\n0\r\nz: z\r\n\r\n"
    + b"GET /v1/health/live HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n"
)


async def answered(running: Service, pieces: list[bytes]) -> list[tuple[int, bytes]]:
    client: RawClient = await running.client()
    for piece in pieces:
        await client.send(piece)
        await asyncio.sleep(0)
    replies = [await client.reply() for _ in range(5)]
    assert await client.at_end()
    return [(reply.status, reply.body) for reply in replies]


@settings(max_examples=60, deadline=None)
@given(st.sets(st.integers(1, len(STREAM) - 1), max_size=12))
def test_a_stream_of_requests_means_the_same_in_any_pieces(cuts: set[int]) -> None:
    borders = [0, *sorted(cuts), len(STREAM)]

    @scenario
    async def compare() -> None:
        async with service() as running:
            pieces = [STREAM[a:b] for a, b in pairwise(borders)]
            assert await answered(running, pieces) == await answered(running, [STREAM])
            heads = [each.head for each in running.engine.requests]
            assert heads[:3] == heads[3:]

    compare()


@scenario
async def test_a_status_that_stops_being_ready_turns_new_requests_away_and_lets_streams_run() -> None:
    async with service() as running:
        streaming, other = await running.client(), await running.client()
        await streaming.send(b"GET /v1/stream HTTP/1.1\r\nhost: a\r\n\r\n")
        await streaming.reader.readuntil(b"\r\n\r\n")
        running.status.report(PhaseChanged(Phase.STOPPING))
        reply = await other.get("/v1/models")
        assert (reply.status, reply.json()["error"]["message"]) == (503, "The service is stopping.")
        running.engine.chunks.put_nowait(b"on")
        assert await streaming.reader.readexactly(7) == b"2\r\non\r\n"
