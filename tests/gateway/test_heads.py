from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lading.gateway.heads import BadRequest, HeadBuffer, RequestHead, parse_head

LIMIT = 65536


def head(*lines: str, end: str = "\r\n\r\n") -> bytes:
    return ("\r\n".join(lines) + end).encode("latin-1")


def taken(data: bytes, pieces: list[bytes] | None = None) -> RequestHead | int | None:
    """The head, the status of its refusal, or None when more bytes are needed."""
    buffer = HeadBuffer(LIMIT)
    try:
        for piece in pieces or [data]:
            buffer.add(piece)
            if raw := buffer.take():
                return parse_head(raw)
    except BadRequest as verdict:
        return verdict.status
    return None


def ok(*lines: str) -> RequestHead:
    found = taken(head(*lines))
    assert isinstance(found, RequestHead)
    return found


GET = "GET / HTTP/1.1"
POST = "POST / HTTP/1.1"
HOST = "Host: a"

REFUSED = {
    # The request line
    "http/0.9": (b"GET /\r\n\r\n", 400),
    "http/0.9 without an end": (b"GET /\r\n", 400),
    "http/2 preface": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    "http/2": (head("GET / HTTP/2.0", HOST), 505),
    "http/1.2": (head("GET / HTTP/1.2", HOST), 505),
    "http/3 in words": (head("GET / HTTP/3", HOST), 400),
    "lowercase http": (head("GET / http/1.1", HOST), 400),
    "lowercase method": (head("get / HTTP/1.1", HOST), 400),
    "unknown method": (head("FOO / HTTP/1.1", HOST), 400),
    "rtsp method": (head("DESCRIBE / HTTP/1.1", HOST), 400),
    "no method": (head("/ HTTP/1.1", HOST), 400),
    "method with a colon": (head("GET: / HTTP/1.1", HOST), 400),
    "two spaces": (head("GET  / HTTP/1.1", HOST), 400),
    "tab for a space": (head("GET\t/ HTTP/1.1", HOST), 400),
    "space before the version": (head("GET /  HTTP/1.1", HOST), 400),
    "space after the version": (head("GET / HTTP/1.1 ", HOST), 400),
    "space in the target": (head("GET /a b HTTP/1.1", HOST), 400),
    "control in the target": (head("GET /a\x01 HTTP/1.1", HOST), 400),
    "nul in the target": (head("GET /\x00 HTTP/1.1", HOST), 400),
    "del in the target": (head("GET /\x7f HTTP/1.1", HOST), 400),
    "raw utf-8 in the target": (head("GET /\xc3\xa9 HTTP/1.1", HOST), 400),
    "fragment in the target": (head("GET /a#b HTTP/1.1", HOST), 400),
    "absolute form": (head("GET http://a/v1/models HTTP/1.1", HOST), 400),
    "authority form": (head("CONNECT a:443 HTTP/1.1", HOST), 400),
    "asterisk without options": (head("GET * HTTP/1.1", HOST), 400),
    "relative target": (head("GET v1/models HTTP/1.1", HOST), 400),
    "no target": (head("GET  HTTP/1.1", HOST), 400),
    "two empty lines first": (b"\r\n\r\n" + head(GET, HOST), 400),
    "bare lf first": (b"\n" + head(GET, HOST), 400),
    "tls hello": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
    "leading space": (b" " + head(GET, HOST), 400),
    # Lines and fields
    "bare lf everywhere": (b"GET / HTTP/1.1\nHost: a\n\n", 400),
    "bare lf after the request line": (b"GET / HTTP/1.1\nHost: a\r\n\r\n", 400),
    "bare lf after a field": (b"GET / HTTP/1.1\r\nHost: a\nX: b\r\n\r\n", 400),
    "bare lf at the end": (b"GET / HTTP/1.1\r\nHost: a\n\r\n", 400),
    "bare lf at the end, no more": (b"GET / HTTP/1.1\r\nHost: a\r\n\n", 400),
    "bare cr in a value": (b"GET / HTTP/1.1\r\nHost: a\r\nX: b\rY: c\r\n\r\n", 400),
    "bare cr after the request line": (b"GET / HTTP/1.1\rHost: a\r\n\r\n", 400),
    "nul in a value": (head(GET, HOST, "X: a\x00b"), 400),
    "control in a value": (head(GET, HOST, "X: a\x0bb"), 400),
    "folded line": (head(GET, HOST, "X: a", " b"), 400),
    "folded line by tab": (head(GET, HOST, "X: a", "\tb"), 400),
    "folded first line": (head(GET, " Host: a"), 400),
    "space before the colon": (head(GET, "Host : a"), 400),
    "tab before the colon": (head(GET, HOST, "Content-Length\t: 3"), 400),
    "space in a name": (head(GET, HOST, "X Y: a"), 400),
    "no colon": (head(GET, HOST, "X"), 400),
    "empty name": (head(GET, HOST, ": a"), 400),
    "control in a name": (head(GET, HOST, "X\x01: a"), 400),
    "utf-8 in a name": (head(GET, HOST, "X\xc3\xa9: a"), 400),
    "bracket in a name": (head(GET, HOST, "X[]: a"), 400),
    # Host
    "no host": (head(GET), 400),
    "host twice": (head(GET, HOST, "Host: b"), 400),
    "host twice the same": (head(GET, HOST, HOST), 400),
    "host with a space": (head(GET, "Host: a b"), 400),
    "host with a slash": (head(GET, "Host: a/b"), 400),
    "host with user": (head(GET, "Host: u@a"), 400),
    "host twice in 1.0": (head("GET / HTTP/1.0", HOST, HOST), 400),
    # Framing
    "length and chunked": (head(POST, HOST, "Content-Length: 3", "Transfer-Encoding: chunked"), 400),
    "chunked and length": (head(POST, HOST, "Transfer-Encoding: chunked", "Content-Length: 3"), 400),
    "length and chunked, odd case": (head(POST, HOST, "content-LENGTH: 3", "tRANSFER-eNCODING: Chunked"), 400),
    "length twice": (head(POST, HOST, "Content-Length: 3", "Content-Length: 4"), 400),
    "length twice the same": (head(POST, HOST, "Content-Length: 3", "Content-Length: 3"), 400),
    "length list": (head(POST, HOST, "Content-Length: 3, 3"), 400),
    "length with plus": (head(POST, HOST, "Content-Length: +3"), 400),
    "length with minus": (head(POST, HOST, "Content-Length: -3"), 400),
    "length in hex": (head(POST, HOST, "Content-Length: 0x3"), 400),
    "length with underscore": (head(POST, HOST, "Content-Length: 1_0"), 400),
    "length with a space inside": (head(POST, HOST, "Content-Length: 1 0"), 400),
    "length empty": (head(POST, HOST, "Content-Length:"), 400),
    "length of letters": (head(POST, HOST, "Content-Length: three"), 400),
    "length with a fraction": (head(POST, HOST, "Content-Length: 3.0"), 400),
    "length in other digits": (head(POST, HOST, "Content-Length: \xb2"), 400),
    "length too large": (head(POST, HOST, "Content-Length: 99999999999999999999"), 400),
    "length of nineteen digits": (head(POST, HOST, "Content-Length: 9999999999999999999"), 400),
    "coding unknown": (head(POST, HOST, "Transfer-Encoding: xchunked"), 400),
    "coding identity": (head(POST, HOST, "Transfer-Encoding: identity"), 400),
    "coding gzip": (head(POST, HOST, "Transfer-Encoding: gzip"), 400),
    "coding gzip, chunked": (head(POST, HOST, "Transfer-Encoding: gzip, chunked"), 400),
    "coding chunked, chunked": (head(POST, HOST, "Transfer-Encoding: chunked, chunked"), 400),
    "coding chunked, identity": (head(POST, HOST, "Transfer-Encoding: chunked, identity"), 400),
    "coding in quotes": (head(POST, HOST, 'Transfer-Encoding: "chunked"'), 400),
    "coding with a parameter": (head(POST, HOST, "Transfer-Encoding: chunked;a=b"), 400),
    "coding empty": (head(POST, HOST, "Transfer-Encoding:"), 400),
    "coding twice": (head(POST, HOST, "Transfer-Encoding: chunked", "Transfer-Encoding: chunked"), 400),
    "coding twice, one unknown": (head(POST, HOST, "Transfer-Encoding: chunked", "Transfer-Encoding: x"), 400),
    "coding with vertical tab": (head(POST, HOST, "Transfer-Encoding: \x0bchunked"), 400),
    "coding folded": (head(POST, HOST, "Transfer-Encoding:", " chunked"), 400),
    "coding with space before the colon": (head(POST, HOST, "Transfer-Encoding : chunked"), 400),
    "chunked in 1.0": (head("POST / HTTP/1.0", HOST, "Transfer-Encoding: chunked"), 400),
    "expect twice": (head(POST, HOST, "Expect: 100-continue", "Expect: 100-continue"), 400),
    "websocket with a body": (
        head(GET, HOST, "Connection: Upgrade", "Upgrade: websocket", "Content-Length: 3"),
        400,
    ),
    # Size
    "too long": (head(GET, HOST, "X: " + "a" * LIMIT), 431),
    "too long without an end": (b"GET / HTTP/1.1\r\nX: " + b"a" * LIMIT, 431),
    "too long target": (b"GET /" + b"a" * LIMIT, 431),
}


