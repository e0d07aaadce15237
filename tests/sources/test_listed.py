"""What a manifest lists, read from wherever each file is."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from lading.cache.root import open_cache
from lading.digest import Digest
from lading.errors import FileNotFoundAtSource, ModelNotFound, OfflineError, UsageError
from lading.model.listed import ListedFile, ListedProfile
from lading.model.manifest import Manifest
from lading.settings import Settings
from lading.sources import source_for
from lading.sources.listed import ListedSource
from lading.transfer import survey, transfer
from lading.uri import ModelUri
from tests.models import tiny_model, write_model
from tests.simulators.hub import HubSimulator
from tests.simulators.ngc import NgcSimulator
from tests.simulators.web import WebServer
from tests.sources.test_huggingface import read
from tests.sources.test_override import flat

FILES = {"config.json": b"{}", "sub/model.safetensors": b"weights" * 100}
NGC = ModelUri.parse("ngc://nim/meta/tiny:hf-1+2")


@pytest.fixture
def hub() -> Iterator[HubSimulator]:
    with HubSimulator() as simulator:
        simulator.add_model("demo/tiny", tiny_model() | {"model.gguf": b"gguf"})
        yield simulator


@pytest.fixture
def ngc() -> Iterator[NgcSimulator]:
    with NgcSimulator() as simulator:
        simulator.add_model(NGC.location, NGC.revision or "", FILES, public=True)
        yield simulator


def workspace(*files: tuple[str, str, bytes | None]) -> ListedProfile:
    listed = [
        ListedFile(path, ModelUri.parse(uri), Digest.of(data, "blake3") if data is not None else None)
        for path, uri, data in files
    ]
    return ListedProfile("0" * 64, {}, tuple(listed))


def source_of(profile: ListedProfile, **environ: str) -> ListedSource:
    settings = Settings.from_env(
        {"HF_ENDPOINT": "http://127.0.0.1:1", "NGC_CLI_API_URL": "http://127.0.0.1:1", **environ}
    )
    return ListedSource(profile.files, lambda place: source_for(place, settings))


def contents(source: ListedSource, manifest: Manifest) -> Mapping[str, bytes]:
    return {file.path: read(source, file) for file in manifest.files}


def test_one_workspace_mixes_repositories_and_names(hub: HubSimulator, ngc: NgcSimulator, tmp_path: Path) -> None:
    write_model(tmp_path / "here", {"LICENSE": b"mine"})
    profile = workspace(
        ("config.json", f"{NGC}?file=config.json", b"{}"),
        ("weights/0.safetensors", f"{NGC}?file=sub/model.safetensors", None),
        ("tokenizer.json", "hf://demo/tiny:main?file=tokenizer.json", b"{}"),
        ("LICENSE.txt", f"local://{tmp_path}/here?file=LICENSE", b"mine"),
    )
    source = source_of(profile, HF_ENDPOINT=hub.endpoint, NGC_CLI_API_URL=ngc.endpoint, NGC_CLI_AUTH_URL=ngc.endpoint)
    manifest = source.list_files(profile.workspace)
    assert contents(source, manifest) == {
        "config.json": b"{}",
        "weights/0.safetensors": FILES["sub/model.safetensors"],
        "tokenizer.json": b"{}",
        "LICENSE.txt": b"mine",
    }
    config, weights = manifest.find("config.json"), manifest.find("weights/0.safetensors")
    assert config and config.digest == Digest.of(b"{}", "blake3"), "the manifest's digest is what counts"
    assert weights and weights.uri == NGC.with_file("sub/model.safetensors")
    assert (manifest.source, manifest.revision) == (profile.workspace, None)
    licence = manifest.find("LICENSE.txt")
    assert licence and source.local_copy(licence) == tmp_path / "here" / "LICENSE"
    assert source.access(profile.workspace).endpoint.startswith(ngc.endpoint)


def test_a_repository_is_listed_once_however_many_files_are_of_it(hub: HubSimulator) -> None:
    names = list(tiny_model())
    alone = workspace((names[0], f"hf://demo/tiny:main?file={names[0]}", None))
    source_of(alone, HF_ENDPOINT=hub.endpoint).list_files(alone.workspace)
    one = len(hub.requests)
    hub.requests.clear()
    profile = workspace(*((name, f"hf://demo/tiny:main?file={name}", None) for name in names))
    source_of(profile, HF_ENDPOINT=hub.endpoint).list_files(profile.workspace)
    assert len(hub.requests) == one


def test_a_whole_repository_below_a_folder_without_what_engines_do_not_need(hub: HubSimulator) -> None:
    profile = workspace(("draft", "hf://demo/tiny:main", None), ("", "hf://demo/tiny:main", None))
    manifest = source_of(profile, HF_ENDPOINT=hub.endpoint).list_files(profile.workspace)
    assert {each.path for each in manifest.files} == {*tiny_model(), *(f"draft/{name}" for name in tiny_model())}


def test_a_server_that_cannot_be_listed_is_asked_for_every_file(ngc: NgcSimulator) -> None:
    with WebServer({f"m/{path}": data for path, data in FILES.items()}) as server:
        place = f"http://127.0.0.1:{server.port}/m"
        profile = workspace(*((path, f"{place}?file={path}", data) for path, data in FILES.items()))
        source = source_of(profile)
        assert contents(source, source.list_files(profile.workspace)) == FILES


def test_an_override_that_cannot_be_listed_holds_what_the_manifest_lists() -> None:
    """NGC is not asked: a manifest and a mirror are all that an isolated machine needs."""
    with WebServer(flat(FILES, NGC)) as server:
        profile = workspace(*((path, f"{NGC}?file={path}", data) for path, data in FILES.items()))
        source = source_of(profile, NIM_REPOSITORY_OVERRIDE=f"http://127.0.0.1:{server.port}/")
        manifest = source.list_files(profile.workspace)
        assert contents(source, manifest) == FILES
        assert all(each.digest and each.digest.algorithm == "blake3" for each in manifest.files)


def left_by_a_nim(volume: Path, files: Mapping[str, bytes]) -> None:
    """NGC's files as a NIM leaves them: snapshots of links to blobs, by version."""
    folder = volume / "ngc" / "hub" / "models--nim--meta--tiny"
    for number, (path, data) in enumerate(files.items()):
        write_model(folder / "blobs", {str(number): data})
        link = folder / "snapshots" / (NGC.revision or "") / path
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(folder / "blobs" / str(number))


