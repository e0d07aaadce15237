"""TLS at the gateway's port: real certificates, real handshakes, files that change while requests are under way."""

from __future__ import annotations

import asyncio
import datetime
import socket
import ssl
import subprocess
import time

import pytest

from lading.errors import UsageError
from lading.events import Note, Phase
from lading.gateway.access import Access
from lading.gateway.context import Limits
from lading.gateway.tls import TlsFiles, load_context
from tests.gateway.certificates import Authority, SecretVolume, new_key, pem, write
from tests.gateway.harness import LOOPS, RawClient, scenario, service

every_loop = pytest.mark.parametrize("loop", LOOPS)
BRISK = Limits(watch_seconds=0.02)
DAY = datetime.timedelta(days=1)


@pytest.fixture(scope="module")
def authority():
    return Authority()


@pytest.fixture(scope="module")
def others():
    return Authority("another authority")


def behind(files: TlsFiles, health_port: int | None = None) -> Access:
    return Access("127.0.0.1", 0, tls=files, health_port=health_port)


def server_name(client: RawClient) -> str:
    return str(dict(part[0] for part in client.writer.get_extra_info("peercert")["subject"])["commonName"])


async def until(condition) -> None:
    while not condition():
        await asyncio.sleep(0.005)


@every_loop
@scenario
async def test_requests_are_answered_over_tls(loop, tmp_path, authority):
    async with service(access=behind(authority.server(tmp_path))) as running:
        client = await running.client(authority.client(tmp_path))
        tls = client.writer.get_extra_info("ssl_object")
        assert (tls.version(), tls.selected_alpn_protocol()) == ("TLSv1.3", "http/1.1")
        body = bytes(range(256)) * 16384
        for _ in range(3):
            assert (await client.post("/v1/echo", body)).body == body
        assert (await client.get("/v1/health/live")).status == 200
        assert running.engine.connections == 1


@every_loop
@scenario
async def test_tls_1_2_is_spoken_and_nothing_older(loop, tmp_path, authority):
    async with service(access=behind(authority.server(tmp_path))) as running:
        context = authority.client(tmp_path)
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        assert (await (await running.client(context)).get("/v1/echo")).status == 200
    floor = load_context(authority.server(tmp_path), lambda _: None).minimum_version
    assert floor is ssl.TLSVersion.TLSv1_2


@every_loop
@scenario
async def test_a_stream_passes_chunk_by_chunk(loop, tmp_path, authority):
    async with service(access=behind(authority.server(tmp_path))) as running:
        client = await running.client(authority.client(tmp_path))
        await client.send(b"GET /v1/stream HTTP/1.1\r\nhost: a\r\n\r\n")
        await client.reader.readuntil(b"\r\n\r\n")
        for chunk in (b"one", b"two"):
            running.engine.chunks.put_nowait(chunk)
            assert await client.reader.readuntil(chunk + b"\r\n") == b"3\r\n" + chunk + b"\r\n"


@every_loop
@scenario
async def test_a_client_that_does_not_read_stops_the_engine(loop, tmp_path, authority):
    async with service(access=behind(authority.server(tmp_path))) as running:
        client = await running.client(authority.client(tmp_path))
        client.writer.transport.pause_reading()
        await client.send(b"GET /v1/flood HTTP/1.1\r\nhost: a\r\n\r\n")
        await until(lambda: running.engine.flooded_bytes > 0)
        before = -1
        while running.engine.flooded_bytes != before:
            before = running.engine.flooded_bytes
            await asyncio.sleep(0.3)
        assert before < 64 << 20
        client.writer.transport.abort()
        await running.engine.aborted.wait()


@every_loop
@pytest.mark.parametrize(
    "leave", [lambda each: each.writer.transport.abort(), lambda each: each.writer.close()], ids=["reset", "close"]
)
@pytest.mark.parametrize("secured", [True, False], ids=["tls", "plain"])
@scenario
async def test_twenty_of_twenty_clients_that_leave_abort_the_engine_within_a_second(
    loop, leave, secured, tmp_path, authority
):
    access = behind(authority.server(tmp_path)) if secured else Access("127.0.0.1", 0)
    async with service(access=access) as running:
        context = authority.client(tmp_path) if secured else None
        for _ in range(20):
            running.engine.aborted.clear()
            client = await running.client(context)
            await client.send(b"GET /v1/hold HTTP/1.1\r\nhost: a\r\n\r\n")
            await client.reader.readuntil(b"first\n\n\r\n")
            began = time.monotonic()
            leave(client)
            await running.engine.aborted.wait()
            assert time.monotonic() - began < 1


