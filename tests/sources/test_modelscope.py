"""The ModelScope source against the site's simulator, the real client against it too, and one model served end to end."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lading.digest import Digest
from lading.errors import (
    FileNotFoundAtSource,
    LadingError,
    MalformedModel,
    ModelNotFound,
    OfflineError,
    RateLimited,
    RevisionNotFound,
    SizeMismatch,
    SourceProtocolError,
    SourceUnreachable,
    Unauthorized,
    UnsafePath,
    UsageError,
)
from lading.events import Event, Note
from lading.model.manifest import FileEntry
from lading.secret import Secret
from lading.settings import Settings
from lading.sources import source_for
from lading.sources.fault import Limits
from lading.sources.http import Network
from lading.sources.interface import PassingFault, RangeIgnored, Source
from lading.sources.modelscope import Listed, ModelScopeSource, head_commit, revision_names
from lading.sources.modelscope_cache import ModelScopeCache, cache_roots
from lading.uri import ModelUri
from tests.models import tiny_model
from tests.program import environment, running, without_sockets
from tests.simulators.faults import CutAfter, Fault, IgnoreRange, Stall, Status, Truncate, WrongRange
from tests.simulators.modelscope import ModelScopeSimulator
from tests.simulators.server import Call, Reply, json_reply
from tests.simulators.vllm_program import install
from tests.sources.servers import FakeTime, ScriptedServer, assert_hidden, client_with, redirect, replies
from tests.sources.test_huggingface import read

WEIGHTS = bytes(range(256)) * 400
FILES = {
    "config.json": b'{"model_type": "tiny"}',
    "__init__.py": b"",
    "model.safetensors": WEIGHTS,
    "original/weights 1+2.bin": WEIGHTS[:5000],
    "ünïcode/100% #1?.txt": "naïve".encode(),
    "a&b=c;d.txt": b"x",
}
TINY = ModelUri.parse("modelscope://demo/tiny")
TOKEN = "ms-" + "s3cr3t" * 4
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def site() -> Iterator[ModelScopeSimulator]:
    with ModelScopeSimulator() as simulator:
        yield simulator


@pytest.fixture
def tiny(site: ModelScopeSimulator) -> str:
    return site.add_model("demo/tiny", FILES)


def source_of(
    endpoint: str,
    token: str | None = None,
    caches: Sequence[Path] = (),
    *,
    limits: Limits | None = None,
    offline: bool = False,
    report: Callable[[Event], None] = lambda _: None,
) -> ModelScopeSource:
    network = Network(offline=offline, limits=limits or Limits(read_seconds=2.0, connect_seconds=2.0))
    client = client_with(network, time=FakeTime())
    secret = Secret(token) if token else None
    return ModelScopeSource(client, endpoint, secret, [ModelScopeCache(root) for root in caches], report)


def entry_of(source: Source, path: str = "model.safetensors", model: ModelUri = TINY) -> FileEntry:
    entry = source.list_files(model).find(path)
    assert entry is not None
    return entry


def paths_asked(site: ModelScopeSimulator) -> list[str]:
    return [request.path.rpartition("/")[2] for request in site.requests]


class TestListing:
    def test_is_pinned_and_carries_what_the_site_promises(self, site: ModelScopeSimulator, tiny: str) -> None:
        manifest = source_of(site.endpoint).list_files(TINY)
        assert (manifest.source, manifest.revision) == (TINY, tiny)
        assert {entry.path: (entry.size_bytes, entry.digest) for entry in manifest.files} == {
            path: (len(content), Digest.of(content)) for path, content in FILES.items()
        }
        uri = ModelUri.parse(f"modelscope://demo/tiny:{tiny}?file=model.safetensors")
        assert manifest.find("model.safetensors") == FileEntry(
            "model.safetensors", len(WEIGHTS), uri, Digest.of(WEIGHTS)
        )

    def test_takes_one_call(self, site: ModelScopeSimulator, tiny: str) -> None:
        source_of(site.endpoint).list_files(TINY)
        assert [(request.path, request.query) for request in site.requests] == [
            ("/api/v1/models/demo/tiny/repo/files", "Revision=master&Recursive=True")
        ]

    def test_a_file_that_did_not_change_keeps_its_name(self, site: ModelScopeSimulator, tiny: str) -> None:
        source = source_of(site.endpoint)
        before = entry_of(source)
        newer = site.add_model("demo/tiny", FILES | {"config.json": b"{}"})
        assert entry_of(source) == before
        assert entry_of(source, "config.json").uri.revision == source.list_files(TINY).revision == newer

    def test_a_listing_is_read_as_it_was_after_the_branch_moved(self, site: ModelScopeSimulator, tiny: str) -> None:
        source = source_of(site.endpoint)
        old = source.list_files(TINY)
        site.add_model("demo/tiny", {path: content[::-1] + b"!" for path, content in FILES.items()})
        assert {entry.path: read(source, entry) for entry in old.files} == FILES

    @pytest.mark.parametrize("revision", ["v1.0", "feature/x+1"])
    def test_tags_and_branches_are_pinned(self, site: ModelScopeSimulator, tiny: str, revision: str) -> None:
        site.tag("demo/tiny", revision, tiny)
        site.add_model("demo/tiny", {"other.json": b"{}"})
        manifest = source_of(site.endpoint).list_files(TINY.with_revision(revision))
        assert (manifest.revision, len(manifest.files)) == (tiny, len(FILES))
        by_commit = source_of(site.endpoint).list_files(TINY.with_revision(tiny))
        assert (by_commit.revision, by_commit.files) == (tiny, manifest.files)

    def test_a_commit_that_changed_no_listed_file_is_told_by_its_start(
        self, site: ModelScopeSimulator, tiny: str
    ) -> None:
        fewer = site.add_model("demo/tiny", {"config.json": FILES["config.json"]})
        manifest = source_of(site.endpoint).list_files(TINY)
        assert manifest.revision == fewer[:8]
        assert manifest.files[0].uri.revision == tiny

    def test_a_listing_that_was_cut_off_is_walked(self, site: ModelScopeSimulator) -> None:
        many = {f"d{number % 2}/e{number % 5}/{number}.txt": b"x" for number in range(3100)}
        many |= {f"other/{number}.txt": b"x" for number in range(700)} | {"config.json": b"{}"}
        site.add_model("demo/many", many)
        manifest = source_of(site.endpoint).list_files(ModelUri.parse("modelscope://demo/many"))
        assert [entry.path for entry in manifest.files] == sorted(many)
        assert len(site.requests) == 5
        assert all(f"Revision={manifest.revision}" in request.query for request in site.requests[1:])

    @pytest.mark.parametrize("denials", [3, 4])
    def test_a_part_that_is_denied_once_is_asked_for_again(self, site: ModelScopeSimulator, denials: int) -> None:
        site.add_model("demo/many", {f"d{number % 2}/{number}.txt": b"x" for number in range(3001)})
        parts = iter([403] * denials)

        def script(call: Call) -> Reply:
            status = next(parts, 200) if "Root" in call.parameters else 200
            return site.answer(call) if status == 200 else json_reply(403, {"Code": 403, "Message": "access denied"})

        with ScriptedServer(script) as server:
            source, model = source_of(server.endpoint), ModelUri.parse("modelscope://demo/many")
            if denials > 3:
                with pytest.raises(Unauthorized):
                    source.list_files(model)
            else:
                assert len(source.list_files(model).files) == 3001

    def test_a_directory_that_cannot_be_listed_whole_is_an_error(self, site: ModelScopeSimulator) -> None:
        site.add_model("demo/wide", {f"wide/{number}.txt": b"x" for number in range(3000)})
        with pytest.raises(MalformedModel, match="the directory wide holds 3000 files or more"):
            source_of(site.endpoint).list_files(ModelUri.parse("modelscope://demo/wide"))

    def test_a_listing_that_goes_in_circles_ends(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("lading.sources.modelscope.MOST_ENTRIES", 20)
        folder, files = {"Type": "tree", "Path": "a"}, [{"Type": "blob", "Path": str(each)} for each in range(3000)]

        def script(call: Call) -> Reply:
            items = files if call.parameters["Recursive"] == ["True"] else [folder]
            return json_reply(200, {"Code": 200, "Data": {"Files": items}})

        with ScriptedServer(script) as server, pytest.raises(SourceProtocolError, match="more than 20 entries"):
            source_of(server.endpoint).list_files(TINY)

    def test_sizes_that_are_not_told_are_asked_for(self, site: ModelScopeSimulator, tiny: str) -> None:
        site.untold = {"Size", "Sha256"}
        source = source_of(site.endpoint)
        manifest = source.list_files(TINY)
        assert {entry.path: (entry.size_bytes, entry.digest) for entry in manifest.files} == {
            path: (len(content), None) for path, content in FILES.items()
        }
        assert {entry.path: read(source, entry) for entry in manifest.files} == FILES
        site.fault("model.safetensors", Status(503), on="cdn")
        assert source.list_files(TINY).files == manifest.files
        site.fault("config.json", Status(404))
        with pytest.raises(FileNotFoundAtSource):
            source.list_files(TINY)
        assert (site.unused_faults, site.leaked_credentials) == ([], [])

    def test_a_size_that_nothing_tells_is_an_error(self) -> None:
        listing = json_reply(200, {"Code": 200, "Data": {"Files": [{"Path": "a", "Revision": COMMIT}]}})
        silent = ScriptedServer(replies(listing, Reply(206, {}, b"x")))
        with silent, pytest.raises(SourceProtocolError, match="does not tell the size of the file"):
            source_of(silent.endpoint).list_files(TINY)

    def test_without_commits_a_digest_is_enough_and_nothing_is_not(self, site: ModelScopeSimulator, tiny: str) -> None:
        item = {"Type": "blob", "Path": "a", "Size": 1, "Sha256": Digest.of(b"a").hex.upper()}
        with ScriptedServer(lambda _: json_reply(200, {"Code": 200, "Data": {"Files": [item]}})) as server:
            manifest = source_of(server.endpoint).list_files(TINY)
            assert manifest.revision is None
            assert manifest.files[0] == FileEntry("a", 1, TINY.with_revision("master").with_file("a"), Digest.of(b"a"))
            del item["Sha256"]
            with pytest.raises(SourceProtocolError, match="'a' with neither a commit nor a digest"):
                source_of(server.endpoint).list_files(TINY)

    def test_one_file(self, site: ModelScopeSimulator, tiny: str) -> None:
        source = source_of(site.endpoint)
        assert [entry.path for entry in source.list_files(TINY.with_file("config.json")).files] == ["config.json"]
        with pytest.raises(FileNotFoundAtSource) as caught:
            source.list_files(TINY.with_file("weights 1+2.bin"))
        assert caught.value.remedy == "did you mean original/weights 1+2.bin?"

    def test_one_file_of_a_model_or_revision_that_is_not_there(self, site: ModelScopeSimulator, tiny: str) -> None:
        for uri, error in (("demo/none", ModelNotFound), ("demo/tiny:none", RevisionNotFound)):
            with pytest.raises(error):
                source_of(site.endpoint).list_files(ModelUri.parse(f"modelscope://{uri}?file=config.json"))

    def test_a_name_that_leaves_the_model_is_refused(self, site: ModelScopeSimulator) -> None:
        site.add_model("demo/evil", {"../evil": b"x"})
        with pytest.raises(UnsafePath):
            source_of(site.endpoint).list_files(ModelUri.parse("modelscope://demo/evil"))

    def test_passing_faults_are_waited_out(self, site: ModelScopeSimulator, tiny: str) -> None:
        for fault in (Status(503), Status(429, retry_after=3), Status(500)):
            site.fault("/api/v1/models/demo/tiny/repo/files", fault)
        assert source_of(site.endpoint).list_files(TINY).revision == tiny
        assert site.unused_faults == []


class TestRefusals:
    def refused(
        self, endpoint: str, error: type[LadingError], token: str | None = None, uri: str = "modelscope://demo/tiny"
    ) -> LadingError:
        with pytest.raises(error) as caught:
            source_of(endpoint, token).list_files(ModelUri.parse(uri))
        assert type(caught.value) is error
        assert_hidden(caught.value, TOKEN)
        return caught.value

    @pytest.mark.parametrize(("token", "remedy"), [(None, "has to be set"), (TOKEN, "must belong to an account")])
    def test_an_unknown_model(self, site: ModelScopeSimulator, token: str | None, remedy: str) -> None:
        error = self.refused(site.endpoint, ModelNotFound, token)
        assert error.message == f"{site.endpoint} has no model demo/tiny (it says: record not found)"
        assert remedy in (error.remedy or "")

    @pytest.mark.parametrize("revision", ["v2", COMMIT])
    def test_an_unknown_revision_names_those_that_are(
        self, site: ModelScopeSimulator, tiny: str, revision: str
    ) -> None:
        site.tag("demo/tiny", "v1", tiny)
        error = self.refused(site.endpoint, RevisionNotFound, uri=f"modelscope://demo/tiny:{revision}")
        assert f"there is no branch, tag or commit {revision!r}" in error.message
        assert set((error.remedy or "").removeprefix("it has ").split(", ")) == {"master", "v1"}

    @pytest.mark.parametrize("as_404", [True, False])
    def test_a_site_that_sends_something_for_unknown_revisions(
        self, site: ModelScopeSimulator, tiny: str, as_404: bool
    ) -> None:
        master = site.answer(Call("GET", "hub", "/api/v1/models/demo/tiny/repo/files", "Recursive=True", {}))
        other = json_reply(404, {"Code": 404, "Message": "no revision"}) if as_404 else master

        def script(call: Call) -> Reply:
            return other if call.path.endswith("files") else site.answer(call)

        with ScriptedServer(script) as server:
            for revision in ("v2", COMMIT):
                self.refused(server.endpoint, RevisionNotFound, uri=f"modelscope://demo/tiny:{revision}")

    @pytest.mark.parametrize(
        "refs", [Reply(500), Reply(404), Reply(200, {}, b"<html>"), json_reply(200, {"Code": 200})]
    )
    def test_a_site_that_does_not_tell_its_revisions(self, site: ModelScopeSimulator, tiny: str, refs: Reply) -> None:
        site.tag("demo/tiny", "v1", tiny)

        def script(call: Call) -> Reply:
            return refs if call.path.endswith("/revisions") else site.answer(call)

        with ScriptedServer(script) as server:
            assert source_of(server.endpoint).list_files(TINY.with_revision("v1")).revision == tiny
            error = self.refused(server.endpoint, RevisionNotFound, uri="modelscope://demo/tiny:nope")
            assert error.remedy == f"choose one of those listed at {server.endpoint}/models/demo/tiny/files"

    def test_a_private_model(self, site: ModelScopeSimulator) -> None:
        site.add_model("demo/tiny", FILES, private=True)
        error = self.refused(site.endpoint, Unauthorized)
        assert "does not let everybody read demo/tiny" in error.message
        assert "set MODELSCOPE_API_TOKEN" in (error.remedy or "")
        site.require_token(TOKEN, access=False)
        error = self.refused(site.endpoint, Unauthorized, TOKEN)
        assert "does not let MODELSCOPE_API_TOKEN read demo/tiny (it says: access denied)" in error.message
        site.require_token(TOKEN)
        source = source_of(site.endpoint, f" {TOKEN}\n")
        assert read(source, entry_of(source)) == WEIGHTS
        assert site.leaked_credentials == []

    def test_a_token_that_is_not_valid(self, site: ModelScopeSimulator, tiny: str) -> None:
        site.require_token("ms-other")
        error = self.refused(site.endpoint, Unauthorized, TOKEN)
        assert error.message == (
            f"{site.endpoint} rejects MODELSCOPE_API_TOKEN (it says: token *** is invalid or expired)"
        )

    def test_a_rate_limit_that_stays(self, site: ModelScopeSimulator, tiny: str) -> None:
        site.fault("/api", Status(429, retry_after=10), times=None)
        assert "set MODELSCOPE_API_TOKEN" in (self.refused(site.endpoint, RateLimited).remedy or "")
        assert self.refused(site.endpoint, RateLimited, TOKEN).remedy == "wait and start again"

    def test_a_site_that_is_not_there(self, site: ModelScopeSimulator, tiny: str) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            error = self.refused(f"http://127.0.0.1:{free.getsockname()[1]}", SourceUnreachable)
        assert "connection refused (5 tries)" in error.message
        site.fault("/api", Status(502), times=None)
        assert "answers HTTP 502 (5 tries)" in self.refused(site.endpoint, SourceUnreachable).message

    @pytest.mark.parametrize(
        ("reply", "error"),
        [
            (json_reply(200, {"Code": 404, "Message": "gone"}), ModelNotFound),
            (json_reply(200, {"Code": 403, "Message": "no"}), Unauthorized),
            (json_reply(200, {"Code": 429, "Message": "slowly"}), RateLimited),
            (json_reply(200, {"Code": 10010205001, "Message": "odd"}), SourceProtocolError),
            (json_reply(200, {"Code": 200, "Data": {"Files": "none"}}), SourceProtocolError),
            (json_reply(200, {"Code": 200, "Data": {"Files": [1]}}), SourceProtocolError),
            (json_reply(200, {"id": "demo/tiny"}), SourceProtocolError),
            (json_reply(200, []), SourceProtocolError),
            (json_reply(400, {"Code": 400}), SourceProtocolError),
            (Reply(200, {}, b"<html>please log in"), SourceProtocolError),
            (Reply(404, {}, b"<html>404"), SourceProtocolError),
            (Reply(401, {}, b"<html>401"), Unauthorized),
            (redirect("/login"), SourceProtocolError),
        ],
    )
    def test_odd_answers(self, reply: Reply, error: type[LadingError]) -> None:
        with ScriptedServer(replies(reply)) as server:
            caught = self.refused(server.endpoint, error)
            if error is SourceProtocolError and not reply.headers.get("Location"):
                assert "does not behave as ModelScope does" in caught.message
                assert f"MODELSCOPE_ENDPOINT={server.endpoint}" in (caught.remedy or "")


class TestParsing:
    @pytest.mark.parametrize(
        ("item", "listed"),
        [
            ({"Path": "a", "Type": "blob", "Size": 3, "Sha256": None, "Revision": COMMIT}, (3, None, COMMIT)),
            ({"Path": "a", "Size": 0, "Sha256": ""}, (None, None, None)),
            ({"Path": "a", "Type": "file", "Revision": "master"}, (None, None, None)),
            ({"Path": "a", "Size": 0, "Sha256": Digest.of(b"").hex}, (0, Digest.of(b""), None)),
            ({"Path": "a", "Size": 0, "Sha256": "A" * 64}, (None, Digest("sha256", "a" * 64), None)),
        ],
    )
    def test_files(self, item: object, listed: tuple[int | None, Digest | None, str | None]) -> None:
        assert Listed.parse(item) == Listed("a", *listed)

    @pytest.mark.parametrize("kind", ["tree", "commit"])
    def test_what_is_no_file(self, kind: str) -> None:
        assert Listed.parse({"Path": "a", "Type": kind}) is None

    @pytest.mark.parametrize(
        "item",
        [{}, {"Path": 1}, "a", {"Path": "a", "Size": -1}, {"Path": "a", "Size": True}, {"Path": "a", "Sha256": "x"}],
    )
    def test_odd_elements(self, item: object) -> None:
        with pytest.raises(ValueError, match=r"something that is no file|'a' with"):
            Listed.parse(item)

    @pytest.mark.parametrize(
        ("latest", "head"),
        [
            ({"Id": COMMIT, "ShortId": "ffffffff"}, COMMIT),
            ({"Id": "", "ShortId": COMMIT[:8]}, COMMIT),
            ({"Id": "", "ShortId": "ffffffff"}, "ffffffff"),
            ({"Id": "", "ShortId": ""}, None),
            ({"ShortId": "../../x"}, None),
            (None, None),
        ],
    )
    def test_the_commit_of_a_listing(self, latest: object, head: str | None) -> None:
        assert head_commit(latest, ["master", "odd", COMMIT[:20], COMMIT]) == head

    @given(
        st.recursive(
            st.none() | st.text() | st.integers(),
            lambda inner: (
                st.lists(inner)
                | st.dictionaries(st.sampled_from(["RevisionMap", "Branches", "Tags", "Revision", "x"]), inner)
            ),
        )
    )
    def test_whatever_the_revisions_are_no_error_comes(self, data: object) -> None:
        assert all(isinstance(name, str) for name in revision_names(data))


class TestBytes:
    @pytest.mark.parametrize("path", sorted(FILES))
    def test_are_those_of_the_file(self, site: ModelScopeSimulator, tiny: str, path: str) -> None:
        source = source_of(site.endpoint, TOKEN)
        assert read(source, entry_of(source, path)) == FILES[path]
        assert site.leaked_credentials == []

    @pytest.mark.parametrize(("start", "end"), [(0, 1), (1000, 3000), (len(WEIGHTS) - 1, len(WEIGHTS)), (7, 7)])
    def test_of_a_range_are_asked_for_alone(self, site: ModelScopeSimulator, tiny: str, start: int, end: int) -> None:
        source = source_of(site.endpoint)
        assert read(source, entry_of(source), start, end) == WEIGHTS[start:end]
        ranges = {request.headers.get("range") for request in site.requests[1:]}
        assert ranges == ({f"bytes={start}-{end - 1}"} if start < end else set())

    def test_credentials_go_to_the_site_and_nowhere_else(self, site: ModelScopeSimulator, tiny: str) -> None:
        site.require_token(TOKEN)
        source = source_of(site.endpoint, TOKEN)
        read(source, entry_of(source))
        for request in site.requests:
            sent = (request.headers.get("authorization"), request.headers.get("cookie"))
            assert sent == ((None, None) if request.host == "cdn" else (f"Bearer {TOKEN}", f"m_session_id={TOKEN}"))
        assert {request.host for request in site.requests} == {"hub", "cdn"}

    def test_a_link_is_used_until_it_is_refused(self, site: ModelScopeSimulator, tiny: str) -> None:
        source = source_of(site.endpoint)
        entry = entry_of(source)
        for start in range(3):
            read(source, entry, start, start + 10)
        assert paths_asked(site).count("repo") == 1
        site.fault("model.safetensors", Status(403), on="cdn")
        assert read(source, entry, 50, 60) == WEIGHTS[50:60]
        assert paths_asked(site).count("repo") == 2

    def test_small_files_can_only_be_read_from_the_start(self, site: ModelScopeSimulator, tiny: str) -> None:
        source = source_of(site.endpoint)
        entry = entry_of(source, "config.json")
        with pytest.raises(RangeIgnored):
            read(source, entry, 3)
        assert read(source, entry, 0, 3) == FILES["config.json"][:3]

    @pytest.mark.parametrize(
        ("fault", "error"),
        [
            (Status(403), PassingFault),
            (Status(429, retry_after=7), PassingFault),
            (Status(500), PassingFault),
            (IgnoreRange(), RangeIgnored),
            (WrongRange(), SourceProtocolError),
            (CutAfter(100), PassingFault),
            (Truncate(1500), PassingFault),
            (Stall(100, 3), PassingFault),
        ],
    )
    def test_faults_of_storage(
        self, site: ModelScopeSimulator, tiny: str, fault: Fault, error: type[LadingError]
    ) -> None:
        source = source_of(site.endpoint, limits=Limits(read_seconds=0.2))
        entry = entry_of(source)
        site.fault("model.safetensors", fault, on="cdn")
        with pytest.raises(error) as caught:
            read(source, entry, 1000, 3000)
        assert type(caught.value) is error
        assert read(source, entry, 1000, 3000) == WEIGHTS[1000:3000]

    def test_a_file_of_another_size_than_listed(self, site: ModelScopeSimulator, tiny: str) -> None:
        source = source_of(site.endpoint)
        for path in ("model.safetensors", "config.json"):
            entry = entry_of(source, path)
            listed = FileEntry(path, entry.size_bytes + 1, entry.uri, entry.digest)
            with pytest.raises(SizeMismatch, match=f"has {len(FILES[path])} bytes"):
                read(source, listed, 0, 10)

    def test_a_file_model_or_right_that_went_away(self, site: ModelScopeSimulator, tiny: str) -> None:
        source = source_of(site.endpoint)
        entry = entry_of(source)
        with pytest.raises(FileNotFoundAtSource, match="has no file 'b' any more"):
            read(source, FileEntry("b", 5, entry.uri.with_file("b")))
        site.add_model("demo/tiny", FILES, private=True)
        with pytest.raises(Unauthorized):
            read(source, entry)

    def test_ranges_outside_the_file_are_refused(self, site: ModelScopeSimulator, tiny: str) -> None:
        source = source_of(site.endpoint)
        with pytest.raises(ValueError, match="no bytes"):
            read(source, entry_of(source), 5, len(WEIGHTS) + 1)


def lay_out(root: Path, files: dict[str, bytes], *, old: str | None = None, revision: str = "master") -> Path:
    """A ModelScope cache of demo/tiny.1 in the layout of today's SDK, or, below ``old``, in that before 1.38."""
    new = root / "models/demo--tiny.1/snapshots" / revision
    folder = new if old is None else root / old / "models/demo/tiny___1"
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    if old is not None:
        (folder / ".mv").write_text(f"Revision:{revision},CreatedAt:1700000000")
        (folder / ".msc").write_bytes(b"a pickle")
    return folder