def test_without_a_network_what_a_nim_left_on_the_volume_will_do(tmp_path: Path) -> None:
    left_by_a_nim(tmp_path, FILES)
    profile = workspace(*((path, f"{NGC}?file={path}", data) for path, data in FILES.items()))
    offline = {"LADING_OFFLINE": "1", "NIM_CACHE_PATH": str(tmp_path)}
    manifest = source_of(profile, **offline).list_files(profile.workspace)
    assert {file.path: file.size_bytes for file in manifest.files} == {path: len(data) for path, data in FILES.items()}
    cache = open_cache(tmp_path, default=tmp_path, fallback=tmp_path)
    source = source_of(profile, **offline)
    verified = transfer(survey(manifest, source, cache), source, cache, cancelled=threading.Event())
    assert {path: place.read_bytes() for path, place in cache.store.places_of(verified).items()} == FILES


@pytest.mark.parametrize("kind", ["a file is missing", "a digest is not told"])
def test_without_a_network_what_cannot_be_verified_is_not_taken(kind: str, tmp_path: Path) -> None:
    left_by_a_nim(tmp_path, {"config.json": b"{}"} if kind == "a file is missing" else FILES)
    promised = {
        path: data if kind == "a file is missing" or path == "config.json" else None for path, data in FILES.items()
    }
    profile = workspace(*((path, f"{NGC}?file={path}", data) for path, data in promised.items()))
    with pytest.raises(OfflineError):
        source_of(profile, LADING_OFFLINE="1", NIM_CACHE_PATH=str(tmp_path)).list_files(profile.workspace)


def test_a_file_that_the_repository_lacks_is_named(hub: HubSimulator) -> None:
    profile = workspace(("config.json", "hf://demo/tiny:main?file=confg.json", None))
    with pytest.raises(FileNotFoundAtSource, match=r"hf://demo/tiny:main has no file 'confg.json'") as missing:
        source_of(profile, HF_ENDPOINT=hub.endpoint).list_files(profile.workspace)
    assert "config.json" in (missing.value.remedy or "")


def test_a_server_is_not_asked_for_a_whole_model() -> None:
    profile = workspace(("", "https://files.test/m", None))
    with pytest.raises(UsageError, match="cannot be listed"):
        source_of(profile).list_files(profile.workspace)


def test_a_workspace_without_its_manifest_is_only_known_to_the_cache() -> None:
    model = workspace(("a", "hf://demo/tiny:main?file=a", None)).workspace
    source = source_for(model, Settings.from_env({}))
    for ask in (source.list_files, source.access):
        with pytest.raises(ModelNotFound, match="no manifest that does is here") as unknown:
            ask(model)
        assert "NIM_MANIFEST_PATH" in (unknown.value.remedy or "")
