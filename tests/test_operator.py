"""What the NIM Operator runs, as it runs it: the commands of its jobs, the environment of its services, one volume.

From the operator's source (``internal/controller/nimcache_controller.go`` and ``nimservice``, August 2026): jobs override
the entry point, services set ``NIM_CACHE_PATH`` and leave it. ``/model-store`` is the volume's directory here.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lading.manifests.read import load_manifest
from tests.faults.harness import eventually
from tests.manifests.documents import VLLM, file_of, profile_id, version_2
from tests.models import tiny_model
from tests.program import environment, running, without_sockets
from tests.simulators.hub import HubSimulator
from tests.simulators.ngc import NgcSimulator
from tests.simulators.vllm_program import install

BINARIES = Path(sys.executable).parent
FILES = tiny_model()
KEY = "nvapi-operator"


@pytest.fixture
def hub() -> Iterator[HubSimulator]:
    with HubSimulator() as simulator:
        simulator.add_model("demo/tiny", FILES, revision="v1")
        simulator.add_model("demo/tiny", FILES | {"README.md": b"# newer"})
        yield simulator


@pytest.fixture
def ngc() -> Iterator[NgcSimulator]:
    with NgcSimulator() as simulator:
        simulator.add_model("nim/demo/tiny", "hf", FILES)
        simulator.add_key(KEY, "nim")
        yield simulator


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """The volume."""
    (tmp_path / "model-store").mkdir()
    return tmp_path / "model-store"


@pytest.fixture
def environ(store: Path, tmp_path: Path) -> dict[str, str]:
    return environment(tmp_path, NIM_CACHE_PATH=str(store), PATH=f"{BINARIES}:/usr/bin:/bin")


def job(command: list[str], environ: dict[str, str], **variables: str) -> subprocess.CompletedProcess[str]:
    """A job's container: its command, found on PATH."""
    done = subprocess.run(command, env={**environ, **variables}, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done


def service(environ: dict[str, str], tmp_path: Path, **variables: str) -> str:
    """A service's pod, without network: it has to become ready. What it serves."""
    path = f"{install(tmp_path / 'engine')}:{os.environ['PATH']}"
    base = {
        **environ,
        "PATH": path,
        "NIM_JSONL_LOGGING": "1",
        "NIM_LOG_LEVEL": "INFO",
        "OUTLINES_CACHE_DIR": "/tmp/outlines",
    }
    with running([], without_sockets(tmp_path, {**base, **variables}), tmp_path / "service.log") as program:
        program.wait_for_line("listening on http://")
        program.port = int(re.findall(r"listening on http://[0-9.]+:(\d+)", program.output)[0])
        eventually(lambda: program.get("/v1/health/ready").status == 200)
        (name, *_) = [each["id"] for each in program.get("/v1/models").json()["data"]]
        assert program.stop() == 0
        return str(name)


def test_a_model_free_hugging_face_cache_and_its_service(
    hub: HubSimulator, environ: dict[str, str], store: Path, tmp_path: Path
) -> None:
    hf_home = str(store / "huggingface" / "hub")
    manifest = store / "model_manifest.json"
    command = ["download-to-cache", "--model-uri", "hf://demo/tiny", "--manifest-file", str(manifest)]
    for _ in range(2):  # a job that is run again
        job(command, environ, HF_ENDPOINT=hub.endpoint, HF_HUB_OFFLINE="0", HF_HOME=hf_home)
    assert load_manifest(manifest).profiles
    assert json.loads(manifest.read_text())["schema_version"].startswith("2.")
    hub.stop()
    name = service(environ, tmp_path, NIM_MODEL_NAME=str(store), NIM_MODEL_PATH="hf://demo/tiny", HF_HOME=hf_home)
    assert name == "demo/tiny"


@pytest.mark.parametrize("asked", [["--all"], ["--profiles", profile_id(1), profile_id(2)]], ids=" ".join)
def test_an_ngc_cache_and_its_service(
    asked: list[str], ngc: NgcSimulator, environ: dict[str, str], store: Path, tmp_path: Path
) -> None:
    files = {name: file_of(f"ngc://nim/demo/tiny:hf?file={name}", data) for name, data in FILES.items()}
    image = tmp_path / "model_manifest.yaml"
    image.write_text(version_2((1, VLLM, files), (2, {**VLLM, "tp": "2"}, files)))
    environ = {**environ, "NIM_MANIFEST_PATH": str(image)}
    job(
        ["download-to-cache", *asked],
        environ,
        NGC_CLI_API_URL=ngc.endpoint,
        NGC_CLI_AUTH_URL=ngc.endpoint,
        NGC_API_KEY=KEY,
    )
    ngc.stop()
    assert service(environ, tmp_path, NIM_MODEL_PROFILE=profile_id(1)) == "nim/demo/tiny"


def test_an_ngc_endpoint_s_store_in_the_cache_s_own_place(
    ngc: NgcSimulator, environ: dict[str, str], store: Path, tmp_path: Path
) -> None:
    command = ["create-model-store", "--model-repo", "ngc://nim/demo/tiny:hf", "--model-store", str(store)]
    for _ in range(2):
        job(command, environ, NGC_CLI_API_URL=ngc.endpoint, NGC_CLI_AUTH_URL=ngc.endpoint, NGC_API_KEY=KEY)
    shown = {path.name for path in store.iterdir() if not path.name.startswith(".")}
    assert shown == {*FILES}
    config = store / "config.json"
    assert config.stat().st_nlink > 1, "links to the cache beside it take no room"
    ngc.stop()
    service(environ, tmp_path, NIM_MODEL_NAME=str(store), NIM_SERVED_MODEL_NAME="mine")


def test_a_revision_of_hugging_face(hub: HubSimulator, environ: dict[str, str], store: Path, tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "huggingface-cli").write_text('#!/bin/sh\nexec lading huggingface-cli "$@"\n')
    (tmp_path / "bin" / "huggingface-cli").chmod(0o755)
    command = [
        "huggingface-cli",
        "download",
        "demo/tiny",
        "--local-dir",
        str(store),
        "--repo-type",
        "model",
        "--revision",
        "v1",
    ]
    on_path = {**environ, "PATH": f"{tmp_path / 'bin'}:{environ['PATH']}"}
    job(command, on_path, HF_ENDPOINT=hub.endpoint, HF_HUB_OFFLINE="0", HF_HOME=str(store / "huggingface" / "hub"))
    assert (store / "README.md").read_bytes() == FILES["README.md"]
    hub.stop()
    service(environ, tmp_path, NIM_MODEL_NAME=str(store))