class TestCaches:
    model = ModelUri.parse("modelscope://demo/tiny.1")

    @pytest.mark.parametrize("old", [None, "", "hub"])
    def test_offline_the_cache_lists_and_its_files_are_copied(self, tmp_path: Path, old: str | None) -> None:
        folder = lay_out(tmp_path, FILES, old=old)
        (folder / "more.bin.incomplete").write_bytes(b"half")
        before = {path: path.lstat().st_mtime_ns for path in tmp_path.rglob("*")}
        source = source_of("http://127.0.0.1:9", caches=[tmp_path / "none", tmp_path], offline=True)
        manifest = source.list_files(self.model)
        assert {entry.path: entry.digest for entry in manifest.files} == {
            path: Digest.of(content) for path, content in FILES.items()
        }
        assert {entry.path: (source.local_copy(entry) or Path()).read_bytes() for entry in manifest.files} == FILES
        assert {path: path.lstat().st_mtime_ns for path in tmp_path.rglob("*")} == before

    def test_another_revision_is_not_taken_for_it(self, tmp_path: Path) -> None:
        lay_out(tmp_path, FILES, revision="v1")
        lay_out(tmp_path, FILES, old="", revision="v1")
        source = source_of("http://127.0.0.1:9", caches=[tmp_path], offline=True)
        with pytest.raises(OfflineError, match="it is not there"):
            source.list_files(self.model)
        assert len(source.list_files(self.model.with_revision("v1")).files) == len(FILES)

    def test_what_lacks_is_said(self, tmp_path: Path) -> None:
        lay_out(tmp_path, {"config.json": b"{}"})
        source = source_of("http://127.0.0.1:9", caches=[tmp_path], offline=True)
        with pytest.raises(OfflineError, match="the weights are missing") as caught:
            source.list_files(self.model)
        assert str(tmp_path / "models/demo--tiny.1/snapshots/master") in (caught.value.remedy or "")
        one = source.list_files(self.model.with_file("config.json"))
        assert [entry.path for entry in one.files] == ["config.json"]
        with pytest.raises(OfflineError, match="a.txt is missing"):
            source.list_files(self.model.with_file("a.txt"))

    def test_a_link_out_of_the_cache_is_not_followed(self, tmp_path: Path) -> None:
        secret = tmp_path / "secret"
        secret.write_bytes(b"s")
        folder = lay_out(tmp_path / "cache", FILES)
        (folder / "link.bin").symlink_to(secret)
        source = source_of("http://127.0.0.1:9", caches=[tmp_path / "cache"], offline=True)
        with pytest.raises(OfflineError, match="it cannot be read"):
            source.list_files(self.model)

    def test_an_unreachable_site_is_stood_in_for(self, tmp_path: Path) -> None:
        events: list[Event] = []
        lay_out(tmp_path, FILES)
        with ScriptedServer(replies(Reply(503))) as server:
            manifest = source_of(server.endpoint, caches=[tmp_path], report=events.append).list_files(self.model)
            with pytest.raises(SourceUnreachable, match="HTTP 503"):
                source_of(server.endpoint, caches=[tmp_path]).list_files(TINY)
        assert (manifest.revision, len(manifest.files)) == (None, len(FILES))
        assert [event.level for event in events if isinstance(event, Note)][-1] == "WARNING"

    @pytest.mark.parametrize("status", [401, 403, 404, 429])
    def test_a_site_that_says_no_is_not_overruled(self, tmp_path: Path, status: int) -> None:
        lay_out(tmp_path, FILES)
        with ScriptedServer(replies(Reply(status))) as server, pytest.raises(LadingError) as caught:
            source_of(server.endpoint, caches=[tmp_path]).list_files(self.model)
        assert not isinstance(caught.value, SourceUnreachable)

    def test_a_local_copy_has_the_bytes_of_the_listing(self, site: ModelScopeSimulator, tmp_path: Path) -> None:
        lay_out(tmp_path, FILES | {"config.json": b'{"model_type": "tinz"}'}, revision="v0")
        site.add_model("demo/tiny.1", FILES | {"__init__.py": b"longer"})
        source = source_of(site.endpoint, caches=[tmp_path])
        found = {entry.path for entry in source.list_files(self.model).files if source.local_copy(entry)}
        assert found == set(FILES) - {"config.json", "__init__.py"}
        site.untold = {"Sha256"}
        assert not any(source.local_copy(entry) for entry in source.list_files(self.model).files)

    def test_where_caches_are(self) -> None:
        home, cache = Path("/home/u"), Path("/data")
        assert cache_roots(cache, home) == (cache,)
        assert cache_roots(None, home) == (home / ".cache/modelscope",)
        assert cache_roots(None, None) == ()