@every_loop
@scenario
async def test_a_websocket_passes_and_ends_with_the_engine(loop, tmp_path, authority):
    async with service(access=behind(authority.server(tmp_path))) as running:
        client = await running.client(authority.client(tmp_path))
        await client.send(b"GET /v1/upgrade HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n")
        await client.reader.readuntil(b"\r\n\r\n")
        assert await client.reader.readexactly(6) == b"hello "
        await client.send(b"ping")
        assert await client.reader.readexactly(4) == b"ping"
        await client.send(b"close")
        assert await client.reader.read() == b" goodbye"


@every_loop
@scenario
async def test_a_refused_request_gets_its_reply_and_then_the_end(loop, tmp_path, authority):
    limits = Limits(linger_seconds=0.05, sweep_seconds=0.02)
    async with service(access=behind(authority.server(tmp_path)), limits=limits) as running:
        client = await running.client(authority.client(tmp_path))
        await client.send(b"GET nonsense HTTP/1.1\r\nhost: a\r\n\r\n" + b"x" * 100_000)
        assert (await client.reply()).status == 400
        assert await client.at_end()


@every_loop
@scenario
async def test_the_end_after_a_refusal_is_one_that_tls_knows(loop, tmp_path, authority):
    limits = Limits(linger_seconds=0.05, sweep_seconds=0.02)
    async with service(access=behind(authority.server(tmp_path)), limits=limits) as running:
        context = authority.client(tmp_path)
        assert (await asyncio.to_thread(all_of, context, running.port)).startswith(b"HTTP/1.1 400")


def all_of(context: ssl.SSLContext, port: int) -> bytes:
    """The reply to nonsense, up to the end; an end without close_notify is an error."""
    with (
        socket.create_connection(("127.0.0.1", port), 10) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1", suppress_ragged_eofs=False) as tls,
    ):
        tls.sendall(b"GET nonsense HTTP/1.1\r\n\r\n")
        received = b""
        while data := tls.recv(4096):
            received += data
        return received


@every_loop
@scenario
async def test_a_reply_that_ends_with_the_engines_connection_ends_properly(loop, tmp_path, authority):
    async with service(access=behind(authority.server(tmp_path))) as running:
        client = await running.client(authority.client(tmp_path))
        assert (await client.get("/v1/until-eof")).body == b"all of it"


@scenario
async def test_plain_http_on_the_tls_port_gets_no_answer_and_harms_nobody(tmp_path, authority):
    async with service(access=behind(authority.server(tmp_path))) as running:
        stranger = await running.client()
        await stranger.send(b"GET /v1/health/live HTTP/1.1\r\nhost: a\r\n\r\n")
        assert b"HTTP" not in await stranger.reader.read()
        client = await running.client(authority.client(tmp_path))
        assert (await client.get("/v1/health/live")).status == 200


@every_loop
@scenario
async def test_an_idle_client_does_not_delay_the_end_and_a_stream_does(loop, tmp_path, authority):
    async with service(access=behind(authority.server(tmp_path))) as running:
        context = authority.client(tmp_path)
        idle, streaming = await running.client(context), await running.client(context)
        idle.writer.transport.pause_reading()
        await idle.send(b"GET /v1/health/live HTTP/1.1\r\nhost: a\r\n\r\n")
        await streaming.send(b"GET /v1/stream HTTP/1.1\r\nhost: a\r\n\r\n")
        await streaming.reader.readuntil(b"\r\n\r\n")
        draining = asyncio.ensure_future(running.gateway.drain(15))
        running.engine.chunks.put_nowait(b"last")
        running.engine.chunks.put_nowait(None)
        assert await streaming.reader.readuntil(b"0\r\n\r\n") == b"4\r\nlast\r\n0\r\n\r\n"
        began = time.monotonic()
        await draining
        assert time.monotonic() - began < 5


@scenario
async def test_a_handshake_that_ends_after_the_gateway_began_to_close_is_cut(tmp_path, authority):
    async with service(access=behind(authority.server(tmp_path))) as running:
        with socket.create_connection(("127.0.0.1", running.port)) as plain:
            await asyncio.sleep(0.05)  # accepted, its handshake not begun; were it not, it would be cut as well
            await running.gateway.drain(0)
            with pytest.raises(OSError):
                await asyncio.to_thread(get_live, authority.client(tmp_path), plain)


def get_live(context: ssl.SSLContext, plain: socket.socket) -> bytes:
    with context.wrap_socket(plain, server_hostname="127.0.0.1") as tls:
        tls.sendall(b"GET /v1/health/live HTTP/1.1\r\nhost: a\r\n\r\n")
        if not (reply := tls.recv(4096)):
            raise ConnectionResetError
        return reply


