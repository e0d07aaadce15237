"""Models that a NIM manifest lists: served, downloaded, carried, as in an image of one model."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from lading.digest import Digest
from lading.manifests.read import load_manifest
from tests.manifests.documents import VLLM, file_of, profile_id, version_1, version_2
from tests.models import tiny_model
from tests.program import environment, run, running, without_sockets
from tests.simulators.hub import HubSimulator
from tests.simulators.ngc import NgcSimulator
from tests.simulators.s3 import S3Simulator
from tests.simulators.vllm_program import install
from tests.sources.test_s3 import KEYS

BF16 = tiny_model(shards=1)
FP8 = tiny_model(shards=1, elements=20_000, config={"quantization_config": {"quant_method": "fp8"}})
WEIGHTS = "model-00001-of-00001.safetensors"
NGC = "ngc://nim/demo/tiny"
NAMES = [name for name in BF16 if name != "README.md"]


@pytest.fixture
def ngc() -> Iterator[NgcSimulator]:
    with NgcSimulator() as simulator:
        simulator.add_model("nim/demo/tiny", "hf", BF16, public=True)
        simulator.add_model("nim/demo/tiny", "fp8", FP8, public=True)
        yield simulator


@pytest.fixture
def hub() -> Iterator[HubSimulator]:
    with HubSimulator() as simulator:
        simulator.add_model("demo/extra", {"chat_template.jinja": b"{{ messages }}", "other.json": b"{}"})
        simulator.add_model("demo/tiny", tiny_model())
        yield simulator


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    """Two profiles of one workspace that mixes repositories, one of another workspace, one for an engine that is not here."""
    bf16 = {name: file_of(f"{NGC}:hf?file={name}", BF16[name]) for name in NAMES}
    bf16["template.jinja"] = file_of("hf://demo/extra:main?file=chat_template.jinja", b"{{ messages }}", "sha256")
    fp8 = {name: file_of(f"{NGC}:fp8?file={name}", FP8[name]) for name in NAMES}
    engine = {"trtllm_engine/rank0.engine": file_of(f"{NGC}:trt?file=rank0.engine")}
    path = tmp_path / "model_manifest.yaml"
    path.write_text(
        version_2(
            (1, VLLM, bf16),
            (2, {**VLLM, "tp": "2"}, bf16),
            (3, {**VLLM, "precision": "fp8"}, fp8),
            (4, {**VLLM, "llm_engine": "tensorrt_llm", "gpu": "H100", "profile": "latency"}, engine),
        )
    )
    return path


@pytest.fixture
def environ(ngc: NgcSimulator, hub: HubSimulator, manifest: Path, tmp_path: Path) -> dict[str, str]:
    path = f"{install(tmp_path / 'engine')}:{os.environ['PATH']}"
    return environment(
        tmp_path,
        NGC_CLI_API_URL=ngc.endpoint,
        NGC_CLI_AUTH_URL=ngc.endpoint,
        HF_ENDPOINT=hub.endpoint,
        PATH=path,
        NIM_MANIFEST_PATH=str(manifest),
    )


def told(environ: dict[str, str], *command: str) -> dict[str, Any]:
    found = run(
        [*command, "--json"] if command[0] != "list-model-profiles" else [*command, "--format", "json"], environ
    )
    assert found.returncode == 0, found.stderr
    document: dict[str, Any] = json.loads(found.stdout)
    return document


def test_the_manifest_is_served_with_all_its_files_and_what_is_here_is_served_without_a_network(
    environ: dict[str, str], manifest: Path, tmp_path: Path, ngc: NgcSimulator, hub: HubSimulator
) -> None:
    environ = {**environ, "NIM_MODEL_NAME": "demo/tiny-8b", "NIM_MODEL_PROFILE": profile_id(1)}
    with running([], environ, tmp_path / "first.log") as program:
        program.wait_until_ready()
        assert [each["id"] for each in program.get("/v1/models").json()["data"]] == ["demo/tiny-8b"]
        metadata = program.get("/v1/metadata").json()
        assert metadata["selectedModelProfileId"] == profile_id(1)
        assert program.get("/v1/manifest").json() == {"manifest": manifest.read_text()}
        assert program.stop() == 0
    workspaces = list((tmp_path / "cache" / "workspaces").glob("[!.]*"))
    assert len(workspaces) == 1
    laid_out = {path.name: path.read_bytes() for path in workspaces[0].iterdir()}
    assert laid_out == {name: BF16[name] for name in NAMES} | {"template.jinja": b"{{ messages }}"}
    ngc.stop()
    hub.stop()
    with running([], without_sockets(tmp_path, environ), tmp_path / "second.log") as program:
        program.wait_until_ready()
        assert program.stop() == 0


def test_the_listing_has_every_profile_with_its_own_id(environ: dict[str, str]) -> None:
    found = run(["list-model-profiles"], environ)
    assert found.returncode == 0, found.stderr
    runnable, _, incompatible = found.stdout.partition("- Incompatible with system:")
    assert f"{profile_id(1)} (vllm-bf16-tp1-pp1)" in runnable
    assert f"{profile_id(2)} (vllm-bf16-tp2-pp1)" in incompatible
    line = next(each for each in incompatible.splitlines() if profile_id(4) in each)
    assert "(tensorrt_llm-h100-bf16-tp1-pp1-latency)" in line
    assert "no tensorrt_llm is installed" in line
    document = told(environ, "list-model-profiles")
    assert [each["profile_id"] for each in document["profiles"]] == [profile_id(n) for n in (1, 2, 3, 4)]
    assert document["profiles"][3]["tags"]["gpu"] == "H100"


def test_the_ids_are_listed_where_no_file_can_be_looked_at(environ: dict[str, str]) -> None:
    found = run(["list-model-profiles"], {**environ, "LADING_OFFLINE": "1"})
    assert found.returncode == 0, found.stderr
    _, _, incompatible = found.stdout.partition("- Incompatible with system:")
    for number in (1, 2, 3):
        line = next(each for each in incompatible.splitlines() if profile_id(number) in each)
        assert "[its files cannot be looked at: " in line
        assert line.endswith("bring that cache here]")
    document = told({**environ, "LADING_OFFLINE": "1"}, "list-model-profiles")
    assert {each["verdict"] for each in document["profiles"]} == {"incompatible"}
    assert "`download-to-cache" in document["profiles"][0]["remedy"]


def test_a_listing_by_another_file(environ: dict[str, str], manifest: Path, tmp_path: Path) -> None:
    other = manifest.rename(tmp_path / "other.yaml")
    for flag in ("-m", "--manifest-file", "--manifest"):
        found = run(["list-model-profiles", flag, str(other)], environ)
        assert found.returncode == 0, found.stderr
        assert profile_id(3) in found.stdout
    missing = run(["list-model-profiles"], environ)
    assert missing.returncode == 2
    assert f"the manifest {manifest} cannot be read" in missing.stderr


@pytest.mark.parametrize("command", ["download-to-cache", "serve"])
def test_bytes_that_are_not_what_the_manifest_says_are_refused(
    command: str, environ: dict[str, str], manifest: Path, ngc: NgcSimulator
) -> None:
    text = manifest.read_text()
    wrong = str(Digest.of(b"other", "blake3"))
    manifest.write_text(text.replace(str(Digest.of(BF16[WEIGHTS], "blake3")), wrong))
    found = run([command], {**environ, "NIM_MODEL_PROFILE": profile_id(1)})
    assert found.returncode == 4
    assert WEIGHTS in found.stderr
    assert "blake3" in found.stderr
    assert "Traceback" not in found.stderr


def test_downloads_take_the_profiles_that_are_named(environ: dict[str, str], ngc: NgcSimulator) -> None:
    first = told(environ, "download-to-cache", "--profiles", profile_id(3))
    assert [each["id"] for each in first["profiles"]] == [profile_id(3)]
    assert {each["path"] for each in first["files"]} == set(NAMES)
    assert first["fetched_bytes"] == sum(len(FP8[name]) for name in NAMES)
    both = told(environ, "download-to-cache", "--profiles", profile_id(1), profile_id(2), profile_id(3), "--use-cache")
    assert [each["id"] for each in both["profiles"]] == [profile_id(n) for n in (1, 2, 3)]
    assert len({each["workspace"] for each in both["files"]}) == 2
    again = told(environ, "download-to-cache", "--profiles", profile_id(1), profile_id(3))
    assert again["moved_bytes"] == 0
    assert ngc.requests, "unless the cache is to do, the source is asked"


def test_all_is_all_or_an_error(environ: dict[str, str], ngc: NgcSimulator) -> None:
    found = run(["download-to-cache", "--all"], environ)
    assert found.returncode == 3, "the version of the compiled engine is not there"
    assert "trt" in found.stderr
    ngc.add_model("nim/demo/tiny", "trt", {"rank0.engine": b"engine"}, public=True)
    everything = told(environ, "download-to-cache", "--all")
    assert [each["id"] for each in everything["profiles"]] == [profile_id(n) for n in (1, 2, 3, 4)]
    assert "trtllm_engine/rank0.engine" in {each["path"] for each in everything["files"]}


def test_a_store_holds_one_profile(environ: dict[str, str], tmp_path: Path) -> None:
    store = tmp_path / "store"
    done = told(environ, "create-model-store", "--profile", profile_id(3), "--model-store", str(store))
    assert done["directory"] == str(store)
    assert {path.name: path.read_bytes() for path in store.iterdir()} == {name: FP8[name] for name in NAMES}
    two = run(["download-model", "--profiles", profile_id(1), profile_id(3)], environ)
    assert two.returncode == 2
    assert "a directory holds one" in two.stderr


def test_another_model_is_served_by_another_manifest_in_its_place(
    environ: dict[str, str], manifest: Path, tmp_path: Path
) -> None:
    environ = {**environ, "NIM_MODEL_PROFILE": profile_id(1)}
    with running([], environ, tmp_path / "first.log") as program:
        program.wait_until_ready()
        assert program.stop() == 0
    repository = f"{NGC}:fp8"
    manifest.write_text(version_1((1, {**VLLM, "precision": "fp8"}, [("", repository, NAMES)]), model="demo/other"))
    with running([], {**environ, "NIM_SERVED_MODEL_NAME": "mine"}, tmp_path / "second.log") as program:
        program.wait_until_ready()
        assert [each["id"] for each in program.get("/v1/models").json()["data"]] == ["mine"]
        assert program.stop() == 0
    with running([], environ, tmp_path / "third.log") as program:
        program.wait_until_ready()
        assert [each["id"] for each in program.get("/v1/models").json()["data"]] == ["demo/other"]
        assert program.stop() == 0


def test_a_model_that_is_named_wins_over_the_manifest(environ: dict[str, str], tmp_path: Path) -> None:
    for named in ({"NIM_MODEL_PATH": "hf://demo/tiny"}, {"NIM_MODEL_NAME": "hf://demo/tiny"}):
        plan = run(["serve", "--dry-run"], {**environ, **named})
        assert plan.returncode == 0, plan.stderr
        assert "hf://demo/tiny" in plan.stdout
    both = run(["serve", "--dry-run"], {**environ, "NIM_MODEL_PATH": "hf://demo/tiny", "NIM_MODEL_NAME": str(tmp_path)})
    assert "hf://demo/tiny" in both.stdout


def test_offline_what_is_missing_is_named_with_the_command_that_brings_it(environ: dict[str, str]) -> None:
    assert told(environ, "download-to-cache", "--profiles", profile_id(1))["fetched_bytes"] > 0
    offline = {**environ, "LADING_OFFLINE": "1"}
    here = run(["serve", "--dry-run"], {**offline, "NIM_MODEL_PROFILE": profile_id(1)})
    assert here.returncode == 0, here.stderr
    best = run(["serve", "--dry-run"], offline)
    assert best.returncode == 0, "of those that can be looked at the best is taken"
    assert profile_id(1) in best.stdout
    gone = run(["serve", "--dry-run"], {**offline, "NIM_MODEL_PROFILE": profile_id(3)})
    assert gone.returncode == 3
    assert "offline" in gone.stderr.lower()
    assert "download-to-cache" in gone.stderr


def test_a_size_that_no_profile_lists_is_made_from_the_same_files(environ: dict[str, str]) -> None:
    found = run(["list-model-profiles", "--gpus", "4xH100-80GB", "--tensor-parallel-size", "4"], environ)
    assert found.returncode == 0, found.stderr
    runnable = found.stdout.partition("- Incompatible with system:")[0]
    assert "(vllm-bf16-tp4-pp1)" in runnable
    assert "(vllm-fp8-tp4-pp1)" in runnable
    assert "tensorrt_llm-h100-bf16-tp4" not in found.stdout, "an engine that is compiled is of one size"


def test_a_profile_for_another_gpu_does_not_run_here(environ: dict[str, str], manifest: Path) -> None:
    manifest.write_text(
        manifest.read_text().replace("precision: fp8", "precision: fp8\n    gpu: L40S\n    gpu_device: 26b9:10de")
    )
    on_h100 = run(["list-model-profiles", "--gpus", "1xH100-80GB"], environ).stdout
    line = next(each for each in on_h100.splitlines() if profile_id(3) in each)
    assert "the manifest lists it for L40S, this machine has NVIDIA H100" in line
    on_l40s = run(["list-model-profiles", "--gpus", "1xL40S", "--format", "json"], environ)
    fits = {each["profile_id"]: each for each in json.loads(on_l40s.stdout)["profiles"]}
    assert fits[profile_id(3)]["verdict"] == "compatible"
    assert fits[profile_id(3)]["name"] == "vllm-l40s-fp8-tp1-pp1"


def test_the_manifest_of_a_model_is_written_where_it_was_asked_for(environ: dict[str, str], tmp_path: Path) -> None:
    for name in ("model_manifest.json", "sub/model_manifest.yaml"):
        path = tmp_path / "out" / name
        done = told(environ, "download-to-cache", "--model-uri", "hf://demo/tiny", "--manifest-file", str(path))
        assert done["manifest_file"] == str(path)
        written = load_manifest(path)
        assert {each.id for each in written.profiles} >= {each["id"] for each in done["profiles"]}
        assert {each.path for each in written.profiles[0].files} == set(tiny_model())
        assert all(each.digest and each.digest.algorithm == "sha256" for each in written.profiles[0].files)
    served = run(["serve", "--dry-run"], {**environ, "NIM_MANIFEST_PATH": str(path), "LADING_OFFLINE": "1"})
    assert served.returncode == 3, "what was fetched as a model is not looked for under the manifest's name"


def test_a_manifest_that_cannot_be_used_is_one_line(environ: dict[str, str], manifest: Path) -> None:
    manifest.write_text("schema_version: 2.0.0\nprofiles:\n- id: x\n")
    for command in ("serve", "list-model-profiles", "download-to-cache"):
        found = run([command], environ)
        assert found.returncode == 4
        assert f"error: {manifest}, line 3: 'x' is no profile id" in found.stderr
        assert "Traceback" not in found.stderr


def test_what_the_cache_has_of_a_manifest_is_carried_in_a_bundle(environ: dict[str, str], tmp_path: Path) -> None:
    bundle = tmp_path / "models.tar"
    nothing = run(["bundle", "create", str(bundle)], environ)
    assert nothing.returncode == 3
    assert "download-to-cache --manifest-file FILE" in nothing.stderr
    assert told(environ, "download-to-cache", "--profiles", profile_id(3))["fetched_bytes"] > 0
    made = run(["bundle", "create", str(bundle)], environ)
    assert made.returncode == 0, made.stderr
    there = {**environ, "NIM_CACHE_PATH": str(tmp_path / "there"), "NIM_MODEL_PROFILE": profile_id(3)}
    assert run(["bundle", "import", str(bundle)], there).returncode == 0
    with running([], without_sockets(tmp_path, there), tmp_path / "log") as program:
        program.wait_until_ready()
        assert program.stop() == 0


def test_what_a_manifest_lists_is_mirrored_and_served_from_there_with_its_digests(
    environ: dict[str, str], ngc: NgcSimulator, tmp_path: Path
) -> None:
    pytest.importorskip("botocore", reason="botocore is not installed: pip install 'lading[s3]'")
    with S3Simulator() as s3:
        bucket = s3.add("my-models-bucket", {})
        environ = {**environ, **KEYS, "AWS_ENDPOINT_URL": s3.endpoint, "AWS_EC2_METADATA_DISABLED": "true"}
        command = ["mirror", "s3", "--manifest", environ.pop("NIM_MANIFEST_PATH"), "--bucket", "my-models-bucket"]
        first = run([*command, "--profiles", profile_id(1), profile_id(3)], environ)
        assert first.returncode == 0, first.stderr
        assert re.search(r"1 files of hf://demo/extra:\w+ are not on NGC and stay where they are", first.stderr)
        assert set(bucket.objects) == {
            quote(f"nim/demo/tiny:{version}?file={name}", safe="") for version in ("hf", "fp8") for name in NAMES
        }
        again = run([*command, "--profiles", profile_id(1), profile_id(3), "--json"], environ)
        assert json.loads(again.stdout)["moved_bytes"] == 0
        ngc.stop()
        other = {
            **environ,
            "NIM_CACHE_PATH": str(tmp_path / "other"),
            "NIM_REPOSITORY_OVERRIDE": "s3://my-models-bucket",
            "NIM_MANIFEST_PATH": command[3],
            "NIM_MODEL_PROFILE": profile_id(3),
        }
        with running([], other, tmp_path / "log") as program:
            program.wait_until_ready()
            assert program.stop() == 0
        bucket.objects[quote(f"nim/demo/tiny:hf?file={WEIGHTS}", safe="")] = BF16[WEIGHTS][::-1]
        wrong = run(["download-to-cache", "--profiles", profile_id(1)], other)
        assert wrong.returncode == 4
        assert WEIGHTS in wrong.stderr