class TestSettings:
    def test_reach_the_source(self, site: ModelScopeSimulator, tmp_path: Path) -> None:
        site.add_model("demo/tiny.1", FILES, private=True)
        site.require_token(TOKEN)
        lay_out(tmp_path, FILES)
        environ = {
            "MODELSCOPE_ENDPOINT": site.endpoint + "/",
            "MODELSCOPE_API_TOKEN": TOKEN,
            "MODELSCOPE_CACHE": str(tmp_path),
            "NO_PROXY": "*",
        }
        source = source_for(TestCaches.model, Settings.from_env(environ))
        assert source.in_place is False
        assert all(source.local_copy(entry) for entry in source.list_files(TestCaches.model).files)

    @pytest.mark.parametrize("token", [f"{TOKEN}\n{TOKEN}", f"{TOKEN} x", f"{TOKEN}ü"])
    def test_a_token_that_cannot_be_sent_is_a_usage_error_that_hides_it(self, token: str) -> None:
        with pytest.raises(UsageError, match="MODELSCOPE_API_TOKEN holds characters that no token has") as caught:
            source_of("https://site.test", token)
        assert_hidden(caught.value, TOKEN)

    def test_endpoints_that_cannot_be_used(self) -> None:
        with pytest.raises(UsageError, match="MODELSCOPE_ENDPOINT is not the URL of a hub"):
            source_of("https://site.test:port")
        with pytest.raises(UsageError, match="MODELSCOPE_ENDPOINT holds credentials") as caught:
            source_of(f"https://user:{TOKEN}@site.test")
        assert_hidden(caught.value, TOKEN)

    def test_nothing_shows_the_token(self) -> None:
        source = source_of("https://site.test", TOKEN)
        assert TOKEN not in f"{source!r} {vars(source)!r} {vars(vars(source)['_files'])!r}"


