"""The hub source against the hub simulator: listings, refusals, byte ranges, and where the token goes."""

import hashlib
import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lading.digest import Digest
from lading.errors import (
    ContentError,
    FileNotFoundAtSource,
    GatedModel,
    LadingError,
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
from lading.sources.answer import Answer
from lading.sources.fault import Limits
from lading.sources.http import Network
from lading.sources.huggingface import MOST_FILES, HuggingFaceSource, next_page, parse_entry, ref_names
from lading.sources.huggingface_cache import HuggingFaceCache
from lading.sources.interface import PassingFault, RangeIgnored, Source
from lading.uri import ModelUri
from tests.simulators.faults import (
    CutAfter,
    Fault,
    IgnoreRange,
    Latency,
    Stall,
    Status,
    Throttle,
    WrongEtag,
    WrongRange,
)
from tests.simulators.hub import HubSimulator
from tests.simulators.server import Call, Reply, json_reply
from tests.sources.cache_layout import lay_out
from tests.sources.servers import FakeTime, ScriptedServer, TlsFront, assert_hidden, client_with, replies

WEIGHTS = bytes(range(256)) * 400
FILES = {
    "config.json": b'{"model_type": "tiny"}',
    "__init__.py": b"",
    "model.safetensors": WEIGHTS,
    "original/weights 1+2.bin": WEIGHTS[:5000],
    "ünïcode/100% #1?.txt": "naïve".encode(),
    "a&b=c;d.txt": b"x",
}
TINY = ModelUri.parse("hf://demo/tiny")
TOKEN = "hf_" + "s3cr3t" * 4
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def tiny(hub: HubSimulator) -> str:
    return hub.add_model("demo/tiny", FILES)


def source_of(
    endpoint: str,
    token: str | None = None,
    caches: Sequence[HuggingFaceCache] = (),
    *,
    time: FakeTime | None = None,
    limits: Limits | None = None,
    offline: bool = False,
    report: Callable[[Event], None] = lambda _: None,
) -> HuggingFaceSource:
    network = Network(offline=offline, limits=limits or Limits(read_seconds=2.0, connect_seconds=2.0))
    client = client_with(network, time=time)
    return HuggingFaceSource(client, endpoint, Secret(token) if token else None, caches, report)


def read(source: Source, file: FileEntry, start: int = 0, end: int | None = None) -> bytes:
    end = file.size_bytes if end is None else end
    data = bytearray()
    buffer = memoryview(bytearray(7000))
    with source.open_range(file, start, end) as body:
        while count := body.readinto(buffer):
            data += buffer[:count]
    return bytes(data)


def entry_of(source: Source, path: str = "model.safetensors", model: ModelUri = TINY) -> FileEntry:
    entry = source.list_files(model).find(path)
    assert entry is not None
    return entry


class TestListing:
    def test_is_pinned_and_carries_what_the_hub_promises(self, hub: HubSimulator, tiny: str) -> None:
        manifest = source_of(hub.endpoint).list_files(TINY)
        assert (manifest.source, manifest.revision) == (TINY, tiny)
        assert {entry.path: entry.size_bytes for entry in manifest.files} == {
            path: len(content) for path, content in FILES.items()
        }
        weights, config = manifest.find("model.safetensors"), manifest.find("config.json")
        assert weights == FileEntry(
            "model.safetensors",
            len(WEIGHTS),
            ModelUri.parse(f"hf://demo/tiny:{tiny}?file=model.safetensors"),
            Digest.of(WEIGHTS),
            f'"{hashlib.sha256(WEIGHTS).hexdigest()}"',
        )
        assert config is not None
        assert config.digest == Digest.of(FILES["config.json"], "gitsha1")

    def test_takes_two_calls(self, hub: HubSimulator, tiny: str) -> None:
        source_of(hub.endpoint).list_files(TINY)
        assert [(request.path, request.query) for request in hub.requests] == [
            ("/api/models/demo/tiny/revision/main", ""),
            (f"/api/models/demo/tiny/tree/{tiny}", "recursive=true&expand=false"),
        ]

    @pytest.mark.parametrize("revision", ["v1.0", "feature/x+1", "refs/pr/1"])
    def test_any_kind_of_revision_is_pinned(self, hub: HubSimulator, tiny: str, revision: str) -> None:
        hub.tag("demo/tiny", revision, tiny)
        hub.add_model("demo/tiny", {"other.json": b"{}"})
        model = TINY.with_revision(revision)
        manifest = source_of(hub.endpoint).list_files(model)
        assert (manifest.source, manifest.revision, len(manifest.files)) == (model, tiny, len(FILES))
        assert hub.requests[0].path.count("/") == 6
        by_commit = source_of(hub.endpoint).list_files(TINY.with_revision(tiny))
        assert by_commit.files == manifest.files

    @pytest.mark.parametrize("page_size", [1, 3, 100])
    def test_every_page_is_read(self, hub: HubSimulator, tiny: str, page_size: int) -> None:
        hub.page_size = page_size
        manifest = source_of(hub.endpoint).list_files(TINY)
        assert [entry.path for entry in manifest.files] == sorted(FILES)

    def test_a_mirror_that_passes_on_the_hubs_links_is_not_left(self, hub: HubSimulator, tiny: str) -> None:
        hub.page_size = 2
        hub.require_token(TOKEN)
        with ScriptedServer(mirror_of(hub, "/mirror")) as mirror:
            manifest = source_of(f"{mirror.endpoint}/mirror/", TOKEN).list_files(TINY)
        assert len(manifest.files) == len(FILES)
        assert len(mirror.requests) == len(hub.requests) > 3
        assert {request.headers.get("authorization") for request in mirror.requests} == {f"Bearer {TOKEN}"}

    def test_a_renamed_model_is_followed(self, hub: HubSimulator, tiny: str) -> None:
        hub.page_size = 2
        hub.require_token(TOKEN)

        def script(call: Call) -> Reply:
            if "/old/name/" in call.path:
                return Reply(307, {"Location": call.path.replace("/old/name/", "/demo/tiny/")})
            return mirror_of(hub)(call)

        with ScriptedServer(script) as server:
            source = source_of(server.endpoint, TOKEN)
            entry = entry_of(source, model=ModelUri.parse("hf://old/name"))
            assert entry.uri.location == "old/name"
            assert {request.headers.get("authorization") for request in server.requests} == {f"Bearer {TOKEN}"}

    def test_one_file_may_be_named(self, hub: HubSimulator, tiny: str) -> None:
        model = TINY.with_file("original/weights 1+2.bin")
        manifest = source_of(hub.endpoint).list_files(model)
        assert manifest.source == model
        assert [entry.path for entry in manifest.files] == ["original/weights 1+2.bin"]

    @pytest.mark.parametrize(
        ("file", "remedy"),
        [
            ("weights 1+2.bin", "did you mean original/weights 1+2.bin?"),
            ("models.safetensors", "did you mean model.safetensors?"),
            ("zzz", "leave ?file= out to take the whole model"),
        ],
    )
    def test_a_file_that_is_not_there_names_its_neighbours(
        self, hub: HubSimulator, tiny: str, file: str, remedy: str
    ) -> None:
        with pytest.raises(FileNotFoundAtSource, match=f"hf://demo/tiny has no file '{file[:4]}") as caught:
            source_of(hub.endpoint).list_files(TINY.with_file(file))
        assert caught.value.remedy == remedy

    def test_passing_faults_are_waited_out(self, hub: HubSimulator, tiny: str) -> None:
        time = FakeTime()
        for fault in (Status(503), Status(429, retry_after=3), Status(500)):
            hub.fault("/api/models/demo/tiny/tree", fault)
        assert source_of(hub.endpoint, time=time).list_files(TINY).revision == tiny
        assert time.slept == [0.5, 3.0, 2.0]
        assert hub.unused_faults == []

    def test_is_not_copied_in_place(self, hub: HubSimulator) -> None:
        assert source_of(hub.endpoint).in_place is False


def mirror_of(hub: HubSimulator, prefix: str = "") -> Callable[[Call], Reply]:
    """A script that answers as ``hub`` does, below ``prefix``, links to the hub included."""

    def script(call: Call) -> Reply:
        connection = HTTPConnection("127.0.0.1", hub.port)
        try:
            target = call.path.removeprefix(prefix) + (f"?{call.query}" if call.query else "")
            connection.request("GET", target, headers={"Authorization": call.headers.get("authorization", "")})
            response = connection.getresponse()
            kept = {name: value for name, value in response.getheaders() if name != "Content-Length"}
            return Reply(response.status, kept, response.read())
        finally:
            connection.close()

    return script


class TestRefusals:
    def refused(
        self, hub: HubSimulator, error: type[LadingError], uri: str = "hf://demo/tiny", token: str | None = None
    ) -> LadingError:
        time = FakeTime()
        with pytest.raises(error) as caught:
            source_of(hub.endpoint, token, time=time).list_files(ModelUri.parse(uri))
        assert type(caught.value) is error
        assert_hidden(caught.value, TOKEN)
        return caught.value

    @pytest.mark.parametrize("with_code", [True, False])
    def test_an_unknown_or_private_model_anonymously(self, with_code: bool) -> None:
        with HubSimulator(repo_not_found_code=with_code) as hub:
            hub.add_model("demo/private", FILES, private=True)
            for uri in ("hf://demo/private", "hf://no/such"):
                error = self.refused(hub, ModelNotFound, uri)
                assert error.message == f"{hub.endpoint} has no model {uri[5:]}"
                assert "check the name; if the model is private, set HF_TOKEN" in (error.remedy or "")

    def test_an_unknown_or_private_model_with_a_token_that_may_not_see_it(self, hub: HubSimulator) -> None:
        hub.add_model("demo/private", FILES, private=True)
        hub.require_token(TOKEN, access=False)
        error = self.refused(hub, ModelNotFound, "hf://demo/private", TOKEN)
        assert "HF_TOKEN must belong to an account that can see it" in (error.remedy or "")

    def test_a_private_model_with_its_token(self, hub: HubSimulator) -> None:
        hub.add_model("demo/private", FILES, private=True)
        hub.require_token(TOKEN)
        source = source_of(hub.endpoint, TOKEN)
        assert read(source, entry_of(source, model=ModelUri.parse("hf://demo/private"))) == WEIGHTS
        assert hub.leaked_credentials == []

    def test_a_token_that_is_not_valid(self, hub: HubSimulator, tiny: str) -> None:
        hub.require_token("hf_other")
        error = self.refused(hub, Unauthorized, token=TOKEN)
        assert error.message.startswith(f"{hub.endpoint} rejects HF_TOKEN (it says: Invalid credentials")
        assert error.remedy == f"make a new one at {hub.endpoint}/settings/tokens, or unset HF_TOKEN for public models"

    def test_a_revision_that_is_not_there_names_those_that_are(self, hub: HubSimulator, tiny: str) -> None:
        refs = {"branches": [{"name": "main"}, {"name": "v1.0"}], "tags": [{"name": "release-1"}, "odd"], "converts": 1}

        def script(call: Call) -> Reply:
            return json_reply(200, refs) if call.path == "/api/models/demo/tiny/refs" else mirror_of(hub)(call)

        with ScriptedServer(script) as server, pytest.raises(RevisionNotFound) as caught:
            source_of(server.endpoint).list_files(TINY.with_revision("release1"))
        assert caught.value.message == "hf://demo/tiny: there is no branch, tag or commit 'release1'"
        assert caught.value.remedy == "it has release-1, main, v1.0"

    @pytest.mark.parametrize("refs", [Reply(500), Reply(404), Reply(200, {}, b"<html>"), json_reply(200, [])])
    def test_a_hub_that_does_not_tell_its_revisions_is_asked_once(
        self, hub: HubSimulator, tiny: str, refs: Reply
    ) -> None:
        def script(call: Call) -> Reply:
            return refs if call.path.endswith("/refs") else mirror_of(hub)(call)

        with ScriptedServer(script) as server, pytest.raises(RevisionNotFound) as caught:
            source_of(server.endpoint).list_files(TINY.with_revision("nope"))
        assert caught.value.remedy == f"choose one of those listed at {server.endpoint}/demo/tiny/tree/main"
        assert len(server.requests) == 2

    def test_a_rate_limit_that_stays(self, hub: HubSimulator, tiny: str) -> None:
        hub.fault("/api", Status(429, retry_after=10), times=None)
        error = self.refused(hub, RateLimited)
        assert error.remedy == "the hub allows more to tokens: set HF_TOKEN, or wait and start again"
        hub.require_token(TOKEN)
        assert self.refused(hub, RateLimited, token=TOKEN).remedy == "the hub asks to wait and start again"

    def test_a_hub_that_stays_broken(self, hub: HubSimulator, tiny: str) -> None:
        hub.fault("/api", Status(502), times=None)
        assert "answers HTTP 502 (5 tries)" in self.refused(hub, SourceUnreachable).message
        assert len(hub.requests) == 5

    @pytest.mark.parametrize(
        ("status", "error", "says"),
        [
            (400, SourceProtocolError, "it answers HTTP 400"),
            (403, Unauthorized, "does not let no token read demo/tiny"),
            (404, ModelNotFound, "has no model demo/tiny"),
            (410, ModelNotFound, r"has withdrawn demo/tiny \(HTTP 410\)"),
            (451, ModelNotFound, r"has withdrawn demo/tiny \(HTTP 451\)"),
        ],
    )
    def test_statuses_without_a_code(
        self, hub: HubSimulator, tiny: str, status: int, error: type[LadingError], says: str
    ) -> None:
        hub.fault("/api", Status(status))
        with pytest.raises(error, match=says):
            source_of(hub.endpoint).list_files(TINY)

    @pytest.mark.parametrize("token", [None, TOKEN])
    def test_a_gated_model_lists_and_refuses_its_bytes(self, hub: HubSimulator, token: str | None) -> None:
        hub.add_model("demo/gated", FILES, gated=True)
        hub.require_token(TOKEN, access=False)
        source = source_of(hub.endpoint, token)
        entry = entry_of(source, model=ModelUri.parse("hf://demo/gated"))
        with pytest.raises(GatedModel) as caught:
            read(source, entry)
        page = f"{hub.endpoint}/demo/gated"
        if token:
            assert caught.value.message == "hf://demo/gated is gated, and the account of HF_TOKEN has no access to it"
            assert (caught.value.remedy or "").startswith(f"accept the licence at {page} with that account")
        else:
            assert caught.value.message == "hf://demo/gated is gated: its licence must be accepted first"
            assert caught.value.remedy == f"accept the licence at {page}, then set HF_TOKEN to a token of that account"
        assert_hidden(caught.value, TOKEN)

    def test_what_the_server_says_is_shown_without_control_characters(self, hub: HubSimulator, tiny: str) -> None:
        said = Reply(403, {"X-Error-Message": "\x1b[31mno\x07 " + "x" * 500})
        with ScriptedServer(replies(said)) as server, pytest.raises(Unauthorized) as caught:
            source_of(server.endpoint).list_files(TINY)
        assert "(it says: [31mno xxx" in caught.value.message
        assert len(caught.value.message) < 300


class TestMalformedAnswers:
    @pytest.mark.parametrize(
        ("reply", "says"),
        [
            (Reply(200, {"Content-Type": "text/html"}, b"<html>Log in</html>"), "something that is not JSON"),
            (Reply(200, {}, b""), "not JSON"),
            (Reply(200, {}, b"\xff\xfe\x00"), "not JSON"),
            (Reply(200, {}, b"[" * 100_000), "not JSON"),
            (json_reply(200, []), "other JSON"),
            (json_reply(200, {}), "names no commit"),
            (json_reply(200, {"sha": None}), "names no commit"),
            (json_reply(200, {"sha": "main"}), "names no commit"),
            (json_reply(200, {"sha": "../../../etc"}), "names no commit"),
            (json_reply(200, {"sha": COMMIT + "\n"}), "names no commit"),
        ],
    )
    def test_of_the_revision_call(self, reply: Reply, says: str) -> None:
        with ScriptedServer(replies(reply)) as server, pytest.raises(SourceProtocolError, match=says) as caught:
            source_of(server.endpoint).list_files(TINY)
        assert f"check that HF_ENDPOINT={server.endpoint} is a hub" in (caught.value.remedy or "")

    @pytest.mark.parametrize(
        ("tree", "error", "says"),
        [
            ({}, SourceProtocolError, "other JSON"),
            ([1], SourceProtocolError, "lists something that is no file"),
            ([{"type": "file"}], SourceProtocolError, "lists something that is no file"),
            ([{"type": "file", "path": 1, "size": 1, "oid": "a" * 40}], SourceProtocolError, "no file"),
            (
                [{"type": "file", "path": "a", "size": -1, "oid": "a" * 40}],
                SourceProtocolError,
                "'a' with a size of -1",
            ),
            ([{"type": "file", "path": "a", "size": True, "oid": "a" * 40}], SourceProtocolError, "size of True"),
            ([{"type": "file", "path": "a", "size": 1 << 70, "oid": "a" * 40}], SourceProtocolError, "with a size"),
            ([{"type": "file", "path": "a", "size": 1, "oid": "a" * 39}], SourceProtocolError, "'a' with the id 'aaa"),
            ([{"type": "file", "path": "a", "size": 1, "oid": "A" * 40}], SourceProtocolError, "with the id"),
            (
                [{"type": "file", "path": "a", "size": 1, "oid": "a" * 40, "lfs": {"oid": "b" * 40, "size": 1}}],
                SourceProtocolError,
                "with the id 'bbb",
            ),
            (
                [{"type": "file", "path": "a", "size": 1, "lfs": {"oid": "b" * 64, "size": "1"}}],
                SourceProtocolError,
                "with a size of '1'",
            ),
            ([{"type": "file", "path": "../evil", "size": 1, "oid": "a" * 40}], UnsafePath, "evil"),
            ([{"type": "file", "path": "/evil", "size": 1, "oid": "a" * 40}], UnsafePath, "evil"),
            ([{"type": "file", "path": "a\\evil", "size": 1, "oid": "a" * 40}], UnsafePath, "evil"),
            ([{"type": "file", "path": "\ud800evil", "size": 1, "oid": "a" * 40}], UnsafePath, "evil"),
            ([{"type": "file", "path": "a", "size": 1, "oid": "a" * 40}] * 2, ContentError, "two files are named a"),
        ],
    )
    def test_of_the_tree_call(self, tree: Any, error: type[LadingError], says: str) -> None:
        script = replies(json_reply(200, {"sha": COMMIT}), json_reply(200, tree))
        with ScriptedServer(script) as server, pytest.raises(error, match=says):
            source_of(server.endpoint).list_files(TINY)

    def test_what_is_no_file_is_left_out(self) -> None:
        tree = [{"type": "directory", "path": "a"}, {"type": "submodule"}]
        with ScriptedServer(replies(json_reply(200, {"sha": COMMIT}), json_reply(200, tree))) as server:
            assert source_of(server.endpoint).list_files(TINY).files == ()

    def test_a_listing_beyond_measure_is_refused(self) -> None:
        tree = [{"type": "directory"}] * (MOST_FILES + 1)
        script = replies(json_reply(200, {"sha": COMMIT}), json_reply(200, tree))
        with ScriptedServer(script) as server, pytest.raises(SourceProtocolError, match="lists more than 200000 files"):
            source_of(server.endpoint).list_files(TINY)

    def test_a_listing_that_goes_in_circles_is_refused(self) -> None:
        def script(call: Call) -> Reply:
            if "/revision/" in call.path:
                return json_reply(200, {"sha": COMMIT})
            return json_reply(200, [], {"Link": f'<{call.path}?cursor=a>; rel="next"'})

        with ScriptedServer(script) as server, pytest.raises(SourceProtocolError, match="go in a circle"):
            source_of(server.endpoint).list_files(TINY)

    @pytest.mark.parametrize(
        ("link", "expected"),
        [
            ("", ""),
            ('</api/models/a/b/tree/c?cursor=x>; rel="prev"', ""),
            ("</api/models/a/b/tree/c?cursor=x>; rel=next", "https://m.test/hf/api/models/a/b/tree/c?cursor=x"),
            ('<https://hub.test/api/models/a?x=1,2>; rel="next"', "https://m.test/hf/api/models/a?x=1,2"),
            ('<https://m.test/hf/api/models/a?x>; rel="next"', "https://m.test/hf/api/models/a?x"),
            ('<x>; rel="prev", </api/models/a>; title="n"; rel="next"', "https://m.test/hf/api/models/a"),
        ],
    )
    def test_links_to_the_next_page_are_read(self, link: str, expected: str) -> None:
        answer = Answer(200, {"Link": link}, b"", "https://m.test/hf/api/models/a/b/tree/c")
        assert next_page(answer, "https://m.test/hf") == expected

    @pytest.mark.parametrize("link", ["https://evil.test/steal", "/login?x=/api/models/", "http://[::1/api/models/a"])
    def test_links_out_of_the_api_are_refused(self, link: str) -> None:
        answer = Answer(200, {"Link": f'<{link}>; rel="next"'}, b"", "https://m.test/api/models/a/b/tree/c")
        with pytest.raises(SourceProtocolError, match="leads out of the hub's API"):
            next_page(answer, "https://m.test")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
PINNED = TINY.with_revision(COMMIT)


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "type": st.just("file") | json_values,
            "path": st.text(max_size=8) | json_values,
            "size": st.integers() | json_values,
            "oid": st.just("a" * 40) | json_values,
            "lfs": st.fixed_dictionaries({"oid": st.just("b" * 64)}, optional={"size": json_values}) | json_values,
        },
    )
    | json_values
)
def test_no_element_of_a_tree_crashes_us(item: object) -> None:
    try:
        entry = parse_entry(PINNED, item)
    except (ValueError, ContentError):
        return
    assert entry is None or (entry.uri == PINNED.with_file(entry.path) and entry.size_bytes >= 0)