@pytest.mark.parametrize("signer", [None, "others"], ids=["no certificate", "of another authority"])
@every_loop
@scenario
async def test_mtls_refuses_strangers(loop, signer, tmp_path, authority, others):
    async with service(access=behind(authority.server(tmp_path, clients=authority))) as running:
        stranger = authority.client(tmp_path, *(("stranger", others) if signer else ()))
        with pytest.raises((ssl.SSLError, ConnectionError, asyncio.IncompleteReadError)):
            await (await running.client(stranger)).get("/v1/health/live")
        friend = await running.client(authority.client(tmp_path, "friend"))
        assert (await friend.get("/v1/echo")).status == 200
        assert len(running.engine.requests) == 1


@every_loop
@scenario
async def test_certificates_rotate_under_load_without_a_failed_request(loop, tmp_path, authority):
    volume = SecretVolume(tmp_path / "secret")
    names = ("tls.key", "tls.crt")
    volume.put(dict(zip(names, authority.issue("server-0"), strict=True)))
    files = TlsFiles(volume.directory / "tls.key", volume.directory / "tls.crt")
    async with service(access=behind(files), limits=BRISK) as running:
        context = authority.client(tmp_path)
        stream, kept = await running.client(context), await running.client(context)
        await stream.send(b"GET /v1/stream HTTP/1.1\r\nhost: a\r\n\r\n")
        seen, is_over = set(), asyncio.Event()

        async def load() -> int:
            done = 0
            while not is_over.is_set():
                client = RawClient(*await asyncio.open_connection("127.0.0.1", running.port, ssl=context))
                assert (await client.post("/v1/echo", b"x" * 5000)).body == b"x" * 5000
                seen.add(server_name(client))
                client.writer.close()
                done += 1
            return done

        load_tasks = [asyncio.create_task(load()) for _ in range(4)]
        for number in (1, 2, 3):
            volume.put(dict(zip(names, authority.issue(f"server-{number}"), strict=True)))
            await until(lambda number=number: f"server-{number}" in seen or any(each.done() for each in load_tasks))
            assert (await kept.get("/v1/echo")).status == 200
        is_over.set()
        assert sum(await asyncio.gather(*load_tasks)) > 10
        assert (server_name(kept), server_name(stream)) == ("server-0", "server-0")
        running.engine.chunks.put_nowait(None)
        assert (await stream.reply()).whole
        assert running.warnings == []


@every_loop
@scenario
async def test_a_client_whose_authority_was_taken_away_is_out_even_with_a_session(loop, tmp_path, authority, others):
    files = authority.server(tmp_path, clients=authority)
    async with service(access=behind(files), limits=BRISK) as running:
        context = authority.client(tmp_path, "friend")
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        client = await running.client(context)
        assert (await client.get("/v1/echo")).status == 200
        session = client.writer.get_extra_info("ssl_object").session
        assert await asyncio.to_thread(resumes, context, session, running.port)
        files.ca_certs.write_bytes(others.certificate)
        await until(lambda: any("read again" in each.text for each in running.events if isinstance(each, Note)))
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await asyncio.to_thread(resumes, context, session, running.port)
        assert (await client.get("/v1/echo")).status == 200


