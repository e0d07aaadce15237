"""The source of ``gs://``: against the emulator from PyPI, and against a stand-in for what that does not do."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from base64 import b64encode
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from urllib.request import ProxyHandler, Request, build_opener

import pytest

from lading.digest import Digest
from lading.errors import (
    ContentError,
    FileNotFoundAtSource,
    LadingError,
    MalformedModel,
    ModelNotFound,
    OfflineError,
    RateLimited,
    SizeMismatch,
    SourceProtocolError,
    SourceUnreachable,
    Unauthorized,
    UnsafePath,
    UsageError,
)
from lading.model.manifest import FileEntry
from lading.secret import Secret
from lading.settings import Settings
from lading.sources import source_for
from lading.sources.fault import Limits
from lading.sources.gcs import GcsSource, parse_entry
from lading.sources.gcs_credentials import (
    METADATA_HOST,
    WELL_KNOWN_FILE,
    GoogleCredentials,
    Places,
    parse_metadata_token,
)
from lading.sources.http import Network
from lading.sources.interface import PassingFault
from lading.sources.proxy import Proxies
from lading.uri import ModelUri
from tests.models import tiny_model
from tests.program import environment, run, running, without_sockets
from tests.simulators.faults import Corrupt, CutAfter, IgnoreRange, Latency, Status, WrongRange
from tests.simulators.google import GoogleSimulator
from tests.simulators.server import Reply, json_reply
from tests.simulators.vllm_program import install
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
from tests.sources.test_huggingface import FILES as HUB_FILES
from tests.sources.test_huggingface import WEIGHTS, read

needs_google_auth = pytest.mark.skipif(
    find_spec("google") is None or find_spec("google.auth") is None,
    reason='google-auth is not installed: "lading[gcs]"',
)
needs_crc32c = pytest.mark.skipif(
    find_spec("google_crc32c") is None, reason='google-crc32c is not installed: "lading[gcs]"'
)
FILES = HUB_FILES | {"d@e:f,g!.txt": b"y"}
BESIDE = {"models/tiny-2/config.json": b"{}", "models/tiny.json": b"{}", "models/tin/y": b"", "other": b""}
MARKERS = {"models/": b"", "models/tiny/": b"", "models/tiny/original/": b""}
SERVED = "gs://served-bucket/org/tiny"
SHARD = "model-00001-of-00002.safetensors"
TINY = ModelUri.parse("gs://demo-bucket/models/tiny")


@dataclass(frozen=True)
class Emulator:
    """gcp-storage-emulator in a process of its own."""

    endpoint: str

    def post(self, path: str, body: bytes, kind: str = "application/json") -> None:
        request = Request(f"{self.endpoint}{path}", body, {"Content-Type": kind})
        with build_opener(ProxyHandler({})).open(request, timeout=10) as answer:
            answer.read()

    def make_bucket(self, name: str) -> None:
        self.post("/storage/v1/b?project=p", json.dumps({"name": name}).encode())

    def put(self, bucket: str, key: str, data: bytes) -> None:
        """Upload in two parts, the form that the emulator takes for empty objects too."""
        parts = (("application/json", json.dumps({"name": key}).encode()), ("application/octet-stream", data))
        body = b"".join(b"--cut\r\nContent-Type: %s\r\n\r\n%s\r\n" % (kind.encode(), part) for kind, part in parts)
        path = f"/upload/storage/v1/b/{bucket}/o?uploadType=multipart"
        self.post(path, body + b"--cut--\r\n", "multipart/related; boundary=cut")


@pytest.fixture(scope="module")
def emulator() -> Iterator[Emulator]:
    if find_spec("gcp_storage_emulator") is None:
        pytest.skip("gcp-storage-emulator is not installed: it is in the dev dependency group")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    program = [sys.executable, "-m", "gcp_storage_emulator", "start", "--host=127.0.0.1", f"--port={port}"]
    with subprocess.Popen([*program, "--in-memory", "--quiet"], stdin=subprocess.DEVNULL) as process:
        try:
            _wait_for(port, process)
            yield Emulator(f"http://127.0.0.1:{port}")
        finally:
            process.kill()


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 30
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except OSError:
            assert process.poll() is None, "the emulator ended"
            assert time.monotonic() < deadline, "the emulator does not listen"
            time.sleep(0.02)
        else:
            return


@pytest.fixture
def google() -> Iterator[GoogleSimulator]:
    with GoogleSimulator() as simulator:
        yield simulator


def limits() -> Limits:
    return Limits(read_seconds=2.0, connect_seconds=2.0, first_delay_seconds=0.01)


def credentials_at(places: Places, network: Network | None = None, clock: FakeTime | None = None) -> GoogleCredentials:
    """Credentials whose requests cannot leave the machine, unless ``network`` says more."""
    nowhere = Proxies(everything=Secret("http://127.0.0.1:9"), no_proxy="127.0.0.1, localhost")
    network = network or Network(nowhere, limits=limits())
    return GoogleCredentials(network, places, clock=(clock or FakeTime()).clock)


def source_of(
    google: GoogleSimulator,
    places: Places | None = None,
    *,
    clock: FakeTime | None = None,
    network: Network | None = None,
) -> GcsSource:
    credentials = credentials_at(places, network, clock or _now()) if places else None
    return GcsSource(client_with(network, time=clock), credentials, google.endpoint)


def _now() -> FakeTime:
    clock = FakeTime()
    clock.now = time.time()
    return clock


def entry_of(source: GcsSource, path: str = "model.safetensors") -> FileEntry:
    entry = source.list_files(TINY).find(path)
    assert entry is not None
    return entry


def fill(google: GoogleSimulator, files: Mapping[str, bytes] = FILES) -> None:
    for path, data in files.items():
        google.put("demo-bucket", f"models/tiny/{path}", data)


@pytest.fixture(scope="module")
def filled(emulator: Emulator) -> Emulator:
    """The emulator with one model, what lies beside it, and the markers of its directories."""
    emulator.make_bucket("demo-bucket")
    keys = {f"models/tiny/{path}": data for path, data in FILES.items()}
    for key, data in (keys | BESIDE | MARKERS).items():
        emulator.put("demo-bucket", key, data)
    return emulator


class TestEmulator:
    def source(self, emulator: Emulator) -> GcsSource:
        settings = Settings.from_env({"STORAGE_EMULATOR_HOST": emulator.endpoint, "NO_PROXY": "*"})
        source = source_for(TINY, settings)
        assert isinstance(source, GcsSource)
        return source

    def test_lists_what_is_below_the_prefix_and_nothing_beside_it(self, filled: Emulator) -> None:
        source = self.source(filled)
        manifest = source.list_files(TINY)
        assert source.in_place is False
        assert (manifest.source, manifest.revision) == (TINY, None)
        assert {entry.path: entry.size_bytes for entry in manifest.files} == {
            path: len(data) for path, data in FILES.items()
        }
        assert {entry.digest for entry in manifest.files} == {Digest.of(data, "md5") for data in FILES.values()}
        assert all(entry.etag and entry.etag.isdecimal() for entry in manifest.files)

    @pytest.mark.parametrize("path", FILES)
    def test_every_file_is_read_whole_and_in_part(self, filled: Emulator, path: str) -> None:
        source, data = self.source(filled), FILES[path]
        entry = entry_of(source, path)
        assert read(source, entry) == data
        assert source.local_copy(entry) is None
        middle = len(data) // 2
        assert read(source, entry, middle) == data[middle:]
        assert read(source, entry, 0, middle) == data[:middle]

    def test_a_whole_bucket_and_one_file_of_it(self, filled: Emulator) -> None:
        source = self.source(filled)
        everything = source.list_files(ModelUri.parse("gs://demo-bucket"))
        keys = {f"models/tiny/{path}" for path in FILES} | set(BESIDE)
        assert keys <= {entry.path for entry in everything.files}
        assert not [entry.path for entry in everything.files if entry.path.endswith("/")]
        one = ModelUri.parse("gs://demo-bucket/models?file=tiny/config.json")
        assert [entry.path for entry in source.list_files(one).files] == ["tiny/config.json"]
        assert read(source, source.list_files(one).files[0]) == FILES["config.json"]

    def test_what_is_not_there_is_told_apart(self, filled: Emulator) -> None:
        source = self.source(filled)
        with pytest.raises(ModelNotFound, match="there is no bucket gs://other-bucket"):
            source.list_files(ModelUri.parse("gs://other-bucket/x"))
        with pytest.raises(ModelNotFound, match="gs://demo-bucket/models/ti holds no files") as caught:
            source.list_files(ModelUri.parse("gs://demo-bucket/models/ti"))
        assert "prefix" in (caught.value.remedy or "")
        with pytest.raises(FileNotFoundAtSource) as missing:
            source.list_files(TINY.with_file("models.safetensors"))
        assert missing.value.remedy == "did you mean model.safetensors?"

    def test_an_object_replaced_by_another_size_is_an_error(self, filled: Emulator) -> None:
        source = self.source(filled)
        filled.put("demo-bucket", "changes/file", b"before")
        entry = source.list_files(ModelUri.parse("gs://demo-bucket/changes")).files[0]
        filled.put("demo-bucket", "changes/file", b"after that")
        with pytest.raises(SizeMismatch):
            read(source, entry)

    def test_a_model_is_served_end_to_end_and_again_without_a_network(self, emulator: Emulator, tmp_path: Path) -> None:
        emulator.make_bucket("served-bucket")
        for path, data in tiny_model().items():
            emulator.put("served-bucket", f"org/tiny/{path}", data)
        (tmp_path / "home").mkdir()
        environ = environment(
            tmp_path,
            STORAGE_EMULATOR_HOST=emulator.endpoint,
            PATH=f"{install(tmp_path / 'engine')}:{os.environ['PATH']}",
        )
        with running(["serve", SERVED], environ, tmp_path / "first.log") as program:
            program.wait_until_ready()
            assert program.get("/v1/models").json()["data"][0]["id"] == "served-bucket/org/tiny"
            answer = program.get("/v1/chat/completions", {"model": "served-bucket/org/tiny", "messages": []})
            assert answer.json()["choices"][0]["message"]["content"] == "Hello"
            assert program.stop() == 0
        with running([SERVED], without_sockets(tmp_path, environ), tmp_path / "second.log") as program:
            program.wait_until_ready()
            assert program.stop() == 0


class TestComposite:
    """A model of composite objects on two pages, as a user meets it."""

    @pytest.fixture
    def environ(self, google: GoogleSimulator, tmp_path: Path) -> dict[str, str]:
        pytest.importorskip("google_crc32c", reason='google-crc32c is not installed: "lading[gcs]"')
        google.page_size = 3
        for path, data in tiny_model().items():
            crc32c = b64encode(bytes.fromhex(Digest.of(data, "crc32c").hex)).decode()
            google.put("served-bucket", f"org/tiny/{path}", data, crc32c=crc32c, componentCount=2)
        (tmp_path / "home").mkdir()
        engine = f"{install(tmp_path / 'engine')}:{os.environ['PATH']}"
        return environment(tmp_path, STORAGE_EMULATOR_HOST=google.endpoint, PATH=engine)

    def test_is_served_whatever_breaks_off(
        self, google: GoogleSimulator, environ: dict[str, str], tmp_path: Path
    ) -> None:
        google.fault(f"org/tiny/{SHARD}", CutAfter(10_000, reset=True), times=2)
        with running([SERVED], environ, tmp_path / "log") as program:
            program.wait_until_ready()
            assert program.stop() == 0
        assert google.unused_faults == []

    def test_is_refused_where_its_crc32c_is_another(self, google: GoogleSimulator, environ: dict[str, str]) -> None:
        google.fault(f"org/tiny/{SHARD}", Corrupt(offset=5000), times=None)
        done = run([SERVED], environ)
        assert done.returncode == 4, done.stderr
        assert SHARD in done.stderr
        assert "crc32c:" in done.stderr


class TestListing:
    @pytest.mark.parametrize("page_size", [1, 4, 1000])
    def test_every_page_is_read(self, google: GoogleSimulator, page_size: int) -> None:
        fill(google)
        google.page_size = page_size
        manifest = source_of(google).list_files(TINY)
        assert [entry.path for entry in manifest.files] == sorted(FILES)
        assert len(google.requests) == -(-len(FILES) // page_size)

    def test_is_pinned_to_generations(self, google: GoogleSimulator) -> None:
        generation = google.put("demo-bucket", "models/tiny/model.safetensors", WEIGHTS)
        entry = entry_of(source_of(google))
        assert entry == FileEntry(
            "model.safetensors",
            len(WEIGHTS),
            TINY.with_file("model.safetensors"),
            Digest.of(WEIGHTS, "md5"),
            str(generation),
        )

    def test_passing_faults_are_waited_out(self, google: GoogleSimulator) -> None:
        fill(google)
        clock = FakeTime()
        for fault in (Status(503), Status(429, retry_after=3), Status(500)):
            google.fault("/storage", fault)
        assert len(source_of(google, clock=clock).list_files(TINY).files) == len(FILES)
        assert clock.slept == [0.5, 3.0, 2.0]

    @pytest.mark.parametrize(("status", "error"), [(429, RateLimited), (503, SourceUnreachable)])
    def test_lasting_faults_are_told_apart(
        self, google: GoogleSimulator, status: int, error: type[LadingError]
    ) -> None:
        fill(google)
        google.fault("/storage", Status(status), times=None)
        with pytest.raises(error, match=rf"HTTP {status} \(5 tries\)"):
            source_of(google).list_files(TINY)

    def test_an_unreachable_host_is_named(self, google: GoogleSimulator) -> None:
        google.stop()
        with pytest.raises(SourceUnreachable, match=rf"127.0.0.1:{google.port}: connection refused"):
            source_of(google).list_files(TINY)

    @pytest.mark.parametrize(
        ("body", "why"),
        [
            (b"<html>log in</html>", "something that is not JSON"),
            (b"[]", "other JSON"),
            (b'{"items": 7}', "something that is no listing"),
            (b'{"nextPageToken": "x"}', "in a circle"),
            (b'{"items": [7]}', "it lists something that is no object"),
        ],
    )
    def test_what_is_no_storage_is_said(self, body: bytes, why: str) -> None:
        with ScriptedServer(replies(Reply(200, {}, body))) as server:
            source = GcsSource(client_with(), None, server.endpoint)
            with pytest.raises(SourceProtocolError, match=why) as caught:
                source.list_files(TINY)
        assert "STORAGE_EMULATOR_HOST" in (caught.value.remedy or "")

    def test_an_answer_that_storage_does_not_give_is_shown(self) -> None:
        said = json_reply(400, {"error": {"message": "Bucket is requester pays\x07."}})
        with ScriptedServer(replies(said)) as server:
            source = GcsSource(client_with(), None, server.endpoint)
            with pytest.raises(SourceProtocolError, match=r"HTTP 400 \(it says: Bucket is requester pays\.\)"):
                source.list_files(TINY)


class TestParseEntry:
    def item(self, **changes: object) -> dict[str, object]:
        return {"name": "models/tiny/a", "size": "5", "generation": "7"} | changes

    def test_md5_is_preferred_and_crc32c_is_big_endian(self) -> None:
        md5, crc32c = b64encode(bytes(range(16))).decode(), b64encode(b"\x01\x02\x03\x04").decode()
        both = parse_entry(TINY, self.item(md5Hash=md5, crc32c=crc32c))
        composite = parse_entry(TINY, self.item(crc32c=crc32c))
        neither = parse_entry(TINY, self.item())
        assert both is not None
        assert both.digest == Digest("md5", bytes(range(16)).hex())
        assert composite is not None
        assert composite.digest == Digest("crc32c", "01020304")
        assert neither is not None
        assert neither.digest is None

    @pytest.mark.parametrize("name", ["models/tiny/", "models/tiny/sub/"])
    def test_markers_of_directories_are_no_files(self, name: str) -> None:
        assert parse_entry(TINY, self.item(name=name)) is None

    @pytest.mark.parametrize(
        "changes",
        [
            {"name": 7},
            {"name": "models/other/a"},
            {"size": None},
            {"size": "-5"},
            {"size": "5.0"},
            {"size": "9" * 19},
            {"size": True},
            {"generation": ""},
            {"generation": "x"},
            {"md5Hash": "?"},
            {"md5Hash": "AAAA"},
            {"crc32c": 7},
        ],
        ids=str,
    )
    def test_other_shapes_are_refused(self, changes: dict[str, object]) -> None:
        with pytest.raises(ValueError, match="models/|no object"):
            parse_entry(TINY, self.item(**changes))

    @pytest.mark.parametrize("path", ["../a", "a//b", "/a", "a\\b", "a\nb", "x" * 300])
    def test_names_that_no_directory_can_hold_are_refused(self, path: str) -> None:
        with pytest.raises(UnsafePath):
            parse_entry(TINY, self.item(name=f"models/tiny/{path}"))

    def test_bytes_that_are_stored_compressed_are_refused(self) -> None:
        with pytest.raises(MalformedModel, match="gs://demo-bucket/models/tiny.file=a is stored compressed"):
            parse_entry(TINY, self.item(contentEncoding="gzip"))


class TestRanges:
    @pytest.fixture(autouse=True)
    def _filled(self, google: GoogleSimulator) -> None:
        fill(google)

    @pytest.mark.parametrize("path", FILES)
    def test_any_file_is_read(self, google: GoogleSimulator, path: str) -> None:
        source = source_of(google)
        assert read(source, entry_of(source, path)) == FILES[path]

    def test_a_replaced_object_is_never_mistaken_for_the_listed_one(self, google: GoogleSimulator) -> None:
        source = source_of(google)
        entry = entry_of(source)
        google.put("demo-bucket", "models/tiny/model.safetensors", WEIGHTS[::-1])
        with pytest.raises(ContentError, match="was replaced or deleted after it was listed") as caught:
            read(source, entry)
        assert "--refresh" in (caught.value.remedy or "")
        assert read(source, entry_of(source)) == WEIGHTS[::-1]

    @pytest.mark.parametrize(
        "reply",
        [Reply(412, {}, b""), Reply(206, {"X-Goog-Generation": "1", "Content-Range": "bytes 0-9/102400"}, b"0" * 10)],
        ids=["precondition", "other generation"],
    )
    def test_another_generation_is_an_error_however_it_shows(self, google: GoogleSimulator, reply: Reply) -> None:
        entry = entry_of(source_of(google))
        with ScriptedServer(replies(reply)) as server:
            source = GcsSource(client_with(), None, server.endpoint)
            with pytest.raises(ContentError, match="was replaced"):
                read(source, entry, 0, 10)

    @pytest.mark.parametrize(
        ("fault", "error"),
        [
            (CutAfter(1000), PassingFault),
            (CutAfter(1000, reset=True), PassingFault),
            (Status(503), PassingFault),
            (Status(429, retry_after=1), PassingFault),
            (WrongRange(), SourceProtocolError),
            (IgnoreRange(), SourceProtocolError),
        ],
        ids=str,
    )
    def test_faults_are_told_to_the_transfer(
        self, google: GoogleSimulator, fault: CutAfter | Status | WrongRange | IgnoreRange, error: type[LadingError]
    ) -> None:
        source = source_of(google)
        entry = entry_of(source)
        google.fault("models/tiny/model.safetensors", fault)
        with pytest.raises(error):
            read(source, entry, 100, 50_000)
        assert read(source, entry, 100, 50_000) == WEIGHTS[100:50_000]

    @pytest.mark.parametrize(("start", "end"), [(-1, 5), (5, 4), (0, len(WEIGHTS) + 1)])
    def test_ranges_that_no_file_has_are_refused(self, google: GoogleSimulator, start: int, end: int) -> None:
        source = source_of(google)
        entry = entry_of(source)
        with pytest.raises(ValueError, match="no bytes"), source.open_range(entry, start, end):
            pass

    def test_offline_opens_no_socket(self, google: GoogleSimulator, tmp_path: Path) -> None:
        entry = entry_of(source_of(google))
        network = Network(offline=True)
        places = Places(service_account(google, tmp_path), None, google.endpoint.removeprefix("http://"))
        source, asked = source_of(google, places, network=network), len(google.requests)
        with pytest.raises(OfflineError):
            source.list_files(TINY)
        with pytest.raises(OfflineError):
            read(source, entry)
        assert len(google.requests) == asked


def write(path: Path, value: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))
    return path


def service_account(google: GoogleSimulator, directory: Path, **changes: object) -> Path:
    key = {
        "type": "service_account",
        "project_id": "p",
        "private_key_id": "id",
        "private_key": private_key(),
        "client_email": "demo@p.iam.gserviceaccount.test",
        "token_uri": f"{google.endpoint}/token",
    }
    return write(directory / "key.json", key | changes)


def private_key() -> str:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    key = rsa.generate_private_key(65537, 2048)
    form, none = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, form, none).decode()


def authorized_user(google: GoogleSimulator, path: Path, **changes: object) -> Path:
    login = {
        "type": "authorized_user",
        "client_id": "id",
        "client_secret": "canary-secret",
        "refresh_token": "canary-refresh",
        "token_uri": f"{google.endpoint}/token",
    }
    return write(path, login | changes)


def workforce_login(google: GoogleSimulator, path: Path) -> Path:
    audience = "//iam.googleapis.com/locations/global/workforcePools/pool/providers/p"
    endpoint = {"audience": audience, "token_url": f"{google.endpoint}/sts"}
    return authorized_user(google, path, type="external_account_authorized_user", **endpoint)


def external_account(google: GoogleSimulator, path: Path, source: Mapping[str, object], **changes: object) -> Path:
    pool = "//iam.googleapis.com/projects/123/locations/global/workloadIdentityPools/pool/providers/p"
    configuration = {
        "type": "external_account",
        "audience": pool,
        "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
        "token_url": f"{google.endpoint}/sts",
        "credential_source": source,
    }
    return write(path, configuration | changes)


@needs_google_auth
class TestCredentialFiles:
    @pytest.fixture(autouse=True)
    def _private(self, google: GoogleSimulator) -> None:
        fill(google)
        google.require_token()

    def served(self, google: GoogleSimulator, places: Places) -> list[tuple[str, dict[str, str]]]:
        """The grants that reading the private model took."""
        source = source_of(google, places)
        assert read(source, entry_of(source)) == WEIGHTS
        paths = [request.path for request in google.requests if "cloudresourcemanager" in request.path]
        assert paths == []
        return google.grants

    def test_a_service_account_signs_for_its_token(self, google: GoogleSimulator, tmp_path: Path) -> None:
        [(kind, form)] = self.served(google, Places(service_account(google, tmp_path)))
        assert (kind, form["grant_type"]) == ("token", "urn:ietf:params:oauth:grant-type:jwt-bearer")
        assert form["assertion"].count(".") == 2

    def test_gclouds_login_is_found_where_gcloud_puts_it(self, google: GoogleSimulator, tmp_path: Path) -> None:
        authorized_user(google, tmp_path / WELL_KNOWN_FILE, quota_project_id="payer")
        [(kind, form)] = self.served(google, Places(None, tmp_path, None))
        assert (kind, form["refresh_token"]) == ("token", "canary-refresh")
        storage = [request for request in google.requests if request.path.startswith("/storage")]
        assert {request.headers.get("x-goog-user-project") for request in storage} == {"payer"}

    def test_a_directory_of_gclouds_that_cannot_be_looked_into_is_none(self, tmp_path: Path) -> None:
        assert credentials_at(Places(None, tmp_path / ("x" * 300), None)).headers() == {}

    def test_the_variable_wins_over_gclouds_login(self, google: GoogleSimulator, tmp_path: Path) -> None:
        authorized_user(google, tmp_path / WELL_KNOWN_FILE, refresh_token="other")
        named = authorized_user(google, tmp_path / "named.json")
        [(_, form)] = self.served(google, Places(named, tmp_path, None))
        assert form["refresh_token"] == "canary-refresh"

    @pytest.mark.parametrize("origin", ["file", "json file", "url"])
    def test_a_workload_identity_is_exchanged(self, google: GoogleSimulator, tmp_path: Path, origin: str) -> None:
        (tmp_path / "token").write_text("subject-from-file")
        write(tmp_path / "token.json", {"id": "subject-from-json"})
        source: dict[str, dict[str, object]] = {
            "file": {"file": str(tmp_path / "token")},
            "json file": {
                "file": str(tmp_path / "token.json"),
                "format": {"type": "json", "subject_token_field_name": "id"},
            },
            "url": {"url": f"{google.endpoint}/subject"},
        }
        path = external_account(google, tmp_path / "pool.json", source[origin])
        [(kind, form)] = self.served(google, Places(path))
        assert (kind, form["subject_token"]) == ("sts", f"subject-from-{origin.partition(' ')[0]}")

    def test_a_workload_identity_may_impersonate(self, google: GoogleSimulator, tmp_path: Path) -> None:
        (tmp_path / "token").write_text("subject")
        account = f"{google.endpoint}/v1/projects/-/serviceAccounts/other@p.test:generateAccessToken"
        impersonate = {"service_account_impersonation_url": account}
        path = external_account(google, tmp_path / "pool.json", {"file": str(tmp_path / "token")}, **impersonate)
        grants = self.served(google, Places(path))
        assert [kind for kind, _ in grants] == ["sts", "impersonate"]
        assert grants[1][1]["authorization"] == f"Bearer {google.tokens[0]}"

    def test_a_workload_identity_of_aws_is_exchanged(
        self, google: GoogleSimulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name, value in (("ACCESS_KEY_ID", "AKIATEST"), ("SECRET_ACCESS_KEY", "canary"), ("REGION", "eu-west-3")):
            monkeypatch.setenv(f"AWS_{name}", value)
        verified_at = {"regional_cred_verification_url": "https://sts.{region}.test?Action=GetCallerIdentity"}
        aws = {"subject_token_type": "urn:ietf:params:aws:token-type:aws4_request"}
        path = external_account(google, tmp_path / "aws.json", {"environment_id": "aws1"} | verified_at, **aws)
        [(kind, form)] = self.served(google, Places(path))
        assert kind == "sts"
        assert "sts.eu-west-3.test" in form["subject_token"]
        assert "canary" not in form["subject_token"]

    def test_a_workload_identity_of_a_program_is_exchanged_where_programs_are_allowed(
        self, google: GoogleSimulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        jwt = "urn:ietf:params:oauth:token-type:jwt"
        said = {
            "version": 1,
            "success": True,
            "token_type": jwt,
            "id_token": "from-program",
            "expiration_time": 1 << 40,
        }
        write(tmp_path / "said.json", said)
        program = {"executable": {"command": f"cat {tmp_path}/said.json", "timeout_millis": 5000}}
        path = external_account(google, tmp_path / "pool.json", program)
        with pytest.raises(Unauthorized) as caught:
            source_of(google, Places(path)).list_files(TINY)
        assert "GOOGLE_EXTERNAL_ACCOUNT_ALLOW_EXECUTABLES=1" in (caught.value.remedy or "")
        monkeypatch.setenv("GOOGLE_EXTERNAL_ACCOUNT_ALLOW_EXECUTABLES", "1")
        [(kind, form)] = self.served(google, Places(path))
        assert (kind, form["subject_token"]) == ("sts", "from-program")

    def test_a_workforce_login_is_exchanged(self, google: GoogleSimulator, tmp_path: Path) -> None:
        source = source_of(google, Places(workforce_login(google, tmp_path / "login.json")))
        assert read(source, entry_of(source)) == WEIGHTS
        assert [(kind, form["refresh_token"]) for kind, form in google.grants] == [("sts", "canary-refresh")]

    def test_a_service_account_may_impersonate_another(self, google: GoogleSimulator, tmp_path: Path) -> None:
        account = "https://iamcredentials.googleapis.com/v1/projects/-/serviceAccounts/other@p.test:generateAccessToken"
        configuration = {
            "type": "impersonated_service_account",
            "service_account_impersonation_url": account,
            "source_credentials": json.loads(service_account(google, tmp_path).read_text()),
            "delegates": [],
        }
        source = source_of(google, Places(write(tmp_path / "impersonate.json", configuration)))
        with pytest.raises(SourceUnreachable, match=r"the proxy http://127\.0\.0\.1:9: connection refused"):
            source.list_files(TINY)
        assert [kind for kind, _ in google.grants] == ["token"]

    @pytest.mark.parametrize(
        ("content", "why"),
        [
            (None, "cannot be read: No such file or directory"),
            (b"\xff\xfe", "is not JSON"),
            (b"canary {", "is not JSON"),
            (b"[1]", "holds no credential"),
            (b"{}", "is no credential that google-auth reads"),
            (b'{"type": "canary-less"}', r"its type is 'canary-less'"),
            (b'{"type": "service_account", "private_key": "canary"}', "its type is 'service_account'"),
            (b'{"type": "service_account", "private_key": 7}', "its type is 'service_account'"),
            (b'{"type": "authorized_user", "refresh_token": "canary"}', "its type is 'authorized_user'"),
            (b'{"type": "external_account", "credential_source": "canary"}', "its type is 'external_account'"),
        ],
    )
    def test_a_broken_file_is_named_and_not_shown(
        self, google: GoogleSimulator, tmp_path: Path, content: bytes | None, why: str
    ) -> None:
        path = tmp_path / "broken.json"
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(UsageError, match=f"GOOGLE_APPLICATION_CREDENTIALS={path} .*{why}") as caught:
            source_of(google, Places(path)).list_files(TINY)
        if b"canary-less" not in (content or b""):
            assert_hidden(caught.value, "canary")
        assert google.requests == []

    def test_a_refused_login_is_named_and_not_shown(self, google: GoogleSimulator, tmp_path: Path) -> None:
        authorized_user(google, tmp_path / WELL_KNOWN_FILE, refresh_token="canary-refused")
        why = r"no token is given for gcloud's login .*json \(authorized_user\) \(invalid_grant\)"
        with pytest.raises(Unauthorized, match=why) as caught:
            source_of(google, Places(None, tmp_path)).list_files(TINY)
        assert "gcloud auth application-default login" in (caught.value.remedy or "")
        assert_hidden(caught.value, "canary")

    def test_a_missing_subject_token_is_no_crash(self, google: GoogleSimulator, tmp_path: Path) -> None:
        path = external_account(google, tmp_path / "pool.json", {"file": str(tmp_path / "gone")})
        with pytest.raises(Unauthorized, match="no token is given for GOOGLE_APPLICATION_CREDENTIALS"):
            source_of(google, Places(path)).list_files(TINY)

    @pytest.mark.parametrize("body", [b"<html>log in</html>", b"[]", b"{}", b'{"access_token": 7, "expires_in": "x"}'])
    def test_an_endpoint_that_gives_no_token_is_said(
        self, google: GoogleSimulator, tmp_path: Path, body: bytes
    ) -> None:
        with ScriptedServer(replies(Reply(200, {}, body))) as server:
            path = authorized_user(google, tmp_path / "login.json", token_uri=f"{server.endpoint}/token")
            with pytest.raises((Unauthorized, SourceProtocolError)) as caught:
                source_of(google, Places(path)).list_files(TINY)
        assert_hidden(caught.value, "canary")

    def test_a_token_endpoint_is_asked_again_and_not_followed(self, google: GoogleSimulator, tmp_path: Path) -> None:
        path = authorized_user(google, tmp_path / "login.json")
        google.fault("/token", Status(503))
        self.served(google, Places(path))
        assert [request.status for request in google.requests if request.path == "/token"] == [503, 200]
        asked = len(google.grants)
        with ScriptedServer(replies(redirect(f"{google.endpoint}/token", 307))) as server:
            moved = authorized_user(google, tmp_path / "moved.json", token_uri=f"{server.endpoint}/token")
            with pytest.raises(Unauthorized):
                source_of(google, Places(moved)).list_files(TINY)
        assert len(google.grants) == asked

    @pytest.mark.parametrize("uri", ["http://127.0.0.1:9/token", "nowhere"])
    def test_a_token_endpoint_that_is_not_there_is_named(
        self, google: GoogleSimulator, tmp_path: Path, uri: str
    ) -> None:
        path = authorized_user(google, tmp_path / "login.json", token_uri=uri)
        with pytest.raises((SourceUnreachable, SourceProtocolError), match=r"127\.0\.0\.1:9|token endpoint"):
            source_of(google, Places(path)).list_files(TINY)

    def test_tokens_are_fetched_through_the_proxy(self, google: GoogleSimulator, tmp_path: Path) -> None:
        with TlsFront(google.port) as front, ForwardProxy("user:hunter2") as proxy:
            proxies = Proxies(https=Secret(proxy.url_with("user:hunter2")))
            network = Network(proxies, AUTHORITY, limits=limits())
            path = service_account(google, tmp_path, token_uri=f"{front.endpoint}/token")
            headers = credentials_at(Places(path), network).headers()
            assert headers == {"Authorization": f"Bearer {google.tokens[0]}"}
            assert [line.rpartition(" ")[0] for line in proxy.first_lines] == [f"CONNECT 127.0.0.1:{front.port}"]

    def test_a_missing_google_auth_is_one_sentence(self, google: GoogleSimulator, tmp_path: Path) -> None:
        path = authorized_user(google, tmp_path / "login.json")
        program = (
            "import sys; sys.modules['google'] = None\n"
            "from lading.errors import UsageError\n"
            "from lading.settings import Settings\n"
            "from lading.sources import source_for\n"
            "from lading.uri import ModelUri\n"
            "uri = ModelUri.parse('gs://demo-bucket/models/tiny')\n"
            f"settings = Settings.from_env({{'GOOGLE_APPLICATION_CREDENTIALS': {str(path)!r}}})\n"
            "try: source_for(uri, settings).list_files(uri)\n"
            "except UsageError as error: print(error, '|', error.remedy)"
        )
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
        needed = f"GOOGLE_APPLICATION_CREDENTIALS={path} needs google-auth to be used"
        assert done.stdout == f'{needed} | pip install "lading[gcs]"\n'


class TestMetadataServer:
    @pytest.fixture
    def places(self, google: GoogleSimulator) -> Places:
        fill(google)
        google.require_token()
        return Places(None, None, f"127.0.0.1:{google.port}")

    def test_gives_the_token_of_the_machine(self, google: GoogleSimulator, places: Places) -> None:
        source = source_of(google, places)
        assert read(source, entry_of(source)) == WEIGHTS
        assert google.grants == [("metadata", {})]

    def test_is_asked_past_any_proxy_and_gets_no_token_of_ours(self, google: GoogleSimulator, places: Places) -> None:
        with ForwardProxy() as proxy:
            network = Network(Proxies(everything=Secret(proxy.url)), limits=limits())
            credentials_at(places, network).headers()
            assert proxy.heads == []
        assert {"authorization" in request.headers for request in google.requests} == {False}

    def test_is_given_one_second_and_one_try(self, google: GoogleSimulator, places: Places) -> None:
        google.fault("/", Latency(30), times=None)
        credentials = credentials_at(places)
        began = time.monotonic()
        assert credentials.headers() == {}
        assert credentials.headers() == {}
        assert 0.9 < time.monotonic() - began < 5
        assert credentials.name is None

    def test_another_server_at_its_address_is_none(self, google: GoogleSimulator, places: Places) -> None:
        google.is_metadata_server = False
        assert credentials_at(places).headers() == {}

    def test_a_machine_without_a_service_account_is_told_what_to_do(
        self, google: GoogleSimulator, places: Places
    ) -> None:
        google.has_service_account = False
        with pytest.raises(Unauthorized, match=r"gives no token \(HTTP 404\)") as caught:
            source_of(google, places).list_files(TINY)
        assert "attach a service account" in (caught.value.remedy or "")

    @pytest.mark.parametrize(
        "body", [b"", b"<html>", b"[]", b"{}", b'{"access_token": "", "expires_in": 1}', b'{"access_token": "canary"}']
    )
    def test_what_is_no_token_is_refused(self, body: bytes) -> None:
        with pytest.raises(SourceProtocolError, match="no token") as caught:
            parse_metadata_token(body, 0)
        assert_hidden(caught.value, "canary")

    def test_is_asked_by_address_unless_it_is_set_or_forbidden(self) -> None:
        assert Settings.from_env({}).gce_metadata_host == METADATA_HOST == Places().metadata_host
        assert Settings.from_env({"GCE_METADATA_HOST": "h:1"}).gce_metadata_host == "h:1"

    def test_an_emulator_is_named_by_url_or_by_host_and_port(self) -> None:
        for text in ("localhost:9023", "http://localhost:9023/"):
            settings = Settings.from_env({"STORAGE_EMULATOR_HOST": text})
            assert settings.storage_emulator_host == "http://localhost:9023"

    def test_the_settings_reach_it(self, google: GoogleSimulator, places: Places, tmp_path: Path) -> None:
        for environ, asked in (({}, 1), ({"NO_GCE_CHECK": "true"}, 1)):
            settings = Settings.from_env(
                environ
                | {
                    "GCE_METADATA_HOST": places.metadata_host or "",
                    "CLOUDSDK_CONFIG": str(tmp_path),
                    "https_proxy": "no proxy: storage is not reached",
                }
            )
            with pytest.raises(UsageError, match="HTTPS_PROXY is not a proxy"):
                source_for(TINY, settings).list_files(TINY)
            assert len(google.grants) == asked


class TestTokens:
    @pytest.fixture
    def places(self, google: GoogleSimulator) -> Places:
        fill(google)
        google.require_token()
        return Places(None, None, f"127.0.0.1:{google.port}")

    def test_one_is_used_until_shortly_before_its_end(self, google: GoogleSimulator, places: Places) -> None:
        clock = FakeTime()
        credentials = credentials_at(places, clock=clock)
        first = credentials.headers()
        clock.now += google.lifetime_seconds - 300
        assert credentials.headers() == first
        clock.now += 100
        assert credentials.headers() != first
        assert len(google.grants) == 2

    @needs_google_auth
    def test_those_of_files_too(self, google: GoogleSimulator, tmp_path: Path) -> None:
        clock = _now()
        credentials = credentials_at(Places(authorized_user(google, tmp_path / "login.json")), clock=clock)
        first = credentials.headers()
        clock.now += google.lifetime_seconds - 300
        assert credentials.headers() == first
        clock.now += 100
        assert credentials.headers() != first

    def test_a_rejected_one_is_replaced_once(self, google: GoogleSimulator, places: Places) -> None:
        source = source_of(google, places)
        entry = entry_of(source)
        google.revoke()
        assert read(source, entry) == WEIGHTS
        google.revoke()
        assert len(source.list_files(TINY).files) == len(FILES)
        assert len(google.grants) == 3

    def test_many_threads_replace_it_once(self, google: GoogleSimulator, places: Places) -> None:
        source = source_of(google, places)
        entry = entry_of(source)
        google.revoke()
        with ThreadPoolExecutor(8) as pool:
            assert set(pool.map(lambda _: read(source, entry), range(16))) == {WEIGHTS}
        assert len(google.grants) == 2

    def test_one_that_stays_rejected_is_an_error_that_names_its_source(self, places: Places) -> None:
        with ScriptedServer(replies(json_reply(401, {"error": {"message": "Invalid Credentials"}}))) as server:
            source = GcsSource(client_with(), credentials_at(places), server.endpoint)
            why = rf"rejects the token of the metadata server {places.metadata_host} \(it says: Invalid Credentials\)"
            with pytest.raises(Unauthorized, match=why) as caught:
                source.list_files(TINY)
            assert len(server.requests) == 2
        assert_hidden(caught.value, "canary")

    def test_one_that_may_not_read_is_told_which_role_to_grant(self, google: GoogleSimulator, places: Places) -> None:
        source = source_of(google, places)
        entry = entry_of(source)
        google.forbidden = True
        for act in (lambda: source.list_files(TINY), lambda: read(source, entry)):
            with pytest.raises(Unauthorized, match="the metadata server .* may not read gs://demo-bucket") as caught:
                act()
            assert "roles/storage.objectViewer on gs://demo-bucket" in (caught.value.remedy or "")
            assert_hidden(caught.value, "canary")

    def test_without_one_private_buckets_say_what_to_set(self, google: GoogleSimulator, places: Places) -> None:
        google.is_metadata_server = False
        with pytest.raises(Unauthorized, match="gs://demo-bucket is not public, and no Google credentials") as caught:
            source_of(google, places).list_files(TINY)
        for way in ("GOOGLE_APPLICATION_CREDENTIALS", "gcloud auth application-default login", "service account"):
            assert way in (caught.value.remedy or "")

    def test_without_one_public_buckets_are_read(self, google: GoogleSimulator) -> None:
        fill(google)
        source = source_of(google, Places(None, None, None))
        assert read(source, entry_of(source)) == WEIGHTS
        assert {"authorization" in request.headers for request in google.requests} == {False}

    def test_one_does_not_follow_to_another_host(self, google: GoogleSimulator, places: Places) -> None:
        with ScriptedServer(lambda call: redirect(f"{google.cdn_endpoint}{call.path}?{call.query}")) as server:
            source = GcsSource(client_with(), credentials_at(places), server.endpoint)
            with pytest.raises(Unauthorized):
                source.list_files(TINY)
            assert "authorization" in server.requests[0].headers
        asked = [request for request in google.requests if request.path.startswith("/storage")]
        assert {"authorization" in request.headers for request in asked} == {False}


@needs_crc32c
def test_a_composite_object_is_checked_by_its_crc32c(google: GoogleSimulator) -> None:
    crc32c = b64encode(bytes.fromhex(Digest.of(WEIGHTS, "crc32c").hex)).decode()
    google.put("demo-bucket", "models/tiny/model.safetensors", WEIGHTS, crc32c=crc32c, componentCount=2)
    assert entry_of(source_of(google)).digest == Digest.of(WEIGHTS, "crc32c")


def test_making_a_source_loads_no_library_and_opens_no_socket() -> None:
    program = (
        "import sys\n"
        "from lading.settings import Settings\n"
        "from lading.sources import source_for\n"
        "from lading.uri import ModelUri\n"
        "source_for(ModelUri.parse('gs://demo-bucket'), Settings.from_env({}))\n"
        "print([name for name in ('google', 'google_crc32c', 'urllib3', 'requests') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-B", "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "[]\n"
