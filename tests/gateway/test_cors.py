"""What browsers are told, and that nobody else notices."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from lading.events import Phase
from lading.gateway.access import Access
from lading.gateway.cors import Cors, HeadEditor
from lading.gateway.heads import parse_head
from lading.gateway.replies import BadReply
from tests.gateway.harness import LOOPS, scenario, service

every_loop = pytest.mark.parametrize("loop", LOOPS)
EVERYBODY = Cors(("*",), "GET, POST", "Content-Type, *", "X-Request-Id", 600)
FRIENDS = replace(EVERYBODY, origins=("https://a.test", "http://b.test:3000"))
ORIGIN = "origin: https://a.test\r\n"
ASKING = ORIGIN + "access-control-request-method: POST\r\naccess-control-request-headers: authorization\r\n"
FIELDS = ((b"access-control-allow-origin", b"*"),)


def access(cors: Cors) -> Access:
    return Access("127.0.0.1", 0, cors=cors)


@every_loop
@scenario
async def test_a_preflight_is_answered_without_the_engine_and_without_a_body(loop):
    async with service(access=access(EVERYBODY)) as running:
        client = await running.client()
        for path in ("/v1/chat/completions", "/v1/health/ready", "/anything"):
            reply = await client.get(path, method="OPTIONS", headers=ASKING)
            assert (reply.status, reply.body, reply.headers["access-control-allow-origin"]) == (204, b"", "*")
            assert reply.headers["access-control-allow-methods"] == "GET, POST"
            assert reply.headers["access-control-allow-headers"] == "Content-Type, *"
            assert reply.headers["access-control-max-age"] == "600"
            assert "content-length" not in reply.headers
        assert running.engine.requests == []


@scenario
async def test_many_preflights_at_once_are_answered_in_turn():
    async with service(access=access(EVERYBODY)) as running:
        client = await running.client()
        await client.send(f"OPTIONS /v1/x HTTP/1.1\r\nhost: a\r\n{ASKING}\r\n".encode() * 3000)
        for _ in range(3000):
            assert (await client.reply()).status == 204


@scenario
async def test_an_origin_that_is_not_allowed_is_told_so_and_gets_no_fields():
    async with service(access=access(FRIENDS)) as running:
        client = await running.client()
        foreign = ASKING.replace("a.test", "evil.test")
        reply = await client.get("/v1/models", method="OPTIONS", headers=foreign)
        assert (reply.status, reply.json()["error"]["type"]) == (403, "cors_error")
        assert b"access-control-allow" not in reply.raw
        reply = await client.get("/v1/echo", headers="origin: https://evil.test\r\n")
        assert (reply.status, reply.headers["vary"]) == (200, "Origin")
        assert b"access-control" not in reply.raw


@scenario
async def test_an_origin_of_a_list_is_named_in_the_reply():
    async with service(access=access(FRIENDS)) as running:
        client = await running.client()
        reply = await client.post("/v1/echo", b"x", headers=ORIGIN)
        assert reply.headers["access-control-allow-origin"] == "https://a.test"
        assert reply.headers["vary"] == "Origin"
        assert reply.headers["access-control-expose-headers"] == "X-Request-Id"


@pytest.mark.parametrize("path", ["/v1/echo", "/v1/health/live", "/v1/until-eof", "/v1/no-content", "/v1/close-early"])
@every_loop
@scenario
async def test_every_reply_has_the_fields_once(loop, path):
    async with service(access=access(EVERYBODY)) as running:
        reply = await (await running.client()).get(path, headers=ORIGIN)
        assert reply.raw.count(b"access-control-allow-origin: *\r\n") == 1


@scenario
async def test_what_the_engine_says_of_origins_itself_is_replaced():
    async with service(access=access(FRIENDS)) as running:
        client = await running.client()
        reply = await client.get("/v1/own-cors", headers=ORIGIN)
        assert reply.raw.lower().count(b"access-control-allow-origin") == 1
        assert reply.headers["access-control-allow-origin"] == "https://a.test"
        assert reply.headers["x-engine"] == "simulator"
        assert reply.body == b"cors"


@scenario
async def test_a_preflight_and_the_replies_before_ready_have_the_fields_too():
    async with service(access=access(EVERYBODY), phase=Phase.LOADING) as running:
        client = await running.client()
        assert (await client.get("/v1/models", method="OPTIONS", headers=ASKING)).status == 204
        reply = await client.post("/v1/chat/completions", b"{}", headers=ORIGIN)
        assert (reply.status, reply.headers["access-control-allow-origin"]) == (503, "*")


@every_loop
@scenario
async def test_a_client_without_an_origin_gets_the_engines_bytes(loop):
    replies = []
    for cors in (EVERYBODY, None):
        async with service(access=Access("127.0.0.1", 0, cors=cors)) as running:
            client = await running.client()
            replies += [(await client.get(path)).raw for path in ("/v1/echo", "/v1/own-cors", "/v1/echo")]
    assert replies[:3] == replies[3:]
    assert b"Access-Control-Allow-Origin: https://engine.test" in replies[1]


@every_loop
@scenario
async def test_interim_replies_upgrades_and_streams_pass(loop):
    async with service(access=access(EVERYBODY)) as running:
        client = await running.client()
        assert (await client.get("/v1/early-hints", headers=ORIGIN)).body == b"after hints"
        body = b"b" * 100_000
        assert (await client.post("/v1/echo", body, headers=ORIGIN + "expect: 100-continue\r\n")).body == body
        streaming = await running.client()
        await streaming.send(f"GET /v1/stream HTTP/1.1\r\nhost: a\r\n{ORIGIN}\r\n".encode())
        assert b"access-control-allow-origin: *" in await streaming.reader.readuntil(b"\r\n\r\n")
        running.engine.chunks.put_nowait(b"one")
        assert await streaming.reader.readuntil(b"one\r\n") == b"3\r\none\r\n"
        upgrading = await running.client()
        offer = f"GET /v1/upgrade HTTP/1.1\r\nhost: a\r\n{ORIGIN}connection: upgrade\r\nupgrade: websocket\r\n\r\n"
        await upgrading.send(offer.encode())
        assert b"access-control" not in await upgrading.reader.readuntil(b"\r\n\r\n")
        assert await upgrading.reader.readexactly(6) == b"hello "


@scenario
async def test_an_engine_that_dies_within_its_head_is_a_502():
    async with service(access=access(EVERYBODY)) as running:
        client = await running.client()
        assert (await client.get("/v1/echo", headers=ORIGIN)).status == 200
        await client.send(f"GET /v1/half-head HTTP/1.1\r\nhost: a\r\n{ORIGIN}\r\n".encode())
        reply = await asyncio.wait_for(client.reply(), 5)
        assert (reply.status, reply.headers["access-control-allow-origin"]) == (502, "*")
        assert [each.target for each in running.engine.requests] == ["/v1/echo", "/v1/half-head"]  # not tried again


REPLY = b"HTTP/1.1 103 Early Hints\r\nlink: a\r\n\r\nHTTP/1.1 200 OK\r\nAccess-Control-Allow-Origin: x\r\nb: c\r\n\r\nbody\r\n\r\n"
EDITED = b"HTTP/1.1 103 Early Hints\r\nlink: a\r\n\r\nHTTP/1.1 200 OK\r\nb: c\r\naccess-control-allow-origin: *\r\n\r\nbody\r\n\r\n"


@pytest.mark.parametrize("size", [1, 2, 3, 7, 40, 1000])
def test_the_head_is_edited_however_its_bytes_come(size):
    editor = HeadEditor(FIELDS)
    pieces = [REPLY[start : start + size] for start in range(0, len(REPLY), size)]
    assert b"".join(editor.feed(piece) for piece in pieces) == EDITED


def test_a_head_without_end_is_refused():
    editor = HeadEditor(FIELDS)
    with pytest.raises(BadReply, match="longer than"):
        for _ in range(100):
            editor.feed(b"HTTP/1.1 200 OK\r\nx: " + b"x" * 10_000)


def test_an_options_request_that_is_no_preflight_goes_to_the_engine():
    head = parse_head(b"OPTIONS /v1/x HTTP/1.1\r\nhost: a\r\norigin: https://a.test\r\n\r\n")
    assert EVERYBODY.preflight(head) is None
