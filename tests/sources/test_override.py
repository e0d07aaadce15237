"""``NIM_REPOSITORY_OVERRIDE``: files of NGC's models from a mirror of flat, percent-encoded names."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lading.digest import Digest
from lading.errors import ContentError, FileNotFoundAtSource, ModelNotFound, SourceUnreachable, Unauthorized, UsageError
from lading.events import Event, Note
from lading.settings import Settings
from lading.sources import source_for
from lading.sources.interface import Source
from lading.sources.override import flat_name, mirror_location, registry_url
from lading.uri import ModelUri, Scheme
from tests.models import tiny_model
from tests.program import environment, run, running, without_sockets
from tests.simulators.azure import ACCOUNT, KEY, AzureSimulator
from tests.simulators.google import GoogleSimulator
from tests.simulators.ngc import NgcSimulator
from tests.simulators.nginx import nginx
from tests.simulators.s3 import S3Simulator
from tests.simulators.vllm_program import install
from tests.simulators.web import WebServer
from tests.sources.test_huggingface import FILES, WEIGHTS, read

TINY = ModelUri.parse("ngc://nim/meta/tiny:hf-1+2")
TEAMLESS = ModelUri.parse("ngc://nim/lone:1")
NOWHERE = "http://127.0.0.1:1"
FORBIDDEN = {"NGC_CLI_API_URL": NOWHERE, "NGC_CLI_AUTH_URL": NOWHERE}  # an override is not to ask NGC


def flat(files: Mapping[str, bytes], model: ModelUri = TINY, prefix: str = "") -> dict[str, bytes]:
    """How a mirror holds them, spelled out by the letter of the rule."""
    start = f"{model.location}:{model.revision}"
    return {prefix + quote(f"{start}?file={path}", safe=""): data for path, data in files.items()}


@pytest.fixture
def google() -> Iterator[GoogleSimulator]:
    with GoogleSimulator() as simulator:
        yield simulator


@pytest.fixture
def ngc() -> Iterator[NgcSimulator]:
    with NgcSimulator() as simulator:
        simulator.add_model(TINY.location, TINY.revision or "", FILES, public=True)
        yield simulator


def overridden(override: str, environ: Mapping[str, str], model: ModelUri = TINY) -> Source:
    return source_for(model, Settings.from_env({**FORBIDDEN, "NIM_REPOSITORY_OVERRIDE": override, **environ}))


def contents(source: Source, model: ModelUri = TINY) -> dict[str, bytes]:
    return {file.path: read(source, file) for file in source.list_files(model).files}


class TestNames:
    def test_the_documented_example(self) -> None:
        file = ModelUri.parse("ngc://nim/meta/llama3-8b-instruct:hf?file=config.json")
        assert flat_name(file) == "nim%2Fmeta%2Fllama3-8b-instruct%3Ahf%3Ffile%3Dconfig.json"

    @given(st.text(min_size=1).filter(lambda text: all(0x20 <= ord(char) < 0xD800 for char in text)))
    def test_names_are_flat_and_told_apart(self, path: str) -> None:
        name = flat_name(TINY.with_file(path))
        assert not set(name) & set("/:?=+ ")
        assert name != flat_name(TINY.with_file(path + "x"))

    @pytest.mark.parametrize("slash", ["", "/"])
    @pytest.mark.parametrize(
        ("override", "place"),
        [
            ("s3://nim_bucket", "s3://nim_bucket"),
            ("s3://bucket/nim-models", "s3://bucket/nim-models"),
            ("gs://bucket/a/b", "gs://bucket/a/b"),
            ("https://files.test:8443", "https://files.test:8443"),
            ("http://files.test/mirror", "http://files.test/mirror"),
        ],
    )
    def test_a_slash_at_the_end_means_nothing(self, override: str, place: str, slash: str) -> None:
        assert str(mirror_location(override + slash)) == place
        assert registry_url(override) is None

    @pytest.mark.parametrize(
        ("override", "url"),
        [
            ("ngc://proxy.corp.test", "https://proxy.corp.test"),
            ("NGC://proxy.corp.test:8443/ngc/", "https://proxy.corp.test:8443/ngc"),
            ("ngc://127.0.0.1:8080", "http://127.0.0.1:8080"),
            ("ngc://[::1]:8080/", "http://[::1]:8080"),
            ("ngc://localhost", "http://localhost"),
        ],
    )
    def test_an_ngc_compatible_server_is_asked_over_https_but_on_loopback(self, override: str, url: str) -> None:
        assert registry_url(override) == url

    @pytest.mark.parametrize("override", ["ngc://", "ngc://user:hunter2@host", "ngc://host?x=1", "ngc://a b/"])
    def test_one_that_names_no_server_is_refused(self, override: str) -> None:
        with pytest.raises(UsageError, match="names no server"):
            registry_url(override)

    @pytest.mark.parametrize(
        ("override", "why"),
        [
            ("hf://meta/llama", "a registry holds models under its own names"),
            ("modelscope://meta/llama:master", "a registry holds models under its own names"),
            ("/models", "cannot name /models"),
            ("local:///models", "cannot name local:///models"),
            ("s3://bucket/x?file=y", "cannot name s3://bucket/x"),
            ("jfrog://host:8443/", "is no location"),
            ("bucket", "is no location"),
        ],
    )
    def test_what_holds_no_flat_names_is_refused_with_the_reason(self, override: str, why: str) -> None:
        with pytest.raises(UsageError, match=why) as caught:
            overridden(override, {})
        assert "s3://{bucket}[/{prefix}]" in (caught.value.remedy or "")

    def test_an_empty_override_is_none(self, ngc: NgcSimulator) -> None:
        environ = {"NIM_REPOSITORY_OVERRIDE": "", "NGC_CLI_API_URL": ngc.endpoint}
        assert contents(source_for(TINY, Settings.from_env(environ))) == FILES

    @pytest.mark.parametrize("text", ["hf://demo/tiny", "s3://bucket/x", "/models/x"])
    def test_other_models_are_read_from_where_they_are(self, text: str) -> None:
        model = ModelUri.parse(text)
        plain = source_for(model, Settings.from_env({}))
        assert type(overridden("gs://bucket", {}, model)) is type(plain)


class TestBucket:
    @pytest.mark.parametrize("prefix", ["", "nim-models/", "a/b/"])
    @pytest.mark.parametrize("slash", ["", "/"])
    @pytest.mark.parametrize("model", [TINY, TEAMLESS], ids=str)
    def test_a_model_is_listed_and_read_without_ngc(
        self, google: GoogleSimulator, prefix: str, slash: str, model: ModelUri
    ) -> None:
        beside = flat(FILES, ModelUri.parse("ngc://nim/meta/tiny-2:hf")) | flat(FILES, model.with_revision("hf-1+20"))
        for key, data in (flat(FILES, model) | beside | {"readme": b"", "nim/meta/tiny:hf-1+2": b""}).items():
            google.put("bucket", prefix + key, data)
        override = f"gs://bucket/{prefix.rstrip('/')}".rstrip("/") + slash
        source = overridden(override, {"STORAGE_EMULATOR_HOST": google.endpoint}, model)
        manifest = source.list_files(model)
        assert (manifest.source, manifest.revision) == (model, model.revision)
        assert {file.path: file.uri for file in manifest.files} == {path: model.with_file(path) for path in FILES}
        assert contents(source, model) == FILES
        weights = manifest.find("model.safetensors")
        assert weights and read(source, weights, 1, 3) == WEIGHTS[1:3]

    def test_names_are_encoded_once_more_on_the_wire(self, google: GoogleSimulator) -> None:
        for key, data in flat(FILES).items():
            google.put("bucket", key, data)
        contents(overridden("gs://bucket", {"STORAGE_EMULATOR_HOST": google.endpoint}))
        paths = [request.path for request in google.requests if "/o/" in request.path]
        assert f"/storage/v1/b/bucket/o/{quote(next(iter(flat({'config.json': b''}))), safe='')}" in paths
        assert all("nim%252Fmeta%252Ftiny%253Ahf-1%252B2%253Ffile%253D" in path for path in paths)

    def test_one_file(self, google: GoogleSimulator) -> None:
        for key, data in flat({**FILES, "config.json.bak": b"old"}).items():
            google.put("bucket", key, data)
        source = overridden("gs://bucket", {"STORAGE_EMULATOR_HOST": google.endpoint})
        assert [file.path for file in source.list_files(TINY.with_file("config.json")).files] == ["config.json"]
        with pytest.raises(FileNotFoundAtSource) as caught:
            source.list_files(TINY.with_file("confg.json"))
        assert "config.json" in (caught.value.remedy or "")

    def test_a_mirror_without_the_model_says_what_was_looked_for(self, google: GoogleSimulator) -> None:
        google.put("bucket", "nim-models/readme", b"")
        source = overridden("gs://bucket/nim-models", {"STORAGE_EMULATOR_HOST": google.endpoint})
        with pytest.raises(
            ModelNotFound, match="gs://bucket/nim-models holds no files of ngc://nim/meta/tiny"
        ) as caught:
            source.list_files(TINY)
        assert "nim%2Fmeta%2Ftiny%3Ahf-1%2B2" in (caught.value.remedy or "")

    def test_a_file_that_was_replaced_in_the_mirror_is_not_read(self, google: GoogleSimulator) -> None:
        for key, data in flat(FILES).items():
            google.put("bucket", key, data)
        source = overridden("gs://bucket", {"STORAGE_EMULATOR_HOST": google.endpoint})
        file = source.list_files(TINY.with_file("model.safetensors")).files[0]
        google.put("bucket", next(iter(flat({"model.safetensors": b""}))), WEIGHTS[::-1])
        with pytest.raises(ContentError, match="replaced or deleted"):
            read(source, file)

    def test_where_it_is_asked_is_the_mirror(self, google: GoogleSimulator) -> None:
        source = overridden("gs://bucket", {"STORAGE_EMULATOR_HOST": google.endpoint})
        assert source.access(TINY).endpoint == google.endpoint


class TestOtherBuckets:
    @pytest.mark.parametrize("prefix", ["", "nim-models/"])
    def test_s3(self, tmp_path: Path, prefix: str, monkeypatch: pytest.MonkeyPatch) -> None:
        pytest.importorskip("botocore", reason="botocore is not installed: pip install 'lading[s3]'")
        for name in [each for each in os.environ if each.startswith("AWS_") or each.lower().endswith("_proxy")]:
            monkeypatch.delenv(name)
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIATEST")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2")
        with S3Simulator() as s3:
            s3.add("nim_bucket", flat(FILES, prefix=prefix) | {"beside": b""})
            source = overridden(f"s3://nim_bucket/{prefix}", {"AWS_ENDPOINT_URL": s3.endpoint})
            assert contents(source) == FILES
            paths = {request.path for request in s3.requests if request.file}
        assert f"/nim_bucket/{prefix}nim%252Fmeta%252Ftiny%253Ahf-1%252B2%253Ffile%253Dconfig.json" in paths

    @pytest.mark.parametrize("prefix", ["", "nim-models/"])
    def test_azure(self, prefix: str) -> None:
        with AzureSimulator() as azure:
            for key, data in (flat(FILES, prefix=prefix) | {"beside": b""}).items():
                azure.put("models", key, data)
            environ = {"AZURE_STORAGE_BLOB_ENDPOINT": azure.account_endpoint, "AZURE_STORAGE_KEY": KEY}
            source = overridden(f"az://{ACCOUNT}/models/{prefix}", environ)
            assert contents(source) == FILES


class TestWebServer:
    @pytest.mark.parametrize("prefix", ["", "mirror/of ngc/"])
    @pytest.mark.parametrize("slash", ["", "/"])
    def test_bytes_come_from_it_and_the_list_from_ngc(self, ngc: NgcSimulator, prefix: str, slash: str) -> None:
        with WebServer(flat(FILES, prefix=prefix)) as server:
            override = f"{server.endpoint}/{quote(prefix.rstrip('/'))}".rstrip("/") + slash
            source = overridden(override, {"NGC_CLI_API_URL": ngc.endpoint})
            assert contents(source) == FILES
            assert all("/files" not in request.path or "versions" in request.path for request in ngc.requests)
            paths = {request.path for request in server.requests}
            assert f"/{quote(prefix)}nim%252Fmeta%252Ftiny%253Ahf-1%252B2%253Ffile%253Dconfig.json" in paths
            promised = {file.digest for file in source.list_files(TINY).files}
            assert promised == {Digest.of(each) for each in FILES.values()}

    def test_a_file_that_is_named_needs_no_list(self) -> None:
        with WebServer(flat(FILES)) as server:
            source = overridden(server.endpoint, {})
            (file,) = source.list_files(TINY.with_file("original/weights 1+2.bin")).files
            assert (file.path, file.uri) == ("original/weights 1+2.bin", TINY.with_file("original/weights 1+2.bin"))
            assert read(source, file, 10, 20) == WEIGHTS[10:20]
            with pytest.raises(FileNotFoundAtSource, match="nim%252Fmeta"):
                source.list_files(TINY.with_file("nothing"))
            with pytest.raises(SourceUnreachable):
                source.list_files(TINY)

    def test_its_token_is_not_that_of_ngc(self) -> None:
        with WebServer(flat(FILES)) as server:
            server.authorization = "Bearer m1rror"
            named = TINY.with_file("config.json")
            environ = {"NGC_API_KEY": "nvapi-s3cr3t-key"}
            with pytest.raises(Unauthorized, match="may not be read"):
                overridden(server.endpoint, environ).list_files(named)
            assert overridden(server.endpoint, {**environ, "LADING_HTTP_TOKEN": "m1rror"}).list_files(named)
            assert not any("s3cr3t" in str(request.headers) for request in server.requests)

    def test_nginx_on_a_directory_of_flat_names_is_a_mirror(self, ngc: NgcSimulator, tmp_path: Path) -> None:
        (tmp_path / "mirror").mkdir()
        for name, data in flat(FILES).items():
            (tmp_path / "mirror" / name).write_bytes(data)
        (tmp_path / "mirror").chmod(0o755)
        with nginx(tmp_path, tmp_path / "nginx") as endpoint:
            source = overridden(f"{endpoint}/mirror/", {"NGC_CLI_API_URL": ngc.endpoint})
            assert contents(source) == FILES
            entry = source.list_files(TINY.with_file("model.safetensors")).files[0]
            assert entry.etag
            assert read(source, entry, 1000, 70_000) == WEIGHTS[1000:70_000]
            path = tmp_path / "mirror" / flat_name(entry.uri)
            path.write_bytes(WEIGHTS[::-1] + b"x")
            with pytest.raises(ContentError):
                read(source, entry, 1000, 70_000)


class TestRegistry:
    @pytest.mark.parametrize("slash", ["", "/"])
    def test_a_server_that_speaks_ngcs_api_stands_in_for_it(self, ngc: NgcSimulator, slash: str) -> None:
        ngc.add_model("acme/team/own", "1", FILES)
        ngc.add_key("nvapi-s3cr3t-key", "acme")
        own = ModelUri.parse("ngc://acme/team/own:1")
        source = overridden(f"ngc://127.0.0.1:{ngc.port}{slash}", {"NGC_API_KEY": "nvapi-s3cr3t-key"}, own)
        assert contents(source, own) == FILES
        assert source.access(own).endpoint == ngc.endpoint


def test_it_is_said_where_files_come_from(google: GoogleSimulator) -> None:
    told: list[Event] = []
    settings = Settings.from_env({"NIM_REPOSITORY_OVERRIDE": "gs://bucket/x", "STORAGE_EMULATOR_HOST": google.endpoint})
    source_for(TINY, settings, told.append)
    assert [each.text for each in told if isinstance(each, Note)] == [
        "NIM_REPOSITORY_OVERRIDE: files of ngc:// models come from gs://bucket/x"
    ]


def test_a_mirrored_model_is_served_and_served_again_without_the_mirror(
    tmp_path: Path, google: GoogleSimulator
) -> None:
    model = ModelUri(Scheme.NGC, "nim/meta/served", "hf")
    for key, data in flat(tiny_model(), model).items():
        google.put("bucket", f"nim-models/{key}", data)
    environ = environment(
        tmp_path,
        NIM_REPOSITORY_OVERRIDE="gs://bucket/nim-models/",
        STORAGE_EMULATOR_HOST=google.endpoint,
        PATH=f"{install(tmp_path / 'engine')}:{os.environ['PATH']}",
        **FORBIDDEN,
    )
    with running(["serve", str(model)], environ, tmp_path / "first.log") as program:
        program.wait_until_ready()
        assert program.get("/v1/metadata").json()["repository_override"] == "gs://bucket/nim-models/"
        assert program.stop() == 0
    google.stop()
    with running(["serve", str(model)], without_sockets(tmp_path, environ), tmp_path / "second.log") as program:
        program.wait_until_ready()
        assert program.stop() == 0


def test_the_digests_of_the_list_hold_for_the_bytes_of_the_mirror(tmp_path: Path, ngc: NgcSimulator) -> None:
    files = tiny_model()
    ngc.add_model("nim/meta/served", "hf", files, public=True)
    model = ModelUri(Scheme.NGC, "nim/meta/served", "hf")
    shard = "model-00001-of-00002.safetensors"
    spoilt = files | {shard: files[shard][:-1] + b"\xff"}
    with WebServer(flat(spoilt, model)) as server:
        environ = environment(
            tmp_path,
            NIM_REPOSITORY_OVERRIDE=server.endpoint,
            NGC_CLI_API_URL=ngc.endpoint,
            PATH=f"{install(tmp_path / 'engine')}:{os.environ['PATH']}",
        )
        done = run(["serve", str(model)], environ)
    assert done.returncode == 4
    assert shard in done.stderr


def test_a_registry_as_target_is_one_clear_error(tmp_path: Path) -> None:
    done = run(["serve", str(TINY), "--dry-run"], environment(tmp_path, NIM_REPOSITORY_OVERRIDE="hf://meta/llama"))
    assert done.returncode == 2
    assert "a registry holds models under its own names" in done.stderr
