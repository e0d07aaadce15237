"""Whether a request may pass, decided from its head: preflights, API keys, the size of its body. No sockets here.

With keys, every path needs one except health and metrics (:data:`OPEN_PATHS`, GET and HEAD), which probes and scrapers
ask for without credentials. A key that was accepted goes no further: its field is taken out of the head, so that it
reaches neither the engine nor its log. Any other ``Authorization`` passes, for an engine that has a key of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Set
from dataclasses import dataclass, replace

from lading.gateway.bodies import too_large
from lading.gateway.cors import Cors
from lading.gateway.heads import Headers, RequestHead
from lading.gateway.keys import Field, KeyRing, credentials
from lading.gateway.management import PROBE_PATHS
from lading.gateway.replies import LocalReply, error_reply

OPEN_PATHS = PROBE_PATHS | {"/health"}


@dataclass(frozen=True, slots=True)
class Admitted:
    """A request that may pass: ``head`` is what the engine gets, ``key_name`` whose key it showed."""

    head: RequestHead
    key_name: str | None = None


@dataclass(frozen=True, slots=True)
class Admission:
    """What a gateway demands of requests. None: nothing of that kind; ``keys`` gives the ring that is current."""

    cors: Cors | None = None
    keys: Callable[[], KeyRing] | None = None
    body_bytes: int | None = None

    def admit(self, head: RequestHead) -> Admitted | LocalReply:
        """The request as it passes, or the reply that it gets instead."""
        if self.cors and (preflight := self.cors.preflight(head)):
            return preflight
        admitted = self._identified(head)
        if isinstance(admitted, LocalReply):
            return admitted
        if self.body_bytes is not None and head.content_length > self.body_bytes:
            return error_reply(413, too_large(self.body_bytes), "invalid_request_error")
        return admitted

    def reply_fields(self, head: RequestHead) -> Headers | None:
        """What a reply to ``head`` says to browsers; None leaves it as it is."""
        return self.cors.reply_fields(head) if self.cors else None

    def _identified(self, head: RequestHead) -> Admitted | LocalReply:
        if self.keys is None or (head.path in OPEN_PATHS and head.method in ("GET", "HEAD")):
            return Admitted(head)
        ring, shown = self.keys(), credentials(head.headers)
        accepted = {field: name for field, key in shown if (name := ring.owner_of(key))}
        for name in accepted.values():
            return Admitted(_without(head, accepted.keys()), name)
        return _unauthorized(wrong=bool(shown))


def _without(head: RequestHead, fields: Set[Field]) -> RequestHead:
    line, *lines = head.raw[:-4].split(b"\r\n")
    kept = [line, *(each for each in lines if _field_of(each) not in fields)]
    headers = tuple(each for each in head.headers if each not in fields)
    return replace(head, raw=b"\r\n".join(kept) + b"\r\n\r\n", headers=headers)


def _field_of(line: bytes) -> Field:
    name, _, value = line.partition(b":")
    return name.lower(), value.strip(b" \t")


def _unauthorized(*, wrong: bool) -> LocalReply:
    said = "The API key is not known here." if wrong else "An API key is needed."
    message = f"{said} Send it as 'Authorization: Bearer KEY' or as 'x-api-key: KEY'."
    challenge = b'Bearer realm="lading"' + (b', error="invalid_token"' if wrong else b"")
    more = {"param": None, "code": "invalid_api_key"}
    return error_reply(401, message, "invalid_request_error", headers=((b"www-authenticate", challenge),), more=more)