@pytest.mark.parametrize(("data", "status"), REFUSED.values(), ids=REFUSED.keys())
def test_what_could_be_read_in_two_ways_is_refused(data: bytes, status: int) -> None:
    assert taken(data) == status


@pytest.mark.parametrize(("data", "status"), REFUSED.values(), ids=REFUSED.keys())
def test_it_is_refused_byte_by_byte_too(data: bytes, status: int) -> None:
    pieces = [data[i : i + 1] for i in range(min(len(data), 2000))]
    assert taken(data, [*pieces, data[2000:]]) == status


def test_a_head_says_what_it_says() -> None:
    found = ok("POST /v1/chat/completions?a=b HTTP/1.1", "Host: a:8000", "Content-Length: 0012 ", "X-Y:  z \t")
    assert (found.method, found.target, found.path) == (
        "POST",
        "/v1/chat/completions?a=b",
        "/v1/chat/completions",
    )
    assert (found.content_length, found.chunked, found.keep_alive) == (12, False, True)
    assert found.headers == ((b"host", b"a:8000"), (b"content-length", b"0012"), (b"x-y", b"z"))
    assert not found.is_idempotent


ACCEPTED = {
    "options asterisk": head("OPTIONS * HTTP/1.1", HOST),
    "empty host": head(GET, "Host:"),
    "ipv6 host": head(GET, "Host: [::1]:8000"),
    "no host in 1.0": head("GET / HTTP/1.0"),
    "no space after the colon": head(GET, "Host:a"),
    "empty value": head(GET, HOST, "X:"),
    "latin-1 in a value": head(GET, HOST, "X: \xe9"),
    "tab in a value": head(GET, HOST, "X: a\tb"),
    "all token characters": head(GET, HOST, "!#$%&'*+-.^_`|~09azAZ: a"),
    "encoded target": head("GET /%2e%2e/a%00?q=%23 HTTP/1.1", HOST),
    "odd target": head('GET //a/../b;c="d"<e>|{f}^`\\ HTTP/1.1', HOST),
    "chunked in capitals": head(POST, HOST, "Transfer-Encoding: CHUNKED"),
    "other expectation": head(POST, HOST, "Expect: something"),
    "just short enough": head(GET, HOST, "X: " + "a" * (LIMIT - 32)),
}