@given(st.dictionaries(st.sampled_from(["branches", "tags"]), json_values) | st.dictionaries(st.text(), json_values))
def test_no_list_of_refs_crashes_us(refs: dict[str, object]) -> None:
    assert all(isinstance(name, str) for name in ref_names(refs))


class TestRanges:
    def test_every_file_byte_for_byte(self, hub: HubSimulator, tiny: str) -> None:
        source = source_of(hub.endpoint)
        for entry in source.list_files(TINY).files:
            assert read(source, entry) == FILES[entry.path]

    @pytest.mark.parametrize("path", ["model.safetensors", "config.json"])
    @pytest.mark.parametrize(("start", "end"), [(0, 1), (3, 20), (21, 22), (5, 5)])
    def test_the_bytes_asked_for(self, hub: HubSimulator, tiny: str, path: str, start: int, end: int) -> None:
        source = source_of(hub.endpoint)
        assert read(source, entry_of(source, path), start, end) == FILES[path][start:end]

    @pytest.mark.parametrize(("start", "end"), [(-1, 5), (5, 4), (0, len(WEIGHTS) + 1)])
    def test_bytes_that_are_none_are_a_defect_of_the_caller(
        self, hub: HubSimulator, tiny: str, start: int, end: int
    ) -> None:
        source = source_of(hub.endpoint)
        with pytest.raises(ValueError, match="no bytes"):
            read(source, entry_of(source), start, end)

    def test_hubs_that_serve_small_files_from_their_cache(self) -> None:
        with HubSimulator(resolve_cache=True) as hub:
            hub.add_model("demo/tiny", FILES)
            source = source_of(hub.endpoint)
            for entry in source.list_files(TINY).files:
                assert read(source, entry) == FILES[entry.path]
                assert read(source, entry) == FILES[entry.path]

    def test_the_token_goes_to_the_hub_and_nowhere_else(self, hub: HubSimulator, tiny: str) -> None:
        hub.require_token(TOKEN)
        source = source_of(hub.endpoint, TOKEN)
        for entry in source.list_files(TINY).files:
            read(source, entry)
        assert hub.leaked_credentials == []
        assert [request for request in hub.requests if request.host == "cdn"]
        sent = {request.headers.get("authorization") for request in hub.requests if request.host == "hub"}
        assert sent == {f"Bearer {TOKEN}"}

    def test_the_link_to_storage_is_used_again(self, hub: HubSimulator, tiny: str) -> None:
        source = source_of(hub.endpoint)
        entry = entry_of(source)
        for start in (0, 1000, 2000):
            read(source, entry, start, start + 1000)
        assert [request.host for request in hub.requests_for("model.safetensors")] == ["hub", "cdn", "cdn", "cdn"]

    @pytest.mark.parametrize("status", [401, 403, 404, 410])
    def test_a_link_that_expired_is_asked_for_again_once(self, hub: HubSimulator, tiny: str, status: int) -> None:
        source = source_of(hub.endpoint)
        entry = entry_of(source)
        read(source, entry, 0, 10)
        hub.fault("model.safetensors", Status(status), on="cdn")
        assert read(source, entry, 10, 20) == WEIGHTS[10:20]
        hosts = [request.host for request in hub.requests_for("model.safetensors")]
        assert hosts == ["hub", "cdn", "cdn", "hub", "cdn"]

    def test_storage_that_refuses_fresh_links_may_do_so_for_a_moment(self, hub: HubSimulator, tiny: str) -> None:
        source = source_of(hub.endpoint)
        entry = entry_of(source)
        read(source, entry, 0, 10)
        hub.link_seconds = -1
        hub.fault("model.safetensors", Status(403), on="cdn")
        with pytest.raises(
            PassingFault, match=r"where the hub sent us for model.safetensors, answers HTTP 403"
        ) as caught:
            read(source, entry, 10, 20)
        assert "clock" in (caught.value.remedy or "")
        assert "Signature" not in caught.value.message
        assert len(hub.requests_for("model.safetensors")) == 5

    def test_storage_that_does_not_answer_is_asked_for_again(self, hub: HubSimulator, tiny: str) -> None:
        source = source_of(hub.endpoint, limits=Limits(read_seconds=0.2))
        entry = entry_of(source)
        read(source, entry, 0, 10)
        hub.fault("model.safetensors", Latency(3), on="cdn")
        with pytest.raises(PassingFault, match="not a byte"):
            read(source, entry, 10, 20)
        assert read(source, entry, 10, 20) == WEIGHTS[10:20]
        assert [request.host for request in hub.requests_for("model.safetensors")][-2:] == ["hub", "cdn"]

    @pytest.mark.parametrize(
        ("fault", "error"),
        [
            (Status(503), PassingFault),
            (Status(429, retry_after=11), PassingFault),
            (Status(408), PassingFault),
            (IgnoreRange(), RangeIgnored),
            (WrongRange(), SourceProtocolError),
            (CutAfter(100), PassingFault),
            (CutAfter(100, reset=True), PassingFault),
            (Stall(100, 3), PassingFault),
        ],
    )
    def test_faults_of_storage(self, hub: HubSimulator, tiny: str, fault: Fault, error: type[LadingError]) -> None:
        source = source_of(hub.endpoint, limits=Limits(read_seconds=0.2))
        entry = entry_of(source)
        hub.fault("model.safetensors", fault, on="cdn")
        with pytest.raises(error) as caught:
            read(source, entry, 1000, 3000)
        assert type(caught.value) is error
        if isinstance(caught.value, PassingFault) and isinstance(fault, Status):
            assert caught.value.retry_after_seconds == fault.retry_after
        assert hub.unused_faults == []
        assert read(source, entry, 1000, 3000) == WEIGHTS[1000:3000]

    @pytest.mark.parametrize("fault", [Throttle(20_000_000), WrongEtag()])
    def test_what_only_looks_odd_is_read(self, hub: HubSimulator, tiny: str, fault: Fault) -> None:
        source = source_of(hub.endpoint)
        hub.fault("model.safetensors", fault)
        assert read(source, entry_of(source), 1000, 3000) == WEIGHTS[1000:3000]

    def test_a_start_may_be_read_from_a_server_that_ignores_ranges(self, hub: HubSimulator, tiny: str) -> None:
        source = source_of(hub.endpoint)
        hub.fault("model.safetensors", IgnoreRange(), times=None, on="cdn")
        assert read(source, entry_of(source), 0, 3000) == WEIGHTS[:3000]
        assert read(source, entry_of(source)) == WEIGHTS

    @pytest.mark.parametrize("size_bytes", [len(WEIGHTS) - 1, len(WEIGHTS) + 5])
    def test_a_file_of_another_size_than_listed(self, hub: HubSimulator, tiny: str, size_bytes: int) -> None:
        source = source_of(hub.endpoint)
        entry = entry_of(source)
        listed = FileEntry(entry.path, size_bytes, entry.uri, entry.digest)
        with pytest.raises(SizeMismatch, match=f"has {len(WEIGHTS)} bytes, {size_bytes} were listed"):
            read(source, listed, 0, 100)
        with pytest.raises(SizeMismatch):
            read(source, listed, size_bytes - 1, size_bytes)

    def test_a_file_or_model_that_went_away(self, hub: HubSimulator, tiny: str) -> None:
        source = source_of(hub.endpoint)
        entry = entry_of(source)
        gone = FileEntry("b", 5, entry.uri.model.with_file("b"))
        with pytest.raises(FileNotFoundAtSource, match=f"hf://demo/tiny at {tiny} has no file 'b'"):
            read(source, gone)
        with pytest.raises(ModelNotFound):
            read(source, FileEntry("b", 5, ModelUri.parse(f"hf://demo/gone:{COMMIT}?file=b")))
        with pytest.raises(RevisionNotFound):
            read(source, FileEntry("b", 5, ModelUri.parse(f"hf://demo/tiny:{COMMIT}?file=b")))

    def test_many_threads_share_a_source(self, hub: HubSimulator, tiny: str) -> None:
        source = source_of(hub.endpoint)
        entry = entry_of(source)
        starts = range(0, len(WEIGHTS), 2048)
        with ThreadPoolExecutor(8) as pool:
            parts = pool.map(lambda start: read(source, entry, start, min(start + 2048, len(WEIGHTS))), starts)
            assert b"".join(parts) == WEIGHTS

    def test_over_tls_the_bytes_of_storage_must_be_too(self, hub: HubSimulator, tiny: str) -> None:
        from tests.sources.servers import AUTHORITY

        with TlsFront(hub.port) as front:
            client = client_with(Network(ca_bundle=AUTHORITY))
            source = HuggingFaceSource(client, front.endpoint)
            assert read(source, entry_of(source, "config.json")) == FILES["config.json"]
            with pytest.raises(SourceProtocolError, match="redirects from https to http"):
                read(source, entry_of(source))