class TestServing:
    def test_a_model_is_served_and_served_again_without_the_site(
        self, site: ModelScopeSimulator, tmp_path: Path
    ) -> None:
        commit = site.add_model("demo/tiny", tiny_model(), private=True)
        site.require_token(TOKEN)
        (tmp_path / "home").mkdir()
        path = f"{install(tmp_path / 'engine')}:{os.environ['PATH']}"
        environ = environment(tmp_path, MODELSCOPE_ENDPOINT=site.endpoint, MODELSCOPE_API_TOKEN=TOKEN, PATH=path)
        site.fault("model-00001-of-00002.safetensors", CutAfter(20_000), on="cdn")
        with running(["serve", "modelscope://demo/tiny"], environ, tmp_path / "1.log") as program:
            program.wait_until_ready()
            assert program.get("/v1/models").json()["data"][0]["id"] == "demo/tiny"
            answer = program.get("/v1/chat/completions", {"model": "demo/tiny", "messages": []})
            assert answer.json()["choices"][0]["message"]["content"] == "Hello"
            assert program.get("/v1/metadata").json()["revision"] == commit
            assert TOKEN not in program.output
            assert program.stop() == 0
        assert site.unused_faults == []
        assert site.leaked_credentials == []
        site.stop()
        with running(["modelscope://demo/tiny"], without_sockets(tmp_path, environ), tmp_path / "2.log") as program:
            program.wait_until_ready()
            assert program.stop() == 0


