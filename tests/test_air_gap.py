"""Served without a network: what was fetched elsewhere, on every way that it may come; and what is said when it did not.

The isolated phase has a network namespace without a route, may not open a socket, and has credentials that nobody can
use: who looked at them would say so.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.isolation import IsolatedProgram, require_isolation, run_isolated, running_isolated
from tests.manifests.documents import VLLM, file_of, profile_id, version_2
from tests.models import tiny_model, write_model
from tests.program import engine_of, environment, run, running, socket_uses, without_sockets
from tests.simulators.faults import Throttle
from tests.simulators.hub import HubSimulator
from tests.simulators.vllm_program import install
from tests.sources.contract.conftest import bare_environment, set_up
from tests.sources.contract.stand import Stand
from tests.supervisor.test_supervisor import eventually

__all__ = ["bare_environment"]

FILES = tiny_model()
MODEL = "hf://demo/tiny"
REMOTE = ["hf", "ngc", "modelscope", "s3", "gs", "az"]
CANARIES = {
    "HF_TOKEN": "canary that is no token",
    "NGC_API_KEY": "canary that is no key",
    "MODELSCOPE_API_TOKEN": "canary that is no token",
    "LADING_HTTP_TOKEN": "canary\tthat is no token",
    "AWS_PROFILE": "canary",
    "AWS_CONFIG_FILE": "/canary/aws/config",
    "AWS_SHARED_CREDENTIALS_FILE": "/canary/aws/credentials",
    "GOOGLE_APPLICATION_CREDENTIALS": "/canary/sa.json",
    "AZURE_STORAGE_CONNECTION_STRING": "canary that is no connection string",
    "SSL_CERT_FILE": "/canary/ca.pem",
    "HTTPS_PROXY": "http://canary:canary@proxy.canary.invalid:1",
    "NO_PROXY": "",
}


@pytest.fixture(autouse=True)
def namespace() -> None:
    require_isolation()


@dataclass
class Side:
    """A machine: its directory and its environment."""

    directory: Path
    environ: dict[str, str]

    @property
    def cache(self) -> Path:
        return self.directory / "cache"


@pytest.fixture
def connected(tmp_path: Path) -> Iterator[Side]:
    """Where there is a network: a hub with a model that is open to its members alone."""
    directory = tmp_path / "connected"
    directory.mkdir()
    with HubSimulator() as hub:
        hub.add_model("demo/tiny", FILES, private=True)
        hub.require_token("hf_member")
        yield Side(directory, environment(directory, HF_ENDPOINT=hub.endpoint, HF_TOKEN="hf_member"))


@pytest.fixture
def isolated(tmp_path: Path) -> Side:
    """Where there is none."""
    directory = tmp_path / "isolated"
    directory.mkdir()
    path = f"{install(directory / 'engine')}:{os.environ['PATH']}"
    return Side(directory, without_sockets(directory, environment(directory, PATH=path, **CANARIES)))


def fetch(side: Side, *arguments: str, **variables: str) -> None:
    done = run([*arguments], {**side.environ, **variables})
    assert done.returncode == 0, done.stderr


def by_tar(source: Path, target: Path) -> None:
    archive = target.parent / "carried.tar"
    subprocess.run(["tar", "-C", source, "-cf", archive, "."], check=True)
    target.mkdir()
    subprocess.run(["tar", "-C", target, "-xf", archive], check=True)


def without_links(source: Path, target: Path) -> None:
    """As ``rsync -rt --no-links`` copies."""
    for directory, _, names in os.walk(source):
        place = target / Path(directory).relative_to(source)
        place.mkdir()
        for name in names:
            if not (Path(directory) / name).is_symlink():
                shutil.copy2(Path(directory) / name, place / name)


def serves(side: Side, arguments: list[str], name: str, **variables: str) -> IsolatedProgram:
    """It answers, tries no socket, says no word of a credential; the engine has a directory and its offline switches."""
    with running_isolated(arguments, {**side.environ, **variables}, side.directory / "log") as program:
        program.wait_until_ready()
        program.assert_isolated()
        assert [each["id"] for each in program.get("/v1/models").json()["data"]] == [name]
        question = {"model": name, "messages": [{"role": "user", "content": "?"}]}
        assert program.get("/v1/chat/completions", question).json()["choices"][0]["message"]["content"] == "Hello"
        engine = engine_of(program)
        assert program.stop() == 0
    assert socket_uses(side.directory) == []
    assert "canary" not in program.output
    assert not [line for line in program.output.splitlines() if line.startswith(("WARNING", "ERROR", "error"))]
    assert (engine.environ["HF_HUB_OFFLINE"], engine.environ["TRANSFORMERS_OFFLINE"]) == ("1", "1")
    assert not [value for name, value in engine.environ.items() if "canary" in value and name in WITHHELD]
    served = engine.argv.index("serve") + 1
    assert Path(engine.argv[served]).is_absolute()
    assert {path.name for path in Path(engine.argv[served]).iterdir()} == {*FILES}
    rest = [*engine.argv[:served], *engine.argv[served + 1 :]]
    assert [each for each in rest if "://" in each or each.endswith("/tiny")] == [name] * name.endswith("/tiny")
    return program


WITHHELD = {*CANARIES} - {"SSL_CERT_FILE", "HTTPS_PROXY", "NO_PROXY"}


@pytest.mark.parametrize("carry", [by_tar, without_links])
def test_the_cache_is_carried(carry: object, connected: Side, isolated: Side) -> None:
    fetch(connected, "download-to-cache", "--model-uri", MODEL)
    fetch(connected, "download-model", "--model-uri", MODEL)  # links below workspaces/, which a copy may drop
    carry(connected.cache, isolated.cache)  # type: ignore[operator]
    serves(isolated, ["serve", MODEL], "demo/tiny")


@pytest.mark.parametrize("carry", [by_tar, without_links])
def test_a_model_store_is_carried(carry: object, connected: Side, isolated: Side) -> None:
    place = connected.directory / "store"
    fetch(connected, "create-model-store", "--model-repo", MODEL, "--model-store", str(place))
    carry(place, isolated.directory / "store")  # type: ignore[operator]
    store = str(isolated.directory / "store")
    serves(isolated, ["serve", store], "my-model", NIM_SERVED_MODEL_NAME="my-model")
    assert not isolated.cache.exists(), "a directory is served where it lies"


def test_a_local_path_is_served(isolated: Side) -> None:
    model = write_model(isolated.directory / "models/mine", FILES)
    serves(isolated, [], str(model), NIM_MODEL_PATH=str(model))
    assert not isolated.cache.exists()


def test_a_volume_is_kept_between_deployments(connected: Side, isolated: Side) -> None:
    path = {"PATH": isolated.environ["PATH"], "NIM_CACHE_PATH": str(isolated.cache)}
    with running([MODEL], {**connected.environ, **path}, connected.directory / "log") as program:
        program.wait_until_ready()
        assert program.stop() == 0
    for _ in range(2):
        serves(isolated, [], "demo/tiny", NIM_MODEL_PATH=MODEL)


@pytest.mark.parametrize("scheme", REMOTE)
def test_a_model_of_every_source_is_served_from_a_kept_volume(
    scheme: str,
    tmp_path: Path,
    isolated: Side,
    bare_environment: pytest.MonkeyPatch,  # the fixture of that name
) -> None:
    model = ""
    for stand in set_up(scheme, tmp_path, bare_environment, FILES):
        model = fetched(stand, isolated.cache, tmp_path)
    serves(isolated, ["serve", model], model.partition("://")[2].partition(":")[0])


def fetched(stand: Stand, cache: Path, directory: Path) -> str:
    environ = environment(directory, **stand.environ) | {"NIM_CACHE_PATH": str(cache)}
    done = run(["download-to-cache", "--model-uri", str(stand.uri)], environ)
    assert done.returncode == 0, done.stderr
    return str(stand.uri)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """The manifest of a model-specific image, of two sets of files."""
    first = {name: file_of(f"{MODEL}?file={name}", data) for name, data in FILES.items()}
    second = first | {"README.md": file_of("hf://demo/tiny:other?file=README.md")}
    path = tmp_path / "model_manifest.yaml"
    path.write_text(version_2((1, VLLM, first), (2, {**VLLM, "precision": "fp8"}, second)))
    return path


def test_the_profile_of_an_image_is_served_and_another_is_missed(connected: Side, isolated: Side, image: Path) -> None:
    manifest = {"NIM_MANIFEST_PATH": str(image)}
    fetch(connected, "download-to-cache", "--profiles", profile_id(1), **manifest)
    by_tar(connected.cache, isolated.cache)
    serves(isolated, [], "demo/tiny", **manifest, NIM_MODEL_PROFILE=profile_id(1))
    misses(
        isolated,
        [],
        f"`download-to-cache --manifest-file {image} --profiles {profile_id(2)}`",
        **manifest,
        NIM_MODEL_PROFILE=profile_id(2),
    )


def misses(side: Side, arguments: list[str], command: str, **variables: str) -> list[str]:
    """What it says. It ends with one error, which names the command that brings what is missing, be it told of the gap or not.

    Who is not told asks, and then a token that is none is an error of its own.
    """
    texts = []
    for told in ({"LADING_OFFLINE": "1"}, {"HF_TOKEN": "", "HTTPS_PROXY": "", "SSL_CERT_FILE": ""}):
        done = run_isolated(arguments, {**side.environ, **variables, **told})
        assert done.returncode == 3, done.stderr
        assert done.stderr.count("error: ") == 1, done.stderr
        texts.append(done.stderr.partition("error: ")[2])
        assert command in texts[-1], done.stderr
        assert "Traceback" not in done.stderr
        assert "LADING_OFFLINE" not in told or socket_uses(side.directory) == []
    return texts


def test_nothing_was_brought(isolated: Side) -> None:
    misses(isolated, ["serve", MODEL], f"`download-to-cache --model-uri {MODEL}`")


def test_another_model_was_brought(connected: Side, isolated: Side) -> None:
    fetch(connected, "download-to-cache", "--model-uri", MODEL)
    by_tar(connected.cache, isolated.cache)
    misses(isolated, ["serve", "hf://demo/other"], "`download-to-cache --model-uri hf://demo/other`")


def test_half_of_a_model_was_brought(tmp_path: Path, isolated: Side) -> None:
    with HubSimulator() as hub:
        hub.add_model("demo/tiny", FILES)
        hub.fault("model-00002-of-00002.safetensors", Throttle(bytes_per_second=20_000), times=None)
        environ = environment(tmp_path, HF_ENDPOINT=hub.endpoint) | {"NIM_CACHE_PATH": str(isolated.cache)}
        with running(["download-to-cache", "--model-uri", MODEL], environ, tmp_path / "log") as program:
            program.wait_for_line("to fetch")
            assert eventually(lambda: len(list(isolated.cache.glob("blobs/sha256/*/*"))) >= 2)
            program.process.kill()
            program.process.wait()
    told, _ = misses(isolated, ["serve", MODEL], f"`download-to-cache --model-uri {MODEL}`")
    assert any(f"/{name} needs the network" in told for name in FILES)


def test_a_blob_was_lost_on_the_way(connected: Side, isolated: Side) -> None:
    fetch(connected, "download-to-cache", "--model-uri", MODEL)
    by_tar(connected.cache, isolated.cache)
    lost = next(path for path in isolated.cache.glob("blobs/sha256/*/*") if path.stat().st_size > 50_000)
    lost.unlink()
    misses(isolated, ["serve", MODEL], f"`download-to-cache --model-uri {MODEL}`")


@pytest.mark.parametrize("scheme", REMOTE)
def test_what_no_source_brought_is_no_matter_of_credentials(scheme: str, isolated: Side) -> None:
    model = {"ngc": "ngc://org/team/model:tag", "az": "az://account/models/tiny"}.get(scheme, f"{scheme}://org/tiny")
    done = run_isolated(["serve", model], {**isolated.environ, "LADING_OFFLINE": "1"})
    assert done.returncode == 3, done.stderr
    assert f"`download-to-cache --model-uri {model}`" in done.stderr
    assert "canary" not in done.stderr
    assert socket_uses(isolated.directory) == []


def test_a_directory_that_is_not_there_is_named(isolated: Side) -> None:
    done = run_isolated(["serve", "/model-repo/that/is/not/there"], isolated.environ)
    assert done.returncode == 3
    assert "/model-repo/that/is/not/there" in done.stderr
    assert socket_uses(isolated.directory) == []


def test_the_namespace_is_really_without_a_network(isolated: Side) -> None:
    with HubSimulator() as hub:
        hub.add_model("demo/tiny", FILES)
        environ: Mapping[str, str] = environment(isolated.directory, HF_ENDPOINT=hub.endpoint)
        assert run(["serve", MODEL, "--dry-run"], {**environ, "PATH": isolated.environ["PATH"]}).returncode == 0
        there = {**environ, "PATH": isolated.environ["PATH"], "NIM_CACHE_PATH": str(isolated.directory / "other")}
        asked = len(hub.requests)
        assert run_isolated(["serve", MODEL], there).returncode == 3
        assert len(hub.requests) == asked
