"""The runtime manifest on the volume: written once, asked again when deleted, in the way of nothing that changes."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lading.cache.root import CacheRoot, open_cache
from lading.cache.runtime_manifests import RUNTIME_MANIFEST
from lading.manifests.read import load_manifest
from lading.uri import ModelUri
from tests.faults.disks import remount, small_disk
from tests.faults.harness import eventually
from tests.models import tiny_model
from tests.program import environment, run, running, without_sockets
from tests.simulators import nvml
from tests.simulators.hub import HubSimulator
from tests.simulators.s3 import S3Simulator
from tests.simulators.vllm_program import install
from tests.sources.test_s3 import KEYS

MODEL, OTHER = "hf://demo/tiny", "hf://demo/other"
NEWER = tiny_model() | {"README.md": b"# newer\n"}


@pytest.fixture
def hub() -> Iterator[HubSimulator]:
    with HubSimulator() as simulator:
        simulator.add_model("demo/tiny", tiny_model())
        simulator.add_model("demo/other", tiny_model(config={"num_hidden_layers": 3}))
        yield simulator


@pytest.fixture
def environ(hub: HubSimulator, tmp_path: Path) -> dict[str, str]:
    path = f"{install(tmp_path / 'engine')}:{os.environ['PATH']}"
    return environment(tmp_path, HF_ENDPOINT=hub.endpoint, PATH=path, NIM_MODEL_PATH=MODEL)


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    return tmp_path / "cache" / RUNTIME_MANIFEST


def serve(environ: dict[str, str], log: Path, *flags: str) -> str:
    with running(["serve", *flags], environ, log) as program:
        program.wait_until_ready()
        assert program.stop() == 0
        return program.output


def cache_of(tmp_path: Path) -> CacheRoot:
    return open_cache(tmp_path / "cache", default=tmp_path, fallback=tmp_path)


def readme(tmp_path: Path) -> bytes:
    """What the served model's README says, of the revision that the cache has now."""
    entry = cache_of(tmp_path).index.load(ModelUri.parse(MODEL))
    assert entry
    file = entry.manifest.find("README.md")
    assert file and file.digest
    return cache_of(tmp_path).store.path_of(file.digest).read_bytes()


def test_it_says_what_can_be_served_of_which_bytes(environ: dict[str, str], manifest: Path, tmp_path: Path) -> None:
    with running(["serve"], environ, tmp_path / "log") as program:
        program.wait_until_ready()
        selected = program.get("/v1/metadata").json()["selectedModelProfileId"]
        assert program.stop() == 0
    found = load_manifest(manifest)
    assert selected in [each.id for each in found.profiles]
    entry = cache_of(tmp_path).index.load(ModelUri.parse(MODEL))
    assert entry
    assert {each.path: each.digest for each in found.profiles[0].files} == {
        each.path: each.digest for each in entry.manifest.files
    }
    written = manifest.stat().st_mtime_ns
    serve(environ, tmp_path / "again")
    assert manifest.stat().st_mtime_ns == written, "it is written once"


def test_nobody_asks_the_source_again_until_it_is_deleted(
    hub: HubSimulator, environ: dict[str, str], manifest: Path, tmp_path: Path
) -> None:
    serve(environ, tmp_path / "first")
    hub.add_model("demo/tiny", NEWER)
    hub.requests.clear()
    serve(environ, tmp_path / "second")
    assert hub.requests == []
    assert readme(tmp_path) == b"# tiny\n"
    manifest.unlink()
    said = serve(environ, tmp_path / "third")
    assert f"{RUNTIME_MANIFEST} was deleted" in said
    assert readme(tmp_path) == b"# newer\n"
    assert manifest.is_file()
    hub.requests.clear()
    serve(environ, tmp_path / "fourth")
    assert hub.requests == []


def test_deleted_without_a_network_it_comes_back_from_what_is_here(
    hub: HubSimulator, environ: dict[str, str], manifest: Path, tmp_path: Path
) -> None:
    serve(environ, tmp_path / "first")
    manifest.unlink()
    hub.stop()
    said = serve(environ, tmp_path / "second")
    assert f"the cache has {MODEL} complete" in said
    assert manifest.is_file()


def test_check_says_what_changed_and_serves_what_is_here(
    hub: HubSimulator, environ: dict[str, str], tmp_path: Path
) -> None:
    environ = {**environ, "LADING_REFRESH": "check"}
    serve(environ, tmp_path / "first")
    assert f"{MODEL} is at its source as it is here" in serve(environ, tmp_path / "second")
    hub.add_model("demo/tiny", NEWER)
    said = serve(environ, tmp_path / "third")
    assert f"{MODEL} changed at its source" in said
    assert "LADING_REFRESH=always takes that" in said
    assert readme(tmp_path) == b"# tiny\n"
    hub.stop()
    assert "changed could not be asked" in serve(environ, tmp_path / "fourth")


def test_check_tells_changed_bytes_where_there_are_no_revisions(environ: dict[str, str], tmp_path: Path) -> None:
    pytest.importorskip("botocore", reason="botocore is not installed: pip install 'lading[s3]'")
    with S3Simulator() as s3:
        bucket = s3.add("models", {f"tiny/{name}": data for name, data in tiny_model().items()})
        there = {**environ, **KEYS, "AWS_ENDPOINT_URL": s3.endpoint, "AWS_EC2_METADATA_DISABLED": "true"}
        there |= {"NIM_MODEL_PATH": "s3://models/tiny", "LADING_REFRESH": "check"}
        serve(there, tmp_path / "first")
        assert "s3://models/tiny is at its source as it is here" in serve(there, tmp_path / "second")
        bucket.objects["tiny/README.md"] = b"# tinx\n"
        assert "s3://models/tiny changed at its source" in serve(there, tmp_path / "third")