@pytest.mark.parametrize("data", ACCEPTED.values(), ids=ACCEPTED.keys())
def test_what_is_allowed_is_taken_and_forwarded_unchanged(data: bytes) -> None:
    found = taken(data)
    assert isinstance(found, RequestHead)
    assert found.raw == data


def test_one_empty_line_before_a_request_is_skipped() -> None:
    data = head(GET, HOST)
    found = taken(b"\r\n" + data)
    assert isinstance(found, RequestHead)
    assert found.raw == data


@pytest.mark.parametrize(
    ("lines", "keep"),
    [
        ([GET, HOST], True),
        ([GET, HOST, "Connection: close"], False),
        ([GET, HOST, "Connection: Keep-Alive, CLOSE"], False),
        (["GET / HTTP/1.0"], False),
        (["GET / HTTP/1.0", "Connection: keep-alive"], True),
    ],
    ids=["1.1", "close", "close among others", "1.0", "1.0 keep-alive"],
)
def test_keep_alive_follows_version_and_connection(lines: list[str], keep: bool) -> None:
    assert ok(*lines).keep_alive is keep


def test_a_websocket_offer_is_kept() -> None:
    lines = (GET, HOST, "Connection: keep-alive, Upgrade", "Upgrade: WebSocket", "Sec-WebSocket-Version: 13")
    found = ok(*lines)
    assert found.upgrade
    assert found.raw == head(*lines)


