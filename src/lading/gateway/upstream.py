"""One connection to the engine. It belongs to one client connection and serves one request of it at a time."""

from __future__ import annotations

import asyncio
from typing import Protocol

from lading.backends.interface import Endpoint


def end_output(transport: asyncio.Transport) -> None:
    """Send the end of output after what is buffered; where that cannot be done, the peer being gone, abort."""
    try:
        transport.write_eof()
    except OSError:
        transport.abort()


class UpstreamUser(Protocol):
    """Whoever the connection is lent to. :meth:`upstream_full` may come from within a write, the others never do."""

    def reply_received(self, data: bytes) -> None:
        """The engine sent ``data``."""

    def reply_ended(self) -> bool:
        """The engine will send no more; True keeps our direction open."""

    def upstream_lost(self, error: Exception | None) -> None:
        """The connection is gone, by ``error`` or in order."""

    def upstream_full(self) -> None:
        """The engine does not read: send nothing more for now."""

    def upstream_drained(self) -> None:
        """The engine reads again."""


class Upstream(asyncio.Protocol):
    """A connection to ``endpoint``; idle while ``user`` is None.

    An idle connection on which the engine speaks or hangs up is closed. ``idle_since`` is monotonic; ``is_full`` says
    that bytes wait to be read by the engine.
    """

    def __init__(self, endpoint: Endpoint, user: UpstreamUser) -> None:
        self.endpoint = endpoint
        self.user: UpstreamUser | None = user
        self.idle_since = 0.0
        self.is_open = False
        self.is_full = False
        self._transport: asyncio.Transport

    def write(self, data: bytes) -> None:
        """Send ``data`` to the engine."""
        self._transport.write(data)

    def write_eof(self) -> None:
        """Tell the engine that nothing more comes."""
        if self.is_open:
            end_output(self._transport)

    def pause(self) -> None:
        """Read nothing more from the engine for now."""
        if self.is_open:
            self._transport.pause_reading()

    def resume(self) -> None:
        """Read on."""
        if self.is_open:
            self._transport.resume_reading()

    def release(self, now: float) -> None:
        """The user needs it no more; another request may follow."""
        self.user = None
        self.idle_since = now
        self.resume()

    def abort(self) -> None:
        """Close at once; the user hears nothing of it. The engine takes it as "the client is gone"."""
        self.user = None
        if self.is_open:
            self.is_open = False
            self._transport.abort()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # a stream's
        """The engine is connected."""
        self._transport = transport
        self.is_open = True

    def data_received(self, data: bytes) -> None:
        """Pass bytes to the user; without one the engine may not speak."""
        if self.user is None:
            self.abort()
        else:
            self.user.reply_received(data)

    def eof_received(self) -> bool:
        """Close, unless the user keeps its direction open."""
        if self.user is not None and self.user.reply_ended():
            return True
        self._lost(None)
        self._transport.abort()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the user, if it does not know."""
        self._lost(exc)

    def pause_writing(self) -> None:
        """The engine does not read."""
        self.is_full = True
        if self.user is not None:
            self.user.upstream_full()

    def resume_writing(self) -> None:
        """The engine reads again."""
        self.is_full = False
        if self.user is not None:
            self.user.upstream_drained()

    def _lost(self, error: Exception | None) -> None:
        user, self.user, self.is_open = self.user, None, False
        if user is not None:
            user.upstream_lost(error)


async def open_upstream(endpoint: Endpoint, user: UpstreamUser, timeout_seconds: float) -> Upstream:
    """A connection to ``endpoint``, lent to ``user``; raises OSError, TimeoutError included."""
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(timeout_seconds):
        if endpoint.socket_path:
            _, upstream = await loop.create_unix_connection(lambda: Upstream(endpoint, user), str(endpoint.socket_path))
        else:
            _, upstream = await loop.create_connection(
                lambda: Upstream(endpoint, user), "127.0.0.1", endpoint.port or 0
            )
    return upstream