class TestCaches:
    def test_offline_the_cache_lists_and_no_socket_opens(self, hub: HubSimulator, tiny: str, tmp_path: Path) -> None:
        online = source_of(hub.endpoint).list_files(TINY)
        lay_out(tmp_path, "demo/tiny", tiny, FILES)
        source = source_of("http://127.0.0.1:9", caches=[HuggingFaceCache(tmp_path)], offline=True)
        assert source.list_files(TINY) == online
        entry = online.files[-1]
        with pytest.raises(OfflineError, match="needs the network"), source.open_range(entry, 0, 1):
            pass

    def test_offline_one_file_is_enough_where_one_is_named(self, tmp_path: Path) -> None:
        lay_out(tmp_path, "demo/tiny", COMMIT, {"config.json": b"{}"})
        source = source_of("http://127.0.0.1:9", caches=[HuggingFaceCache(tmp_path)], offline=True)
        assert [entry.path for entry in source.list_files(TINY.with_file("config.json")).files] == ["config.json"]
        with pytest.raises(OfflineError, match=r"tokenizer.json is missing"):
            source.list_files(TINY.with_file("tokenizer.json"))

    def test_offline_and_absent_says_what_to_do(self, tmp_path: Path) -> None:
        source = source_of("http://127.0.0.1:9", caches=[HuggingFaceCache(tmp_path)], offline=True)
        with pytest.raises(OfflineError) as caught:
            source.list_files(TINY)
        assert caught.value.message == (
            "hf://demo/tiny is needed, the network is forbidden, and in the Hugging Face cache "
            f"{tmp_path} it is not there"
        )
        assert caught.value.remedy == (
            "unset LADING_OFFLINE and HF_HUB_OFFLINE, or copy the model to "
            f"{tmp_path}/models--demo--tiny from a machine that has it"
        )

    def test_offline_and_incomplete_says_what_is_missing(self, tmp_path: Path) -> None:
        lay_out(tmp_path, "demo/tiny", COMMIT, {"config.json": b"{}"})
        source = source_of("http://127.0.0.1:9", caches=[HuggingFaceCache(tmp_path)], offline=True)
        with pytest.raises(OfflineError, match=f"in the Hugging Face cache {tmp_path} the weights are missing"):
            source.list_files(TINY)

    def test_without_any_cache_offline_is_an_error_too(self) -> None:
        with pytest.raises(OfflineError, match=r"in the Hugging Face cache \(none\) it is not there"):
            source_of("http://127.0.0.1:9", offline=True).list_files(TINY)

    def test_an_unreachable_hub_is_stood_in_for(self, tmp_path: Path) -> None:
        events: list[Event] = []
        lay_out(tmp_path / "b", "demo/tiny", COMMIT, FILES)
        caches = [HuggingFaceCache(tmp_path / "a"), HuggingFaceCache(tmp_path / "b")]
        with ScriptedServer(replies(Reply(503))) as server:
            source = source_of(server.endpoint, caches=caches, report=events.append)
            manifest = source.list_files(TINY)
        assert manifest.revision == COMMIT
        (note,) = events
        assert isinstance(note, Note)
        assert note.level == "WARNING"
        assert note.text == (
            f"{server.endpoint}/api/models/demo/tiny/revision/main answers HTTP 503 (5 tries); "
            f"taking hf://demo/tiny as the Hugging Face cache has it, at {COMMIT}"
        )

    def test_an_unreachable_hub_stays_one_where_the_cache_is_incomplete(self, tmp_path: Path) -> None:
        lay_out(tmp_path, "demo/tiny", COMMIT, {"config.json": b"{}"})
        with ScriptedServer(replies(Reply(503))) as server, pytest.raises(SourceUnreachable, match="HTTP 503"):
            source_of(server.endpoint, caches=[HuggingFaceCache(tmp_path)]).list_files(TINY)

    @pytest.mark.parametrize("status", [401, 403, 404, 429])
    def test_a_hub_that_says_no_is_not_overruled(self, tmp_path: Path, status: int) -> None:
        lay_out(tmp_path, "demo/tiny", COMMIT, FILES)
        with ScriptedServer(replies(Reply(status))) as server, pytest.raises(LadingError) as caught:
            source_of(server.endpoint, caches=[HuggingFaceCache(tmp_path)]).list_files(TINY)
        assert not isinstance(caught.value, SourceUnreachable)

    def test_local_copies_are_found_by_name_and_by_digest(self, hub: HubSimulator, tiny: str, tmp_path: Path) -> None:
        lay_out(tmp_path, "demo/tiny", tiny, FILES)
        newer = hub.add_model("demo/tiny", FILES | {"config.json": b"{}"})
        caches = [HuggingFaceCache(tmp_path / "none"), HuggingFaceCache(tmp_path)]
        source = source_of(hub.endpoint, caches=caches)
        copies = {entry.path: source.local_copy(entry) for entry in source.list_files(TINY).files}
        assert source.list_files(TINY).revision == newer
        assert copies.pop("config.json") is None
        assert {path: copy and copy.read_bytes() for path, copy in copies.items()} == {
            path: content for path, content in FILES.items() if path != "config.json"
        }

    def test_a_local_copy_of_another_size_is_none(self, hub: HubSimulator, tiny: str, tmp_path: Path) -> None:
        snapshot = lay_out(tmp_path, "demo/tiny", tiny, FILES)
        (snapshot / "model.safetensors").resolve().write_bytes(b"half")
        source = source_of(hub.endpoint, caches=[HuggingFaceCache(tmp_path)])
        assert source.local_copy(entry_of(source)) is None


