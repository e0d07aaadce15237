"""Request heads: where one ends, whether it is one at all, and what it says. No sockets here.

Strict on purpose, because a head that two parsers read differently is how requests are smuggled:

* the whole head must match one grammar (CRLF only, no folded lines, no space before a colon, no control characters,
  a name on every line) *and* pass llhttp; both must accept;
* ``Host``, ``Content-Length``, ``Transfer-Encoding``, ``Upgrade`` and ``Expect`` appear at most once; the two lengths
  never together; the only transfer coding is ``chunked``, and never in HTTP/1.0;
* targets are in origin form, or ``*`` for OPTIONS. Absolute form (RFC 9112, 3.2.2) is refused with 400: only clients
  of a forward proxy send it, this is none, and the engine would have to read the same path out of it as we do;
* ``Upgrade`` is offered to the engine for ``websocket`` only. Any other (Java's and curl's ``h2c``) is taken out with
  its ``Connection`` tokens, as hop-by-hop fields may be (RFC 9110, 7.8): HTTP/2 behind our back would escape
  routing, and uvicorn loses the body of such requests.

Everything else of the head reaches the engine unchanged, byte for byte.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import httptools

Headers = tuple[tuple[bytes, bytes], ...]

_FIELD_LINE = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]++:[\t\x20-\x7e\x80-\xff]*+\r\n"
_REQUEST_LINE = re.compile(rb"([A-Z-]{1,32}) ([\x21\x22\x24-\x7e]+) HTTP/([0-9])\.([0-9])")
_FIELDS = re.compile(rb"(?:" + _FIELD_LINE + rb")*+\r\n")
_HOST = re.compile(rb"[A-Za-z0-9\-._~%!$&'()*+,;=:\[\]]*")
_CONTENT_LENGTH = re.compile(rb"[0-9]{1,18}")
_SINGLE = frozenset((b"host", b"content-length", b"transfer-encoding", b"upgrade", b"expect"))
_UPGRADE_FIELDS = (b"upgrade", b"http2-settings")
_IDEMPOTENT = frozenset(("GET", "HEAD", "OPTIONS", "PUT", "DELETE", "TRACE"))

FIELD_LINE = re.compile(_FIELD_LINE)


class BadRequest(Exception):
    """A request is refused with ``status``; the text is one sentence for the client."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


@dataclass(frozen=True, slots=True)
class RequestHead:
    """One request's head. ``raw`` is what the engine gets; names in ``headers`` are lowercase.

    ``path`` is the target up to ``?``, not decoded. ``content_length`` is 0 when there is none. ``upgrade`` says that
    the client offers to turn the connection into a WebSocket.
    """

    raw: bytes
    method: str
    target: str
    http_version: str
    headers: Headers
    content_length: int
    chunked: bool
    keep_alive: bool
    upgrade: bool
    expects_continue: bool

    @property
    def path(self) -> str:
        """The target without its query."""
        return self.target.partition("?")[0]

    @property
    def is_idempotent(self) -> bool:
        """Whether making the request twice is as good as once (RFC 9110, 9.2.2)."""
        return self.method in _IDEMPOTENT


