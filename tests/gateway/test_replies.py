from __future__ import annotations

import json

import pytest

from lading.gateway.heads import BadRequest
from lading.gateway.replies import BadReply, LocalReply, ReplyScanner, error_reply, refusal


def scanned(*pieces: bytes, is_head: bool = False, upgrade: bool = False) -> ReplyScanner:
    scanner = ReplyScanner(is_head=is_head, upgrade_offered=upgrade)
    for piece in pieces:
        scanner.feed(piece)
    return scanner


OK = b"HTTP/1.1 200 OK\r\n"

COMPLETE = {
    "length": (OK + b"content-length: 2\r\n\r\n{}", 200, True),
    "no body": (OK + b"content-length: 0\r\n\r\n", 200, True),
    "chunked": (OK + b"transfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n", 200, True),
    "chunked with trailers": (OK + b"transfer-encoding: chunked\r\n\r\n0\r\nx: y\r\n\r\n", 200, True),
    "no content": (b"HTTP/1.1 204 No Content\r\n\r\n", 204, True),
    "not modified with a length": (b"HTTP/1.1 304 Not Modified\r\ncontent-length: 9\r\n\r\n", 304, True),
    "close": (OK + b"connection: close\r\ncontent-length: 0\r\n\r\n", 200, False),
    "http/1.0": (b"HTTP/1.0 200 OK\r\ncontent-length: 0\r\n\r\n", 200, False),
    "continue first": (b"HTTP/1.1 100 Continue\r\n\r\n" + OK + b"content-length: 0\r\n\r\n", 200, True),
    "hints first": (b"HTTP/1.1 103 Early Hints\r\nlink: a\r\n\r\n" + OK + b"content-length: 0\r\n\r\n", 200, True),
    "no reason": (b"HTTP/1.1 200\r\ncontent-length: 0\r\n\r\n", 200, True),
}


@pytest.mark.parametrize(("data", "status", "keep"), COMPLETE.values(), ids=COMPLETE.keys())
def test_the_end_of_a_reply_is_seen(data: bytes, status: int, keep: bool) -> None:
    assert not scanned(data[:-1]).complete
    for scanner in (scanned(data), scanned(*(bytes([each]) for each in data))):
        assert (scanner.complete, scanner.status, scanner.keep_alive) == (True, status, keep)
        assert not (scanner.ends_with_connection and status == 200)


def test_a_reply_to_head_ends_with_its_head() -> None:
    scanner = scanned(OK + b"content-length: 500\r\n\r\n", is_head=True)
    assert (scanner.complete, scanner.keep_alive) == (True, True)


def test_a_reply_without_framing_ends_with_the_connection() -> None:
    scanner = scanned(OK + b"\r\n", b"some", b"more")
    assert (scanner.complete, scanner.ends_with_connection, scanner.keep_alive) == (False, True, False)


def test_an_interim_reply_is_none() -> None:
    scanner = scanned(b"HTTP/1.1 100 Continue\r\n\r\n")
    assert (scanner.status, scanner.complete, scanner.ends_with_connection) == (0, False, False)


def test_a_switch_that_was_offered_is_seen() -> None:
    head = b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n"
    scanner = scanned(head + b"\x81\x05hello", upgrade=True)
    assert (scanner.upgraded, scanner.status) == (True, 101)


BAD = {
    "not http": b"SSH-2.0-OpenSSH\r\n",
    "two replies": OK + b"content-length: 0\r\n\r\n" + OK,
    "bytes after the body": OK + b"content-length: 2\r\n\r\n{}{}",
    "length and chunked": OK + b"content-length: 2\r\ntransfer-encoding: chunked\r\n\r\n",
    "two lengths": OK + b"content-length: 2\r\ncontent-length: 3\r\n\r\n",
    "bad chunk": OK + b"transfer-encoding: chunked\r\n\r\nxyz\r\n",
    "switch without an offer": b"HTTP/1.1 101 S\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n",
}


@pytest.mark.parametrize("data", BAD.values(), ids=BAD.keys())
def test_anything_but_one_reply_is_refused(data: bytes) -> None:
    with pytest.raises(BadReply):
        scanned(data)


def test_a_body_after_a_reply_to_head_is_refused() -> None:
    with pytest.raises(BadReply):
        scanned(OK + b"content-length: 2\r\n\r\n{}", is_head=True)


def test_a_reply_after_the_end_is_refused_later_too() -> None:
    scanner = scanned(OK + b"content-length: 0\r\n\r\n")
    with pytest.raises(BadReply):
        scanner.feed(b"HTTP/1.1 200 OK\r\n")


def test_our_replies_are_whole() -> None:
    reply = LocalReply(200, ((b"content-type", b"text/plain"), (b"content-length", b"99"), (b"date", b"x")), b"hello")
    data = reply.encode(with_body=True, keep_alive=True)
    head, _, body = data.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert (head.count(b"content-length: 5"), head.count(b"content-length"), head.count(b"date")) == (1, 1, 1)
    assert body == b"hello"
    assert scanned(data).keep_alive


def test_our_replies_to_head_keep_the_length_only() -> None:
    data = LocalReply(200, (), b"hello").encode(with_body=False, keep_alive=False)
    assert data.endswith(b"content-length: 5\r\n\r\n")
    assert not scanned(data, is_head=True).keep_alive


def test_a_status_without_a_name_is_written() -> None:
    assert LocalReply(799, (), b"").encode(with_body=True, keep_alive=True).startswith(b"HTTP/1.1 799 Unknown\r\n")


def test_errors_have_the_form_of_the_openai_api() -> None:
    reply = error_reply(502, "no answer", "engine_unavailable", more={"phase": "ready"})
    assert json.loads(reply.body) == {
        "error": {"message": "no answer", "type": "engine_unavailable", "code": 502, "phase": "ready"}
    }
    refused = json.loads(refusal(BadRequest(431, "too long")).body)["error"]
    assert (refused["code"], refused["type"], refused["message"]) == (431, "invalid_request_error", "too long")
