"""``lading bundle``: as a program, from a download to a server that has no network."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from lading.uri import ModelUri
from tests.bundle.caches import Keys, cache_at
from tests.models import tiny_model
from tests.program import environment, run, running, without_sockets
from tests.simulators.hub import HubSimulator
from tests.simulators.vllm_program import install

MODEL = "hf://demo/tiny"
OTHER = "hf://demo/other"


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a cache of two models, that share most files, and ``b.tar`` with both."""
    directory = tmp_path_factory.mktemp("packed")
    with HubSimulator() as hub:
        hub.add_model("demo/tiny", tiny_model())
        hub.add_model("demo/other", tiny_model() | {"README.md": b"# other\n"})
        environ = environment(directory, HF_ENDPOINT=hub.endpoint)
        for model in (MODEL, OTHER):
            assert run(["download-to-cache", "--model-uri", model], environ).returncode == 0
    done = run(["bundle", "create", str(directory / "b.tar"), "--all"], environment(directory))
    assert done.returncode == 0, done.stderr
    assert "lading bundle import b.tar" in done.stdout
    return directory


def test_what_was_imported_is_served_without_a_network(packed: Path, tmp_path: Path) -> None:
    environ = environment(tmp_path, PATH=f"{install(tmp_path / 'engine')}:{os.environ['PATH']}")
    environ = without_sockets(tmp_path, {**environ, "LADING_OFFLINE": "1"})
    done = run(["bundle", "import", str(packed / "b.tar")], environ)
    assert done.returncode == 0, done.stderr
    assert f"lading serve {OTHER}" in done.stdout
    with running(["serve", MODEL], environ, tmp_path / "log") as program:
        program.wait_until_ready()
        assert program.get("/v1/models").json()["data"][0]["id"] == "demo/tiny"
        assert program.stop() == 0
    listed = run(["list-model-profiles", OTHER], environ)
    assert listed.returncode == 0, listed.stderr


def test_create_tells_its_plan_and_does_nothing(packed: Path) -> None:
    target = packed / "dry.tar"
    arguments = ["bundle", "create", str(target), MODEL, "--volume-size", "100KB", "--dry-run"]
    done = run(arguments, environment(packed))
    assert done.returncode == 0
    assert f"model     {MODEL}:" in done.stdout
    assert "dry.tar.001" in done.stdout
    told = json.loads(run([*arguments, "--json"], environment(packed)).stdout)
    assert told["dry_run"] is True
    assert [each["source"] for each in told["models"]] == [MODEL]
    assert sum(each["size_bytes"] for each in told["volumes"]) == told["total_bytes"]
    assert {each["size_bytes"] for each in told["volumes"][:-1]} == {100_000}
    assert list(packed.glob("dry*")) == []


def test_volumes_signatures_and_json(packed: Path, tmp_path: Path) -> None:
    keys = Keys.made(tmp_path)
    environ = environment(packed, NIM_MODEL_PATH=MODEL)
    arguments = ["bundle", "create", str(tmp_path / "b.tar"), "--volume-size", "64KiB", "--sign-key", str(keys.private)]
    done = json.loads(run([*arguments, "--json"], environ).stdout)
    assert (done["is_signed"], done["written_bytes"]) == (True, done["total_bytes"])
    assert [each["source"] for each in done["models"]] == [MODEL]
    assert "nothing: all of it was there already" in run(arguments, environ).stdout
    other = environment(tmp_path)
    take = ["bundle", "import", str(tmp_path / "b.tar.001"), "--verify-key", str(keys.public), "--json"]
    dry = json.loads(run([*take, "--dry-run"], other).stdout)
    assert (dry["dry_run"], dry["models"][0]["step"], dry["present_bytes"]) == (True, "add", 0)
    told = json.loads(run(take, other).stdout)
    assert told["imported_bytes"] == dry["import_bytes"] > 0
    assert told["signed_by"] == dry["signed_by"] is not None
    assert len(told["volumes"]) == len(done["volumes"])
    again = json.loads(run(take, other).stdout)
    assert (again["imported_bytes"], again["models"][0]["step"]) == (0, "keep")
    unsigned = run(["bundle", "import", str(packed / "b.tar"), "--verify-key", str(keys.public)], other)
    assert unsigned.returncode == 4
    assert "is not signed" in unsigned.stderr


