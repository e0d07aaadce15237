"""What a start does with a cache: trust it, verify it when asked, take other files of the model."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from lading.cache.root import CacheRoot, open_cache
from lading.uri import ModelUri
from tests.models import tiny_model
from tests.program import environment, run, running, without_sockets
from tests.simulators.hub import HubSimulator
from tests.simulators.vllm_program import install

MODEL = "hf://demo/tiny"


@pytest.fixture
def hub() -> Iterator[HubSimulator]:
    with HubSimulator() as simulator:
        simulator.add_model("demo/tiny", tiny_model() | {"model.Q4.gguf": b"gguf" * 100})
        yield simulator


@pytest.fixture
def environ(hub: HubSimulator, tmp_path: Path) -> dict[str, str]:
    path = f"{install(tmp_path / 'engine')}:{os.environ['PATH']}"
    return environment(tmp_path, HF_ENDPOINT=hub.endpoint, PATH=path)


def serve(environ: dict[str, str], log: Path, *flags: str) -> str:
    with running(["serve", MODEL, *flags], environ, log) as program:
        program.wait_until_ready()
        assert program.stop() == 0
        return program.output


def damage_quietly(cache: CacheRoot) -> str:
    """Change a byte of a file of the model so that its size, its inode and its times look as before; the file."""
    entry = cache.index.load(ModelUri.parse(MODEL))
    assert entry
    (file,) = (each for each in entry.manifest.files if each.path == "model-00001-of-00002.safetensors")
    assert file.digest
    path = cache.store.path_of(file.digest)
    before = path.stat()
    path.chmod(0o644)
    with path.open("r+b") as blob:
        blob.seek(-1, os.SEEK_END)
        blob.write(b"\xff")
    path.chmod(0o444)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    return file.path


def test_verify_checksums_finds_what_marks_do_not_show_and_fetches_it(
    hub: HubSimulator, environ: dict[str, str], tmp_path: Path
) -> None:
    serve(environ, tmp_path / "first.log")
    cache = open_cache(tmp_path / "cache", default=tmp_path, fallback=tmp_path)
    damaged = damage_quietly(cache)
    hub.requests.clear()
    serve(environ, tmp_path / "second.log")
    assert hub.requests == []
    said = serve(environ, tmp_path / "third.log", "--verify-checksums")
    assert "6 files in the cache hashed again, 1 damaged" in said
    assert {request.file for request in hub.requests if request.status == 206} == {damaged}
    right = serve(without_sockets(tmp_path, environ), tmp_path / "fourth.log", "--verify-checksums")
    assert "6 files in the cache hashed again, 0 damaged" in right


def test_damage_is_an_error_where_nothing_may_be_fetched(
    hub: HubSimulator, environ: dict[str, str], tmp_path: Path
) -> None:
    serve(environ, tmp_path / "first.log")
    damage_quietly(open_cache(tmp_path / "cache", default=tmp_path, fallback=tmp_path))
    done = run(["serve", MODEL, "--verify-checksums", "--offline"], environ)
    assert done.returncode == 3
    assert "--offline" in done.stderr or "LADING_OFFLINE" in done.stderr
    assert "Traceback" not in done.stderr


def test_other_globs_fetch_what_is_lacking_without_a_new_listing(
    hub: HubSimulator, environ: dict[str, str], tmp_path: Path
) -> None:
    serve(environ, tmp_path / "first.log")
    assert not hub.requests_for("model.Q4.gguf")
    hub.requests.clear()
    serve({**environ, "LADING_INCLUDE": "*.gguf"}, tmp_path / "second.log")
    assert {request.file for request in hub.requests} == {"model.Q4.gguf"}
    hub.requests.clear()
    serve({**environ, "LADING_INCLUDE": "*.gguf"}, tmp_path / "third.log")
    assert hub.requests == []


def test_settings_of_the_download_are_checked(environ: dict[str, str]) -> None:
    for name, value in (("LADING_CONNECTIONS", "0"), ("LADING_PART_SIZE", "0"), ("LADING_MAX_BANDWIDTH", "fast")):
        done = run(["serve", MODEL], {**environ, name: value})
        assert done.returncode == 2
        assert f"{name}='{value}' cannot be read" in done.stderr


@pytest.mark.parametrize("rate", ["200KB/s", "1MiB"])
def test_a_slow_download_arrives(hub: HubSimulator, environ: dict[str, str], tmp_path: Path, rate: str) -> None:
    serve({**environ, "LADING_MAX_BANDWIDTH": rate, "LADING_CONNECTIONS": "2"}, tmp_path / "log")
