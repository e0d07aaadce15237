"""API keys and the size of bodies: who passes, who gets which reply, what the engine sees of it."""

from __future__ import annotations

import asyncio
import http.client
import json
import subprocess

import pytest

from lading.errors import UsageError
from lading.events import Phase
from lading.gateway.access import Access
from lading.gateway.admission import Admission, Admitted
from lading.gateway.context import Limits
from lading.gateway.heads import parse_head
from lading.gateway.keys import KeyRing, line_for, read_keys
from tests.gateway.harness import LOOPS, scenario, service
from tests.gateway.prometheus_text import parse

every_loop = pytest.mark.parametrize("loop", LOOPS)
ALICE, BOB, BOBS_NEXT = "alice-0123456789abcdef", "bob-0123456789abcdefgh", "bob-next-0123456789abc"
BRISK = Limits(watch_seconds=0.02)


@pytest.fixture
def keys(tmp_path):
    path = tmp_path / "keys"
    path.write_text(
        f"# who may\n\n{line_for('alice', ALICE)}  # since May\n{line_for('bob', BOB)}\n{line_for('bob', BOBS_NEXT)}\n"
    )
    return path


def asking_for_keys(path) -> Access:
    return Access("127.0.0.1", 0, keys_file=path)


async def until(condition) -> None:
    while not condition():
        await asyncio.sleep(0.005)


@pytest.mark.parametrize(
    "field", [f"Authorization: Bearer {ALICE}", f"authorization: bEARER  {ALICE}", f"X-API-Key: {ALICE}"]
)
@every_loop
@scenario
async def test_a_key_opens_and_goes_no_further(loop, field, keys):
    async with service(access=asking_for_keys(keys)) as running:
        client = await running.client()
        reply = await client.post("/v1/echo", b"body", headers=f"a: b\r\n{field}\r\nc: d\r\n")
        assert (reply.status, reply.body) == (200, b"body")
        assert ALICE.encode() not in running.engine.requests[0].head
        assert running.engine.requests[0].head.count(b"\r\n") == 6
        assert (running.engine.requests[0].header("a"), running.engine.requests[0].header("c")) == ("b", "d")


@pytest.mark.parametrize(
    ("headers", "challenge"),
    [
        ("", 'Bearer realm="lading"'),
        ("authorization: Basic YTpi\r\n", 'Bearer realm="lading"'),
        ("authorization: Bearer wrong\r\n", 'Bearer realm="lading", error="invalid_token"'),
        ("x-api-key: \r\n", 'Bearer realm="lading", error="invalid_token"'),
        (f"authorization: {ALICE}\r\n", 'Bearer realm="lading"'),
    ],
)
@scenario
async def test_without_a_good_key_it_is_a_401_in_the_form_of_the_api(headers, challenge, keys):
    async with service(access=asking_for_keys(keys)) as running:
        client = await running.client()
        for _ in range(2):
            reply = await client.post("/v1/chat/completions", b"{}", headers=headers)
            error = reply.json()["error"]
            assert (reply.status, reply.headers["www-authenticate"]) == (401, challenge)
            assert (error["type"], error["code"], error["param"]) == ("invalid_request_error", "invalid_api_key", None)
            assert reply.headers["connection"] == "keep-alive"
        assert running.engine.requests == []


@scenario
async def test_health_and_metrics_need_no_key_and_all_else_does(keys):
    async with service(access=asking_for_keys(keys)) as running:
        client = await running.client()
        for path in ("/v1/health/live", "/v1/health/ready", "/v1/metrics", "/metrics", "/health", "/metrics?a=b"):
            assert (await client.get(path)).status == 200, path
        for path in ("/v1/metadata", "/v1/manifest", "/v1/models", "/v1/health/live/", "/v1/health%2flive", "//metrics", "/docs", "/v1/health/../models"):  # fmt: skip
            assert (await client.get(path)).status == 401, path
        assert (await client.post("/health", b"")).status == 401


