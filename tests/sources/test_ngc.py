"""The NGC source against the NGC simulator: keys and guests, listings, refusals, byte ranges, and where keys go."""

import json
import os
from base64 import b64encode
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

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
from lading.model.manifest import FileEntry
from lading.secret import Secret
from lading.settings import Settings
from lading.sources import source_for
from lading.sources.fault import Limits
from lading.sources.http import Network
from lading.sources.interface import PassingFault, RangeIgnored
from lading.sources.ngc import MOST_FILES, NgcSource, parse_entry, version_names
from lading.sources.ngc_cache import NgcCache
from lading.uri import ModelUri
from tests.models import tiny_model
from tests.program import environment, run, running, without_sockets
from tests.simulators.faults import (
    Corrupt,
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
from tests.simulators.ngc import NgcSimulator
from tests.simulators.server import Reply, json_reply
from tests.simulators.vllm_program import install
from tests.sources.servers import (
    AUTHORITY,
    FakeTime,
    ScriptedServer,
    TlsFront,
    assert_hidden,
    client_with,
    redirect,
    replies,
)
from tests.sources.test_huggingface import FILES, WEIGHTS, read

TINY = ModelUri.parse("ngc://acme/lab/tiny:1.0")
TEAMLESS = ModelUri.parse("ngc://acme/lone:v2")
OPEN = ModelUri.parse("ngc://nim/meta/open:hf-1+2")
TERMS = ModelUri.parse("ngc://acme/lab/terms:1")
PERSONAL = "nvapi-" + "s3cr3t" * 4
JWT = "eyJh.s3cr3t-s3cr3t.sig_0"
LEGACY = "bGVnYWN5" * 6
CREATED = "2026-01-02T03:04:05.000Z"


@pytest.fixture
def ngc() -> Iterator[NgcSimulator]:
    with NgcSimulator() as simulator:
        simulator.add_model("acme/lab/tiny", "1.0", FILES)
        simulator.add_model("acme/lone", "v2", FILES)
        simulator.add_model("nim/meta/open", "hf-1+2", FILES, public=True)
        simulator.add_model("nim/alone", "1", FILES, public=True)
        simulator.add_model("acme/lab/terms", "1", FILES, terms=True)
        for key in (PERSONAL, JWT, LEGACY):
            simulator.add_key(key, "acme")
        yield simulator


def source_of(
    endpoint: str,
    key: str | None = None,
    *,
    name: str = "NGC_API_KEY",
    time: FakeTime | None = None,
    limits: Limits | None = None,
    offline: bool = False,
) -> NgcSource:
    time = time or FakeTime()
    network = Network(offline=offline, limits=limits or Limits(read_seconds=2.0, connect_seconds=2.0))
    secret = Secret(key, name) if key is not None else None
    return NgcSource(client_with(network, time=time), endpoint, endpoint, secret, time.clock)


def entry_of(source: NgcSource, path: str = "model.safetensors", model: ModelUri = TINY) -> FileEntry:
    entry = source.list_files(model).find(path)
    assert entry is not None
    return entry


def calls(ngc: NgcSimulator) -> list[tuple[str, str]]:
    return [(request.path, request.query) for request in ngc.requests if request.host == "hub"]


def hosts(ngc: NgcSimulator) -> str:
    """Who was asked since the listing: A the API for a link, T the token service, S the storage."""
    letters = ["S" if each.host == "cdn" else "T" if each.path == "/token" else "A" for each in ngc.requests]
    return "".join(letters)


class TestListing:
    @pytest.mark.parametrize("key", [PERSONAL, JWT, LEGACY])
    @pytest.mark.parametrize("model", [TINY, TEAMLESS], ids=str)
    def test_carries_what_ngc_promises(self, ngc: NgcSimulator, key: str, model: ModelUri) -> None:
        manifest = source_of(ngc.endpoint, key).list_files(model)
        assert (manifest.source, manifest.revision) == (model, model.revision)
        assert {entry.path: (entry.size_bytes, entry.digest) for entry in manifest.files} == {
            path: (len(content), Digest.of(content)) for path, content in FILES.items()
        }
        assert manifest.find("config.json") == FileEntry(
            "config.json",
            len(FILES["config.json"]),
            model.with_file("config.json"),
            Digest.of(FILES["config.json"]),
            CREATED,
        )

    def test_takes_two_calls_under_the_paths_of_orgs_and_teams(self, ngc: NgcSimulator) -> None:
        for model in (TINY, TEAMLESS):
            source_of(ngc.endpoint, PERSONAL).list_files(model)
        assert calls(ngc) == [
            ("/v2/org/acme/team/lab/models/tiny/versions/1.0", ""),
            ("/v2/org/acme/team/lab/models/tiny/versions/1.0/files", "page-size=1000"),
            ("/v2/org/acme/models/lone/versions/v2", ""),
            ("/v2/org/acme/models/lone/versions/v2/files", "page-size=1000"),
        ]

    @pytest.mark.parametrize(
        ("model", "listing", "link"),
        [
            (OPEN, "/v2/models/nim/meta/open/versions/hf-1%2B2", "/v2/models/org/nim/team/meta/open/hf-1%2B2/files"),
            (
                ModelUri.parse("ngc://nim/alone:1"),
                "/v2/models/nim/alone/versions/1",
                "/v2/models/org/nim/alone/1/files",
            ),
        ],
        ids=str,
    )
    def test_guests_have_paths_of_their_own(self, ngc: NgcSimulator, model: ModelUri, listing: str, link: str) -> None:
        source = source_of(ngc.endpoint)
        assert read(source, entry_of(source, model=model)) == WEIGHTS
        assert [path for path, _ in calls(ngc)] == [listing, f"{listing}/files", link]
        guests = {request.headers.get("x-ngc-guest-token") for request in ngc.requests if request.host == "hub"}
        assert len(guests) == 1
        assert None not in guests
        assert ngc.leaked_credentials == []

    @pytest.mark.parametrize("page_size", [1, 2, 4, 6, 100])
    def test_every_page_is_read(self, ngc: NgcSimulator, page_size: int) -> None:
        ngc.page_size = page_size
        manifest = source_of(ngc.endpoint, PERSONAL).list_files(TINY)
        assert [entry.path for entry in manifest.files] == sorted(FILES)
        assert len(ngc.requests) == 1 + -(-len(FILES) // page_size)

    def test_without_digests_none_is_invented_and_storage_pins(self, ngc: NgcSimulator) -> None:
        ngc.digests = False
        manifest = source_of(ngc.endpoint, PERSONAL).list_files(TINY)
        assert {entry.digest for entry in manifest.files} == {None}
        assert {entry.etag for entry in manifest.files if not entry.size_bytes} == {CREATED}
        pins = [entry.etag or "" for entry in manifest.files if entry.size_bytes]
        assert all(pin.startswith('"') for pin in pins)
        looks = [request for request in ngc.requests if request.host == "cdn"]
        assert len(looks) == len(pins)
        assert {request.headers["range"] for request in looks} == {"bytes=0-0"}
        assert ngc.leaked_credentials == []

    def test_one_file_may_be_named(self, ngc: NgcSimulator) -> None:
        source = source_of(ngc.endpoint, PERSONAL)
        model = TINY.with_file("original/weights 1+2.bin")
        manifest = source.list_files(model)
        assert (manifest.source, [entry.path for entry in manifest.files]) == (model, [model.file])
        with pytest.raises(FileNotFoundAtSource, match="ngc://acme/lab/tiny:1.0 has no file") as caught:
            source.list_files(TINY.with_file("models.safetensors"))
        assert caught.value.remedy == "did you mean model.safetensors?"

    def test_a_version_that_is_still_uploaded_is_not_served(self, ngc: NgcSimulator) -> None:
        ngc.add_model("acme/lab/tiny", "1.0", {}).status = "UPLOAD_PENDING"
        with pytest.raises(RevisionNotFound, match=r"tiny:1.0 is not complete at NGC: its status is UPLOAD_PENDING"):
            source_of(ngc.endpoint, PERSONAL).list_files(TINY)

    def test_passing_faults_are_waited_out(self, ngc: NgcSimulator) -> None:
        time = FakeTime()
        for path, fault in (("/token", Status(500)), ("/v2", Status(503)), ("/v2", Status(429, retry_after=3))):
            ngc.fault(path, fault)
        assert source_of(ngc.endpoint, LEGACY, time=time).list_files(TINY).files
        assert time.slept == [0.5, 0.5, 3.0]
        assert ngc.unused_faults == []

    def test_offline_no_socket_is_opened(self, ngc: NgcSimulator) -> None:
        with pytest.raises(OfflineError, match="needs the network"):
            source_of(ngc.endpoint, LEGACY, offline=True).list_files(TINY)
        assert ngc.requests == []

    def test_nothing_lies_on_this_machine_already(self, ngc: NgcSimulator) -> None:
        source = source_of(ngc.endpoint, PERSONAL)
        assert source.in_place is False
        assert source.local_copy(entry_of(source)) is None


class TestKeys:
    @pytest.mark.parametrize("key", [PERSONAL, JWT])
    def test_personal_keys_and_jwts_are_the_token(self, ngc: NgcSimulator, key: str) -> None:
        source = source_of(ngc.endpoint, key)
        assert read(source, entry_of(source)) == WEIGHTS
        assert ngc.exchanges == []
        sent = {request.headers.get("authorization") for request in ngc.requests if request.host == "hub"}
        assert sent == {f"Bearer {key}"}
        assert not any("x-ngc-guest-token" in request.headers for request in ngc.requests)

    def test_a_legacy_key_is_exchanged_once_for_each_org_and_team(self, ngc: NgcSimulator) -> None:
        source = source_of(ngc.endpoint, LEGACY)
        for model in (TINY, TEAMLESS, TINY, TEAMLESS):
            assert read(source, entry_of(source, model=model)) == WEIGHTS
        assert [request.query for request in ngc.exchanges] == [
            "service=ngc&scope=group/ngc:acme&scope=group/ngc:acme/lab",
            "service=ngc&scope=group/ngc:acme",
        ]
        basic = f"Basic {b64encode(f'$oauthtoken:{LEGACY}'.encode()).decode()}"
        assert {request.headers["authorization"] for request in ngc.exchanges} == {basic}
        rest = [request for request in ngc.requests if request.path != "/token"]
        assert not any(LEGACY in str(request.headers) or "Basic" in str(request.headers) for request in rest)

    @pytest.mark.parametrize(
        ("expires_in", "kept", "renewed"),
        [
            (3600, 3539, 3541),
            (100, 49, 51),
            (60.5, 30, 31),
            (None, 1e9, None),
            (-1, 1e9, None),
            (10**400, 1e9, None),
            ("soon", 1e9, None),
        ],
    )
    def test_a_token_is_kept_until_shortly_before_it_expires(
        self, ngc: NgcSimulator, expires_in: Any, kept: float, renewed: float | None
    ) -> None:
        ngc.expires_in = expires_in
        time = FakeTime()
        source = source_of(ngc.endpoint, LEGACY, time=time)
        source.list_files(TINY)
        began = time.now
        time.now = began + kept
        source.list_files(TINY)
        assert len(ngc.exchanges) == 1
        if renewed:
            time.now = began + renewed
            source.list_files(TINY)
            assert len(ngc.exchanges) == 2

    def test_a_token_that_expires_on_the_way_is_replaced_once(self, ngc: NgcSimulator) -> None:
        ngc.page_size = 2
        source = source_of(ngc.endpoint, LEGACY)
        entry = entry_of(source)
        ngc.revoke_tokens()
        assert read(source, entry) == WEIGHTS
        assert hosts(ngc)[-4:] == "ATAS"
        ngc.revoke_tokens()
        assert len(source.list_files(TINY).files) == len(FILES)
        assert len(ngc.exchanges) == 3

    def test_a_token_that_stays_refused_is_said(self, ngc: NgcSimulator) -> None:
        ngc.token_seconds = -1
        with pytest.raises(Unauthorized, match="rejects NGC_API_KEY") as caught:
            source_of(ngc.endpoint, LEGACY).list_files(TINY)
        assert_hidden(caught.value, LEGACY)
        assert hosts(ngc) == "TATA"

    def test_threads_share_one_exchange(self, ngc: NgcSimulator) -> None:
        source = source_of(ngc.endpoint, LEGACY)
        entry = entry_of(source)
        ngc.fault("/token", Latency(0.2))
        ngc.revoke_tokens()
        starts = range(0, len(WEIGHTS), 8192)
        with ThreadPoolExecutor(8) as pool:
            parts = pool.map(lambda start: read(source, entry, start, min(start + 8192, len(WEIGHTS))), starts)
            assert b"".join(parts) == WEIGHTS
        assert len(ngc.exchanges) == 2

    @pytest.mark.parametrize(
        ("environ", "sent"),
        [
            ({"NGC_CLI_API_KEY": PERSONAL, "NGC_API_KEY": "nvapi-other"}, PERSONAL),
            ({"NGC_CLI_API_KEY": " ", "NGC_API_KEY": f"{PERSONAL}\n"}, PERSONAL),
            ({"NGC_API_KEY": JWT}, JWT),
        ],
        ids=["both", "the first is empty", "the second alone"],
    )
    def test_the_settings_reach_it_and_the_cli_key_wins(
        self, ngc: NgcSimulator, environ: dict[str, str], sent: str
    ) -> None:
        environ |= {"NGC_CLI_API_URL": f"{ngc.endpoint}/", "NGC_CLI_AUTH_URL": ngc.endpoint}
        source_for(TINY, Settings.from_env(environ)).list_files(TINY)
        assert {request.headers["authorization"] for request in ngc.requests} == {f"Bearer {sent}"}

    @pytest.mark.parametrize("name", ["NGC_CLI_API_KEY", "NGC_API_KEY"])
    def test_errors_name_the_variable_in_use(self, ngc: NgcSimulator, name: str) -> None:
        environ = {"NGC_API_KEY": "nvapi-other", name: "nvapi-wrong", "NGC_CLI_API_URL": ngc.endpoint}
        with pytest.raises(Unauthorized, match=f"{ngc.endpoint} rejects {name} \\(it says: Invalid") as caught:
            source_for(TINY, Settings.from_env(environ)).list_files(TINY)
        assert f"set {name} to it" in (caught.value.remedy or "")
        assert_hidden(caught.value, "nvapi-wrong", "nvapi-other")

    @pytest.mark.parametrize("key", ["", "  \n"])
    def test_an_empty_key_makes_a_guest(self, ngc: NgcSimulator, key: str) -> None:
        assert source_of(ngc.endpoint, key).list_files(OPEN).files
        assert not any("authorization" in request.headers for request in ngc.requests)

    @pytest.mark.parametrize("key", [f"{PERSONAL} x", f"{PERSONAL}\n{PERSONAL}", f"{PERSONAL}ü"])
    def test_a_key_that_cannot_be_sent_is_a_usage_error_that_hides_it(self, key: str) -> None:
        with pytest.raises(UsageError, match="NGC_CLI_API_KEY holds characters that no token has") as caught:
            source_of("https://ngc.test", key, name="NGC_CLI_API_KEY")
        assert_hidden(caught.value, PERSONAL)

    @pytest.mark.parametrize(
        ("variable", "url", "says"),
        [
            ("NGC_CLI_API_URL", "https://", "NGC_CLI_API_URL is not the URL"),
            ("NGC_CLI_AUTH_URL", "https://h:port", "NGC_CLI_AUTH_URL is not the URL"),
            ("NGC_CLI_API_URL", f"https://u:{PERSONAL}@h", "NGC_CLI_API_URL holds credentials"),
        ],
    )
    def test_urls_that_cannot_be_used_are_usage_errors(self, variable: str, url: str, says: str) -> None:
        with pytest.raises(UsageError, match=says) as caught:
            source_for(TINY, Settings.from_env({variable: url}))
        assert_hidden(caught.value, PERSONAL)

    def test_nothing_shows_the_key_or_a_token(self, ngc: NgcSimulator) -> None:
        source = source_of(ngc.endpoint, LEGACY)
        source.list_files(TINY)
        (token,) = {request.headers["authorization"] for request in ngc.requests if request.path != "/token"}
        shown = json.dumps(
            {name: repr(vars(value)) for name, value in vars(source).items() if hasattr(value, "__dict__")}
        )
        shown += f"{source!r} {vars(source)!r} {Secret(LEGACY, 'NGC_API_KEY')!r}"
        assert LEGACY not in shown
        assert token.partition(" ")[2] not in shown


class TestTokenService:
    @pytest.mark.parametrize("status", [400, 401, 403])
    def test_a_legacy_key_it_does_not_know(self, ngc: NgcSimulator, status: int) -> None:
        if status != 401:
            ngc.fault("/token", Status(status))
        with pytest.raises(Unauthorized, match=f"{ngc.endpoint} rejects NGC_API_KEY") as caught:
            source_of(ngc.endpoint, "unknown-key").list_files(TINY)
        assert_hidden(caught.value, "unknown-key")
        assert (caught.value.remedy or "").startswith("make a new key at https://org.ngc.nvidia.com/setup/api-keys")

    def test_the_key_is_hidden_where_the_service_repeats_it(self, ngc: NgcSimulator) -> None:
        with pytest.raises(Unauthorized, match=r"\(it says: Invalid apikey \*\*\*\)"):
            source_of(ngc.endpoint, "unknown-key").list_files(TINY)

    @pytest.mark.parametrize(
        "reply",
        [
            Reply(200, {}, b"<html>"),
            Reply(404),
            json_reply(200, []),
            json_reply(200, {}),
            json_reply(200, {"token": None}),
            json_reply(200, {"token": "a\r\nb: c"}),
            json_reply(404, {"token": "abc"}),
        ],
    )
    def test_an_answer_that_holds_no_token(self, reply: Reply) -> None:
        with ScriptedServer(replies(reply)) as server, pytest.raises(SourceProtocolError) as caught:
            source_of(server.endpoint, LEGACY).list_files(TINY)
        assert f"{server.endpoint}/token?… gives no token for NGC_API_KEY" in caught.value.message
        assert f"check that NGC_CLI_AUTH_URL={server.endpoint} is" in (caught.value.remedy or "")
        assert_hidden(caught.value, LEGACY)

    def test_where_it_stays_broken(self, ngc: NgcSimulator) -> None:
        ngc.fault("/token", Status(502), times=None)
        with pytest.raises(SourceUnreachable, match=r"/token\?… answers HTTP 502 \(5 tries\)"):
            source_of(ngc.endpoint, LEGACY).list_files(TINY)

    def test_a_token_needed_for_bytes_is_asked_for_once(self, ngc: NgcSimulator) -> None:
        source = source_of(ngc.endpoint, LEGACY)
        entry = entry_of(source)
        ngc.revoke_tokens()
        ngc.fault("/token", Status(503))
        with pytest.raises(PassingFault):
            read(source, entry)
        assert read(source, entry) == WEIGHTS


class TestRefusals:
    def refused(self, ngc: NgcSimulator, error: type[LadingError], uri: str, key: str | None = None) -> tuple[str, str]:
        with pytest.raises(error) as caught:
            source_of(ngc.endpoint, key).list_files(ModelUri.parse(uri))
        assert type(caught.value) is error
        assert_hidden(caught.value, PERSONAL, LEGACY)
        return caught.value.message, caught.value.remedy or ""

    @pytest.mark.parametrize("uri", [str(TINY), "ngc://no/such/model:1"])
    def test_guests_are_told_to_set_a_key(self, ngc: NgcSimulator, uri: str) -> None:
        message, remedy = self.refused(ngc, Unauthorized, uri)
        assert message.startswith(f"{uri} is not open to guests, and no key is set (it says: Authentication")
        assert remedy.startswith("set NGC_API_KEY to a key of an account that may read it (https://")

    @pytest.mark.parametrize("key", ["nvapi-stranger", "legacystranger"])
    def test_a_key_that_does_not_open_the_model(self, ngc: NgcSimulator, key: str) -> None:
        ngc.add_key(key, "elsewhere")
        message, remedy = self.refused(ngc, Unauthorized, str(TINY), key)
        assert message == f"{ngc.endpoint} does not let NGC_API_KEY read {TINY} (it says: Missing entitlement)"
        assert remedy.startswith("set NGC_API_KEY to a key of a member of org acme, team lab, with the service")
        assert remedy.endswith("https://catalog.ngc.nvidia.com/orgs/acme/teams/lab/models/tiny?version=1.0")

    @pytest.mark.parametrize("key", [PERSONAL, LEGACY])
    def test_terms_that_are_not_accepted(self, ngc: NgcSimulator, key: str) -> None:
        ngc.add_key(key, "acme", accepted=False)
        message, remedy = self.refused(ngc, GatedModel, str(TERMS), key)
        assert message == f"the terms of {TERMS} are not accepted (it says: Terms of use must be accepted)"
        page = "https://catalog.ngc.nvidia.com/orgs/acme/teams/lab/models/terms?version=1"
        assert remedy == f"accept them at {page} with the account of NGC_API_KEY; then start again"
        ngc.add_key(key, "acme")
        assert source_of(ngc.endpoint, key).list_files(TERMS).files

    def test_terms_are_not_accepted_by_guests(self, ngc: NgcSimulator) -> None:
        ngc.add_model("nim/alone", "1", FILES, public=True, terms=True)
        _, remedy = self.refused(ngc, GatedModel, "ngc://nim/alone:1")
        assert "/orgs/nim/models/alone?version=1 with an account, and set NGC_API_KEY to a key of it" in remedy

    def test_a_version_that_is_not_there_names_those_that_are(self, ngc: NgcSimulator) -> None:
        ngc.add_model("acme/lab/tiny", "1.0-fp8", FILES)
        message, remedy = self.refused(ngc, RevisionNotFound, "ngc://acme/lab/tiny:1.0-fp4", LEGACY)
        assert message == "ngc://acme/lab/tiny has no version '1.0-fp4'"
        assert remedy == "it has 1.0-fp8, 1.0"
        assert self.refused(ngc, RevisionNotFound, "ngc://nim/alone:2")[1] == "it has 1"

    @pytest.mark.parametrize("status", [404, 500])
    def test_a_model_that_is_not_there(self, ngc: NgcSimulator, status: int) -> None:
        if status != 404:
            ngc.fault("/v2/org/acme/models/none/versions", Status(404))
            ngc.fault("/v2/org/acme/models/none/versions", Status(status))
        message, remedy = self.refused(ngc, ModelNotFound, "ngc://acme/none:1", PERSONAL)
        assert message == f"{ngc.endpoint} has no model acme/none"
        assert remedy.endswith("if the model is private, NGC_API_KEY must be of an account that can see it")
        assert len(ngc.requests) == 2

    def test_guests_may_be_told_that_a_model_is_not_there(self, ngc: NgcSimulator) -> None:
        ngc.fault("/v2", Status(404), times=None)
        assert self.refused(ngc, ModelNotFound, "ngc://acme/none:1")[1].endswith("private, set NGC_API_KEY")

    def test_a_rate_limit_and_a_fault_that_stay(self, ngc: NgcSimulator) -> None:
        ngc.fault("/v2/org", Status(429, retry_after=1), times=5)
        assert self.refused(ngc, RateLimited, str(TINY), PERSONAL)[1].startswith("wait and start again")
        ngc.fault("/v2/org", Status(502), times=None)
        self.refused(ngc, SourceUnreachable, str(TINY), PERSONAL)

    def test_any_other_status(self, ngc: NgcSimulator) -> None:
        ngc.fault("/v2", Status(418))
        message, remedy = self.refused(ngc, SourceProtocolError, str(TINY), PERSONAL)
        assert message.endswith("does not behave as NGC does: it answers HTTP 418")
        assert remedy.startswith(f"check that NGC_CLI_API_URL={ngc.endpoint} is NGC or a proxy of it")

    def test_what_ngc_says_is_shown_without_control_characters(self) -> None:
        said = json_reply(403, {"requestStatus": {"statusDescription": f"\x1b[31mno {PERSONAL}\x07" + "x" * 500}})
        with ScriptedServer(replies(said)) as server, pytest.raises(Unauthorized) as caught:
            source_of(server.endpoint, PERSONAL).list_files(TINY)
        assert "(it says: [31mno ***xxx" in caught.value.message
        assert len(caught.value.message) < 350


class TestMalformedAnswers:
    DONE = json_reply(200, {"modelVersion": {"status": "UPLOAD_COMPLETE"}})

    @pytest.mark.parametrize(
        ("reply", "says"),
        [
            (Reply(200, {}, b"<html>Log in</html>"), "something that is not JSON"),
            (json_reply(200, []), "other JSON"),
            (json_reply(200, {}), "tells no status of the version"),
            (json_reply(200, {"modelVersion": {"status": None}}), "tells no status"),
        ],
    )
    def test_of_the_version(self, reply: Reply, says: str) -> None:
        with ScriptedServer(replies(reply)) as server, pytest.raises(SourceProtocolError, match=says):
            source_of(server.endpoint, PERSONAL).list_files(TINY)

    @pytest.mark.parametrize(
        ("page", "error", "says"),
        [
            ({}, SourceProtocolError, "lists no files"),
            ({"modelFiles": 1}, SourceProtocolError, "lists no files"),
            ({"modelFiles": [1]}, SourceProtocolError, "something that is no file"),
            ({"modelFiles": [{"path": "a"}]}, SourceProtocolError, "something that is no file"),
            ({"modelFiles": [{"path": "a", "sizeInBytes": -1}]}, SourceProtocolError, "'a' with a size of -1"),
            ({"modelFiles": [{"path": "a", "sizeInBytes": True}]}, SourceProtocolError, "with a size of True"),
            ({"modelFiles": [{"path": "../a", "sizeInBytes": 1}]}, UnsafePath, "leave the workspace"),
            ({"modelFiles": [{"path": "/a", "sizeInBytes": 1}]}, UnsafePath, "leave the workspace"),
            ({"modelFiles": [{"path": "a", "sizeInBytes": 1}] * 2}, ContentError, "two files are named a"),
            (
                {"modelFiles": [], "paginationInfo": {"totalPages": MOST_FILES + 1}},
                SourceProtocolError,
                "more than 200000 files or pages",
            ),
        ],
    )
    def test_of_the_files(self, page: Any, error: type[LadingError], says: str) -> None:
        with ScriptedServer(replies(self.DONE, json_reply(200, page))) as server, pytest.raises(error, match=says):
            source_of(server.endpoint, PERSONAL).list_files(TINY)

    @pytest.mark.parametrize("page", [{"modelFiles": None}, {"modelFiles": []}, {"requestStatus": {}}])
    def test_a_version_without_files_is_empty(self, page: Any) -> None:
        with ScriptedServer(replies(self.DONE, json_reply(200, page))) as server:
            assert source_of(server.endpoint, PERSONAL).list_files(TINY).files == ()

    @pytest.mark.parametrize(
        "promised", ["abc", "!!!!", b64encode(b"short").decode(), 7, "é", b64encode(b"x" * 33).decode()]
    )
    def test_a_digest_that_is_none(self, promised: Any) -> None:
        with pytest.raises(ValueError, match="'a' with the SHA-256"):
            parse_entry(TINY, {"path": "a", "sizeInBytes": 1, "sha256_base64": promised})

    @pytest.mark.parametrize("promised", ["", None])
    def test_an_empty_digest_is_no_promise(self, promised: Any) -> None:
        entry = parse_entry(TINY, {"path": "a", "sizeInBytes": 1, "sha256_base64": promised, "createdDate": 3})
        assert entry == FileEntry("a", 1, TINY.with_file("a"))

    @pytest.mark.parametrize("listing", [{}, {"modelVersions": None}, {"modelVersions": [1, {}, {"versionId": 2}]}])
    def test_versions_that_are_none(self, listing: Any) -> None:
        assert version_names(listing) == []

    @pytest.mark.parametrize(
        ("answer", "says"),
        [
            ({}, "it gives no link to a"),
            ({"urls": []}, "no link"),
            ({"urls": [1]}, "no link"),
            ({"urls": ["http://h/x", "http://h/y"]}, "no link"),
            ({"urls": ["http://h/x", 1], "filepath": ["b", "a"]}, "no link"),
            ({"urls": ["ftp://h/x"]}, "redirects to something that is no http or https URL"),
        ],
    )
    def test_of_links(self, answer: Any, says: str) -> None:
        with ScriptedServer(replies(json_reply(200, answer))) as server, pytest.raises(SourceProtocolError, match=says):
            read(source_of(server.endpoint, PERSONAL), FileEntry("a", 5, TINY.with_file("a")))

    def test_of_several_links_that_of_the_file_is_taken(self, ngc: NgcSimulator) -> None:
        with ScriptedServer(replies(Reply(200, {}, b"right"))) as storage:
            answer = {"urls": ["http://127.0.0.1:9/", f"{storage.cdn_endpoint}/a"], "filepath": ["b", "a"]}
            with ScriptedServer(replies(json_reply(200, answer))) as server:
                entry = FileEntry("a", 5, TINY.with_file("a"))
                assert read(source_of(server.endpoint, PERSONAL), entry) == b"right"


class TestRanges:
    @pytest.mark.parametrize("path", list(FILES))
    def test_whole_files(self, ngc: NgcSimulator, path: str) -> None:
        source = source_of(ngc.endpoint, PERSONAL)
        assert read(source, entry_of(source, path)) == FILES[path]

    @pytest.mark.parametrize(("start", "end"), [(0, 1), (3, 20), (5, 5), (len(WEIGHTS) - 1, len(WEIGHTS))])
    def test_the_bytes_asked_for(self, ngc: NgcSimulator, start: int, end: int) -> None:
        source = source_of(ngc.endpoint, LEGACY)
        assert read(source, entry_of(source), start, end) == WEIGHTS[start:end]

    @pytest.mark.parametrize(("start", "end"), [(-1, 5), (5, 4), (0, len(WEIGHTS) + 1)])
    def test_bytes_that_are_none_are_a_defect_of_the_caller(self, ngc: NgcSimulator, start: int, end: int) -> None:
        source = source_of(ngc.endpoint, PERSONAL)
        with pytest.raises(ValueError, match="no bytes"):
            read(source, entry_of(source), start, end)

    @pytest.mark.parametrize("key", [None, PERSONAL, JWT, LEGACY])
    def test_no_credentials_reach_storage(self, ngc: NgcSimulator, key: str | None) -> None:
        source = source_of(ngc.endpoint, key)
        for entry in source.list_files(OPEN).files:
            assert read(source, entry) == FILES[entry.path]
        storage = [request for request in ngc.requests if request.host == "cdn"]
        assert len(storage) == len(FILES) - 1
        assert ngc.leaked_credentials == []
        for request in storage:
            assert not set(request.headers) - {"host", "user-agent", "accept-encoding", "range"}

    @pytest.mark.parametrize("key", [None, PERSONAL, LEGACY])
    def test_no_credentials_follow_a_redirect_of_the_api(self, ngc: NgcSimulator, key: str | None) -> None:
        with ScriptedServer(replies(redirect(f"{ngc.cdn_endpoint}/elsewhere"))) as server:
            source = NgcSource(
                client_with(), server.endpoint, ngc.endpoint, Secret(key, "NGC_API_KEY") if key else None
            )
            with pytest.raises(Unauthorized if key is None else LadingError):
                source.list_files(TINY)
        assert [request for request in ngc.requests if request.host == "cdn"]
        assert ngc.leaked_credentials == []

    def test_a_link_is_used_again(self, ngc: NgcSimulator) -> None:
        source = source_of(ngc.endpoint, PERSONAL)
        entry = entry_of(source)
        for start in (0, 1000, 2000):
            assert read(source, entry, start, start + 1000) == WEIGHTS[start : start + 1000]
        assert hosts(ngc) == "AA" + "ASSS"

    @pytest.mark.parametrize("status", [400, 401, 403, 404, 410])
    def test_a_link_that_is_refused_is_asked_for_again_once(self, ngc: NgcSimulator, status: int) -> None:
        source = source_of(ngc.endpoint, PERSONAL)
        entry = entry_of(source)
        read(source, entry, 0, 10)
        ngc.fault("model.safetensors", Status(status), on="cdn")
        assert read(source, entry, 10, 20) == WEIGHTS[10:20]
        assert hosts(ngc) == "AA" + "AS" + "SAS"

    def test_a_link_that_expires_is_replaced(self, ngc: NgcSimulator) -> None:
        ngc.link_seconds = 0.2
        source = source_of(ngc.endpoint, PERSONAL)
        entry = entry_of(source)
        pieces = [read(source, entry, 0, 10)]
        while 403 not in [request.status for request in ngc.requests]:
            pieces.append(read(source, entry, 0, 10))
        assert set(pieces) == {WEIGHTS[:10]}

    def test_storage_that_refuses_fresh_links_may_do_so_for_a_moment(self, ngc: NgcSimulator) -> None:
        ngc.link_seconds = -1
        source = source_of(ngc.endpoint, PERSONAL)
        with pytest.raises(PassingFault, match=r"where NGC sent us for model.safetensors, answers HTTP 403") as caught:
            read(source, entry_of(source))
        assert "clock" in (caught.value.remedy or "")
        assert "Signature" not in caught.value.message
        ngc.link_seconds = 60
        assert read(source, entry_of(source)) == WEIGHTS

    def test_storage_that_does_not_answer_is_left(self, ngc: NgcSimulator) -> None:
        source = source_of(ngc.endpoint, PERSONAL, limits=Limits(read_seconds=0.2))
        entry = entry_of(source)
        read(source, entry, 0, 10)
        ngc.fault("model.safetensors", Latency(3), on="cdn")
        with pytest.raises(PassingFault, match="not a byte"):
            read(source, entry, 10, 20)
        assert read(source, entry, 10, 20) == WEIGHTS[10:20]
        assert hosts(ngc)[-2:] == "AS"

    def test_the_api_is_asked_for_a_link_once(self, ngc: NgcSimulator) -> None:
        source = source_of(ngc.endpoint, PERSONAL)
        entry = entry_of(source)
        ngc.fault("/v2", Status(429, retry_after=7))
        with pytest.raises(PassingFault) as caught:
            read(source, entry)
        assert caught.value.retry_after_seconds == 7
        assert hosts(ngc) == "AA" + "A"

    @pytest.mark.parametrize(
        ("fault", "error"),
        [
            (Status(503), PassingFault),
            (Status(429, retry_after=11), PassingFault),
            (Status(412), SourceProtocolError),
            (IgnoreRange(), RangeIgnored),
            (WrongRange(), SourceProtocolError),
            (CutAfter(100), PassingFault),
            (CutAfter(100, reset=True), PassingFault),
            (Stall(100, 3), PassingFault),
        ],
    )
    def test_faults_of_storage(self, ngc: NgcSimulator, fault: Fault, error: type[LadingError]) -> None:
        source = source_of(ngc.endpoint, PERSONAL, limits=Limits(read_seconds=0.2))
        entry = entry_of(source)
        ngc.fault("model.safetensors", fault, on="cdn")
        with pytest.raises(error) as caught:
            read(source, entry, 1000, 3000)
        assert type(caught.value) is error
        assert ngc.unused_faults == []
        assert read(source, entry, 1000, 3000) == WEIGHTS[1000:3000]

    @pytest.mark.parametrize("fault", [Throttle(20_000_000), WrongEtag()])
    def test_what_only_looks_odd_is_read(self, ngc: NgcSimulator, fault: Fault) -> None:
        source = source_of(ngc.endpoint, PERSONAL)
        ngc.fault("model.safetensors", fault)
        assert read(source, entry_of(source), 1000, 3000) == WEIGHTS[1000:3000]

    def test_a_file_of_another_size_than_listed(self, ngc: NgcSimulator) -> None:
        source = source_of(ngc.endpoint, PERSONAL)
        entry = entry_of(source)
        ngc.add_model("acme/lab/tiny", "1.0", {}).files["model.safetensors"] = WEIGHTS[:-5]
        with pytest.raises(SizeMismatch, match=f"has {len(WEIGHTS) - 5} bytes, {len(WEIGHTS)} were listed"):
            read(source, entry, 0, 100)

    def test_a_file_that_went_away(self, ngc: NgcSimulator) -> None:
        source = source_of(ngc.endpoint, PERSONAL)
        entry = entry_of(source)
        del ngc.add_model("acme/lab/tiny", "1.0", {}).files["model.safetensors"]
        with pytest.raises(FileNotFoundAtSource, match="tiny:1.0 has no file 'model.safetensors'"):
            read(source, entry)

    def test_over_tls_the_bytes_of_storage_must_be_too(self, ngc: NgcSimulator) -> None:
        with TlsFront(ngc.port) as front:
            client = client_with(Network(ca_bundle=AUTHORITY))
            source = NgcSource(client, front.endpoint, front.endpoint, Secret(LEGACY, "NGC_API_KEY"))
            with pytest.raises(SourceProtocolError, match="redirects from https to http"):
                read(source, entry_of(source))
        assert "S" not in hosts(ngc)


@pytest.mark.parametrize("key", [PERSONAL, LEGACY, None], ids=["personal", "legacy", "guest"])
def test_a_model_is_served_and_served_again_without_ngc(tmp_path: Path, ngc: NgcSimulator, key: str | None) -> None:
    files = tiny_model()
    ngc.add_model("acme/team/served", "bf16-1", files, public=key is None)
    ngc.page_size = 2
    shard = "model-00001-of-00002.safetensors"
    ngc.fault(shard, CutAfter(10_000), on="cdn")
    ngc.fault(shard, Status(403), on="cdn")
    model = "ngc://acme/team/served:bf16-1"
    (tmp_path / "home").mkdir()
    keys = {"NGC_API_KEY": key} if key else {}
    urls = {"NGC_CLI_API_URL": ngc.endpoint, "NGC_CLI_AUTH_URL": ngc.endpoint}
    path = f"{install(tmp_path / 'engine')}:{os.environ['PATH']}"
    environ = environment(tmp_path, PATH=path, **urls, **keys)
    with running(["serve", model], environ, tmp_path / "first.log") as program:
        program.wait_until_ready()
        assert program.get("/v1/models").json()["data"][0]["id"] == "acme/team/served"
        assert program.get("/v1/metadata").json()["revision"] == "bf16-1"
        manifest = program.get("/v1/manifest").body.decode()
        assert all(name in manifest for name in files)
        assert program.stop() == 0
        assert not key or key not in program.output
    assert ngc.unused_faults == []
    assert ngc.leaked_credentials == []
    ngc.stop()
    with running([model], without_sockets(tmp_path, environ), tmp_path / "second.log") as program:
        program.wait_until_ready()
        assert program.stop() == 0


def test_bytes_that_do_not_have_the_promised_digest_are_not_served(tmp_path: Path, ngc: NgcSimulator) -> None:
    ngc.add_model("acme/team/served", "1", tiny_model())
    ngc.fault("model-00001-of-00002.safetensors", Corrupt(5000), times=None, on="cdn")
    (tmp_path / "home").mkdir()
    path = f"{install(tmp_path / 'engine')}:{os.environ['PATH']}"
    environ = environment(tmp_path, PATH=path, NGC_CLI_API_URL=ngc.endpoint, NGC_API_KEY=PERSONAL)
    done = run(["serve", "ngc://acme/team/served:1"], environ)
    assert done.returncode == 4
    assert "model-00001-of-00002.safetensors" in done.stderr
    assert PERSONAL not in done.stdout + done.stderr


class TestFilesThatNimLeft:
    """``ngc/hub`` on the volume, laid out as a NIM does it."""

    def volume(self, tmp_path: Path, files: Mapping[str, bytes]) -> Path:
        folder = tmp_path / "cache/ngc/hub/models--acme--team--served"
        for number, (path, data) in enumerate(files.items()):
            blob, link = folder / "blobs" / f"{number:064x}", folder / "snapshots/bf16-1" / path
            blob.parent.mkdir(parents=True, exist_ok=True)
            link.parent.mkdir(parents=True, exist_ok=True)
            blob.write_bytes(data)
            link.symlink_to(os.path.relpath(blob, link.parent))
        return tmp_path / "cache"

    def test_they_are_found_by_version_and_path(self, ngc: NgcSimulator, tmp_path: Path) -> None:
        ngc.add_model("acme/team/served", "bf16-1", FILES)
        volume = self.volume(tmp_path, FILES)
        environ = {"NIM_CACHE_PATH": str(volume), "NGC_CLI_API_URL": ngc.endpoint, "NGC_API_KEY": PERSONAL}
        model = ModelUri.parse("ngc://acme/team/served:bf16-1")
        source = source_for(model, Settings.from_env(environ))
        for file in source.list_files(model).files:
            found = source.local_copy(file)
            assert found and found.read_bytes() == FILES[file.path]
        assert source.local_copy(FileEntry("x", 1, model.with_revision("other").with_file("x"))) is None
        for path in ("../../../x", "/etc/hosts"):
            assert NgcCache(volume / "ngc/hub").find(model, path) is None

    def test_migrating_costs_no_download_and_what_is_damaged_is_fetched(
        self, ngc: NgcSimulator, tmp_path: Path
    ) -> None:
        files = tiny_model()
        ngc.add_model("acme/team/served", "bf16-1", files)
        self.volume(tmp_path, files | {"config.json": files["config.json"][:-1] + b" "})
        environ = environment(
            tmp_path,
            NGC_CLI_API_URL=ngc.endpoint,
            NGC_API_KEY=PERSONAL,
            PATH=f"{install(tmp_path / 'engine')}:{os.environ['PATH']}",
        )
        with running(["serve", "ngc://acme/team/served:bf16-1"], environ, tmp_path / "log") as program:
            program.wait_until_ready()
            assert program.stop() == 0
        assert {request.file for request in ngc.requests if request.host == "cdn"} == {"config.json"}
