"""The shared HTTP client on the wire: redirects, retries, time-outs, ranges, TLS and proxies."""

import gzip
import socket
import ssl
from collections.abc import Iterator
from dataclasses import replace
from email.utils import formatdate
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lading import __version__
from lading.errors import (
    ContentError,
    LadingError,
    OfflineError,
    RateLimited,
    SizeMismatch,
    SourceProtocolError,
    SourceUnreachable,
    UsageError,
)
from lading.events import Event, RetryScheduled
from lading.secret import Secret
from lading.sources.answer import range_header, read_range
from lading.sources.fault import Limits, explain, retry_after_seconds, retry_delay_seconds
from lading.sources.http import HttpClient, Network
from lading.sources.interface import PassingFault, RangeIgnored
from lading.sources.proxy import Proxies
from lading.sources.tls import tls_context
from lading.sources.urls import headers_after_redirect, origin, redacted
from tests.simulators.faults import CutAfter, Latency, Stall
from tests.simulators.server import Call, Reply
from tests.sources.servers import (
    AUTHORITY,
    FakeTime,
    ForwardProxy,
    ScriptedServer,
    TlsFront,
    assert_hidden,
    client_with,
    redirect,
    replies,
)

DATA = bytes(range(256)) * 100
IMPATIENT = Limits(connect_seconds=0.3, read_seconds=0.2, tries=1)
FILE = Reply(200, {}, DATA, "weights", "e1")


def read(client: HttpClient, url: str, start: int = 0, end: int = len(DATA), size_bytes: int = len(DATA)) -> bytes:
    with client.open(url, range_header(start, end)) as response:
        body = read_range(response, start, end, size_bytes)
        buffer, filled = memoryview(bytearray(end - start + 10)), 0
        while count := body.readinto(buffer[filled:]):
            filled += count
        return bytes(buffer[:filled])


class TestRequests:
    def test_says_who_asks_and_wants_the_bytes_as_they_are(self) -> None:
        with ScriptedServer(replies(Reply(200, {}, b"{}"))) as server:
            answer = client_with().fetch(f"{server.endpoint}/x", {"Accept": "application/json"})
        headers = server.requests[0].headers
        assert (answer.status, answer.body, answer.url) == (200, b"{}", f"{server.endpoint}/x")
        assert headers["user-agent"] == f"lading/{__version__}"
        assert headers["accept-encoding"] == "identity"
        assert headers["accept"] == "application/json"

    def test_any_status_that_does_not_pass_is_an_answer(self) -> None:
        with ScriptedServer(replies(Reply(404, {"X-Error-Code": "Nope"}, b"no"))) as server:
            answer = client_with().fetch(f"{server.endpoint}/x", {})
        assert (answer.status, answer.headers["x-error-code"], answer.body) == (404, "Nope", b"no")

    def test_offline_opens_no_socket(self) -> None:
        client = client_with(Network(offline=True))
        assert client.offline
        with ScriptedServer(replies(FILE)) as server:
            with pytest.raises(OfflineError, match=r"/x\?… needs the network, which is forbidden") as caught:
                client.fetch(f"{server.endpoint}/x?token=abc", {})
            with pytest.raises(OfflineError), client.open(f"{server.endpoint}/x", {}):
                pass
            assert server.requests == []
        assert caught.value.remedy == "unset LADING_OFFLINE and HF_HUB_OFFLINE"
        assert_hidden(caught.value, "abc")

    def test_a_body_over_the_limit_is_refused(self) -> None:
        with ScriptedServer(replies(Reply(200, {}, b"x" * 5000))) as server:
            client = client_with(Network(limits=Limits(body_bytes=4999)))
            with pytest.raises(SourceProtocolError, match=r"answers with more than 4\.88 KiB"):
                client.fetch(f"{server.endpoint}/x", {})
            assert client_with(Network(limits=Limits(body_bytes=5000))).fetch(f"{server.endpoint}/x", {}).body

    def test_a_small_body_that_is_encoded_unasked_is_decoded_within_the_limit(self) -> None:
        bomb = gzip.compress(b"0" * 1_000_000)
        with ScriptedServer(replies(Reply(200, {"Content-Encoding": "gzip"}, bomb))) as server:
            assert len(client_with().fetch(f"{server.endpoint}/x", {}).body) == 1_000_000
            client = client_with(Network(limits=Limits(body_bytes=100_000, slice_bytes=10_000)))
            with pytest.raises(SourceProtocolError, match="more than"):
                client.fetch(f"{server.endpoint}/x", {})

    def test_a_body_that_cannot_be_decoded_is_a_protocol_error(self) -> None:
        with (
            ScriptedServer(replies(Reply(200, {"Content-Encoding": "gzip"}, b"not gzip"))) as server,
            pytest.raises(SourceProtocolError, match="cannot be decoded"),
        ):
            client_with().fetch(f"{server.endpoint}/x", {})

    @pytest.mark.parametrize("url", ["ftp://hub.test/x", "http://", "hub.test/x", "http://a..b/x", "http://[::1/x"])
    def test_what_is_no_url_is_a_protocol_error(self, url: str) -> None:
        with pytest.raises(SourceProtocolError, match="not a URL of a source"):
            client_with().fetch(url, {})