@scenario
async def test_before_ready_strangers_learn_nothing(keys):
    async with service(access=asking_for_keys(keys), phase=Phase.LOADING) as running:
        client = await running.client()
        assert (await client.post("/v1/chat/completions", b"{}")).status == 401
        assert (await client.post("/v1/chat/completions", b"{}", headers=f"x-api-key: {BOB}\r\n")).status == 503


@scenario
async def test_a_key_for_the_engine_passes_beside_ours(keys):
    async with service(access=asking_for_keys(keys)) as running:
        client = await running.client()
        both = f"x-api-key: {ALICE}\r\nauthorization: Bearer for-the-engine\r\n"
        assert (await client.get("/v1/echo", headers=both)).status == 200
        assert running.engine.requests[0].header("authorization") == "Bearer for-the-engine"
        assert running.engine.requests[0].header("x-api-key") is None


@scenario
async def test_metrics_count_by_the_name_of_the_key(keys):
    async with service(access=asking_for_keys(keys)) as running:
        client = await running.client()
        for key in (ALICE, BOB, BOBS_NEXT):
            await client.get("/v1/echo", headers=f"x-api-key: {key}\r\n")
        await client.get("/v1/echo")
        page = (await client.get("/v1/metrics")).body.decode()
        assert 'lading_http_requests_by_key_total{key="alice",code="200"} 1\n' in page
        assert 'lading_http_requests_by_key_total{key="bob",code="200"} 2\n' in page
        assert 'code="401"} 1\n' in page
        assert ALICE not in page
        parse(page)


@every_loop
@scenario
async def test_keys_are_taken_and_given_while_it_runs(loop, keys):
    async with service(access=asking_for_keys(keys), limits=BRISK) as running:
        client = await running.client()
        assert (await client.get("/v1/echo", headers=f"x-api-key: {ALICE}\r\n")).status == 200
        keys.write_text(line_for("carol", "carol-0123456789abcdef"))
        await until(lambda: running.events)
        assert (await client.get("/v1/echo", headers=f"x-api-key: {ALICE}\r\n")).status == 401
        assert (await client.get("/v1/echo", headers="x-api-key: carol-0123456789abcdef\r\n")).status == 200
        keys.write_text("carol:md5:abc")
        await until(lambda: running.warnings)
        assert "line 1 is not" in running.warnings[0]
        assert "abc" not in running.warnings[0]
        assert (await client.get("/v1/echo", headers="x-api-key: carol-0123456789abcdef\r\n")).status == 200
        keys.write_text("# nobody\n")
        await until(lambda: len(running.warnings) > 1)
        await until(lambda: len(running.events) == 4)
        assert "nobody gets in" in running.warnings[1]
        assert (await client.get("/v1/echo", headers="x-api-key: carol-0123456789abcdef\r\n")).status == 401


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "No such file"),
        (b"alice:sha256:12", "line 1"),
        (b"\xff\xfe", "not text"),
        (b"# ok\na b:sha256:" + b"0" * 64, "line 2"),
    ],
    ids=["missing", "short", "binary", "bad name"],
)
def test_a_file_that_is_none_is_named_at_the_start(content, reason, tmp_path):
    if content is not None:
        (tmp_path / "keys").write_bytes(content)
    with pytest.raises(UsageError) as refusal:
        read_keys(tmp_path / "keys")
    assert "LADING_API_KEYS_FILE" in refusal.value.message
    assert reason in refusal.value.message
    assert "lading api-key" in (refusal.value.remedy or "")


def test_a_key_that_is_shown_twice_is_taken_out_twice():
    ring = KeyRing.parse(line_for("alice", ALICE))
    raw = f"GET / HTTP/1.1\r\nHost: a\r\nX-Api-Key:{ALICE}\r\nAuthorization: Bearer {ALICE} \r\nempty:\r\nx: y\r\n\r\n"
    verdict = Admission(keys=lambda: ring).admit(parse_head(raw.encode()))
    assert isinstance(verdict, Admitted)
    assert verdict.head.raw == b"GET / HTTP/1.1\r\nHost: a\r\nempty:\r\nx: y\r\n\r\n"
    assert parse_head(verdict.head.raw).headers == verdict.head.headers