class TestRealClient:
    """What keeps the stand-in honest; run by hand where ``modelscope_hub`` is installed."""

    def test_a_snapshot_holds_every_file_and_is_read_as_a_cache(
        self, site: ModelScopeSimulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        hub = pytest.importorskip("modelscope_hub", reason="modelscope_hub is not installed")
        monkeypatch.setenv("MODELSCOPE_HOME", str(tmp_path / "home"))
        commit = site.add_model("demo/tiny.1", FILES, private=True)
        site.require_token(TOKEN)
        api = hub.HubApi(token=TOKEN, endpoint=site.endpoint)
        for revision in ("master", commit):
            folder = api.download_repo("demo/tiny.1", "model", revision=revision, cache_dir=tmp_path / "cache")
            found = {
                path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
            }
            assert found == FILES
        assert site.leaked_credentials == []
        source = source_of("http://127.0.0.1:9", caches=[tmp_path / "cache"], offline=True)
        assert len(source.list_files(TestCaches.model).files) == len(FILES)

    def test_a_listing_that_is_cut_off_is_walked(
        self, site: ModelScopeSimulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        hub = pytest.importorskip("modelscope_hub", reason="modelscope_hub is not installed")
        monkeypatch.setenv("MODELSCOPE_HOME", str(tmp_path / "home"))
        many = {f"d{number % 7}/{number}.txt": b"x" for number in range(3100)}
        site.add_model("demo/many", many)
        entries = hub.HubApi(endpoint=site.endpoint).legacy.list_repo_files("demo/many", "model")
        assert {entry["Path"] for entry in entries if entry["Type"] == "blob"} == set(many)
