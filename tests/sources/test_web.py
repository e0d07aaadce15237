"""Single files on HTTP servers."""

from base64 import b64encode
from collections.abc import Iterator
from hashlib import sha256

import pytest

from lading.digest import Digest
from lading.errors import (
    ContentError,
    FileNotFoundAtSource,
    OfflineError,
    SizeMismatch,
    SourceProtocolError,
    Unauthorized,
    UsageError,
)
from lading.model.manifest import FileEntry
from lading.secret import Secret
from lading.settings import Settings
from lading.sources import source_for
from lading.sources.fault import Limits
from lading.sources.http import Network
from lading.sources.interface import Access, PassingFault, RangeIgnored
from lading.sources.web import WebSource
from lading.uri import ModelUri, Scheme
from tests.simulators.faults import IgnoreRange, Status
from tests.simulators.server import Reply
from tests.simulators.web import WebServer
from tests.sources.servers import FakeTime, ScriptedServer, assert_hidden, client_with, replies
from tests.sources.test_huggingface import FILES, WEIGHTS, read


@pytest.fixture
def server() -> Iterator[WebServer]:
    with WebServer({f"models/tiny one/{path}": data for path, data in FILES.items()}) as simulator:
        yield simulator


def place(server: WebServer, path: str | None = None) -> ModelUri:
    return ModelUri(Scheme.HTTP, f"127.0.0.1:{server.port}/models/tiny one", file=path)


def source_of(token: str | None = None, *, offline: bool = False) -> WebSource:
    network = Network(offline=offline, limits=Limits(read_seconds=2.0, connect_seconds=2.0))
    return WebSource(client_with(network, time=FakeTime()), Secret(token, "LADING_HTTP_TOKEN") if token else None)


def entry_of(server: WebServer, path: str = "model.safetensors", token: str | None = None) -> FileEntry:
    (entry,) = source_of(token).list_files(place(server, path)).files
    return entry


class TestLooking:
    @pytest.mark.parametrize("path", FILES)
    def test_a_named_file_is_listed_and_read(self, server: WebServer, path: str) -> None:
        entry = entry_of(server, path)
        assert (entry.path, entry.size_bytes, entry.uri) == (path, len(FILES[path]), place(server, path))
        assert read(source_of(), entry) == FILES[path]
        assert FileEntry.from_json(entry.to_json()) == entry

    def test_looking_reads_one_byte_at_most(self, server: WebServer) -> None:
        entry_of(server)
        assert [request.headers["range"] for request in server.requests] == ["bytes=0-0"]

    def test_a_whole_model_is_refused_with_what_works(self, server: WebServer) -> None:
        with pytest.raises(UsageError, match="cannot be listed") as caught:
            source_of().list_files(place(server))
        assert f"NIM_REPOSITORY_OVERRIDE={place(server)}" in (caught.value.remedy or "")
        assert server.requests == []

    def test_a_file_that_is_not_there(self, server: WebServer) -> None:
        with pytest.raises(FileNotFoundAtSource, match=r"tiny%20one/config\.yaml is not there \(HTTP 404\)"):
            entry_of(server, "config.yaml")

    @pytest.mark.parametrize(
        ("headers", "promise"),
        [
            ({}, None),
            ({"X-Checksum-Sha256": sha256(WEIGHTS).hexdigest().upper()}, Digest.of(WEIGHTS)),
            ({"X-Checksum-Sha256": "abc"}, None),
            (
                {"Repr-Digest": f"md5=:AA==:, sha-256=:{b64encode(sha256(WEIGHTS).digest()).decode()}:"},
                Digest.of(WEIGHTS),
            ),
            ({"Repr-Digest": "sha-256=:AAAA:"}, None),
        ],
    )
    def test_a_sha256_that_the_server_tells_is_promised(
        self, server: WebServer, headers: dict[str, str], promise: Digest | None
    ) -> None:
        server.headers |= headers
        assert entry_of(server).digest == promise

    def test_passing_faults_are_met_with_patience(self, server: WebServer) -> None:
        server.fault(None, Status(503, retry_after=2), times=2)
        assert entry_of(server).size_bytes == len(WEIGHTS)

    def test_an_answer_without_a_size_is_no_file(self) -> None:
        with (
            ScriptedServer(replies(Reply(206, {"Content-Range": "bytes 0-0/*"}, b"x"))) as odd,
            pytest.raises(SourceProtocolError, match="does not tell its size"),
        ):
            source_of().list_files(ModelUri.parse(f"{odd.endpoint}/m?file=a"))

    def test_offline_nothing_is_asked(self, server: WebServer) -> None:
        with pytest.raises(OfflineError):
            source_of(offline=True).list_files(place(server, "config.json"))
        assert server.requests == []