class HeadBuffer:
    """Bytes of a client that are not read yet. Gives heads, and refuses early what can never become one."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._data = bytearray()
        self._searched = 0
        self._line_checked = False
        self._empty_line_seen = False

    def __len__(self) -> int:
        return len(self._data)

    def add(self, data: bytes) -> None:
        """Append what the client sent."""
        self._data += data

    def take(self) -> bytes | None:
        """The next whole head, removed from the buffer, or None until more bytes come; raises :class:`BadRequest`.

        One empty line before it is skipped (RFC 9112, 2.2).
        """
        self._skip_empty_line()
        end = self._data.find(b"\r\n\r\n", max(0, self._searched - 3)) + 4
        if (end if end >= 4 else len(self._data)) > self._limit_bytes:
            raise BadRequest(431, f"the request head is longer than {self._limit_bytes} bytes")
        if end < 4:
            self._check_part()
            return None
        head = bytes(self._data[:end])
        del self._data[:end]
        self._start_over()
        return head

    def peek(self, count: int) -> bytes:
        """The first ``count`` bytes, or fewer; they stay."""
        return bytes(self._data[:count])

    def drop(self, count: int) -> None:
        """Remove the first ``count`` bytes, which are no part of a head."""
        del self._data[:count]

    def rest(self) -> bytes:
        """All bytes, removed from the buffer."""
        data = bytes(self._data)
        self._data.clear()
        self._start_over()
        return data

    def _start_over(self) -> None:
        self._searched = 0
        self._line_checked = self._empty_line_seen = False

    def _skip_empty_line(self) -> None:
        if not self._empty_line_seen and self._data.startswith(b"\r\n"):
            del self._data[:2]
            self._searched = 0
            self._empty_line_seen = True

    def _check_part(self) -> None:
        data, start = self._data, self._searched
        if data and not data[:1].isalpha() and (self._empty_line_seen or data != b"\r"):
            raise BadRequest(400, "this is not an HTTP request (TLS on a plain port?)")
        if data.count(b"\n", start) != data.count(b"\r\n", max(0, start - 1)):
            raise BadRequest(400, "a line of the request head ends without CRLF")
        if not self._line_checked and b"\r\n" in data:
            _read_line(bytes(data[: data.index(b"\r\n")]))
            self._line_checked = True
        self._searched = len(data)


def parse_head(raw: bytes) -> RequestHead:
    """The head that ``raw``, up to and with its empty line, spells; raises :class:`BadRequest`."""
    end_of_line = raw.find(b"\r\n")
    method, target, http_version = _read_line(raw[:end_of_line])
    if not _FIELDS.fullmatch(raw, end_of_line + 2):
        raise BadRequest(400, "a header line is malformed")
    parsed = _Llhttp(raw)
    single = _single_fields(parsed.headers)
    _check_host(single.get(b"host"), http_version)
    content_length, chunked = _framing(single, http_version)
    if parsed.upgrade and (single.get(b"upgrade", b"").lower() != b"websocket" or http_version == "1.0"):
        return parse_head(_without_upgrade(raw))
    if parsed.upgrade and (content_length or chunked):
        raise BadRequest(400, "a request for an upgrade must not have a body")
    return RequestHead(
        raw=raw,
        method=method,
        target=target,
        http_version=http_version,
        headers=tuple(parsed.headers),
        content_length=content_length,
        chunked=chunked,
        keep_alive=parsed.keep_alive,
        upgrade=parsed.upgrade,
        expects_continue=http_version == "1.1" and single.get(b"expect", b"").lower() == b"100-continue",
    )


def _read_line(line: bytes) -> tuple[str, str, str]:
    found = _REQUEST_LINE.fullmatch(line)
    if not found:
        raise BadRequest(400, "the request line is not 'METHOD target HTTP/1.1'")
    method, target, major, minor = (part.decode("ascii") for part in found.groups())
    if major != "1" or minor not in "01":
        raise BadRequest(505, f"HTTP/{major}.{minor} is not spoken here, HTTP/1.1 is")
    if not target.startswith("/") and (method, target) != ("OPTIONS", "*"):
        raise BadRequest(400, "the request target is not a path; this is no forward proxy")
    return method, target, f"1.{minor}"


def _single_fields(headers: list[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    found: dict[bytes, bytes] = {}
    for name, value in headers:
        if name in _SINGLE:
            if name in found:
                raise BadRequest(400, f"the header {name.decode()} appears twice")
            found[name] = value
    return found


def _check_host(host: bytes | None, http_version: str) -> None:
    if host is None and http_version == "1.1":
        raise BadRequest(400, "the header host is missing")
    if host is not None and not _HOST.fullmatch(host):
        raise BadRequest(400, "the header host is malformed")


def _framing(single: dict[bytes, bytes], http_version: str) -> tuple[int, bool]:
    length, coding = single.get(b"content-length"), single.get(b"transfer-encoding")
    if length is not None and coding is not None:
        raise BadRequest(400, "content-length and transfer-encoding exclude each other")
    if coding is not None and (coding.lower() != b"chunked" or http_version == "1.0"):
        raise BadRequest(400, "the only transfer-encoding is chunked, in HTTP/1.1")
    if length is not None and not _CONTENT_LENGTH.fullmatch(length):
        raise BadRequest(400, "the header content-length is not a number")
    return int(length or 0), coding is not None


class _Llhttp:
    """One pass of llhttp over a whole head."""

    __slots__ = ("_parser", "headers", "keep_alive", "upgrade")

    def __init__(self, raw: bytes) -> None:
        self.headers: list[tuple[bytes, bytes]] = []
        self.keep_alive = False
        self._parser = httptools.HttpRequestParser(self)
        try:
            self._parser.feed_data(raw)
        except httptools.HttpParserUpgrade:
            pass
        except httptools.HttpParserError as error:
            raise BadRequest(400, f"the request head is malformed: {error}") from error
        self.upgrade: bool = self._parser.should_upgrade()

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value.strip(b" \t")))

    def on_headers_complete(self) -> None:
        # Asked for here: llhttp forgets it with the end of the message.
        self.keep_alive = self._parser.should_keep_alive()


def _without_upgrade(raw: bytes) -> bytes:
    line, *fields = raw[:-4].split(b"\r\n")
    kept = [line, *(field for each in fields if (field := _without_upgrade_tokens(each)))]
    return b"\r\n".join(kept) + b"\r\n\r\n"


def _without_upgrade_tokens(field: bytes) -> bytes | None:
    name, _, value = field.partition(b":")
    if name.lower() in _UPGRADE_FIELDS:
        return None
    if name.lower() != b"connection":
        return field
    tokens = [token.strip() for token in value.split(b",") if token.strip().lower() not in _UPGRADE_FIELDS]
    return name + b": " + b", ".join(tokens) if tokens else None
