"""The command lines of downloads: every spelling that NIM documents, conflicts refused, bare names on PATH."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.models import tiny_model
from tests.program import environment, run, without_sockets
from tests.simulators.hub import HubSimulator

BINARIES = Path(sys.executable).parent
MODEL = "hf://demo/tiny"
ONE, TWO, LORA = "vllm-bf16-tp1-pp1", "vllm-bf16-tp2-pp1", "vllm-bf16-tp1-pp1-feat_lora"
COMMANDS = ["download-to-cache", "download-model", "create-model-store"]


@pytest.fixture(scope="module")
def complete(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment of a machine whose cache has the model; no source is there any more."""
    directory = tmp_path_factory.mktemp("machine")
    with HubSimulator() as hub:
        hub.add_model("demo/tiny", tiny_model())
        environ = environment(directory, HF_ENDPOINT=hub.endpoint, PATH="/usr/bin:/bin", NIM_MODEL_PATH=MODEL)
        assert run(["download-to-cache"], environ).returncode == 0
    yield without_sockets(directory, {**environ, "LADING_OFFLINE": "1"})


@pytest.mark.parametrize(
    ("flags", "names"),
    [
        (["--profiles", ONE], [ONE]),
        (["--profile", ONE], [ONE]),
        (["-p", ONE], [ONE]),
        (["--profiles", ONE, TWO], [ONE, TWO]),
        (["-p", ONE, "-p", TWO], [ONE, TWO]),
        (["--profile", ONE, "--profiles", TWO, ONE], [ONE, TWO]),
        ([f"--profiles={ONE}"], [ONE]),
        (["--profiles", f"{ONE},{TWO}"], [ONE, TWO]),
        (["--profiles"], [ONE]),
        (["--profile", ""], [ONE]),
        (["--lora"], [LORA]),
        (["--use-cache", "-p", TWO, "--verify-checksums"], [TWO]),
        (["--no-verify-checksums", "--model-uri", MODEL], [ONE]),
    ],
    ids=" ".join,
)
def test_profiles_are_named_in_every_spelling(flags: list[str], names: list[str], complete: dict[str, str]) -> None:
    done = run(["download-to-cache", "--json", *flags], complete)
    assert done.returncode == 0, done.stderr
    assert [each["name"] for each in json.loads(done.stdout)["profiles"]] == names


def test_all_takes_every_profile(complete: dict[str, str]) -> None:
    done = json.loads(run(["download-to-cache", "--all", "--json"], complete).stdout)
    assert {ONE, TWO, LORA} <= {each["name"] for each in done["profiles"]}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["download-to-cache", "--all", "--profiles", ONE], "--all and --profiles exclude each other"),
        (["download-to-cache", "--all", "--lora"], "--all and --lora exclude each other"),
        (["download-to-cache", "--lora", "-p", ONE], "--profiles and --lora exclude each other"),
        (["download-to-cache", "-p", "nope"], "'nope' does not name one profile"),
        (["download-to-cache", MODEL], "unrecognized arguments"),
        (["download-to-cache", "--model-uri", "demo/tiny"], "did you mean hf://demo/tiny?"),
        (["create-model-store", "-p", ONE], "--model-store"),
        (["create-model-store", "-m", "/nowhere/x"], "no profile was named"),
        (["create-model-store", "-m", "x", "--model-repo", MODEL, "--model-uri", "hf://a/b"], "two models are named"),
        (["create-model-store", "-p", ONE, "-m", "/proc/self/status"], "is not a directory"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_what_cannot_be_meant_is_a_usage_error(arguments: list[str], said: str, complete: dict[str, str]) -> None:
    done = run(arguments, complete)
    assert done.returncode == 2, done.stderr
    assert said in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize("command", COMMANDS)
def test_without_a_model_it_is_said_how_to_name_one(command: str, complete: dict[str, str]) -> None:
    place = ["-p", ONE, "-m", "x"] if command == "create-model-store" else []
    done = run([command, *place], {**complete, "NIM_MODEL_PATH": ""})
    assert done.returncode == 2
    assert "--model-uri hf://ORG/MODEL, or set NIM_MODEL_PATH" in done.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_the_bare_names_are_programs(command: str, complete: dict[str, str], tmp_path: Path) -> None:
    place = ["--profile", ONE, "--model-store", str(tmp_path / "store")] if command == "create-model-store" else []
    done = subprocess.run([BINARIES / command, *place], env=complete, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "model     hf://demo/tiny:" in done.stdout
    shown = subprocess.run([BINARIES / command, "--help"], env=complete, capture_output=True, text=True)
    assert "--model-cache-path" in shown.stdout


def test_nim_1_names_the_model_and_no_profile(complete: dict[str, str], tmp_path: Path) -> None:
    arguments = ["create-model-store", "--model-repo", MODEL, "--model-store", str(tmp_path / "store")]
    done = run(arguments, {**complete, "NIM_MODEL_PATH": ""})
    assert done.returncode == 0, done.stderr
    assert {path.name for path in (tmp_path / "store").iterdir()} == tiny_model().keys()


def test_the_profile_of_the_settings_is_taken(complete: dict[str, str]) -> None:
    done = run(["download-to-cache", "--json"], {**complete, "NIM_MODEL_PROFILE": TWO})
    assert [each["name"] for each in json.loads(done.stdout)["profiles"]] == [TWO]


def test_relative_directories_are_meant_from_where_the_command_runs(complete: dict[str, str], tmp_path: Path) -> None:
    done = run(["create-model-store", "-p", ONE, "-m", "here/store", "--json"], complete, directory=tmp_path)
    assert json.loads(done.stdout)["directory"] == str(tmp_path / "here" / "store")
