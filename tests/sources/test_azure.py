"""The source of ``az://``: listing, ranges, refusals and credentials, against a stand-in for Azure's side."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from importlib.util import find_spec
from pathlib import Path
from socket import gaierror, socket

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
    SourceError,
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
from lading.sources.answer import Answer
from lading.sources.azure import AzureSource
from lading.sources.azure_account import AccountKey, Accounts, ConnectionString, Nobody, SharedAccess
from lading.sources.azure_credentials import EntraTokens
from lading.sources.azure_wire import Page, error_code, parse_page, string_to_sign
from lading.sources.fault import Limits, explain, gave_up
from lading.sources.http import HttpClient, Network
from lading.sources.interface import PassingFault
from lading.sources.proxy import Proxies
from lading.uri import ModelUri
from tests.models import tiny_model
from tests.program import environment, running, without_sockets
from tests.simulators.azure import ACCOUNT, KEY, TENANT, AzureSimulator
from tests.simulators.faults import CutAfter, IgnoreRange, Status, WrongRange
from tests.simulators.server import Call, Reply
from tests.simulators.vllm_program import install
from tests.sources.servers import (
    AUTHORITY,
    FakeTime,
    ForwardProxy,
    ScriptedServer,
    TlsFront,
    _Listener,
    assert_hidden,
    client_with,
    redirect,
    replies,
)
from tests.sources.test_huggingface import FILES as HUB_FILES
from tests.sources.test_huggingface import WEIGHTS, read

needs_azure_identity = pytest.mark.skipif(
    find_spec("azure") is None or find_spec("azure.identity") is None,
    reason='azure-identity is not installed: "lading[azure]"',
)
FILES = HUB_FILES | {"d@e:f,g!'(~).txt": b"y", '<&>".txt': b"z", "\ufffe.txt": b"not in XML", " spaced ": b"w"}
BESIDE = {"models/tiny-2/config.json": b"{}", "models/tiny.json": b"{}", "models/tin/y": b"", "other": b""}
TINY = ModelUri.parse(f"az://{ACCOUNT}/models/models/tiny")
HIDDEN = (KEY, "canary")


@pytest.fixture
def azure() -> Iterator[AzureSimulator]:
    with AzureSimulator() as simulator:
        yield simulator


@pytest.fixture(autouse=True)
def _nothing_set_up(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No identity of this machine: no variables, no programs, nobody at the address of the identity service."""
    for name in [name for name in os.environ if name.startswith(("AZURE_", "IDENTITY_", "MSI_", "IMDS_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AZURE_POD_IDENTITY_AUTHORITY_HOST", "http://127.0.0.1:9")
    (tmp_path / "programs").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "programs"))


def limits() -> Limits:
    return Limits(read_seconds=5.0, connect_seconds=5.0, first_delay_seconds=0.01)


def network() -> Network:
    """Requests cannot leave the machine; the test authority is trusted."""
    nowhere = Proxies(everything=Secret("http://127.0.0.1:9"), no_proxy="127.0.0.1, localhost")
    return Network(nowhere, AUTHORITY, limits=limits())


def key(text: str = KEY) -> Secret:
    return Secret(text, "AZURE_STORAGE_KEY")


def source_of(azure: AzureSimulator, *, time: FakeTime | None = None, **changes: object) -> AzureSource:
    """The simulator asked with the account's key, unless ``changes`` of :class:`Accounts` say other things."""
    accounts = Accounts(Nobody(), key=key(), endpoint=f"{azure.endpoint}/{{account}}")
    return AzureSource(client_with(network(), time=time), replace(accounts, **changes))  # type: ignore[arg-type]


def fill(azure: AzureSimulator, files: Mapping[str, bytes] = FILES) -> None:
    for path, data in files.items():
        azure.put("models", f"models/tiny/{path}", data)


def entry_of(source: AzureSource, path: str = "model.safetensors") -> FileEntry:
    entry = source.list_files(TINY).find(path)
    assert entry is not None
    return entry


def page(*blobs: str, marker: str = "") -> Reply:
    listed = "".join(blobs)
    body = f"<EnumerationResults><Blobs>{listed}</Blobs><NextMarker>{marker}</NextMarker></EnumerationResults>"
    return Reply(200, {}, body.encode())


def blob(name: str = "models/tiny/a", size: str = "5", more: str = "") -> str:
    return f"<Blob><Name>{name}</Name><Properties><Content-Length>{size}</Content-Length>{more}</Properties></Blob>"


