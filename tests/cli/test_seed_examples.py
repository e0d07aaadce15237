"""Every example command of the seeds, run as written: ``docker run`` is an entry point of this machine, see tests/seeds.

Examples of ``${NIM_LLM_IMAGE}`` that name no model run in both kinds of image: with a manifest, and with a model's
location as the image's variable. Servers run with the stand-in engine on eight stand-in GPUs, until they are ready.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from lading.settings_table import SETTINGS
from lading.sources.override import flat_name
from tests.manifests.documents import profile_id
from tests.program import Program, engine_of
from tests.seeds import air_gap, kubernetes, model_download, model_free, model_hosting
from tests.seeds.example import Example, Image
from tests.seeds.world import BINARIES, FP8, NAMES, NGC, World, around
from tests.simulators import nvml, sglang_program, trtllm_program, vllm_program
from tests.sources.contract.conftest import bare_environment

__all__ = ["bare_environment"]

SEEDS = {
    "000 Model-Free NIM": model_free.EXAMPLES,
    "001 Model Download": model_download.EXAMPLES,
    "002 Air-Gap Deployment": air_gap.EXAMPLES,
    "003 Model Profiles on Kubernetes": kubernetes.EXAMPLES,
    "004 Model Hosting": model_hosting.EXAMPLES,
}
KNOWN = {name for setting in SETTINGS for name in setting.names}
LISTS, STORES, FETCHES, MIRRORS = "list-model-profiles", "create-model-store", "download-to-cache", "mirror"
BUILDS = "nim-optimize"


def cases() -> list[object]:
    return [
        pytest.param(each, image, id=f"{seed}: {each.heading} ({image.value})")
        for seed, rows in SEEDS.items()
        for each in rows
        for image in each.images
    ]


@pytest.fixture(scope="session")
def machines(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    """The variables by which eight GPUs and an engine are found, by the engine."""
    directory = tmp_path_factory.mktemp("machine")
    gpus = [nvml.StandInGpu(uuid=f"GPU-{number:08x}-0000-1111-2222-333333333333") for number in range(8)]
    variables = nvml.build(directory, gpus)
    if variables is None:
        pytest.skip("there is no C compiler")
    engines = {
        "vllm": vllm_program.install(directory / "vllm", "0.32.0"),
        "sglang": sglang_program.install(directory / "s"),
        "tensorrt_llm": trtllm_program.install(directory / "trtllm"),
    }
    trtllm_program.install_builder(directory / "trtllm")
    return {name: {**variables, "PATH": f"{place}:{BINARIES}:/usr/bin:/bin"} for name, place in engines.items()}


@pytest.mark.parametrize(("example", "image"), cases())
def test_it_runs_as_written(
    example: Example,
    image: Image,
    tmp_path: Path,
    machines: dict[str, dict[str, str]],
    bare_environment: pytest.MonkeyPatch,  # the fixture of that name
) -> None:
    told = re.findall(r"(?:-e |- name: )(NIM_[A-Z_]+)", example.text)
    assert not set(told) - KNOWN, "a setting that does nothing"
    with around(example, image, tmp_path, machines[example.backend], bare_environment) as world:
        words = set(example.text.split())
        if LISTS in example.text:
            assert_lists(world)
        elif BUILDS in words:
            assert_builds(world)
        elif words & {STORES, FETCHES, MIRRORS}:
            assert_fetches(world)
        else:
            assert_serves(world)
        tunnels = [line for line in world.proxy.first_lines if line.startswith("CONNECT ")]
        assert bool(tunnels) == example.proxied


def finished(world: World) -> str:
    """The example to its end; what it printed."""
    done = subprocess.run(
        ["sh", "-ec", world.script], env=world.environ, cwd=world.directory, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def assert_lists(world: World) -> None:
    runnable, _, _ = finished(world).partition("- Incompatible with system:")
    assert "- Compatible with system and runnable:" in runnable
    assert "(vllm-bf16-tp1-pp1)" in runnable
    assert "- With LoRA support:" in runnable
    if world.image is Image.SPECIFIC:
        assert f"{profile_id(1)} (vllm-bf16-tp1-pp1)" in runnable


def assert_fetches(world: World) -> None:
    """The model is where the example says: a plain directory, the cache, a bucket; a local one stays where it is."""
    printed, example = finished(world), world.example
    if MIRRORS in example.text.split():
        assert_mirrored(world)
        return
    assert world.profile in printed
    if STORES in example.text:
        store = next(path for path in stores(world) if path.is_dir())
        assert {path.name: path.read_bytes() for path in store.iterdir()} == world.expected
        assert not [path for path in store.iterdir() if path.is_symlink()]
        return
    blobs = {path.read_bytes() for path in world.directory.glob("**/blobs/sha256/*/*")}
    every = {FP8[name] for name in NAMES} if "--all" in example.text and world.image is Image.SPECIFIC else set()
    in_place = example.stand == "local" and world.image is Image.FREE
    assert blobs == (set() if in_place else set(world.expected.values()) | every)


def assert_builds(world: World) -> None:
    """The engine is where the example says."""
    finished(world)
    made = world.directory / "OPT-llama32-1b"
    assert [path.relative_to(made).as_posix() for path in made.rglob("*.engine")] == ["trtllm_engine/rank0.engine"]


def stores(world: World) -> list[Path]:
    """Where examples put their model stores."""
    return [world.directory / name for name in ("model-store", "model-repo", "path/to/model-repository")]


def assert_mirrored(world: World) -> None:
    """The bucket holds the image's best profile, under flat names."""
    bucket = world.stand.server.buckets[world.example.bucket]
    assert set(getattr(bucket, "objects", bucket)) >= {flat_name(NGC.with_file(f"fp8/{name}")) for name in NAMES}


def assert_serves(world: World) -> None:
    """It becomes ready, the engine has what the example says, and it stops."""
    example, environ = world.example, world.environ
    log = world.directory / "log"
    before, _, after = world.script.rpartition("docker run")
    with log.open("w") as file:
        process = subprocess.Popen(
            ["sh", "-ec", f"{before}exec docker run{after}"],
            env=environ,
            cwd=world.directory,
            stdout=file,
            stderr=file,
            text=True,
        )
    try:
        program = Program(process, log)
        program.wait_until_ready()
        served = [each["id"] for each in program.get("/v1/models").json()["data"]]
        assert not example.name or served == [example.name]
        assert example.engine in " ".join(engine_of(program).argv)
        assert program.stop() == 0
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
