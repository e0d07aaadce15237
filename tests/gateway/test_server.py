"""The listener: binding, closing, the metrics page, the fetch behind it."""

from __future__ import annotations

import asyncio
import errno
import socket
import time

import pytest

from lading.backends.interface import Endpoint
from lading.errors import MachineError, PortInUse
from lading.events import Phase, PhaseChanged
from lading.gateway.access import Access
from lading.gateway.context import Limits
from lading.gateway.fetch import FetchFailed, fetch
from lading.gateway.server import Gateway, _bind_error
from lading.gateway.status import ServiceStatus
from tests.gateway.harness import LOOPS, RawClient, scenario, service
from tests.gateway.prometheus_text import parse
from tests.simulators.engine_http import METRICS, EngineSimulator

every_loop = pytest.mark.parametrize("loop", LOOPS)


async def live(host: str, port: int) -> int:
    client = RawClient(*await asyncio.open_connection(host, port))
    try:
        return (await client.get("/v1/health/live")).status
    finally:
        client.writer.transport.abort()


@every_loop
@scenario
async def test_a_port_in_use_names_the_setting(loop: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        gateway = Gateway(Access("127.0.0.1", port), ServiceStatus(), version="1")
        with pytest.raises(PortInUse) as caught:
            await gateway.start()
        assert str(port) in str(caught.value)
        assert "NIM_SERVER_PORT" in (caught.value.remedy or "")
        assert "--port" in (caught.value.remedy or "")
        await gateway.close()


@pytest.mark.parametrize("host", ["203.0.113.7", "no.such.host.invalid"], ids=["not ours", "no name"])
@scenario
async def test_an_address_that_is_not_ours_names_the_setting(host: str) -> None:
    with pytest.raises(MachineError) as caught:
        await Gateway(Access(host, 0), ServiceStatus(), version="1").start()
    assert "LADING_HOST" in (caught.value.remedy or "")


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM])
def test_a_port_that_needs_privileges_names_the_setting(number: int) -> None:
    error = _bind_error("0.0.0.0", 80, OSError(number, "no"))
    assert not isinstance(error, PortInUse)
    assert "NIM_SERVER_PORT" in (error.remedy or "")


@every_loop
@scenario
async def test_the_ipv6_wildcard_takes_ipv4_too(loop: str) -> None:
    gateway = Gateway(Access("::", 0), ServiceStatus(), version="1")
    port = await gateway.start()
    assert await live("127.0.0.1", port) == 200
    if socket.has_dualstack_ipv6():
        assert await live("::1", port) == 200
    await gateway.close()


@scenario
async def test_a_host_name_is_resolved() -> None:
    gateway = Gateway(Access("localhost", 0), ServiceStatus(), version="1")
    port = await gateway.start()
    assert await live("localhost", port) == 200
    await gateway.close()


@scenario
async def test_a_port_can_be_taken_again_at_once() -> None:
    first = Gateway(Access("127.0.0.1", 0), ServiceStatus(), version="1")
    port = await first.start()
    assert await live("127.0.0.1", port) == 200
    await first.close()
    second = Gateway(Access("127.0.0.1", port), ServiceStatus(), version="1")
    assert await second.start() == port
    await second.close()


@every_loop
@scenario
async def test_closing_closes_idle_connections_at_once_and_lets_a_stream_end(loop: str) -> None:
    async with service() as running:
        idle, streaming = await running.client(), await running.client()
        await idle.get("/v1/health/live")
        await streaming.send(b"GET /v1/stream HTTP/1.1\r\nhost: a\r\n\r\n")
        await streaming.reader.readuntil(b"\r\n\r\n")
        closing = asyncio.ensure_future(running.gateway.close(grace_seconds=20))
        assert await idle.at_end()
        with pytest.raises(OSError):
            await asyncio.open_connection("127.0.0.1", running.port)
        running.engine.chunks.put_nowait(b"last")
        running.engine.chunks.put_nowait(None)
        assert await streaming.reader.read() == b"4\r\nlast\r\n0\r\n\r\n"
        began = time.monotonic()
        await closing
        assert time.monotonic() - began < 10


@every_loop
@scenario
async def test_a_reply_that_outlasts_the_grace_is_aborted(loop: str) -> None:
    async with service() as running:
        client = await running.client()
        await client.send(b"GET /v1/hold HTTP/1.1\r\nhost: a\r\n\r\n")
        await client.reader.readuntil(b"first\n\n\r\n")
        await running.gateway.close(grace_seconds=0.05)
        assert await client.reader.read() == b""
        await running.engine.aborted.wait()