def test_import_tells_its_plan_and_does_nothing(packed: Path, tmp_path: Path) -> None:
    done = run(["bundle", "import", str(packed / "b.tar"), "--dry-run"], environment(tmp_path))
    assert done.returncode == 0
    assert done.stdout.count(": is new\n") == 2
    assert "0 B are here" in done.stdout
    assert list((tmp_path / "cache").glob("blobs/*")) == []


def test_another_revision_needs_replace(packed: Path, tmp_path: Path) -> None:
    with HubSimulator() as hub:
        hub.add_model("demo/tiny", tiny_model() | {"README.md": b"# older\n"})
        environ = environment(tmp_path, HF_ENDPOINT=hub.endpoint)
        assert run(["download-to-cache", "--model-uri", MODEL], environ).returncode == 0
    take = ["bundle", "import", str(packed / "b.tar")]
    assert "; needs --replace" in run([*take, "--dry-run"], environ).stdout
    refused = run(take, environ)
    assert refused.returncode == 2
    assert "try: --replace" in refused.stderr
    done = run([*take, "--replace"], environ)
    assert done.returncode == 0
    assert "takes the place of" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["create", "x.tar"], 2, "no model was named"),
        (["create", "x.tar", MODEL, "--all"], 2, "exclude each other"),
        (["create", "x.tar", "hf://demo/none"], 3, "try: `download-to-cache --model-uri hf://demo/none`"),
        (["create", "x.tar", MODEL, "--volume-size", "big"], 2, "--volume-size big is no size"),
        (["create", "x.tar", MODEL, "--volume-size", "1KB"], 2, "too small"),
        (["create", "x.tar", MODEL, "--sign-key", "/nowhere"], 2, "the key /nowhere cannot be read"),
        (["create", "nowhere/x.tar", MODEL], 2, "is no directory"),
        (["create", "b.tar", MODEL], 2, "exists and is not what would be written"),
        (["create", "x.001", MODEL], 2, "named like a volume"),
        (["import", "x.tar"], 2, "there is no bundle at"),
        (["import", "."], 2, "is no file"),
        (["import", "cache/lading-cache.json"], 4, "is no bundle of Lading"),
        (["import", "b.tar", "--verify-key", "b.tar"], 2, "cannot be used: it is no public key"),
        ([], 2, "ACTION"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_what_cannot_be_done_is_one_clear_error(arguments: list[str], code: int, words: str, packed: Path) -> None:
    done = run(["bundle", *arguments], environment(packed), directory=packed)
    assert done.returncode == code, done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_the_cache_may_be_named(packed: Path, tmp_path: Path) -> None:
    place = tmp_path / "elsewhere"
    arguments = ["bundle", "import", str(packed / "b.tar"), "--model-cache-path", str(place), "--json"]
    told = json.loads(run(arguments, environment(tmp_path)).stdout)
    assert told["cache"] == str(place)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_and_says_so(number: signal.Signals, packed: Path, tmp_path: Path) -> None:
    """While it waits for a download of the same model."""
    cache = cache_at(tmp_path / "cache")
    arguments = ["bundle", "import", str(packed / "b.tar")]
    held = cache.lock_for(ModelUri.parse(OTHER))
    with held.acquire(0), running(arguments, environment(tmp_path), tmp_path / "log") as program:
        program.wait_for_line("waiting for another download of this model")
        assert program.stop(number) == 128 + number
    assert f"stopped by {number.name}" in program.output
    assert run(arguments, environment(tmp_path)).returncode == 0