@scenario
async def test_the_openai_client_is_let_in_with_its_key_and_told_without(keys):
    import openai

    async with service(access=asking_for_keys(keys)) as running:
        url = f"http://127.0.0.1:{running.port}/v1"

        def ask(key: str) -> str:
            with openai.OpenAI(base_url=url, api_key=key, max_retries=0) as client:
                return str(client.get("/echo", cast_to=str))

        assert "echo" in await asyncio.to_thread(ask, ALICE)
        with pytest.raises(openai.AuthenticationError) as refusal:
            await asyncio.to_thread(ask, "wrong")
        assert refusal.value.code == "invalid_api_key"


def limited(size: int) -> Access:
    return Access("127.0.0.1", 0, body_bytes=size)


@every_loop
@scenario
async def test_a_body_above_the_limit_is_a_413_before_it_is_read(loop):
    async with service(access=limited(1000)) as running:
        client = await running.client()
        assert (await client.post("/v1/echo", b"x" * 1000)).status == 200
        reply = await client.post("/v1/echo", b"x" * 1001)
        assert (reply.status, reply.json()["error"]["code"]) == (413, 413)
        assert "NIM_PROXY_CLIENT_MAX_BODY_SIZE" in reply.json()["error"]["message"]
        assert (await client.post("/v1/echo", b"kept")).body == b"kept"
        assert len(running.engine.requests) == 2


@every_loop
@scenario
async def test_a_body_in_chunks_that_grows_above_the_limit_is_a_413(loop):
    async with service(access=limited(1000)) as running:
        client = await running.client()
        head = b"POST /v1/echo HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n"
        chunk = b"1f4\r\n" + b"x" * 500 + b"\r\n"
        await client.send(head + chunk * 2 + b"0\r\n\r\n")
        assert len((await client.reply()).body) == 1000
        await client.send(head + chunk)
        await until(lambda: len(running.engine.requests) == 2)
        await client.send(chunk + b"1\r\n")
        reply = await client.reply()
        assert (reply.status, reply.headers["connection"]) == (413, "close")
        await running.engine.aborted.wait()


@scenario
async def test_a_client_that_waits_for_100_continue_hears_413_instead():
    async with service(access=limited(1000)) as running:
        client = await running.client()
        await client.send(b"POST /v1/echo HTTP/1.1\r\nhost: a\r\ncontent-length: 9999\r\nexpect: 100-continue\r\n\r\n")
        reply = await client.reply()
        assert (reply.status, reply.headers["connection"]) == (413, "close")


@scenario
async def test_a_large_upload_is_a_413_to_real_clients(tmp_path):
    async with service(access=limited(1000)) as running:

        def upload() -> tuple[int, dict[str, object]]:
            connection = http.client.HTTPConnection("127.0.0.1", running.port)
            connection.request("POST", "/v1/echo", b"x" * 300_000)
            reply = connection.getresponse()
            body = json.loads(reply.read())
            connection.close()
            return reply.status, body

        assert (await asyncio.to_thread(upload))[0] == 413
        (tmp_path / "body").write_bytes(b"x" * 300_000)
        url = f"http://127.0.0.1:{running.port}/v1/echo"
        command = ["curl", "-sS", "--noproxy", "*", "-w", "%{http_code}", "--data-binary", f"@{tmp_path}/body", url]
        done = await asyncio.to_thread(subprocess.run, command, capture_output=True, check=True)
        assert done.stdout.endswith(b"413")


@scenario
async def test_without_a_limit_a_body_may_be_large():
    async with service() as running:
        client = await running.client()
        assert len((await client.post("/v1/echo", b"x" * (32 << 20))).body) == 32 << 20