def test_an_upgrade_without_connection_is_none() -> None:
    assert not ok(GET, HOST, "Upgrade: websocket").upgrade


def test_an_offer_of_http2_is_taken_out_and_the_body_stays() -> None:
    found = ok(
        POST,
        HOST,
        "Connection: Upgrade, HTTP2-Settings, X-Kept",
        "Upgrade: h2c",
        "HTTP2-Settings: AAEAAEAAAAIAAAAB",
        "Content-Length: 3",
    )
    assert not found.upgrade
    assert found.content_length == 3
    assert found.raw == head(POST, HOST, "Connection: X-Kept", "Content-Length: 3")


@pytest.mark.parametrize(
    "lines",
    [
        (GET, HOST, "Connection: Upgrade", "Upgrade: h2c"),
        (GET, HOST, "Connection: upgrade", "Upgrade: websocket, h2c"),
        (GET, HOST, "Connection: upgrade", "Upgrade: TLS/1.0"),
    ],
    ids=["h2c", "websocket or h2c", "tls"],
)
def test_only_a_plain_websocket_offer_reaches_the_engine(lines: tuple[str, ...]) -> None:
    found = ok(*lines)
    assert not found.upgrade
    assert found.raw == head(GET, HOST)


def test_an_offer_in_http_1_0_is_taken_out() -> None:
    assert not ok("GET / HTTP/1.0", "Connection: Upgrade", "Upgrade: websocket").upgrade


def test_taking_an_offer_out_never_hides_a_second_framing() -> None:
    data = head(POST, HOST, "Connection: Upgrade", "Upgrade: h2c", "Content-Length: 3", "Transfer-Encoding: chunked")
    assert taken(data) == 400


def test_expectations_are_seen() -> None:
    assert ok(POST, HOST, "Expect: 100-Continue", "Content-Length: 3").expects_continue
    assert not ok("POST / HTTP/1.0", "Expect: 100-continue", "Content-Length: 3").expects_continue


def test_bytes_after_a_head_stay_in_the_buffer() -> None:
    buffer = HeadBuffer(LIMIT)
    buffer.add(head(GET, HOST) + b"rest")
    assert buffer.take() == head(GET, HOST)
    assert buffer.rest() == b"rest"
    assert len(buffer) == 0


CORPUS = st.sampled_from([data for data, _ in REFUSED.values() if len(data) < 2000] + [*ACCEPTED.values()])


@st.composite
def in_pieces(draw: st.DrawFn, data: st.SearchStrategy[bytes] = CORPUS) -> tuple[bytes, list[bytes]]:
    whole = draw(data)
    cuts = sorted(draw(st.sets(st.integers(0, len(whole)), max_size=8)))
    borders = [0, *cuts, len(whole)]
    return whole, [whole[a:b] for a, b in pairwise(borders)]


@given(in_pieces())
def test_pieces_are_read_as_the_whole_is(example: tuple[bytes, list[bytes]]) -> None:
    whole, pieces = example
    assert taken(whole, pieces) == taken(whole)


@given(st.binary(max_size=200), st.lists(st.sampled_from([b"\r\n", b"\n", b"\r", b" ", b":", b"\t", HOST.encode()])))
def test_any_bytes_are_a_head_or_refused_or_unfinished(noise: bytes, parts: list[bytes]) -> None:
    data = b"GET / HTTP/1.1\r\n" + noise.join(parts) + b"\r\n\r\n"
    found = taken(data)
    if isinstance(found, RequestHead):
        assert data.startswith(found.raw)
        assert found.raw.count(b"\n") == found.raw.count(b"\r") == found.raw.count(b"\r\n")