@scenario
async def test_replies_while_closing_announce_the_end() -> None:
    async with service(phase=Phase.LOADING) as running:
        client = await running.client()
        await client.send(b"GET /v1/models HTTP/1.1\r\nhost: a\r\n\r\n")
        running.gateway._context.closing = True
        assert (await client.reply()).headers["connection"] == "close"
        assert await client.at_end()


@scenario
async def test_closing_twice_or_before_the_start_does_nothing() -> None:
    gateway = Gateway(Access("127.0.0.1", 0), ServiceStatus(), version="1")
    await gateway.close()
    await gateway.start()
    await gateway.close()
    await gateway.close()


@every_loop
@pytest.mark.parametrize("path", ["/metrics", "/v1/metrics"])
@scenario
async def test_metrics_are_ours_then_the_engines(loop: str, path: str) -> None:
    async with service() as running:
        client = await running.client()
        await client.get("/v1/models")
        reply = await client.get(path)
        assert reply.body.endswith(METRICS)
        samples = parse(reply.body.decode())
        assert samples["lading_engine_metrics_up", frozenset()] == 1
        assert samples["lading_ready", frozenset()] == 1
        assert samples["lading_http_requests_total", frozenset({("route", "/v1/models"), ("code", "200")})] == 1
        assert samples["lading_http_in_flight", frozenset()] == 1  # this one
        assert samples["lading_http_time_to_first_byte_seconds_count", frozenset()] == 1


@scenario
async def test_metrics_before_ready_do_not_ask_the_engine() -> None:
    async with service(phase=Phase.LOADING) as running:
        samples = parse((await (await running.client()).get("/metrics")).body.decode())
        assert ("lading_engine_metrics_up", frozenset()) not in samples
        assert running.engine.requests == []


@pytest.mark.parametrize("path", ["/v1/echo", "/v1/close-early", "/v1/garbage", "/v1/hold", "/v1/close-mid-length"])
@scenario
async def test_metrics_come_without_the_engines_when_it_gives_none(path: str) -> None:
    async with service(limits=Limits(engine_metrics_seconds=0.2)) as running:
        running.gateway.attach_engine(running.engine.endpoint, metrics_path=path)
        samples = parse((await (await running.client()).get("/metrics")).body.decode())
        assert samples["lading_engine_metrics_up", frozenset()] == 0


@scenario
async def test_requests_are_counted_with_what_became_of_them() -> None:
    async with service() as running:
        client = await running.client()
        await client.get("/v1/health/live")
        await client.post("/v1/close-early", b"{}")
        leaving = await running.client()
        await leaving.send(b"POST /v1/completions HTTP/1.1\r\nhost: a\r\ncontent-length: 9\r\n\r\n")
        await running.engine.arrived.wait()
        leaving.writer.transport.abort()
        refused = await running.client()
        await refused.send(b"nonsense\r\n\r\n")
        await refused.reply()
        samples = parse((await client.get("/metrics")).body.decode())
        counts = {
            tuple(dict(labels)[key] for key in ("route", "code")): value
            for (name, labels), value in samples.items()
            if name == "lading_http_requests_total"
        }
        assert counts == {
            ("/v1/health/live", "200"): 1,
            ("other", "502"): 1,
            ("/v1/completions", "499"): 1,
            ("invalid", "400"): 1,
        }


@scenario
async def test_a_fetch_is_bounded_in_size_and_time() -> None:
    async with EngineSimulator() as engine:
        fetched = await fetch(engine.endpoint, "/metrics", timeout_seconds=5)
        assert (fetched.status, fetched.body) == (200, METRICS)
        with pytest.raises(FetchFailed, match="longer than"):
            await fetch(engine.endpoint, "/v1/flood", timeout_seconds=5, limit_bytes=1000)
        with pytest.raises(FetchFailed):
            await fetch(engine.endpoint, "/v1/hold", timeout_seconds=0.05)
    with pytest.raises(FetchFailed):
        await fetch(Endpoint(port=1), "/metrics", timeout_seconds=5)


@scenario
async def test_a_phase_reported_from_another_thread_opens_the_engine() -> None:
    async with service(phase=Phase.WARMING) as running:
        client = await running.client()
        assert (await client.get("/v1/models")).status == 503
        await asyncio.to_thread(running.status.report, PhaseChanged(Phase.READY))
        assert (await client.get("/v1/models")).status == 200