def test_a_volume_that_is_only_read_is_served_without_one(
    hub: HubSimulator, environ: dict[str, str], tmp_path: Path
) -> None:
    with small_disk(tmp_path / "disk", "60m") as disk:
        volume = {**environ, "NIM_CACHE_PATH": str(disk)}
        serve(volume, tmp_path / "first")
        (disk / RUNTIME_MANIFEST).unlink()
        hub.requests.clear()
        remount(disk, "ro")
        serve(volume, tmp_path / "second")
        remount(disk, "rw")
    assert hub.requests == []


def test_always_takes_what_the_source_has_and_what_is_here_where_it_has_no_answer(
    hub: HubSimulator, environ: dict[str, str], tmp_path: Path
) -> None:
    always = {**environ, "LADING_REFRESH": "always"}
    serve(always, tmp_path / "first")
    hub.add_model("demo/tiny", NEWER)
    serve(always, tmp_path / "second")
    assert readme(tmp_path) == b"# newer\n"
    hub.stop()
    assert f"the cache has {MODEL} complete" in serve(always, tmp_path / "third")
    demanded = run(["serve", "--refresh", "--dry-run"], environ)
    assert demanded.returncode == 3


def test_another_word_is_refused(environ: dict[str, str]) -> None:
    found = run(["serve"], {**environ, "LADING_REFRESH": "sometimes"})
    assert found.returncode == 2
    assert "set LADING_REFRESH to never, check, always" in found.stderr


def test_one_that_a_nim_wrote_is_spared(environ: dict[str, str], manifest: Path, tmp_path: Path) -> None:
    manifest.parent.mkdir(parents=True, exist_ok=True)
    manifest.write_text("schema_version: 2.0.0\nprofiles: []\n")
    serve(environ, tmp_path / "log")
    assert load_manifest(manifest).profiles
    assert manifest.with_name(f"{RUNTIME_MANIFEST}.nim").read_text() == "schema_version: 2.0.0\nprofiles: []\n"


def test_a_forgotten_model_leaves_none(environ: dict[str, str], tmp_path: Path) -> None:
    serve(environ, tmp_path / "log")
    assert list((tmp_path / "cache" / "manifests").iterdir())
    assert run(["cache", "remove", MODEL], environ).returncode == 0
    assert not list((tmp_path / "cache" / "manifests").iterdir())


@pytest.fixture
def machines(environ: dict[str, str], tmp_path: Path) -> dict[str, dict[str, str]]:
    """The same volume on a laptop, and on a machine with two GPUs and an engine of another version."""
    (tmp_path / "nvml").mkdir()
    variables = nvml.build(tmp_path / "nvml")
    if variables is None:
        pytest.skip("no C compiler")
    gpu_engine = install(tmp_path / "gpu-engine", version="0.33.0")
    return {"laptop": environ, "server": {**environ, **variables, "PATH": f"{gpu_engine}:/usr/bin:/bin"}}


SITUATIONS = [("laptop", MODEL), ("server", MODEL), ("laptop", OTHER), ("server", OTHER)]
WALK = (0, 1, 0, 2, 0, 3, 1, 2, 1, 3, 2, 3, 0)
"""Each situation after each other one."""


def test_the_walk_has_every_change() -> None:
    assert set(itertools.pairwise(WALK)) == set(itertools.permutations(range(4), 2))


def test_models_engines_and_machines_change_on_one_volume_in_every_order(machines: dict[str, dict[str, str]]) -> None:
    for machine, model in (SITUATIONS[number] for number in WALK):
        environ = {**machines[machine], "NIM_MODEL_PATH": model}
        listed = run(["list-model-profiles", "--format", "json"], environ)
        best = next(each for each in json.loads(listed.stdout)["profiles"] if each["verdict"] == "compatible")
        done = run(["download-to-cache", "--use-cache"], {**environ, "NIM_MODEL_PROFILE": best["name"]})
        assert done.returncode == 0, done.stderr
        planned = run(
            ["serve", "--dry-run"], {**environ, "NIM_MODEL_PROFILE": best["profile_id"], "LADING_OFFLINE": "1"}
        )
        assert planned.returncode == 0, planned.stderr
        assert best["profile_id"] in planned.stdout


def test_where_downloads_are_forbidden_what_is_missing_is_an_error(
    hub: HubSimulator, environ: dict[str, str], tmp_path: Path
) -> None:
    forbidden = {**environ, "NIM_DISABLE_MODEL_DOWNLOAD": "1"}
    found = run(["serve"], forbidden)
    assert found.returncode == 6
    assert "6 files of hf://demo/tiny are not in" in found.stderr
    assert "NIM_DISABLE_MODEL_DOWNLOAD forbids to fetch them" in found.stderr
    assert "download-to-cache" in found.stderr
    assert run(["download-to-cache"], environ).returncode == 0
    hub.stop()
    serve(without_sockets(tmp_path, forbidden), tmp_path / "log")


def test_where_downloads_are_forbidden_another_s_is_waited_for(
    hub: HubSimulator, environ: dict[str, str], tmp_path: Path
) -> None:
    slowly = {**environ, "LADING_MAX_BANDWIDTH": "40KB/s"}
    command = [sys.executable, "-m", "lading.cli", "download-to-cache"]
    with (tmp_path / "download").open("wb") as log:
        other = subprocess.Popen(command, env=slowly, stdout=log, stderr=log)
    try:
        eventually(lambda: list((tmp_path / "cache" / "partial").glob("*/*.part")))
        said = serve({**environ, "NIM_DISABLE_MODEL_DOWNLOAD": "true"}, tmp_path / "log")
        assert "waiting for" in said
        assert other.wait(60) == 0
    finally:
        other.kill()
        other.wait()
