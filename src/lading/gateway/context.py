"""What all connections of one gateway share."""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from lading.backends.interface import Endpoint
from lading.gateway.admission import Admission
from lading.gateway.asgi import App
from lading.gateway.status import ServiceStatus
from lading.gateway.traffic import Traffic

if TYPE_CHECKING:
    from lading.gateway.connection import ClientConnection

_QUIET_SECONDS = 0.05  # how often a gateway that waits for its last replies looks whether they are done


@dataclass(frozen=True, slots=True)
class Limits:
    """Named limits of the gateway. Replies have none: a stream may last as long as it likes."""

    head_bytes: int = 65536
    # A head must be whole this long after the connection, or its first byte on a kept connection.
    head_seconds: float = 60.0
    # A kept connection without a request, and a closing one that does not take its last bytes.
    idle_seconds: float = 75.0
    # Request bytes read and dropped to keep a connection whose reply did not wait for them.
    drain_bytes: int = 1 << 20
    # After the last reply, input is dropped this long, so that a reset does not overtake the reply.
    linger_seconds: float = 2.0
    connect_seconds: float = 5.0
    engine_metrics_seconds: float = 2.0
    # How often deadlines are looked at.
    sweep_seconds: float = 1.0
    # How often files are looked at; a change counts when it was seen twice.
    watch_seconds: float = 1.0


@dataclass(slots=True, eq=False)
class Context:
    """The gateway as its connections see it. Changed by the gateway alone, but for the set of connections."""

    app: App
    status: ServiceStatus
    traffic: Traffic
    limits: Limits
    admission: Admission = field(default_factory=Admission)
    endpoint: Endpoint | None = None
    metrics_path: str = "/metrics"
    closing: bool = False
    connections: set[ClientConnection] = field(default_factory=set)
    emptied: asyncio.Event = field(default_factory=asyncio.Event)

    def add(self, connection: ClientConnection) -> None:
        """A client is here."""
        self.connections.add(connection)

    def remove(self, connection: ClientConnection) -> None:
        """A client is gone."""
        self.connections.discard(connection)
        if not self.connections:
            self.emptied.set()

    async def wait_until_quiet(self, seconds: float) -> None:
        """Return when no reply is under way, or after ``seconds``."""
        deadline = time.monotonic() + seconds
        while any(each.is_busy for each in self.connections) and (left := deadline - time.monotonic()) > 0:
            await self.wait_until_empty(min(left, _QUIET_SECONDS))

    async def wait_until_empty(self, seconds: float) -> None:
        """Return when no client is left, or after ``seconds``."""
        if self.connections:
            self.emptied.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.emptied.wait(), seconds)