class TestReading:
    def test_ranges(self, server: WebServer) -> None:
        entry = entry_of(server)
        assert read(source_of(), entry, 1000, 1001) == WEIGHTS[1000:1001]
        assert read(source_of(), entry, 5, 50_000) == WEIGHTS[5:50_000]
        asked = len(server.requests)
        assert read(source_of(), entry, 7, 7) == b""
        assert len(server.requests) == asked

    @pytest.mark.parametrize("has_etags", [True, False])
    def test_a_file_that_changed_is_never_mixed(self, server: WebServer, has_etags: bool) -> None:
        server.has_etags = has_etags
        entry = entry_of(server)
        assert (entry.etag or "").startswith('"') is has_etags
        server.files["models/tiny one/model.safetensors"] = WEIGHTS[::-1]
        server.headers["Last-Modified"] = "Sun, 02 Aug 2026 00:00:00 GMT"
        with pytest.raises(ContentError, match="changed after it was listed"):
            read(source_of(), entry, 10, 20)

    def test_a_file_of_another_size(self, server: WebServer) -> None:
        server.has_etags = False
        entry = entry_of(server)
        server.files["models/tiny one/model.safetensors"] = WEIGHTS[:-1]
        with pytest.raises(SizeMismatch):
            read(source_of(), entry)

    def test_a_weak_etag_is_not_asked_for_but_the_time_of_change_is_held(self) -> None:
        about = {"ETag": 'W/"1"', "Last-Modified": "Sat, 01 Aug 2026 00:00:00 GMT", "Content-Range": "bytes 0-0/1"}
        with ScriptedServer(replies(Reply(206, about, b"x"))) as odd:
            (entry,) = source_of().list_files(ModelUri.parse(f"{odd.endpoint}/m?file=a")).files
            assert entry.etag == "Sat, 01 Aug 2026 00:00:00 GMT"
            assert read(source_of(), entry) == b"x"
            assert not any("if-match" in request.headers for request in odd.requests)

    def test_a_server_without_ranges_is_read_from_the_start(self, server: WebServer) -> None:
        entry = entry_of(server)
        server.fault("models/tiny one/model.safetensors", IgnoreRange(), times=None)
        assert read(source_of(), entry, 0, 100) == WEIGHTS[:100]
        with pytest.raises(RangeIgnored):
            read(source_of(), entry, 100, 200)

    def test_a_passing_fault_tells_how_long_to_wait(self, server: WebServer) -> None:
        entry = entry_of(server)
        server.fault(None, Status(429, retry_after=7))
        with pytest.raises(PassingFault) as caught:
            read(source_of(), entry)
        assert (caught.value.status, caught.value.retry_after_seconds) == (429, 7)


class TestToken:
    @pytest.mark.parametrize(
        ("token", "sent"),
        [("s3cr3t", "Bearer s3cr3t"), ("user:s3cr3t", f"Basic {b64encode(b'user:s3cr3t').decode()}")],
    )
    def test_the_server_gets_it(self, server: WebServer, token: str, sent: str) -> None:
        server.authorization = sent
        assert read(source_of(token), entry_of(server, token=token)) == WEIGHTS
        assert source_of(token).access(place(server)) == Access(
            f"http://127.0.0.1:{server.port}/models/tiny%20one", "LADING_HTTP_TOKEN"
        )

    def test_no_other_host_does(self, server: WebServer) -> None:
        server.authorization, server.moved_to = "Bearer s3cr3t", server.cdn_endpoint
        assert read(source_of("s3cr3t"), entry_of(server, token="s3cr3t")) == WEIGHTS
        elsewhere = [request for request in server.requests if request.host == "cdn"]
        assert elsewhere
        assert not any("authorization" in request.headers for request in elsewhere)

    @pytest.mark.parametrize("token", [None, "wr0ng"])
    def test_a_refusal_names_the_variable_not_the_token(self, server: WebServer, token: str | None) -> None:
        server.authorization = "Bearer s3cr3t"
        with pytest.raises(Unauthorized) as caught:
            entry_of(server, token=token)
        assert "LADING_HTTP_TOKEN" in (caught.value.remedy or "")
        assert_hidden(caught.value, "wr0ng")

    def test_it_is_a_setting(self, server: WebServer) -> None:
        server.authorization = "Bearer s3cr3t"
        settings = Settings.from_env({"LADING_HTTP_TOKEN": "s3cr3t\n"})
        source = source_for(place(server), settings)
        assert source.list_files(place(server, "config.json")).total_bytes == len(FILES["config.json"])
        assert source.access(place(server)).credential == "LADING_HTTP_TOKEN"