def resumes(context: ssl.SSLContext, session: ssl.SSLSession, port: int) -> bool:
    with (
        socket.create_connection(("127.0.0.1", port)) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1", session=session) as tls,
    ):
        tls.sendall(b"GET /v1/echo HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
        assert tls.recv(4096).startswith(b"HTTP/1.1 200")
        return bool(tls.session_reused)


@scenario
async def test_files_that_do_not_fit_together_leave_the_old_ones_with_one_warning(tmp_path, authority):
    files = authority.server(tmp_path / "tls")
    async with service(access=behind(files), limits=BRISK) as running:
        files.key.write_bytes(pem(new_key()))
        await until(lambda: running.warnings)
        await asyncio.sleep(0.2)
        assert len(running.warnings) == 1
        assert "does not belong to" in running.warnings[0]
        client = await running.client(authority.client(tmp_path))
        assert server_name(client) == "server"
        authority.server(tmp_path / "tls", "mended")
        await until(lambda: len(running.events) > 1)
        assert server_name(await running.client(authority.client(tmp_path))) == "mended"


def spoiled(tmp_path, authority):
    """Ways in which files are not what they should be: how, and what the message and the remedy name."""
    key, certificate = authority.issue("server")
    ok = write(tmp_path / "ok", key, certificate, authority)
    other = write(tmp_path / "other", authority.issue("x")[0], b"nothing", authority)
    sealed = write(tmp_path / "sealed", pem(new_key(), b"secret"), certificate)
    (tmp_path / "no.crt").write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    return {
        "no key": (TlsFiles(tmp_path / "none.key", ok.certs), "NIM_SSL_KEY_PATH", "No such file", "NIM_SSL_KEY_PATH"),
        "no certificate": (TlsFiles(ok.key, tmp_path / "none"), "NIM_SSL_CERTS_PATH", "No such file", "NIM_SSL"),
        "a directory": (TlsFiles(tmp_path, ok.certs), "NIM_SSL_KEY_PATH", "directory", "NIM_SSL_KEY_PATH"),
        "another key": (TlsFiles(other.key, ok.certs), "NIM_SSL_KEY_PATH", "does not belong to", "NIM_SSL_CERTS_PATH"),
        "encrypted": (TlsFiles(sealed.key, ok.certs), "NIM_SSL_KEY_PATH", "encrypted", "openssl pkey"),
        "key is none": (TlsFiles(other.certs, ok.certs), "NIM_SSL_KEY_PATH", "no private key", "NIM_SSL_KEY_PATH"),
        "certificate is none": (TlsFiles(ok.key, other.certs), "NIM_SSL_CERTS_PATH", "no certificate", "NIM_SSL"),
        "broken": (TlsFiles(ok.key, tmp_path / "no.crt"), "NIM_SSL_", "can be read", "NIM_SSL_"),
        "no authorities": (TlsFiles(ok.key, ok.certs, tmp_path / "none"), "NIM_SSL_CA_CERTS_PATH", "No such", "NIM"),
        "authority is none": (
            TlsFiles(ok.key, ok.certs, other.certs),
            "NIM_SSL_CA_CERTS_PATH",
            "no cert",
            "NIM_SSL_CA",
        ),
    }


CASES = ["no key", "no certificate", "a directory", "another key", "encrypted", "key is none", "certificate is none", "broken", "no authorities", "authority is none"]  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_files_that_cannot_be_used_are_named_at_the_start(case, tmp_path, authority):
    files, setting, reason, remedy = spoiled(tmp_path, authority)[case]
    with pytest.raises(UsageError) as refusal:
        load_context(files, lambda _: None)
    assert setting in refusal.value.message
    assert reason in refusal.value.message
    assert remedy in (refusal.value.remedy or "")


@pytest.mark.parametrize(
    ("since", "until_", "said"),
    [(-2 * DAY, -DAY, "has expired"), (DAY, 2 * DAY, "not valid yet"), (-DAY, DAY, None)],
    ids=["expired", "future", "valid"],
)
def test_a_certificate_out_of_its_time_is_said_and_used(since, until_, said, tmp_path, authority):
    events = []
    files = write(tmp_path, *authority.issue("server", since=since, until=until_))
    load_context(files, events.append)
    assert [each.level for each in events] == (["WARNING"] if said else [])
    assert not said or said in events[0].text


def test_a_chain_with_an_intermediate_is_sent_whole(tmp_path, authority):
    key, certificate = authority.issue("server")
    files = write(tmp_path, key, certificate + authority.certificate)
    events = []
    context = load_context(files, events.append)
    assert events == []
    assert context.verify_mode is ssl.CERT_NONE


@every_loop
@scenario
async def test_the_port_for_probes_is_plain_and_answers_them_alone(loop, tmp_path, authority):
    files = authority.server(tmp_path, clients=authority)
    async with service(access=behind(files, health_port=0), phase=Phase.LOADING) as running:
        client = await running.client(port=running.gateway.health_port)
        assert (await client.get("/v1/health/live")).status == 200
        reply = await client.get("/v1/health/ready")
        assert (reply.status, reply.json()["phase"]) == (503, "loading")
        assert b"lading_ready 0" in (await client.get("/v1/metrics")).body
        assert (await client.get("/v1/models")).status == 404
        assert (await client.post("/v1/chat/completions", b"{}")).json()["error"]["code"] == 404
        assert (await client.post("/v1/health/live", b"{}")).status == 405
        await running.gateway.drain(0)
        assert (await client.get("/v1/health/live")).status == 200


@scenario
async def test_a_port_for_probes_that_is_taken_names_its_setting_and_frees_the_other():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        with pytest.raises(Exception) as caught:
            async with service(access=Access("127.0.0.1", 0, health_port=taken.getsockname()[1])):
                pass
        assert "NIM_HEALTH_PORT" in caught.value.remedy


@scenario
async def test_curl_speaks_to_it(tmp_path, authority):
    async with service(access=behind(authority.server(tmp_path))) as running:
        (tmp_path / "authority.pem").write_bytes(authority.certificate)
        (tmp_path / "body").write_bytes(b"b" * 3_000_000)
        told = ["--cacert", str(tmp_path / "authority.pem"), "--data-binary", f"@{tmp_path}/body"]
        more = ["-H", "Expect: 100-continue", "-H", "Transfer-Encoding: chunked"]
        command = ["curl", "-sS", "--noproxy", "*", *told, *more, f"https://localhost:{running.port}/v1/echo"]
        done = await asyncio.to_thread(subprocess.run, command, capture_output=True, check=True)
        assert done.stdout == b"b" * 3_000_000