class TestListing:
    @pytest.mark.parametrize("page_size", [1, 4, 5000])
    def test_every_page_is_read_and_nothing_beside_the_prefix(self, azure: AzureSimulator, page_size: int) -> None:
        fill(azure)
        for name, data in BESIDE.items():
            azure.put("models", name, data)
        azure.page_size = page_size
        source = source_of(azure)
        manifest = source.list_files(TINY)
        assert source.in_place is False
        assert (manifest.source, manifest.revision) == (TINY, None)
        assert {entry.path: entry.size_bytes for entry in manifest.files} == {
            path: len(data) for path, data in FILES.items()
        }
        assert len(azure.requests) == -(-len(FILES) // page_size)

    def test_is_pinned_to_etags_and_promises_the_md5(self, azure: AzureSimulator) -> None:
        etag = azure.put("models", "models/tiny/model.safetensors", WEIGHTS)
        azure.put("models", "models/tiny/in-blocks", b"x", Content_MD5="")
        source = source_of(azure)
        uri = TINY.with_file("model.safetensors")
        digest = Digest.of(WEIGHTS, "md5")
        assert entry_of(source) == FileEntry("model.safetensors", len(WEIGHTS), uri, digest, f'"{etag}"')
        assert entry_of(source, "in-blocks").digest is None

    def test_directories_are_no_files(self, azure: AzureSimulator) -> None:
        fill(azure, {"a/b": b"x", "empty": b""})
        azure.put("models", "models/tiny", b"", ResourceType="directory")
        azure.put("models", "models/tiny/a", b"", ResourceType="directory", Content_MD5="")
        azure.put("models", "models/tiny/c", b"", {"Blob": "in metadata", "hdi_isfolder": "true"})
        azure.put("models", "models/tiny/d/", b"")
        azure.put("models", "models/tiny/", b"")
        assert [entry.path for entry in source_of(azure).list_files(TINY).files] == ["a/b", "empty"]

    def test_a_whole_container_and_one_file_of_it(self, azure: AzureSimulator) -> None:
        fill(azure)
        azure.put("models", "other", b"")
        source = source_of(azure)
        everything = source.list_files(ModelUri.parse(f"az://{ACCOUNT}/models"))
        assert {entry.path for entry in everything.files} == {f"models/tiny/{path}" for path in FILES} | {"other"}
        azure.page_size = 2
        asked = len(azure.requests)
        one = source.list_files(ModelUri.parse(f"az://{ACCOUNT}/models/models?file=tiny/config.json"))
        assert [entry.path for entry in one.files] == ["tiny/config.json"]
        assert read(source, one.files[0]) == FILES["config.json"]
        assert len(azure.requests) == asked + 2

    @pytest.mark.parametrize("path", FILES, ids=ascii)
    def test_any_file_may_be_named_and_any_prefix(self, azure: AzureSimulator, path: str) -> None:
        fill(azure)
        azure.put("models", f"models/tiny/{path}/below", b"")
        source = source_of(azure)
        assert [entry.path for entry in source.list_files(TINY.with_file(path)).files] == [path]
        below = ModelUri(TINY.scheme, f"{TINY.location}/{path}")
        assert [entry.path for entry in source.list_files(below).files] == ["below"]

    def test_what_is_not_there_is_told_apart(self, azure: AzureSimulator) -> None:
        fill(azure)
        source = source_of(azure)
        with pytest.raises(ModelNotFound, match=f"there is no container az://{ACCOUNT}/other "):
            source.list_files(ModelUri.parse(f"az://{ACCOUNT}/other/x"))
        with pytest.raises(ModelNotFound, match=f"az://{ACCOUNT}/models/models/ti holds no files") as caught:
            source.list_files(ModelUri.parse(f"az://{ACCOUNT}/models/models/ti"))
        assert "prefix" in (caught.value.remedy or "")
        with pytest.raises(FileNotFoundAtSource) as missing:
            source.list_files(TINY.with_file("models.safetensors"))
        assert missing.value.remedy == "did you mean model.safetensors?"

    def test_an_unknown_account_is_named(self) -> None:
        class Nameless(HttpClient):
            def fetch(self, url: str, headers: Mapping[str, str], *, tries: int | None = None) -> Answer:
                from urllib3.connection import HTTPConnection
                from urllib3.exceptions import NameResolutionError

                error = NameResolutionError("h", HTTPConnection("h"), gaierror(-2, "unknown"))
                fault = explain(error, url, None, Limits())
                fault.__cause__ = error
                assert isinstance(fault, PassingFault)
                raise gave_up(fault, 5) from fault

        source = AzureSource(Nameless(network()), Accounts(Nobody()))
        why = f"there may be no storage account {ACCOUNT}: {ACCOUNT}.blob.core.windows.net: the name cannot be resolved"
        with pytest.raises(SourceUnreachable, match=why) as caught:
            source.list_files(TINY)
        assert "check the account after az://; check the name and this machine's DNS" in (caught.value.remedy or "")

    def test_an_unreachable_host_is_named(self, azure: AzureSimulator) -> None:
        azure.stop()
        with pytest.raises(SourceUnreachable, match=rf"^127.0.0.1:{azure.port}: connection refused"):
            source_of(azure).list_files(TINY)

    def test_passing_faults_are_waited_out(self, azure: AzureSimulator) -> None:
        fill(azure)
        clock = FakeTime()
        for fault in (Status(503), Status(503, retry_after=3), Status(500)):
            azure.fault(f"/{ACCOUNT}", fault)
        assert len(source_of(azure, time=clock).list_files(TINY).files) == len(FILES)
        assert clock.slept == [0.01, 3.0, 0.04]

    @pytest.mark.parametrize(("status", "error"), [(429, RateLimited), (503, SourceUnreachable)])
    def test_lasting_faults_are_told_apart(self, azure: AzureSimulator, status: int, error: type[LadingError]) -> None:
        fill(azure)
        azure.fault(f"/{ACCOUNT}", Status(status), times=None)
        with pytest.raises(error, match=rf"HTTP {status} \(5 tries\)"):
            source_of(azure).list_files(TINY)

    @pytest.mark.parametrize(
        ("reply", "why"),
        [
            (Reply(200, {}, b"<html>log in"), "something that is not XML"),
            (Reply(200, {}, b"<html/>"), "something that is no listing"),
            (Reply(200, {}, b"<EnumerationResults/>"), "something that is no listing"),
            (Reply(200, {}, b'<!DOCTYPE x [<!ENTITY a "b">]><EnumerationResults/>'), "something that is not Azure's"),
            (page(marker="x"), "in a circle"),
            (page(blob("models/other/a")), "it lists 'models/other/a' below 'models/tiny/'"),
            (page(blob("")), "a blob ''"),
            (page(blob(size="-5")), "a size of '-5'"),
            (page(blob(size="9" * 19)), "a size of '9+'"),
            (page("<Blob/>"), "a blob ''"),
            (page(blob(more="<Content-MD5>AAAA</Content-MD5>")), "with the Content-MD5 'AAAA'"),
            (Reply(400, {}, b"?"), "it answers HTTP 400"),
            (Reply(400, {"x-ms-error-code": "UnsupportedHeader"}, b""), "it answers HTTP 400, UnsupportedHeader"),
            (Reply(404, {}, b"<html>"), f"there is no container az://{ACCOUNT}/models"),
        ],
    )
    def test_what_is_no_storage_is_said(self, reply: Reply, why: str) -> None:
        with ScriptedServer(replies(reply)) as server:
            source = AzureSource(client_with(), Accounts(Nobody(), key=key(), endpoint=server.endpoint))
            with pytest.raises(SourceError, match=why) as caught:
                source.list_files(TINY)
        if isinstance(caught.value, SourceProtocolError):
            assert "AZURE_STORAGE_BLOB_ENDPOINT" in (caught.value.remedy or "")

    def test_no_more_files_than_a_model_has_are_listed(self, azure: AzureSimulator) -> None:
        fill(azure)
        azure.page_size = 2
        accounts = Accounts(Nobody(), key=key(), endpoint=azure.account_endpoint)
        with pytest.raises(MalformedModel, match="holds more than 3 files"):
            AzureSource(client_with(), accounts, most_files=3).list_files(TINY)
        assert len(azure.requests) == 2

    def test_pages_without_blobs_come_to_an_end(self) -> None:
        numbers = iter(range(100))
        with ScriptedServer(lambda _: page(marker=str(next(numbers)))) as server:
            accounts = Accounts(Nobody(), key=key(), endpoint=server.endpoint)
            with pytest.raises(MalformedModel, match="holds more than 9 files"):
                AzureSource(client_with(), accounts, most_files=9).list_files(TINY)

    @pytest.mark.parametrize("path", ["../a", "a//b", "a\\b", "x" * 300, "a/"])
    def test_names_that_no_directory_can_hold_are_refused(self, azure: AzureSimulator, path: str) -> None:
        fill(azure, {path: b"x"})
        with pytest.raises(UnsafePath):
            source_of(azure).list_files(TINY)

    def test_bytes_that_are_stored_compressed_are_refused(self, azure: AzureSimulator) -> None:
        azure.put("models", "models/tiny/a", b"x", Content_Encoding="gzip")
        with pytest.raises(MalformedModel, match=f"az://{ACCOUNT}/models/models/tiny.file=a is stored compressed"):
            source_of(azure).list_files(TINY)

    def test_blobs_in_the_archive_tier_are_refused(self, azure: AzureSimulator) -> None:
        azure.put("models", "models/tiny/a", b"x")
        source = source_of(azure)
        entry = entry_of(source, "a")
        azure.put("models", "models/tiny/a", b"x", AccessTier="Archive")
        for act in (lambda: source.list_files(TINY), lambda: read(source, entry)):
            with pytest.raises(SourceError, match="tiny.file=a is in the archive tier") as caught:
                act()
            assert "set-tier" in (caught.value.remedy or "")

    def test_objects_may_be_listed_under_other_paths(self, azure: AzureSimulator) -> None:
        fill(azure, {"v1-a": b"x", "v1-b": b"y", "v2-a": b"z"})
        source = source_of(azure)
        listed = source.list_objects(TINY, "v1-", lambda name: None if name.endswith("b") else f"as/{name}")
        assert [(entry.path, entry.uri) for entry in listed.files] == [("as/v1-a", TINY.with_file("v1-a"))]
        assert read(source, listed.files[0]) == b"x"
        assert source.list_objects(TINY, "none", str).files == ()


class TestRanges:
    @pytest.fixture(autouse=True)
    def _filled(self, azure: AzureSimulator) -> None:
        fill(azure)

    @pytest.mark.parametrize("path", FILES, ids=ascii)
    def test_every_file_is_read_whole_and_in_part(self, azure: AzureSimulator, path: str) -> None:
        source, data = source_of(azure), FILES[path]
        entry = entry_of(source, path)
        assert read(source, entry) == data
        assert source.local_copy(entry) is None
        middle = len(data) // 2
        assert read(source, entry, middle) == data[middle:]
        assert read(source, entry, 0, middle) == data[:middle]

    @pytest.mark.parametrize("changed", [lambda azure: azure.put, lambda azure: None], ids=["replaced", "deleted"])
    def test_another_blob_is_never_mistaken_for_the_listed_one(
        self, azure: AzureSimulator, changed: Callable[[AzureSimulator], Callable[..., str] | None]
    ) -> None:
        source = source_of(azure)
        entry = entry_of(source)
        if put := changed(azure):
            put("models", "models/tiny/model.safetensors", WEIGHTS[::-1])
        else:
            del azure.containers["models"]["models/tiny/model.safetensors"]
        with pytest.raises(ContentError, match="was replaced or deleted after it was listed") as caught:
            read(source, entry)
        assert "--refresh" in (caught.value.remedy or "")

    def test_every_range_is_asked_for_with_its_etag(self, azure: AzureSimulator) -> None:
        source = source_of(azure)
        entry = entry_of(source)
        read(source, entry, 7, 99)
        asked = azure.requests[-1]
        assert (asked.status, asked.start, asked.headers["if-match"]) == (206, 7, entry.etag)

    def test_another_etag_is_an_error_where_if_match_is_ignored(self, azure: AzureSimulator) -> None:
        entry = entry_of(source_of(azure))
        reply = Reply(206, {"ETag": '"0x1"', "Content-Range": f"bytes 0-9/{len(WEIGHTS)}"}, b"0" * 10)
        with ScriptedServer(replies(reply)) as server:
            source = AzureSource(client_with(), Accounts(Nobody(), endpoint=server.endpoint))
            with pytest.raises(ContentError, match="was replaced"):
                read(source, entry, 0, 10)

    @pytest.mark.parametrize(
        ("fault", "error"),
        [
            (CutAfter(1000), PassingFault),
            (CutAfter(1000, reset=True), PassingFault),
            (Status(503), PassingFault),
            (Status(503, retry_after=1), PassingFault),
            (WrongRange(), SourceProtocolError),
            (IgnoreRange(), SourceProtocolError),
        ],
        ids=str,
    )
    def test_faults_are_told_to_the_transfer(
        self, azure: AzureSimulator, fault: CutAfter | Status | WrongRange | IgnoreRange, error: type[LadingError]
    ) -> None:
        source = source_of(azure)
        entry = entry_of(source)
        azure.fault("models/tiny/model.safetensors", fault)
        with pytest.raises(error):
            read(source, entry, 100, 50_000)
        assert read(source, entry, 100, 50_000) == WEIGHTS[100:50_000]

    @pytest.mark.parametrize(("start", "end"), [(-1, 5), (5, 4), (0, len(WEIGHTS) + 1)])
    def test_ranges_that_no_file_has_are_refused(self, azure: AzureSimulator, start: int, end: int) -> None:
        source = source_of(azure)
        entry = entry_of(source)
        with pytest.raises(ValueError, match="no bytes"), source.open_range(entry, start, end):
            pass

    def test_offline_opens_no_socket(self, azure: AzureSimulator, monkeypatch: pytest.MonkeyPatch) -> None:
        entry = entry_of(source_of(azure))
        monkeypatch.setenv("AZURE_POD_IDENTITY_AUTHORITY_HOST", azure.endpoint)
        offline, asked = Network(offline=True), len(azure.requests)
        with TlsFront(azure.port) as front:
            principal(monkeypatch, front.endpoint, AZURE_CLIENT_SECRET="secret")
            source = AzureSource(HttpClient(offline), Accounts(EntraTokens(offline), endpoint=front.endpoint))
            assert source.access(TINY).credential is None
            assert EntraTokens(offline).sign("https://h", {}) == ("https://h", {})
            with pytest.raises(OfflineError):
                source.list_files(TINY)
            with pytest.raises(OfflineError):
                read(source, entry)
            assert (len(azure.requests), front.connections) == (asked, 0)


class TestRefusals:
    @pytest.fixture(autouse=True)
    def _filled(self, azure: AzureSimulator) -> None:
        fill(azure)

    @pytest.mark.parametrize(
        "refused_as",
        [(409, "PublicAccessNotPermitted"), (404, "ResourceNotFound"), (401, "NoAuthenticationInformation")],
    )
    def test_nobody_is_told_what_to_set(self, azure: AzureSimulator, refused_as: tuple[int, str]) -> None:
        azure.refused_as = refused_as
        why = rf"az://{ACCOUNT}/models is not public or does not exist \(HTTP {refused_as[0]}, {refused_as[1]}\)"
        with pytest.raises(Unauthorized, match=why) as caught:
            source_of(azure, key=None).list_files(TINY)
        for way in ("CONNECTION_STRING", "SAS_TOKEN", "STORAGE_KEY"):
            assert way in (caught.value.remedy or "")

    def test_nobody_reads_public_containers(self, azure: AzureSimulator) -> None:
        azure.is_public = True
        source = source_of(azure, key=None)
        assert read(source, entry_of(source)) == WEIGHTS
        assert source.access(TINY).credential is None
        assert {"authorization" in request.headers for request in azure.requests} == {False}

    @pytest.mark.parametrize(
        ("code", "why", "remedy"),
        [
            ("AuthorizationFailure", "is not let in from here", f"network rules of {ACCOUNT}"),
            (
                "KeyBasedAuthenticationNotPermitted",
                "is not accepted, since the account takes no keys",
                "Microsoft Entra",
            ),
            ("AuthorizationResourceTypeMismatch", f"may not read az://{ACCOUNT}/models", "network rules"),
            ("SomethingNew", "is rejected", f"holds a key of {ACCOUNT}"),
        ],
    )
    def test_the_key_is_named_and_what_is_against_it(
        self, azure: AzureSimulator, code: str, why: str, remedy: str
    ) -> None:
        source = source_of(azure)
        entry = entry_of(source)
        azure.denied_with = code
        for act in (lambda: source.list_files(TINY), lambda: read(source, entry)):
            with pytest.raises(Unauthorized, match=f"the key in AZURE_STORAGE_KEY {why}.*{code}") as caught:
                act()
            assert remedy in (caught.value.remedy or "")
            assert_hidden(caught.value, *HIDDEN)

    def test_a_disabled_account_is_said(self, azure: AzureSimulator) -> None:
        azure.denied_with = "AccountIsDisabled"
        with pytest.raises(SourceError, match=f"the storage account {ACCOUNT} is disabled"):
            source_of(azure).list_files(TINY)

    def test_a_wrong_key_is_rejected_and_not_shown(self, azure: AzureSimulator) -> None:
        wrong = b64encode(b"canary of another account").decode()
        with pytest.raises(Unauthorized, match="AuthenticationFailed") as caught:
            source_of(azure, key=key(wrong)).list_files(TINY)
        assert "AZURE_STORAGE_KEY holds a key" in (caught.value.remedy or "")
        assert_hidden(caught.value, wrong, *HIDDEN)

    @pytest.mark.parametrize(
        ("permissions", "seconds", "why", "remedy"),
        [
            ("rl", -60, r"is rejected \(HTTP 403, AuthenticationFailed\)", "make a new one"),
            ("r", 60, r"may not read .*AuthorizationPermissionMismatch", "sp=rl"),
        ],
        ids=["ended", "may not list"],
    )
    def test_a_signature_that_does_not_open_is_named_and_not_shown(
        self, azure: AzureSimulator, permissions: str, seconds: float, why: str, remedy: str
    ) -> None:
        text = azure.shared_access(permissions, seconds=seconds)
        with pytest.raises(Unauthorized, match=f"shared access signature in AZURE_STORAGE_SAS_TOKEN {why}") as caught:
            source_of(azure, signature=Secret(text, "AZURE_STORAGE_SAS_TOKEN")).list_files(TINY)
        assert remedy in (caught.value.remedy or "")
        assert_hidden(caught.value, "canary", "sig=")

    def test_a_signature_is_in_no_error_of_the_network(self, azure: AzureSimulator) -> None:
        signature = Secret(azure.shared_access(), "AZURE_STORAGE_SAS_TOKEN")
        source = source_of(azure, signature=signature)
        entry = entry_of(source)
        for fault in (Status(503), CutAfter(10), CutAfter(10, reset=True), WrongRange()):
            azure.fault("models/tiny/model.safetensors", fault)
            with pytest.raises(SourceError) as caught:
                read(source, entry, 1)
            assert_hidden(caught.value, "canary", "sig=")
        azure.stop()
        with pytest.raises(SourceUnreachable) as unreachable:
            source.list_files(TINY)
        assert_hidden(unreachable.value, "canary", "sig=")

    def test_a_credential_does_not_follow_to_another_host(self, azure: AzureSimulator) -> None:
        signature = Secret(azure.shared_access(), "AZURE_STORAGE_SAS_TOKEN")
        with ScriptedServer(lambda call: redirect(f"{azure.cdn_endpoint}{call.path}")) as server:
            endpoint = f"{server.endpoint}/{ACCOUNT}"
            for source in (
                source_of(azure, endpoint=endpoint),
                source_of(azure, endpoint=endpoint, signature=signature),
            ):
                with pytest.raises(SourceError):
                    source.list_files(TINY)
            assert "authorization" in server.requests[0].headers
            assert "sig=" in server.requests[1].query
        assert {"authorization" in request.headers or "sig=" in request.query for request in azure.requests} == {False}


class TestOrder:
    """Which of several credentials is used, and for which account."""

    def settings(self, azure: AzureSimulator, **environ: str) -> Settings:
        return Settings.from_env({"NO_PROXY": "*", "AZURE_STORAGE_BLOB_ENDPOINT": azure.account_endpoint} | environ)

    def test_the_first_that_is_set_is_used(self, azure: AzureSimulator) -> None:
        fill(azure)
        sas, other = azure.shared_access(), azure.shared_access()
        ways = [
            (
                {
                    "AZURE_STORAGE_CONNECTION_STRING": f"AccountName={ACCOUNT};AccountKey={KEY};SharedAccessSignature={sas}"
                },
                "the key in AZURE_STORAGE_CONNECTION_STRING",
            ),
            (
                {
                    "AZURE_STORAGE_CONNECTION_STRING": f"BlobEndpoint={azure.account_endpoint};SharedAccessSignature={sas}"
                },
                "the shared access signature in AZURE_STORAGE_CONNECTION_STRING",
            ),
            ({"AZURE_STORAGE_SAS_TOKEN": f"?{other}\n"}, "the shared access signature in AZURE_STORAGE_SAS_TOKEN"),
            ({"AZURE_STORAGE_KEY": KEY}, "the key in AZURE_STORAGE_KEY"),
            ({"AZURE_STORAGE_ACCOUNT_KEY": KEY}, "the key in AZURE_STORAGE_ACCOUNT_KEY"),
            ({}, None),
        ]
        for number, (_, name) in enumerate(ways):
            environ = {key: value for more, _ in reversed(ways[number:]) for key, value in more.items()}
            source = source_for(TINY, self.settings(azure, **environ))
            assert source.access(TINY).credential == name
            assert source.access(TINY).endpoint == azure.account_endpoint
            if name:
                assert len(source.list_files(TINY).files) == len(FILES)
                asked = azure.requests[-1]
                assert asked.headers.get("authorization", "").startswith("SharedKey ") == ("key" in name)
                assert ("sig=" in asked.query) == ("signature" in name)

    def test_a_connection_string_of_another_account_is_passed_over(self, azure: AzureSimulator) -> None:
        text = f"AccountName=otheraccount;AccountKey={KEY}"
        environ = {"AZURE_STORAGE_CONNECTION_STRING": text, "AZURE_STORAGE_KEY": KEY}
        access = source_for(TINY, Settings.from_env(environ)).access(TINY)
        assert (access.endpoint, access.credential) == (
            f"https://{ACCOUNT}.blob.core.windows.net",
            "the key in AZURE_STORAGE_KEY",
        )

    def test_a_key_and_a_signature_of_another_account_are_not_sent(self, azure: AzureSimulator) -> None:
        environ = {"AZURE_STORAGE_KEY": KEY, "AZURE_STORAGE_SAS_TOKEN": azure.shared_access()}
        for account, name in ((ACCOUNT, "AZURE_STORAGE_SAS_TOKEN"), ("otheraccount", None)):
            settings = self.settings(azure, AZURE_STORAGE_ACCOUNT=account, **environ)
            credential = source_for(TINY, settings).access(TINY).credential
            assert (credential or "").endswith(name or "")
            assert (credential is None) == (name is None)

    @pytest.mark.parametrize(
        ("text", "account", "endpoint"),
        [
            ("AccountName=abc;AccountKey=QQ==", "abc", "https://abc.blob.core.windows.net"),
            (
                "DefaultEndpointsProtocol=http;accountname = abc ;AccountKey=QQ==;EndpointSuffix=core.test;",
                "abc",
                "http://abc.blob.core.test",
            ),
            ("BlobEndpoint=https://abc.blob.core.test/;SharedAccessSignature=sv=1&sig=x", "abc", "https://abc.blob.core.test/"),
            ("BlobEndpoint=http://127.0.0.1:1/abc;AccountKey=QQ==", "abc", "http://127.0.0.1:1/abc"),
            ("BlobEndpoint=https://files.example.test;AccountKey=QQ==", None, "https://files.example.test"),
        ],
    )  # fmt: skip
    def test_a_connection_string_is_read(self, text: str, account: str | None, endpoint: str) -> None:
        found = ConnectionString.parse(Secret(text))
        assert (found.account, found.endpoint) == (account, endpoint)
        assert "QQ" not in repr(found)
        assert "sig=" not in repr(found)

    @pytest.mark.parametrize(
        ("environ", "why"),
        [
            ({"AZURE_STORAGE_CONNECTION_STRING": "canary"}, "names no account"),
            ({"AZURE_STORAGE_CONNECTION_STRING": "UseDevelopmentStorage=true"}, "the emulator's short form"),
            ({"AZURE_STORAGE_CONNECTION_STRING": "BlobEndpoint=canary;AccountKey=QQ=="}, "BlobEndpoint that is no URL"),
            ({"AZURE_STORAGE_KEY": "canary!"}, "AZURE_STORAGE_KEY holds no key"),
            ({"AZURE_STORAGE_KEY": "canary canary"}, "AZURE_STORAGE_KEY holds characters"),
            ({"AZURE_STORAGE_SAS_TOKEN": "https://canary"}, "AZURE_STORAGE_SAS_TOKEN holds no shared access signature"),
            ({"AZURE_STORAGE_BLOB_ENDPOINT": "https://user:canary@h"}, "AZURE_STORAGE_BLOB_ENDPOINT .* no usable"),
            ({"AZURE_STORAGE_BLOB_ENDPOINT": "https://"}, "AZURE_STORAGE_BLOB_ENDPOINT .* no usable"),
            ({"AZURE_TOKEN_CREDENTIALS": "browser"}, "AZURE_TOKEN_CREDENTIALS='browser' names no credential"),
        ],
    )
    def test_what_cannot_be_used_is_named_and_not_shown(self, environ: Mapping[str, str], why: str) -> None:
        with pytest.raises(UsageError, match=why) as caught:
            source_for(TINY, Settings.from_env(environ)).access(TINY)
        assert_hidden(caught.value, "canary")

    def test_other_endpoints_may_hold_the_account(self) -> None:
        environ = {"AZURE_STORAGE_BLOB_ENDPOINT": "http://{account}.blob.test/"}
        assert source_for(TINY, Settings.from_env(environ)).access(TINY).endpoint == f"http://{ACCOUNT}.blob.test"

    def test_credentials_do_not_show_what_they_hold(self) -> None:
        shown = repr(AccountKey("abc", b"canary", "X")) + repr(SharedAccess(Secret("canary"), "Y"))
        assert "canary" not in shown


class TestWire:
    def test_what_a_key_signs_is_what_microsoft_documents(self) -> None:
        """The examples of "Constructing the canonicalized resource string" and "… headers string"."""
        url = "https://myaccount.blob.core.windows.net/mycontainer?restype=container&comp=list&include=snapshots&include=metadata"
        headers = {"x-ms-version": "2015-02-21", "X-Ms-Date": "Fri, 26 Jun 2015 23:39:12 GMT", "If-Match": '"1"'}
        wanted = (
            'GET\n\n\n\n\n\n\n\n"1"\n\n\n\nx-ms-date:Fri, 26 Jun 2015 23:39:12 GMT\nx-ms-version:2015-02-21\n'
            "/myaccount/mycontainer\ncomp:list\ninclude:metadata\ninclude:snapshots\nrestype:container"
        )
        assert string_to_sign("myaccount", url, headers) == wanted

    def test_an_emulators_account_stands_there_twice_and_paths_stay_encoded(self) -> None:
        signed = string_to_sign("abc", "http://127.0.0.1:1/abc/c/a%20b%3F?X=%20", {"Range": "bytes=0-1"})
        assert signed.splitlines()[-3:] == ["bytes=0-1", "/abc/abc/c/a%20b%3F", "x: "]

    def test_a_page_may_begin_with_a_byte_order_mark(self) -> None:
        body = "\ufeff<EnumerationResults><Blobs/><NextMarker/></EnumerationResults>".encode()
        assert parse_page(body) == Page((), None)

    @pytest.mark.parametrize(
        ("headers", "body", "code"),
        [
            ({"x-ms-error-code": "BlobNotFound"}, b"?", "BlobNotFound"),
            ({}, b"\xef\xbb\xbf<Error><Code>ServerBusy</Code></Error>", "ServerBusy"),
            ({"x-ms-error-code": "a b"}, b"", ""),
            ({}, b"<Error/>", ""),
            ({}, b"canary", ""),
        ],
    )
    def test_the_code_of_a_refusal_is_read(self, headers: Mapping[str, str], body: bytes, code: str) -> None:
        assert error_code(headers, body) == code


def principal(monkeypatch: pytest.MonkeyPatch, authority: str, **environ: str) -> None:
    named = {"AZURE_AUTHORITY_HOST": authority, "AZURE_TENANT_ID": TENANT, "AZURE_CLIENT_ID": "the-client"}
    for name, value in (named | environ).items():
        monkeypatch.setenv(name, value)


def certificate(directory: Path) -> Path:
    """A certificate with its key, as a service principal has one."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    key = rsa.generate_private_key(65537, 2048)
    name, now = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "demo")]), datetime.now(UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + timedelta(days=1))
    form, none = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    pem = serialization.Encoding.PEM
    path = directory / "principal.pem"
    path.write_bytes(key.private_bytes(pem, form, none) + builder.sign(key, hashes.SHA256()).public_bytes(pem))
    return path


def program(directory: Path, name: str, script: str) -> None:
    path = directory / "programs" / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


@pytest.fixture
def front(azure: AzureSimulator) -> Iterator[TlsFront]:
    """The same over https, which tokens need."""
    fill(azure)
    with TlsFront(azure.port) as front:
        azure.authority = front.endpoint
        yield front


def asked_with_tokens(front: TlsFront, tokens: EntraTokens | None = None) -> AzureSource:
    accounts = Accounts(tokens or EntraTokens(network()), endpoint=f"{front.endpoint}/{ACCOUNT}")
    return AzureSource(client_with(network()), accounts)


@needs_azure_identity
class TestChain:
    """Each member of Azure's default chain gives a token that opens the storage."""

    def served(self, azure: AzureSimulator, front: TlsFront, tokens: EntraTokens | None = None) -> str | None:
        source = asked_with_tokens(front, tokens)
        assert read(source, entry_of(source)) == WEIGHTS
        return source.access(TINY).credential

    def test_the_secret_of_a_service_principal(
        self, azure: AzureSimulator, front: TlsFront, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        principal(monkeypatch, front.endpoint, AZURE_CLIENT_SECRET="canary-secret")
        assert self.served(azure, front) == "the token of EnvironmentCredential"
        [(kind, form)] = azure.grants
        assert (kind, form["client_secret"], form["client_id"]) == ("secret", "canary-secret", "the-client")
        assert form["scope"] == "https://storage.azure.com/.default"

    def test_the_certificate_of_a_service_principal(
        self, azure: AzureSimulator, front: TlsFront, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        path = certificate(tmp_path)
        principal(monkeypatch, front.endpoint, AZURE_CLIENT_CERTIFICATE_PATH=str(path))
        assert self.served(azure, front) == "the token of EnvironmentCredential"
        [(kind, form)] = azure.grants
        assert (kind, form["client_assertion"].count(".")) == ("assertion", 2)

    def test_a_workload_identity(
        self, azure: AzureSimulator, front: TlsFront, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        (tmp_path / "token").write_text("federated")
        principal(monkeypatch, front.endpoint, AZURE_FEDERATED_TOKEN_FILE=str(tmp_path / "token"))
        assert self.served(azure, front) == "the token of WorkloadIdentityCredential"
        [(kind, form)] = azure.grants
        assert (kind, form["client_assertion"]) == ("assertion", "federated")

    @pytest.mark.parametrize("client_id", [None, "the-client"])
    def test_the_identity_of_the_machine(
        self, azure: AzureSimulator, front: TlsFront, monkeypatch: pytest.MonkeyPatch, client_id: str | None
    ) -> None:
        monkeypatch.setenv("AZURE_POD_IDENTITY_AUTHORITY_HOST", azure.endpoint)
        tokens = EntraTokens(network(), client_id=client_id)
        assert self.served(azure, front, tokens) == "the token of ManagedIdentityCredential"
        [(kind, asked)] = azure.grants
        assert (kind, asked["resource"], asked.get("client_id")) == ("machine", "https://storage.azure.com", client_id)

    def test_the_identity_of_an_app_service(
        self, azure: AzureSimulator, front: TlsFront, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("IDENTITY_ENDPOINT", f"{azure.endpoint}/msi/token")
        monkeypatch.setenv("IDENTITY_HEADER", "canary-header")
        assert self.served(azure, front) == "the token of ManagedIdentityCredential"
        assert [kind for kind, _ in azure.grants] == ["app service"]

    def test_the_login_of_azure_cli(self, azure: AzureSimulator, front: TlsFront, tmp_path: Path) -> None:
        said = {"accessToken": azure.give_token(), "expires_on": int(time.time()) + 3600, "tokenType": "Bearer"}
        program(tmp_path, "az", f"echo '{json.dumps(said)}'")
        assert self.served(azure, front) == "the token of AzureCliCredential"

    def test_the_order_is_azures(
        self, azure: AzureSimulator, front: TlsFront, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        (tmp_path / "token").write_text("federated")
        program(tmp_path, "az", "exit 3")
        monkeypatch.setenv("AZURE_POD_IDENTITY_AUTHORITY_HOST", azure.endpoint)
        workload = {"AZURE_FEDERATED_TOKEN_FILE": str(tmp_path / "token")}
        principal(monkeypatch, front.endpoint, AZURE_CLIENT_SECRET="canary-secret", **workload)
        assert self.served(azure, front) == "the token of EnvironmentCredential"
        monkeypatch.delenv("AZURE_CLIENT_SECRET")
        assert self.served(azure, front) == "the token of WorkloadIdentityCredential"
        monkeypatch.delenv("AZURE_FEDERATED_TOKEN_FILE")
        assert self.served(azure, front) == "the token of ManagedIdentityCredential"
        narrowed = EntraTokens(network(), "workloadidentitycredential ")
        with pytest.raises(Unauthorized, match="no Azure credentials were found"):
            self.served(azure, front, narrowed)
        with pytest.raises(Unauthorized, match="no token is given for Azure's AzureCliCredential") as caught:
            self.served(azure, front, EntraTokens(network(), "dev"))
        assert "az login" in (caught.value.remedy or "")
        assert "AZURE_TOKEN_CREDENTIALS=prod" in (caught.value.remedy or "")

    def test_a_program_that_is_not_logged_in_is_passed_over(
        self, azure: AzureSimulator, front: TlsFront, tmp_path: Path
    ) -> None:
        program(tmp_path, "az", "echo \"Please run 'az login' to setup account.\" >&2; exit 1")
        azure.is_public = True
        assert self.served(azure, front) is None

    def test_a_machine_without_an_identity_reads_public_containers(
        self, azure: AzureSimulator, front: TlsFront, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("AZURE_POD_IDENTITY_AUTHORITY_HOST", azure.endpoint)
        azure.has_identity = False
        azure.is_public = True
        assert self.served(azure, front) is None

    def test_a_refused_principal_is_named_and_not_shown(
        self,
        azure: AzureSimulator,
        front: TlsFront,
        monkeypatch: pytest.MonkeyPatch,
        capfd: pytest.CaptureFixture[str],
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        principal(monkeypatch, front.endpoint, AZURE_CLIENT_SECRET="canary-refused")
        why = r"^no token is given for Azure's EnvironmentCredential \(AADSTS7000215\)$"
        with pytest.raises(Unauthorized, match=why) as caught:
            asked_with_tokens(front).list_files(TINY)
        assert "AZURE_CLIENT_SECRET" in (caught.value.remedy or "")
        assert_hidden(caught.value, "canary")
        assert "canary" not in "".join(capfd.readouterr()) + caplog.text

    @pytest.mark.parametrize(
        "environ",
        [
            {"AZURE_CLIENT_CERTIFICATE_PATH": "/nowhere"},
            {"AZURE_CLIENT_SECRET": "canary", "AZURE_TENANT_ID": "no tenant!"},
        ],
        ids=["certificate", "tenant"],
    )
    def test_a_broken_principal_is_named(
        self, front: TlsFront, monkeypatch: pytest.MonkeyPatch, environ: dict[str, str]
    ) -> None:
        principal(monkeypatch, front.endpoint, **environ)
        with pytest.raises((UsageError, Unauthorized), match="EnvironmentCredential") as caught:
            asked_with_tokens(front).list_files(TINY)
        assert_hidden(caught.value, "canary")

    def test_a_token_endpoint_that_is_not_there_is_named(
        self, front: TlsFront, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        principal(monkeypatch, "https://127.0.0.1:9", AZURE_CLIENT_SECRET="canary-secret")
        with pytest.raises(SourceUnreachable, match=r"127\.0\.0\.1:9: connection refused") as caught:
            asked_with_tokens(front).list_files(TINY)
        assert_hidden(caught.value, "canary")

    def test_tokens_are_fetched_through_the_proxy_and_with_our_authorities(
        self, azure: AzureSimulator, front: TlsFront, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        principal(monkeypatch, front.endpoint, AZURE_CLIENT_SECRET="canary-secret")
        with ForwardProxy("user:hunter2") as proxy:
            proxied = Network(Proxies(https=Secret(proxy.url_with("user:hunter2"))), AUTHORITY, limits=limits())
            _, headers = EntraTokens(proxied).sign("https://storage.test", {})
            assert headers == {"Authorization": f"Bearer {azure.tokens[0]}"}
            assert {line.rpartition(" ")[0] for line in proxy.first_lines} == {f"CONNECT 127.0.0.1:{front.port}"}
        with pytest.raises(SourceUnreachable, match="certificate is not trusted"):
            EntraTokens(Network(limits=limits())).sign("https://storage.test", {})

    def test_the_identity_service_is_asked_past_any_proxy(
        self, azure: AzureSimulator, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("AZURE_POD_IDENTITY_AUTHORITY_HOST", azure.endpoint)
        with ForwardProxy() as proxy:
            tokens = EntraTokens(Network(Proxies(everything=Secret(proxy.url)), limits=limits()))
            _, headers = tokens.sign("https://storage.test", {})
            assert headers == {"Authorization": f"Bearer {azure.tokens[0]}"}
            assert proxy.heads == []

    def test_the_identity_service_is_looked_for_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def hang_up(connection: socket) -> None:
            connection.recv(1)

        with _Listener(hang_up) as nobody:
            monkeypatch.setenv("AZURE_POD_IDENTITY_AUTHORITY_HOST", f"http://127.0.0.1:{nobody.port}")
            tokens = EntraTokens(network(), "prod")
            for _ in range(3):
                assert tokens.sign("https://storage.test", {}) == ("https://storage.test", {})
            assert nobody.connections == 1

    @pytest.mark.parametrize(("status", "times"), [(200, 1), (401, 2), (403, 1), (404, 1)])
    def test_the_metadata_service_of_another_cloud_is_passed_over(
        self, monkeypatch: pytest.MonkeyPatch, status: int, times: int
    ) -> None:
        with ScriptedServer(replies(Reply(status, {}, b"<html>no such page"))) as server:
            monkeypatch.setenv("AZURE_POD_IDENTITY_AUTHORITY_HOST", server.endpoint)
            assert EntraTokens(network(), "prod").sign("https://storage.test", {}) == ("https://storage.test", {})
            assert len(server.requests) == times

    def test_an_answer_of_the_identity_service_is_not_asked_for_by_azure_identity_again(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        said = replies(Reply(400, {}, b"{}"), Reply(404, {"Content-Type": "text/html"}, b"<html>"))
        with ScriptedServer(said) as server:
            monkeypatch.setenv("AZURE_POD_IDENTITY_AUTHORITY_HOST", server.endpoint)
            assert EntraTokens(network(), "prod").sign("https://storage.test", {}) == ("https://storage.test", {})
            assert len(server.requests) == 2

    def test_an_identity_service_that_breaks_down_is_an_error(
        self, azure: AzureSimulator, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        said = replies(Reply(400, {}, b"{}"), Reply(429, {"Retry-After": "1000"}, b""))
        with ScriptedServer(said) as server:
            monkeypatch.setenv("AZURE_POD_IDENTITY_AUTHORITY_HOST", server.endpoint)
            with pytest.raises(RateLimited, match="asks to wait"):
                EntraTokens(network(), "prod").sign("https://storage.test", {})

    def test_no_token_goes_to_an_http_endpoint(self, azure: AzureSimulator, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AZURE_POD_IDENTITY_AUTHORITY_HOST", azure.endpoint)
        with pytest.raises(Unauthorized, match="not public"):
            source_of(azure, key=None, tokens=EntraTokens(network())).list_files(TINY)
        assert azure.grants == []


@needs_azure_identity
class TestTokens:
    @pytest.fixture(autouse=True)
    def _machine(self, azure: AzureSimulator, front: TlsFront, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AZURE_POD_IDENTITY_AUTHORITY_HOST", azure.endpoint)

    def test_one_is_used_until_shortly_before_its_end(self, azure: AzureSimulator) -> None:
        clock = FakeTime()
        clock.now = time.time()
        tokens = EntraTokens(network(), clock=clock.clock)
        first = tokens.sign("https://h", {})
        clock.now += azure.lifetime_seconds - 400
        assert tokens.sign("https://h", {}) == first
        clock.now += 200
        assert tokens.sign("https://h", {}) != first
        assert len(azure.grants) == 2
        assert len([each for each in azure.requests if "metadata" not in each.headers]) == 1  # looked for once

    def test_a_rejected_one_is_replaced_once(self, azure: AzureSimulator, front: TlsFront) -> None:
        source = asked_with_tokens(front)
        entry = entry_of(source)
        azure.revoke()
        assert read(source, entry) == WEIGHTS
        azure.revoke()
        assert len(source.list_files(TINY).files) == len(FILES)
        assert len(azure.grants) == 3

    def test_many_threads_replace_it_once(self, azure: AzureSimulator, front: TlsFront) -> None:
        source = asked_with_tokens(front)
        entry = entry_of(source)
        azure.revoke()
        with ThreadPoolExecutor(8) as pool:
            assert set(pool.map(lambda _: read(source, entry), range(16))) == {WEIGHTS}
        assert len(azure.grants) == 2

    def test_one_that_stays_rejected_is_an_error_that_names_its_source(self) -> None:
        refusal = Reply(401, {"x-ms-error-code": "InvalidAuthenticationInfo"}, b"")
        with ScriptedServer(replies(refusal)) as server, TlsFront(server.port) as other:
            source = AzureSource(client_with(network()), Accounts(EntraTokens(network()), endpoint=other.endpoint))
            why = "the token of ManagedIdentityCredential is rejected .*InvalidAuthenticationInfo"
            with pytest.raises(Unauthorized, match=why) as caught:
                source.list_files(TINY)
            assert len(server.requests) == 2
        assert_hidden(caught.value, "canary")

    def test_one_that_may_not_read_is_told_which_role_to_grant(self, azure: AzureSimulator, front: TlsFront) -> None:
        azure.denied_with = "AuthorizationPermissionMismatch"
        with pytest.raises(Unauthorized, match=f"ManagedIdentityCredential may not read az://{ACCOUNT}") as caught:
            asked_with_tokens(front).list_files(TINY)
        assert '"Storage Blob Data Reader"' in (caught.value.remedy or "")
        assert_hidden(caught.value, "canary")

    def test_one_that_is_no_longer_given_is_an_error(self, azure: AzureSimulator, front: TlsFront) -> None:
        source = asked_with_tokens(front)
        entry = entry_of(source)
        azure.revoke()
        azure.has_identity = False
        with pytest.raises(Unauthorized, match="no token is given for Azure's ManagedIdentityCredential"):
            read(source, entry)

    def test_one_does_not_follow_to_another_host(self, azure: AzureSimulator) -> None:
        def script(call: Call) -> Reply:
            return redirect(f"https://localhost:{elsewhere.port}{call.path}")

        with ScriptedServer(replies(Reply(404, {}, b""))) as target, TlsFront(target.port) as elsewhere:
            with ScriptedServer(script) as server, TlsFront(server.port) as other:
                source = AzureSource(client_with(network()), Accounts(EntraTokens(network()), endpoint=other.endpoint))
                with pytest.raises(SourceError):
                    source.list_files(TINY)
                assert server.requests[0].headers["authorization"].startswith("Bearer ")
            assert {"authorization" in request.headers for request in target.requests} <= {False}


def without_azure_identity(azure: AzureSimulator, front: TlsFront) -> str:
    """What listing says where azure-identity is not installed."""
    script = (
        "import sys; sys.modules['azure'] = None\n"
        "from lading.errors import UsageError\n"
        "from lading.settings import Settings\n"
        "from lading.sources import source_for\n"
        "from lading.uri import ModelUri\n"
        f"uri = ModelUri.parse({str(TINY)!r})\n"
        f"environ = {{'AZURE_STORAGE_BLOB_ENDPOINT': '{front.endpoint}/{ACCOUNT}', 'SSL_CERT_FILE': {str(AUTHORITY)!r}}}\n"
        "try: print(len(source_for(uri, Settings.from_env(environ)).list_files(uri).files))\n"
        "except UsageError as error: print(error, '|', error.remedy)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    return done.stdout


def test_a_missing_azure_identity_is_one_sentence(azure: AzureSimulator, front: TlsFront) -> None:
    said = without_azure_identity(azure, front)
    assert f"az://{ACCOUNT}/models is not public (HTTP 409, PublicAccessNotPermitted), and azure-identity" in said
    assert '| pip install "lading[azure]", or set ' in said


def test_public_containers_need_no_azure_identity(azure: AzureSimulator, front: TlsFront) -> None:
    azure.is_public = True
    assert without_azure_identity(azure, front) == f"{len(FILES)}\n"


def test_making_a_source_loads_no_library_and_opens_no_socket() -> None:
    script = (
        "import sys\n"
        "from lading.settings import Settings\n"
        "from lading.sources import source_for\n"
        "from lading.uri import ModelUri\n"
        "source_for(ModelUri.parse('az://abc/models'), Settings.from_env({}))\n"
        "print([name for name in ('azure', 'msal', 'urllib3', 'requests') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-B", "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "[]\n"


def test_a_model_is_served_whatever_breaks_off_and_again_without_a_network(
    azure: AzureSimulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()  # the program needs its PATH
    azure.page_size = 3
    for path, data in tiny_model().items():
        azure.put("models", f"org/tiny/{path}", data)
    azure.fault("org/tiny/model-00001-of-00002.safetensors", CutAfter(10_000, reset=True), times=2)
    (tmp_path / "home").mkdir()
    served = f"az://{ACCOUNT}/models/org/tiny"
    environ = environment(
        tmp_path,
        AZURE_STORAGE_BLOB_ENDPOINT=azure.account_endpoint,
        AZURE_STORAGE_KEY=KEY,
        PATH=f"{install(tmp_path / 'engine')}:{os.environ['PATH']}",
    )
    with running(["serve", served], environ, tmp_path / "first.log") as program:
        program.wait_until_ready()
        assert program.get("/v1/models").json()["data"][0]["id"] == f"{ACCOUNT}/models/org/tiny"
        assert program.stop() == 0
        assert KEY not in program.output
    assert azure.unused_faults == []
    with running([served], without_sockets(tmp_path, environ), tmp_path / "second.log") as program:
        program.wait_until_ready()
        assert program.stop() == 0
