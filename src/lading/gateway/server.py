"""The gateway's listener: one port, open from the first second, before there is a model or an engine.

Runs on any asyncio loop (uvloop included) and never picks one. Methods belong to the loop's thread, except
:meth:`Gateway.attach_engine`, which any thread may call.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import time

from lading.backends.interface import Endpoint
from lading.errors import MachineError, PortInUse
from lading.gateway.connection import ClientConnection
from lading.gateway.context import Context, Limits
from lading.gateway.fetch import FetchFailed, fetch
from lading.gateway.management import MANAGEMENT_PATHS, management_app
from lading.gateway.metrics import page
from lading.gateway.status import ServiceStatus
from lading.gateway.traffic import Traffic

_BACKLOG = 2048  # 128, the usual default, cost 950 ms at p99 with 256 streams
_TEXT_FORMATS = ("text/plain", "application/openmetrics-text")


class Gateway:
    """Answers management paths itself and splices all others to the engine while the status is ready."""

    def __init__(
        self, host: str, port: int, status: ServiceStatus, *, version: str, limits: Limits | None = None
    ) -> None:
        self._host = host
        self._port = port
        app = management_app(status, version, metrics=self._metrics)
        self._context = Context(app, status, Traffic(MANAGEMENT_PATHS), limits or Limits())
        self._server: asyncio.Server | None = None
        self._sweep_timer: asyncio.TimerHandle | None = None

    async def start(self) -> int:
        """Listen, and give the port; raises :class:`PortInUse`, or :class:`MachineError` when binding fails otherwise.

        Port 0 takes any free one. The host ``::`` takes IPv4 too, and only IPv4 on a machine without IPv6.
        """
        sock = await self._bind()
        # Connections inherit it. asyncio would set it only on sockets that were made with a protocol number.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: ClientConnection(self._context), sock=sock, backlog=_BACKLOG)
        self._sweep()
        port = sock.getsockname()[1]
        assert isinstance(port, int)  # noqa: S101 - of an internet socket
        return port

    def attach_engine(self, endpoint: Endpoint | None, *, metrics_path: str = "/metrics") -> None:
        """Send engine paths to ``endpoint`` from now on, while the status is ready; None sends them nowhere (503).

        Requests under way stay where they are.
        """
        self._context.metrics_path = metrics_path
        self._context.endpoint = endpoint

    async def close(self, grace_seconds: float = 0) -> None:
        """Accept nothing more, close idle connections, let replies under way end within the grace, abort the rest."""
        self._context.closing = True
        if self._server:
            self._server.close()
        for connection in list(self._context.connections):
            connection.retire()
        await self._context.wait_until_empty(grace_seconds)
        for connection in list(self._context.connections):
            connection.abort()
        await self._context.wait_until_empty(1.0)
        if self._sweep_timer:
            self._sweep_timer.cancel()

    async def _bind(self) -> socket.socket:
        loop = asyncio.get_running_loop()
        try:
            found = await loop.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
            family, _, _, _, address = found[0]
            return _listen(family, str(address[0]), self._port)
        except OSError as error:
            raise _bind_error(self._host, self._port, error) from error

    def _sweep(self) -> None:
        now = time.monotonic()
        for connection in [each for each in self._context.connections if each.deadline < now]:
            connection.expire()
        self._sweep_timer = asyncio.get_running_loop().call_later(self._context.limits.sweep_seconds, self._sweep)

    async def _metrics(self) -> bytes:
        context = self._context
        snapshot = context.status.snapshot()
        if not snapshot.ready or context.endpoint is None:
            return page(snapshot, context.traffic, None, b"")
        block = await _engine_metrics(context.endpoint, context.metrics_path, context.limits.engine_metrics_seconds)
        return page(snapshot, context.traffic, block is not None, block or b"")


async def _engine_metrics(endpoint: Endpoint, path: str, seconds: float) -> bytes | None:
    try:
        fetched = await fetch(endpoint, path, timeout_seconds=seconds)
    except FetchFailed:
        return None
    return fetched.body if fetched.status == 200 and fetched.content_type.startswith(_TEXT_FORMATS) else None


def _listen(family: int, address: str, port: int) -> socket.socket:
    both = family == socket.AF_INET6 and address == "::"
    if both and not socket.has_dualstack_ipv6():
        return _listen(socket.AF_INET, "0.0.0.0", port)  # noqa: S104 - what :: asks for
    return socket.create_server((address, port), family=family, backlog=_BACKLOG, dualstack_ipv6=both)


def _bind_error(host: str, port: int, error: OSError) -> MachineError:
    where = f"{host} port {port}"
    match error.errno:
        case errno.EADDRINUSE:
            remedy = "set NIM_SERVER_PORT, or --port, to a free port, or stop the other process"
            return PortInUse(f"{where}: another process listens there", remedy=remedy)
        case errno.EACCES | errno.EPERM:
            remedy = "set NIM_SERVER_PORT, or --port, to 1024 or higher"
            return MachineError(f"{where}: this user may not listen there", remedy=remedy)
        case _:
            remedy = "set LADING_HOST to an address of this machine; 0.0.0.0 takes all of them"
            return MachineError(f"{where}: cannot listen: {error.strerror or error}", remedy=remedy)
