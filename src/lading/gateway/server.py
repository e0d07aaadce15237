"""The gateway's listeners. One port is open from the first second, before there is a model or an engine.

Where asked for, a second one answers probes, over plain HTTP whatever the first one demands.
Runs on any asyncio loop (uvloop included) and never picks one. Methods belong to the loop's thread, except
:meth:`Gateway.attach_engine`, which any thread may call.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
import time
from typing import Any

from lading.backends.interface import Endpoint
from lading.errors import MachineError, PortInUse
from lading.events import Report, ignore
from lading.gateway.access import Access
from lading.gateway.admission import Admission
from lading.gateway.connection import ClientConnection
from lading.gateway.context import Context, Limits
from lading.gateway.fetch import FetchFailed, fetch
from lading.gateway.keys import watch_keys
from lading.gateway.management import MANAGEMENT_PATHS, health_app, management_app
from lading.gateway.metrics import page
from lading.gateway.status import ServiceStatus
from lading.gateway.tls import current_context, watch_certificates
from lading.gateway.traffic import Traffic
from lading.gateway.watch import Watched, keep_watching

_BACKLOG = 2048  # 128, the usual default, cost 950 ms at p99 with 256 streams
_TEXT_FORMATS = ("text/plain", "application/openmetrics-text")


class Gateway:
    """Answers management paths itself and splices all others to the engine while the status is ready."""

    def __init__(
        self,
        access: Access,
        status: ServiceStatus,
        *,
        version: str,
        limits: Limits | None = None,
        report: Report = ignore,
    ) -> None:
        self._access = access
        self._report = report
        traffic, limits = Traffic(MANAGEMENT_PATHS), limits or Limits()
        self._context = Context(management_app(status, version, metrics=self._metrics), status, traffic, limits)
        self._probed = Context(health_app(status, version, metrics=self._metrics), status, traffic, limits)
        self._server: asyncio.Server | None = None
        self._health_server: asyncio.Server | None = None
        self._sweep_timer: asyncio.TimerHandle | None = None
        self._watching: asyncio.Task[None] | None = None

    async def start(self) -> int:
        """Listen, and give the port; raises :class:`PortInUse`, or :class:`MachineError` when binding fails otherwise.

        Port 0 takes any free one. The host ``::`` takes IPv4 too, and only IPv4 on a machine without IPv6. Raises
        UsageError for files of :class:`Access` that cannot be used.
        """
        limits, access = self._context.limits, self._access
        certificates = watch_certificates(access.tls, self._report) if access.tls else None
        keys = watch_keys(access.keys_file, self._report) if access.keys_file else None
        ring = (lambda: keys.current) if keys else None
        self._context.admission = Admission(access.cors, ring, access.body_bytes)
        sock = await self._bind(access.port, "NIM_SERVER_PORT, or --port,")
        try:
            if access.health_port is not None:
                health = await self._bind(access.health_port, "NIM_HEALTH_PORT")
                self._health_server = await _listen_on(health, self._probed, {})
        except MachineError:
            sock.close()
            raise
        options = _tls_options(certificates, limits) if certificates else {}
        self._server = await _listen_on(sock, self._context, options)
        self._sweep()
        if watched := [each for each in (certificates, keys) if each]:
            self._watching = asyncio.create_task(keep_watching(watched, limits.watch_seconds))
        return _port_of(sock)

    @property
    def health_port(self) -> int | None:
        """Where probes are answered besides, once started; None where no such port was asked for."""
        return _port_of(self._health_server.sockets[0]) if self._health_server else None

    @property
    def requests_under_way(self) -> int:
        """How many clients wait for a reply or its end."""
        return sum(each.is_busy for each in self._context.connections)

    def attach_engine(self, endpoint: Endpoint | None, *, metrics_path: str = "/metrics") -> None:
        """Send engine paths to ``endpoint`` from now on, while the status is ready; None sends them nowhere (503).

        Requests under way stay where they are.
        """
        self._context.metrics_path = metrics_path
        self._context.endpoint = endpoint

    async def close(self, grace_seconds: float = 0) -> None:
        """Accept nothing more, close idle connections, let replies under way end within the grace, abort the rest."""
        await self.drain(grace_seconds)
        if self._health_server:
            self._health_server.close()
        for context in (self._context, self._probed):
            context.closing = True
            for connection in list(context.connections):
                connection.abort()
            await context.wait_until_empty(1.0)
        if self._sweep_timer:
            self._sweep_timer.cancel()
        if self._watching:
            self._watching.cancel()

    async def drain(self, seconds: float) -> None:
        """Accept nothing more, close idle connections, and return when no reply is under way, or after ``seconds``.

        The port for probes answers on.
        """
        self._context.closing = True
        if self._server:
            self._server.close()
        for connection in list(self._context.connections):
            connection.retire()
        await self._context.wait_until_quiet(seconds)

    async def _bind(self, port: int, setting: str) -> socket.socket:
        loop, host = asyncio.get_running_loop(), self._access.host
        try:
            found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
            family, _, _, _, address = found[0]
            return _listen(family, str(address[0]), port)
        except OSError as error:
            raise _bind_error(host, port, error, setting) from error

    def _sweep(self) -> None:
        now = time.monotonic()
        connections = [*self._context.connections, *self._probed.connections]
        for connection in [each for each in connections if each.deadline < now]:
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


def _tls_options(certificates: Watched[ssl.SSLContext], limits: Limits) -> dict[str, Any]:
    return {
        "ssl": current_context(certificates),
        "ssl_handshake_timeout": limits.head_seconds,
        "ssl_shutdown_timeout": limits.idle_seconds,
    }


async def _listen_on(sock: socket.socket, context: Context, options: dict[str, Any]) -> asyncio.Server:
    # Connections inherit it. asyncio would set it only on sockets that were made with a protocol number.
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    loop = asyncio.get_running_loop()
    return await loop.create_server(lambda: ClientConnection(context), sock=sock, backlog=_BACKLOG, **options)


def _port_of(sock: socket.socket) -> int:
    port = sock.getsockname()[1]
    assert isinstance(port, int)  # noqa: S101 - of an internet socket
    return port


def _listen(family: int, address: str, port: int) -> socket.socket:
    both = family == socket.AF_INET6 and address == "::"
    if both and not socket.has_dualstack_ipv6():
        return _listen(socket.AF_INET, "0.0.0.0", port)  # noqa: S104 - what :: asks for
    return socket.create_server((address, port), family=family, backlog=_BACKLOG, dualstack_ipv6=both)


def _bind_error(host: str, port: int, error: OSError, setting: str = "NIM_SERVER_PORT, or --port,") -> MachineError:
    where = f"{host} port {port}"
    match error.errno:
        case errno.EADDRINUSE:
            remedy = f"set {setting} to a free port, or stop the other process"
            return PortInUse(f"{where}: another process listens there", remedy=remedy)
        case errno.EACCES | errno.EPERM:
            remedy = f"set {setting} to 1024 or higher"
            return MachineError(f"{where}: this user may not listen there", remedy=remedy)
        case _:
            remedy = "set LADING_HOST to an address of this machine; 0.0.0.0 takes all of them"
            return MachineError(f"{where}: cannot listen: {error.strerror or error}", remedy=remedy)