class TestSettings:
    def test_a_token_from_a_file_with_a_line_break_works(self, hub: HubSimulator) -> None:
        hub.add_model("demo/private", FILES, private=True)
        hub.require_token(TOKEN)
        assert source_of(hub.endpoint, f" {TOKEN}\r\n").list_files(ModelUri.parse("hf://demo/private")).files

    @pytest.mark.parametrize("token", ["", "  \n"])
    def test_an_empty_token_is_none(self, hub: HubSimulator, tiny: str, token: str) -> None:
        HuggingFaceSource(client_with(), hub.endpoint, Secret(token)).list_files(TINY)
        assert not any("authorization" in request.headers for request in hub.requests)

    @pytest.mark.parametrize("token", [f"{TOKEN}\n{TOKEN}", f"{TOKEN} x", f"{TOKEN}ü", f"{TOKEN}\x00"])
    def test_a_token_that_cannot_be_sent_is_a_usage_error_that_hides_it(self, token: str) -> None:
        with pytest.raises(UsageError, match="HF_TOKEN holds characters that no token has") as caught:
            HuggingFaceSource(client_with(), "https://hub.test", Secret(token))
        assert_hidden(caught.value, TOKEN)

    @pytest.mark.parametrize("endpoint", ["ftp://hub.test", "http://", "https://hub.test:port", "https://[::1"])
    def test_an_endpoint_that_is_none_is_a_usage_error(self, endpoint: str) -> None:
        with pytest.raises(UsageError, match="HF_ENDPOINT is not the URL of a hub"):
            HuggingFaceSource(client_with(), endpoint)

    def test_an_endpoint_with_credentials_is_a_usage_error_that_hides_them(self) -> None:
        with pytest.raises(UsageError, match="HF_ENDPOINT holds credentials") as caught:
            HuggingFaceSource(client_with(), f"https://user:{TOKEN}@hub.test")
        assert_hidden(caught.value, TOKEN)

    def test_nothing_shows_the_token(self) -> None:
        source = HuggingFaceSource(client_with(), "https://hub.test", Secret(TOKEN))
        assert TOKEN not in f"{source!r} {vars(source)!r} {json.dumps(vars(source), default=repr)}"