class TestRedirects:
    def test_credentials_stay_at_home(self) -> None:
        with (
            ScriptedServer(replies(FILE)) as storage,
            ScriptedServer(replies(redirect(storage.endpoint + "/b"))) as hub,
        ):
            secret = {"Authorization": "Bearer abc", "Cookie": "m=1", "X-Api-Key": "k", "If-Match": '"e"'}
            answer = client_with().fetch(f"{hub.endpoint}/a", secret | {"Range": "bytes=0-9", "Accept": "a/b"})
        assert answer.body == DATA[:10]
        assert answer.url == f"{storage.endpoint}/b"
        assert hub.requests[0].headers["authorization"] == "Bearer abc"
        received = storage.requests[0].headers
        assert not {"authorization", "cookie", "x-api-key", "if-match"} & set(received)
        assert (received["range"], received["accept"]) == ("bytes=0-9", "a/b")

    @pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
    def test_within_one_origin_credentials_go_along(self, status: int) -> None:
        def script(call: Call) -> Reply:
            return redirect("/b?x=1#fragment", status) if call.path == "/a" else FILE

        with ScriptedServer(script) as hub:
            answer = client_with().fetch(f"{hub.endpoint}/a", {"Authorization": "Bearer abc"})
        assert answer.body == DATA
        assert [(request.path, request.headers["authorization"]) for request in hub.requests] == [
            ("/a", "Bearer abc"),
            ("/b", "Bearer abc"),
        ]

    def test_credentials_do_not_come_back_after_a_detour(self) -> None:
        with (
            ScriptedServer(lambda call: back if call.path == "/b" else FILE) as storage,
            ScriptedServer(lambda call: out if call.path == "/a" else FILE) as hub,
        ):
            out, back = redirect(f"{storage.endpoint}/b"), redirect(f"{hub.endpoint}/c")
            assert client_with().fetch(f"{hub.endpoint}/a", {"Authorization": "Bearer abc"}).body == DATA
        assert [("authorization" in request.headers) for request in hub.requests] == [True, False]

    @pytest.mark.parametrize(("redirects", "arrives"), [(5, True), (6, False)])
    def test_five_redirects_are_followed(self, redirects: int, arrives: bool) -> None:
        hops = [redirect(f"/{number}") for number in range(redirects)]
        with ScriptedServer(replies(*hops, FILE)) as hub:
            if arrives:
                assert client_with().fetch(f"{hub.endpoint}/a", {}).body == DATA
            else:
                with pytest.raises(SourceProtocolError, match=r"/a redirects more than 5 times"):
                    client_with().fetch(f"{hub.endpoint}/a", {})

    @pytest.mark.parametrize(
        "location", ["ftp://hub.test/x", "file:///etc/passwd", "http://a:b/", "http://[::1/", "mailto:x"]
    )
    def test_only_http_urls_are_followed(self, location: str) -> None:
        with (
            ScriptedServer(replies(redirect(location))) as hub,
            pytest.raises(SourceProtocolError, match="redirects to something that is no"),
        ):
            client_with().fetch(f"{hub.endpoint}/a", {})

    def test_a_redirect_without_a_place_is_an_answer(self) -> None:
        with ScriptedServer(replies(Reply(304))) as hub:
            assert client_with().fetch(f"{hub.endpoint}/a", {}).status == 304

    @pytest.mark.parametrize(
        ("here", "target", "kept"),
        [
            ("https://hub.test/a", "https://hub.test/b", True),
            ("https://hub.test/a", "https://HUB.test:443/b", True),
            ("https://hub.test/a", "https://hub.test.:443/b", True),
            ("https://hub.test/a", "https://hub.test:8443/b", False),
            ("https://hub.test/a", "https://cdn.hub.test/b", False),
            ("https://hub.test/a", "https://hub.test@evil.test/b", False),
            ("http://hub.test/a", "https://hub.test/b", False),
            ("http://hub.test/a", "http://hub.test:80/b", True),
        ],
    )
    def test_an_origin_is_scheme_host_and_port(self, here: str, target: str, kept: bool) -> None:
        headers = headers_after_redirect({"AUTHORIZATION": "Bearer abc", "range": "bytes=0-1"}, here, target)
        assert headers["range"] == "bytes=0-1"
        assert ("AUTHORIZATION" in headers) is kept

    def test_https_never_becomes_http(self) -> None:
        with pytest.raises(SourceProtocolError, match="redirects from https to http") as caught:
            headers_after_redirect({}, "https://hub.test/a?sig=abc", "http://hub.test/b?sig=def")
        assert_hidden(caught.value, "abc", "def")


