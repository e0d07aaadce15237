from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lading.gateway.bodies import Body, open_body
from lading.gateway.heads import BadRequest, parse_head

CHUNKED = parse_head(b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n")
NEXT = b"GET /next HTTP/1.1\r\nhost: a\r\n\r\n"


def follow(body: Body, pieces: list[bytes]) -> int:
    """How many bytes the body takes; -1 when it is refused, -2 when it wants more."""
    total = 0
    try:
        for piece in pieces:
            taken = body.take(piece)
            total += taken
            if body.complete:
                return total
            assert taken == len(piece)
    except BadRequest:
        return -1
    return -2


def test_a_length_takes_as_much_as_it_says() -> None:
    body = open_body(parse_head(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 10\r\n\r\n"))
    assert (body.take(b"abcd"), body.complete, body.remaining_bytes) == (4, False, 6)
    assert (body.take(b"efghijNEXT"), body.complete, body.remaining_bytes) == (6, True, 0)


def test_no_length_is_no_body() -> None:
    body = open_body(parse_head(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"))
    assert body.complete
    assert body.take(b"NEXT") == 0


WHOLE = {
    "one chunk": b"3\r\nabc\r\n0\r\n\r\n",
    "no chunk": b"0\r\n\r\n",
    "many chunks": b"".join(b"%x\r\n%b\r\n" % (n, b"x" * n) for n in range(1, 40)) + b"0\r\n\r\n",
    "capital digits": b"A\r\n0123456789\r\n0\r\n\r\n",
    "leading zeros": b"0003\r\nabc\r\n000\r\n\r\n",
    "extension": b"3;name=value\r\nabc\r\n0;last\r\n\r\n",
    "quoted extension": b'3;name="a b"\r\nabc\r\n0\r\n\r\n',
    "trailers": b"3\r\nabc\r\n0\r\nX-Digest: 1\r\nX-Other: 2\r\n\r\n",
    "data that looks like an end": b"7\r\n0\r\n\r\n\r\n\r\n0\r\n\r\n",
    "data that looks like a request": b"%x\r\n%b\r\n0\r\n\r\n" % (len(NEXT), NEXT),
}

MALFORMED = {
    "no size": b"\r\nabc\r\n0\r\n\r\n",
    "size is no number": b"xyz\r\nabc\r\n0\r\n\r\n",
    "size with 0x": b"0x3\r\nabc\r\n0\r\n\r\n",
    "size with minus": b"-3\r\nabc\r\n0\r\n\r\n",
    "size with plus": b"+3\r\nabc\r\n0\r\n\r\n",
    "size with underscore": b"1_0\r\n0123456789abcdef\r\n0\r\n\r\n",
    "size overflows": b"ffffffffffffffff1\r\nabc\r\n0\r\n\r\n",
    "size of sixteen digits": b"0000000000000003\r\nabc\r\n0\r\n\r\n",
    "space before the size": b" 3\r\nabc\r\n0\r\n\r\n",
    "space after the size": b"3 \r\nabc\r\n0\r\n\r\n",
    "tab after the size": b"3\t\r\nabc\r\n0\r\n\r\n",
    "bare lf after the size": b"3\nabc\r\n0\r\n\r\n",
    "bare cr after the size": b"3\rabc\r\n0\r\n\r\n",
    "bare lf after the data": b"3\r\nabc\n0\r\n\r\n",
    "no end of the data": b"3\r\nabc0\r\n\r\n",
    "data too long": b"3\r\nabcd\r\n0\r\n\r\n",
    "data too short": b"4\r\nabc\r\n0\r\n\r\n",
    "bare lf after the last size": b"0\n\r\n",
    "bare lf at the end": b"0\r\n\n",
    "bare lf in an extension": b"3;a\nb\r\nabc\r\n0\r\n\r\n",
    "bare cr in an extension": b"3;a\rb\r\nabc\r\n0\r\n\r\n",
    "nul in an extension": b"3;a\x00\r\nabc\r\n0\r\n\r\n",
    "endless extension": b"3;" + b"a" * 5000 + b"\r\nabc\r\n0\r\n\r\n",
    "trailer without colon": b"0\r\nX\r\n\r\n",
    "trailer with a space before the colon": b"0\r\nX : a\r\n\r\n",
    "folded trailer": b"0\r\nX: a\r\n b\r\n\r\n",
    "trailer with bare lf": b"0\r\nX: a\nY: b\r\n\r\n",
    "trailer content-length": b"0\r\nContent-Length: 5\r\n\r\n",
    "trailer transfer-encoding": b"0\r\nTransfer-Encoding: chunked\r\n\r\n",
    "trailer host": b"0\r\nHost: b\r\n\r\n",
    "endless trailers": b"0\r\n" + b"X: a\r\n" * 20_000 + b"\r\n",
}


@pytest.mark.parametrize("data", WHOLE.values(), ids=WHOLE.keys())
def test_the_end_is_found_and_what_follows_is_left(data: bytes) -> None:
    assert follow(open_body(CHUNKED), [data + NEXT]) == len(data)


@pytest.mark.parametrize("data", WHOLE.values(), ids=WHOLE.keys())
def test_the_end_is_found_byte_by_byte(data: bytes) -> None:
    assert follow(open_body(CHUNKED), [bytes([each]) for each in data + NEXT]) == len(data)


@pytest.mark.parametrize("data", MALFORMED.values(), ids=MALFORMED.keys())
def test_a_malformed_body_is_refused(data: bytes) -> None:
    assert follow(open_body(CHUNKED), [data + NEXT]) == -1


def test_an_unfinished_body_says_so() -> None:
    body = open_body(CHUNKED)
    body.take(b"3\r\nab")
    assert (body.complete, body.remaining_bytes) == (False, None)


@given(
    st.sampled_from([*WHOLE.values(), *(data for data in MALFORMED.values() if len(data) < 200)]),
    st.lists(st.integers(1, 12), max_size=60),
)
def test_pieces_are_followed_as_the_whole_is(data: bytes, sizes: list[int]) -> None:
    whole = data + NEXT
    pieces, position = [], 0
    for size in sizes:
        pieces.append(whole[position : position + size])
        position += size
    assert follow(open_body(CHUNKED), [*pieces, whole[position:]]) == follow(open_body(CHUNKED), [whole])


@given(st.lists(st.sampled_from([b"3", b"\r\n", b"\n", b"\r", b"0", b"abc", b";", b" ", b"x", b"X: a"]), max_size=30))
def test_the_scanner_and_llhttp_never_part(parts: list[bytes]) -> None:
    """Whatever comes, the body ends at one byte for both of them, or is refused, or wants more."""
    data = b"".join(parts)
    end = follow(open_body(CHUNKED), [data])
    assert end in (-1, -2) or data[:end].endswith(b"\r\n\r\n")
