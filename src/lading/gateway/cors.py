"""Cross-origin requests of browsers (Fetch standard, 3.2): preflights are answered here, replies get their fields here.

Only requests with an ``Origin`` are touched, so that what other clients and the engine exchange stays byte for byte.
The engine's own ``Access-Control-*`` fields are taken out then: two policies in one reply would be refused by browsers.
"""

from __future__ import annotations

from dataclasses import dataclass

from lading.gateway.heads import Headers, RequestHead
from lading.gateway.replies import BadReply, LocalReply, error_reply

ANY = "*"
_PREFIX = b"access-control-"
_END = b"\r\n\r\n"
_HEAD_LIMIT_BYTES = 262144


@dataclass(frozen=True, slots=True)
class Cors:
    """What browsers are told. ``origins`` may hold :data:`ANY`; the other texts go into the fields as they are."""

    origins: tuple[str, ...]
    methods: str
    headers: str
    expose: str
    max_age_seconds: int

    def reply_fields(self, head: RequestHead) -> Headers | None:
        """The fields for a reply to ``head``, none of them for a foreign origin; None where no origin is named."""
        origin = _field(head, b"origin")
        if origin is None:
            return None
        allowed = self._allowed(origin)
        if allowed is None:
            return ((b"vary", b"Origin"),)
        exposed = ((b"access-control-expose-headers", self.expose.encode()),) if self.expose else ()
        return (*allowed, *exposed)

    def preflight(self, head: RequestHead) -> LocalReply | None:
        """The answer to a preflight; None where ``head`` is none."""
        origin = _field(head, b"origin")
        if head.method != "OPTIONS" or origin is None or _field(head, b"access-control-request-method") is None:
            return None
        if self._allowed(origin) is None:
            return error_reply(403, "This origin is not among those that are allowed here.", "cors_error")
        fields = (
            (b"access-control-allow-methods", self.methods.encode()),
            (b"access-control-allow-headers", self.headers.encode()),
            (b"access-control-max-age", b"%d" % self.max_age_seconds),
        )
        return LocalReply(204, fields, b"")

    def _allowed(self, origin: bytes) -> Headers | None:
        if ANY in self.origins:
            return ((b"access-control-allow-origin", b"*"),)
        if origin.decode("latin-1") in self.origins:
            return ((b"access-control-allow-origin", origin), (b"vary", b"Origin"))
        return None


class HeadEditor:
    """Puts ``fields`` into the head of the one final reply that passes; interim replies and the body stay as they are.

    Bytes are held back until a head is whole, and never again after the final one.
    """

    def __init__(self, fields: Headers) -> None:
        self._fields = fields
        self._held = bytearray()
        self._searched = 0
        self._done = False

    def feed(self, data: bytes) -> bytes:
        """What the client may have now, of well-formed replies; raises :class:`BadReply` for a head without end."""
        if self._done:
            return data
        self._held += data
        passed = b""
        while not self._done and (end := self._held.find(_END, max(0, self._searched - 3)) + len(_END)) >= len(_END):
            head = bytes(self._held[:end])
            del self._held[:end]
            self._searched = 0
            status = head[9:12]
            is_final = not status.startswith(b"1")
            self._done = is_final or status == b"101"  # which is no business of other origins
            passed += with_fields(head, self._fields) if is_final else head
        if self._done:
            passed += bytes(self._held)
            self._held.clear()
        elif len(self._held) > _HEAD_LIMIT_BYTES:
            raise BadReply(f"its head is longer than {_HEAD_LIMIT_BYTES} bytes")
        self._searched = len(self._held)
        return passed


def with_fields(head: bytes, fields: Headers) -> bytes:
    """The reply's head, with ``fields`` in place of what it says of the same things itself."""
    line, *others = head[: -len(_END)].split(b"\r\n")
    kept = [each for each in others if not each.lower().startswith(_PREFIX)]
    return b"\r\n".join([line, *kept, *(name + b": " + value for name, value in fields)]) + _END


def _field(head: RequestHead, name: bytes) -> bytes | None:
    return next((value for key, value in head.headers if key == name), None)