class TestRetries:
    @pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504, 520])
    def test_passing_statuses_are_asked_again(self, status: int) -> None:
        time, events = FakeTime(), list[Event]()
        with ScriptedServer(replies(Reply(status), Reply(status), Reply(200, {}, b"{}"))) as server:
            client = client_with(time=time, report=events.append)
            assert client.fetch(f"{server.endpoint}/x?sig=abc", {}).status == 200
        assert time.slept == [0.5, 1.0]
        assert [type(event) for event in events] == [RetryScheduled, RetryScheduled]
        assert events[0] == RetryScheduled(
            f"{server.endpoint}/x?…", f"{server.endpoint}/x?… answers HTTP {status}", delay_seconds=0.5
        )

    @pytest.mark.parametrize("status", [200, 204, 400, 401, 403, 404, 410, 416])
    def test_other_statuses_are_final(self, status: int) -> None:
        with ScriptedServer(replies(Reply(status))) as server:
            assert client_with().fetch(f"{server.endpoint}/x", {}).status == status
            assert len(server.requests) == 1

    def test_connections_that_break_are_asked_again(self) -> None:
        time = FakeTime()
        with ScriptedServer(replies(Reply(200, {}, DATA))) as server:
            server.fault("/x", CutAfter(100))
            server.fault("/x", CutAfter(100, reset=True))
            assert client_with(time=time).fetch(f"{server.endpoint}/x", {}).body == DATA
            assert len(server.requests) == 3
        assert time.slept == [0.5, 1.0]

    def test_five_tries_are_enough(self) -> None:
        time = FakeTime()
        with ScriptedServer(replies(Reply(503))) as server:
            with pytest.raises(SourceUnreachable, match=r"answers HTTP 503 \(5 tries\)") as caught:
                client_with(time=time).fetch(f"{server.endpoint}/x?sig=abc", {})
            assert len(server.requests) == 5
        assert not isinstance(caught.value, PassingFault)
        assert time.slept == [0.5, 1.0, 2.0, 4.0]
        assert_hidden(caught.value, "abc")

    def test_a_caller_may_want_one_try(self) -> None:
        with ScriptedServer(replies(Reply(503))) as server:
            with pytest.raises(SourceUnreachable, match=r"answers HTTP 503$"):
                client_with().fetch(f"{server.endpoint}/x", {}, tries=1)
            assert len(server.requests) == 1

    def test_a_server_that_keeps_asking_to_wait_limits_the_rate(self) -> None:
        time = FakeTime()
        with (
            ScriptedServer(replies(Reply(429, {"Retry-After": "7"}))) as server,
            pytest.raises(RateLimited, match=r"answers HTTP 429 and asks to wait 7\.0 s \(5 tries\)"),
        ):
            client_with(time=time).fetch(f"{server.endpoint}/x", {})
        assert time.slept == [7.0, 7.0, 7.0, 7.0]

    def test_a_server_that_asks_for_more_than_we_wait_is_believed_at_once(self) -> None:
        time = FakeTime()
        with (
            ScriptedServer(replies(Reply(429, {"Retry-After": "86400"}))) as server,
            pytest.raises(RateLimited, match=r"asks to wait 24 h 00 min$"),
        ):
            client_with(time=time).fetch(f"{server.endpoint}/x", {})
        assert time.slept == []

    def test_patience_ends(self) -> None:
        time = FakeTime()
        limits = Limits(patience_seconds=1.2)
        with ScriptedServer(replies(Reply(503))) as server, pytest.raises(SourceUnreachable, match=r"\(3 tries\)"):
            client_with(Network(limits=limits), time=time).fetch(f"{server.endpoint}/x", {})
        assert time.slept == [0.5, 1.0]

    @pytest.mark.parametrize(
        ("headers", "expected"),
        [
            ({}, None),
            ({"Retry-After": "0"}, 0.0),
            ({"Retry-After": " 120 "}, 120.0),
            ({"Retry-After": formatdate(1_000_030, usegmt=True)}, 30.0),
            ({"Retry-After": formatdate(999_000, usegmt=True)}, 0.0),
            ({"Retry-After": "Mon, 12 Jan 1970 13:47:10"}, 30.0),
            ({"Retry-After": "-5"}, None),
            ({"Retry-After": "soon"}, None),
            ({"Retry-After": "Wed, 99 Foo 2026 99:99:99 GMT"}, None),
            ({"Retry-After": "٣"}, None),
            ({"Retry-After": "9" * 400}, None),
            ({"RateLimit": f'"api";r=0;t={"9" * 400}'}, None),
            ({"RateLimit": '"api";r=0;t=55'}, 55.0),
            ({"RateLimit": '"api"; r=0; t=55'}, 55.0),
            ({"RateLimit": '"api";r=12;t=55'}, None),
            ({"Retry-After": "3", "RateLimit": '"api";r=0;t=55'}, 3.0),
        ],
    )
    def test_what_a_server_asks_for(self, headers: dict[str, str], expected: float | None) -> None:
        assert retry_after_seconds(headers, 1_000_000.0) == expected

    @given(st.integers(1, 60), st.floats(0, 1), st.floats(0, 1e6))
    def test_a_wait_is_never_longer_than_the_longest(self, tried: int, jitter: float, failing: float) -> None:
        limits = Limits()
        delay = retry_delay_seconds(PassingFault("x"), tried, failing, limits, jitter)
        if tried >= limits.tries or failing > limits.patience_seconds:
            assert delay is None
        else:
            assert delay is not None
            assert 0 <= delay <= min(limits.longest_delay_seconds, limits.first_delay_seconds * 2 ** (tried - 1))

    @given(st.text(max_size=30) | st.integers(0, 10**400).map(str))
    def test_no_header_crashes_the_reading(self, text: str) -> None:
        found = retry_after_seconds({"Retry-After": text, "RateLimit": text}, 0.0)
        assert found is None or found >= 0


class TestFaults:
    def test_nobody_listens(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
        client = client_with(Network(limits=IMPATIENT))
        with pytest.raises(PassingFault, match=f"127.0.0.1:{port}: connection refused") as caught:
            read(client, f"http://127.0.0.1:{port}/x")
        assert caught.value.remedy == f"check that 127.0.0.1:{port} is right, up, and reachable from here"
        with pytest.raises(SourceUnreachable, match="connection refused"):
            client.fetch(f"http://127.0.0.1:{port}/x", {})

    def test_nobody_answers_the_knock(self) -> None:
        with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
            port = listener.getsockname()[1]
            knocks = [socket.socket() for _ in range(4)]
            for knock in knocks:
                knock.setblocking(False)
                knock.connect_ex(("127.0.0.1", port))
            with pytest.raises(PassingFault, match=r"no connection within 0.3 s"):
                read(client_with(Network(limits=IMPATIENT)), f"http://127.0.0.1:{port}/x")
            for knock in knocks:
                knock.close()

    def test_a_server_that_says_nothing(self) -> None:
        with ScriptedServer(replies(FILE)) as server:
            server.fault("weights", Latency(5))
            with pytest.raises(PassingFault, match=r"127.0.0.1:\d+: not a byte for 0.2 s"):
                read(client_with(Network(limits=IMPATIENT)), f"{server.endpoint}/x")

    def test_a_server_that_falls_silent(self) -> None:
        with ScriptedServer(replies(FILE)) as server:
            server.fault("weights", Stall(1000, 5))
            with pytest.raises(PassingFault, match=r"not a byte for 0\.2 s"):
                read(client_with(Network(limits=IMPATIENT)), f"{server.endpoint}/x")

    def test_a_name_that_cannot_be_resolved(self) -> None:
        from urllib3.connection import HTTPConnection
        from urllib3.exceptions import NameResolutionError

        error = NameResolutionError("hub.test", HTTPConnection("hub.test"), socket.gaierror(-2, "unknown"))
        found = explain(error, "https://user:abc@hub.test/x?sig=def", None, Limits())
        assert isinstance(found, PassingFault)
        assert found.message == "hub.test: the name cannot be resolved"
        assert "HTTPS_PROXY" in (found.remedy or "")
        assert_hidden(found, "abc", "def")

    def test_a_server_that_is_none(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
            client = client_with(Network(limits=replace(IMPATIENT, read_seconds=2)))
            ScriptedGreeting(listener, b"SSH-2.0-OpenSSH_9.6\r\n")
            with pytest.raises(PassingFault, match="the connection broke off"):
                read(client, f"http://127.0.0.1:{port}/x")

    @pytest.mark.parametrize("status", [408, 429, 500, 503])
    def test_streams_tell_a_passing_status_once(self, status: int) -> None:
        with ScriptedServer(replies(Reply(status, {"Retry-After": "9"}))) as server:
            with client_with().open(f"{server.endpoint}/x", {}) as response, pytest.raises(PassingFault) as caught:
                response.raise_if_passing()
            assert (caught.value.retry_after_seconds, caught.value.status) == (9.0, status)
            assert len(server.requests) == 1


class ScriptedGreeting:
    """Answers the first connection with bytes of its own, whatever is asked."""

    def __init__(self, listener: socket.socket, greeting: bytes) -> None:
        from threading import Thread

        self._listener, self._greeting = listener, greeting
        Thread(target=self._greet, daemon=True).start()

    def _greet(self) -> None:
        connection, _ = self._listener.accept()
        with connection:
            connection.recv(65536)
            connection.sendall(self._greeting)


class TestRanges:
    @pytest.mark.parametrize(("start", "end"), [(0, len(DATA)), (0, 1), (100, 20_000), (len(DATA) - 1, len(DATA))])
    def test_the_bytes_asked_for(self, start: int, end: int) -> None:
        with ScriptedServer(replies(FILE)) as server:
            assert read(client_with(), f"{server.endpoint}/x", start, end) == DATA[start:end]

    def test_reads_are_bounded_so_that_progress_shows(self) -> None:
        client = client_with(Network(limits=Limits(slice_bytes=1000)))
        with (
            ScriptedServer(replies(FILE)) as server,
            client.open(f"{server.endpoint}/x", range_header(0, 5000)) as found,
        ):
            body, buffer = read_range(found, 0, 5000, len(DATA)), memoryview(bytearray(9999))
            assert [body.readinto(buffer) for _ in range(6)] == [1000] * 5 + [0]
            assert body.readinto(buffer[:0]) == 0

    @pytest.mark.parametrize("reset", [False, True])
    def test_a_body_cut_short_is_a_passing_fault(self, reset: bool) -> None:
        with ScriptedServer(replies(FILE)) as server:
            server.fault("weights", CutAfter(1000, reset=reset))
            with client_with().open(f"{server.endpoint}/x", range_header(0, 5000)) as response:
                body, buffer = read_range(response, 0, 5000, len(DATA)), memoryview(bytearray(9999))
                came = bytearray()
                words = "the connection broke off" if reset else "ended 4000 bytes early"
                with pytest.raises(PassingFault, match=words):
                    while count := body.readinto(buffer):
                        came += buffer[:count]
                assert came == DATA[: len(came)]
                assert reset or len(came) == 1000

    def test_a_body_that_says_no_length_and_ends_early_is_a_passing_fault(self) -> None:
        head = b"HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 0-99/25600\r\nConnection: close\r\n\r\nonly this"
        with socket.create_server(("127.0.0.1", 0)) as listener:
            ScriptedGreeting(listener, head)
            with pytest.raises(PassingFault, match="/x ended 91 bytes early"):
                read(client_with(), f"http://127.0.0.1:{listener.getsockname()[1]}/x", 0, 100)

    def test_the_whole_file_may_come_as_200(self) -> None:
        with ScriptedServer(replies(Reply(200, {}, DATA))) as server:
            assert read(client_with(), f"{server.endpoint}/x") == DATA

    def test_the_start_of_a_file_may_come_as_200(self) -> None:
        with ScriptedServer(replies(Reply(200, {}, DATA))) as server:
            assert read(client_with(), f"{server.endpoint}/x", 0, 300) == DATA[:300]

    @pytest.mark.parametrize(
        ("reply", "error", "message"),
        [
            (Reply(200, {}, DATA), RangeIgnored, "ignores byte ranges"),
            (Reply(200, {}, DATA[:-1]), SizeMismatch, "has 25599 bytes, 25600 were listed"),
            (Reply(206, {"Content-Range": "bytes 10-19/25599"}, DATA[:10]), SizeMismatch, "has 25599 bytes"),
            (Reply(416, {"Content-Range": "bytes */5"}, b""), SizeMismatch, "has 5 bytes"),
            (Reply(416, {"Content-Range": "bytes */25600"}, b""), SourceProtocolError, "with HTTP 416"),
            (Reply(416, {}, b""), SourceProtocolError, "with HTTP 416"),
            (Reply(206, {}, DATA[:10]), SourceProtocolError, "asked for bytes 10-19, answered 'no Content-Range'"),
            (Reply(206, {"Content-Range": "bytes 11-20/25600"}, DATA[:10]), SourceProtocolError, "asked for bytes"),
            (Reply(206, {"Content-Range": "bytes 10-18/25600"}, DATA[:9]), SourceProtocolError, "asked for bytes"),
            (Reply(206, {"Content-Range": "bytes */25600"}, DATA[:10]), SourceProtocolError, "asked for bytes"),
            (
                Reply(206, {"Content-Range": f"bytes 10-19/{'9' * 5000}"}, DATA[:10]),
                SourceProtocolError,
                "asked for bytes",
            ),
            (Reply(206, {"Content-Range": "pages 10-19/25600"}, DATA[:10]), SourceProtocolError, "asked for bytes"),
            (Reply(206, {"Content-Encoding": "gzip"}, DATA[:10]), SourceProtocolError, "encoded bytes"),
            (Reply(204, {}, b""), SourceProtocolError, "with HTTP 204"),
        ],
    )
    def test_other_answers_are_errors(self, reply: Reply, error: type[LadingError], message: str) -> None:
        with ScriptedServer(replies(reply)) as server, pytest.raises(error, match=message) as caught:
            read(client_with(), f"{server.endpoint}/x?sig=abc", 10, 20)
        assert isinstance(caught.value, ContentError | SourceProtocolError)
        assert_hidden(caught.value, "abc")

    def test_a_total_may_be_unknown(self) -> None:
        with ScriptedServer(replies(Reply(206, {"Content-Range": "bytes 10-19/*"}, DATA[10:20]))) as server:
            assert read(client_with(), f"{server.endpoint}/x", 10, 20) == DATA[10:20]


@pytest.fixture
def secure() -> Iterator[TlsFront]:
    with ScriptedServer(replies(FILE)) as server, TlsFront(server.port) as front:
        yield front


def trusting(proxies: Proxies | None = None, *, limits: Limits | None = None) -> HttpClient:
    return client_with(Network(proxies or Proxies(), AUTHORITY, limits=limits or Limits(read_seconds=2.0)))


class TestTls:
    def test_a_private_authority_is_trusted_when_named(self, secure: TlsFront) -> None:
        assert read(trusting(), f"{secure.endpoint}/x", 5, 5000) == DATA[5:5000]

    def test_an_unknown_authority_is_no_passing_fault(self, secure: TlsFront) -> None:
        time = FakeTime()
        with pytest.raises(SourceUnreachable, match=r"its certificate is not trusted: .*issuer certificate") as caught:
            client_with(time=time).fetch(f"{secure.endpoint}/x?sig=abc", {})
        assert not isinstance(caught.value, PassingFault)
        assert time.slept == []
        assert "set SSL_CERT_FILE to a PEM file that holds its authority" in (caught.value.remedy or "")
        assert_hidden(caught.value, "abc")

    def test_another_name_than_the_certificates_is_refused(self, secure: TlsFront) -> None:
        with pytest.raises(SourceUnreachable, match="not trusted: Hostname mismatch"):
            trusting().fetch(f"https://localhost:{secure.port}/x", {})

    def test_a_server_without_tls(self) -> None:
        with ScriptedServer(replies(FILE)) as server, pytest.raises(SourceUnreachable, match="TLS failed") as caught:
            trusting(limits=IMPATIENT).fetch(f"https://127.0.0.1:{server.port}/x", {})
        assert "SSL_CERT_FILE" in (caught.value.remedy or "")

    def test_a_redirect_to_http_is_refused(self) -> None:
        with (
            ScriptedServer(replies(redirect("http://127.0.0.1/x"))) as server,
            TlsFront(server.port) as front,
            pytest.raises(SourceProtocolError, match="redirects from https to http"),
        ):
            trusting().fetch(f"{front.endpoint}/x", {"Authorization": "Bearer abc"})

    @pytest.mark.parametrize("content", [None, "", "no certificate", "-----BEGIN CERTIFICATE-----\nx\n"])
    def test_a_bundle_that_cannot_be_read_names_the_setting(self, tmp_path: Path, content: str | None) -> None:
        bundle = tmp_path / "ca.pem"
        if content is not None:
            bundle.write_text(content)
        with pytest.raises(UsageError, match=r"SSL_CERT_FILE .*ca\.pem cannot be read as PEM certificates") as caught:
            client_with(Network(ca_bundle=bundle)).fetch("https://127.0.0.1:1/x", {})
        assert caught.value.remedy == "set it to a readable PEM file of certificate authorities, or unset it"

    def test_a_directory_is_no_bundle(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="cannot be read as PEM"):
            tls_context(tmp_path)

    def test_certificates_and_names_are_checked(self) -> None:
        for context in (tls_context(None), tls_context(AUTHORITY)):
            assert context.verify_mode is ssl.CERT_REQUIRED
            assert context.check_hostname
        assert [each["subject"] for each in tls_context(AUTHORITY).get_ca_certs()] == [
            ((("commonName", "Lading test authority"),),)
        ]

    def test_connections_are_used_again(self) -> None:
        steps = (redirect("/x"), Reply(404, {}, b"no"), FILE)
        with ScriptedServer(replies(*steps)) as server, TlsFront(server.port) as front:
            client = trusting()
            for _ in range(3):
                client.fetch(f"{front.endpoint}/x", {})
                read(client, f"{front.endpoint}/x", 10, 20)
            assert front.connections == 1
            client.close()
            assert client.fetch(f"{front.endpoint}/x", {}).status == 200
            assert front.connections == 2


class TestProxies:
    def test_plain_requests_are_forwarded_with_credentials_for_the_proxy_only(self) -> None:
        with ScriptedServer(replies(FILE)) as server, ForwardProxy("us@er:hunter:2") as proxy:
            proxies = Proxies(http=Secret(proxy.url_with(f"{quote('us@er')}:{quote('hunter:2')}")))
            client = client_with(Network(proxies))
            assert read(client, f"{server.endpoint}/x?q=1", 7, 700) == DATA[7:700]
        assert proxy.first_lines == [f"GET {server.endpoint}/x?q=1 HTTP/1.1"]
        assert "proxy-authorization" not in server.requests[0].headers

    def test_https_goes_through_a_tunnel(self, secure: TlsFront) -> None:
        with ForwardProxy("user:hunter2") as proxy:
            client = trusting(Proxies(https=Secret(proxy.url_with("user:hunter2"))))
            assert read(client, f"{secure.endpoint}/x") == DATA
        assert [line.rpartition(" ")[0] for line in proxy.first_lines] == [f"CONNECT 127.0.0.1:{secure.port}"]

    def test_the_proxy_itself_may_speak_tls(self, secure: TlsFront) -> None:
        with ForwardProxy("user:hunter2") as proxy, TlsFront(proxy.port) as front:
            proxies = Proxies(https=Secret(f"https://user:hunter2@127.0.0.1:{front.port}"))
            assert read(trusting(proxies), f"{secure.endpoint}/x") == DATA

    @pytest.mark.parametrize(("userinfo", "says"), [("user:wrong@", "asks for other credentials"), ("", "for cred")])
    @pytest.mark.parametrize("tls", [True, False])
    def test_a_proxy_that_wants_credentials(self, secure: TlsFront, userinfo: str, says: str, tls: bool) -> None:
        time = FakeTime()
        url = f"{secure.endpoint}/x?sig=abc" if tls else "http://hub.test/x?sig=abc"
        with ForwardProxy("user:hunter2") as proxy:
            everything = Secret(f"http://{userinfo}127.0.0.1:{proxy.port}")
            client = client_with(Network(Proxies(everything=everything), AUTHORITY), time=time)
            with pytest.raises(SourceUnreachable, match=rf"the proxy {proxy.url} .*{says}.*\(HTTP 407\)") as caught:
                client.fetch(url, {})
        assert time.slept == []
        assert "percent-encoded: http://user:password@host:port" in (caught.value.remedy or "")
        assert_hidden(caught.value, "wrong", "abc")

    def test_a_proxy_that_forbids_the_host(self, secure: TlsFront) -> None:
        with ForwardProxy(refusal=403) as proxy:
            client = trusting(Proxies(https=Secret(proxy.url)))
            with pytest.raises(SourceUnreachable, match=r"refuses connections to 127.0.0.1 \(HTTP 403\)") as caught:
                client.fetch(f"{secure.endpoint}/x", {})
        assert not isinstance(caught.value, PassingFault)
        assert "NO_PROXY" in (caught.value.remedy or "")

    def test_a_proxy_that_does_not_get_through_may_later(self, secure: TlsFront) -> None:
        with ForwardProxy(refusal=502) as proxy:
            client = trusting(Proxies(https=Secret(proxy.url)))
            with pytest.raises(PassingFault, match=r"does not get through to 127.0.0.1 \(HTTP 502\)"):
                read(client, f"{secure.endpoint}/x")

    @pytest.mark.parametrize("url", ["http://hub.test/x", "https://hub.test/x"])
    def test_a_proxy_that_is_down(self, url: str) -> None:
        with ForwardProxy() as proxy:
            pass
        client = client_with(Network(Proxies(everything=Secret(proxy.url_with("user:hunter2"))), limits=IMPATIENT))
        with pytest.raises(SourceUnreachable, match=f"the proxy {proxy.url}: connection refused") as caught:
            client.fetch(url, {})
        assert_hidden(caught.value, "hunter2")

    def test_a_proxy_that_is_no_proxy(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
            ScriptedGreeting(listener, b"SSH-2.0-OpenSSH_9.6\r\n")
            client = client_with(Network(Proxies(everything=Secret(f"http://127.0.0.1:{port}")), limits=IMPATIENT))
            with (
                pytest.raises(PassingFault, match=f"the proxy http://127.0.0.1:{port}"),
                client.open("https://h.test", {}),
            ):
                pass

    def test_exceptions_are_reached_directly(self) -> None:
        with ScriptedServer(replies(FILE)) as server, ForwardProxy() as proxy:
            proxies = Proxies(everything=Secret(proxy.url), no_proxy="127.0.0.0/8")
            assert read(client_with(Network(proxies)), f"{server.endpoint}/x") == DATA
        assert proxy.heads == []

    def test_a_status_behind_the_proxy_is_the_servers(self) -> None:
        with ScriptedServer(replies(Reply(404, {}, b"no"))) as server, ForwardProxy() as proxy:
            client = client_with(Network(Proxies(everything=Secret(proxy.url))))
            assert client.fetch(f"{server.endpoint}/x", {}).status == 404

    def test_a_setting_that_is_no_proxy_is_a_usage_error(self) -> None:
        client = client_with(Network(Proxies(everything=Secret("socks5://user:hunter2@127.0.0.1:1"))))
        with pytest.raises(UsageError, match="ALL_PROXY") as caught:
            client.fetch("http://hub.test/x", {})
        assert_hidden(caught.value, "hunter2")


class TestUrls:
    @pytest.mark.parametrize(
        ("url", "shown"),
        [
            ("https://hub.test/a/b", "https://hub.test/a/b"),
            ("https://hub.test:443/a", "https://hub.test/a"),
            ("http://hub.test:8080/a", "http://hub.test:8080/a"),
            ("https://user:abc@hub.test/a?Signature=def#ghi", "https://hub.test/a?…"),
            ("https://[::1]:8443/a", "https://[::1]:8443/a"),
            ("https://[::1/a", "(a malformed URL)"),
            ("data:abc", "(a malformed URL)"),
            ("https://hub.test:99999/", "(a malformed URL)"),
        ],
    )
    def test_what_is_shown(self, url: str, shown: str) -> None:
        assert redacted(url) == shown

    @given(st.from_regex(r"[a-zA-Z0-9]{12,30}", fullmatch=True), st.from_regex(r"[a-z]{1,8}", fullmatch=True))
    def test_no_secret_is_shown(self, secret: str, name: str) -> None:
        url = f"https://{name}:{secret}@hub.test/{name}?{name}={secret}#{secret}"
        assert secret not in redacted(url)
        assert origin(url) == ("https", "hub.test", 443)
