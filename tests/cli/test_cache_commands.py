"""``lading cache``: as a program, on a cache that a download made."""

import json
import shutil
from pathlib import Path

import pytest

from lading.cache.root import open_cache
from lading.uri import ModelUri
from tests.models import tiny_model
from tests.program import environment, run, running
from tests.simulators.hub import HubSimulator
from tests.simulators.vllm_program import install

MODEL = "hf://demo/tiny"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a cache that holds the model, served once."""
    directory = tmp_path_factory.mktemp("served")
    with HubSimulator() as hub:
        hub.add_model("demo/tiny", tiny_model())
        environ = environment(
            directory,
            HF_ENDPOINT=hub.endpoint,
            PATH=f"{install(directory / 'engine')}:{environment(directory)['PATH']}",
        )
        with running(["serve", MODEL], environ, directory / "log") as program:
            program.wait_until_ready()
            told = json.loads(run(["cache", "list", "--json"], environ).stdout)
            assert [use["pid"] for use in told["models"][0]["uses"]] == [program.process.pid]
            refused = run(["cache", "remove", MODEL], environ)
            assert refused.returncode == 2
            assert f"{MODEL} is being served by process {program.process.pid}" in refused.stderr
            assert program.stop() == 0
    return directory


def test_list(served: Path) -> None:
    done = run(["cache", "list"], environment(served))
    first, model, total = done.stdout.splitlines()
    assert first == str(served / "cache")
    assert " ago  " in model
    assert f"{MODEL} at " in model
    assert total.startswith("1 models in ")
    told = json.loads(run(["cache", "list", "--json"], environment(served)).stdout)
    assert told["blob_bytes"] == told["models"][0]["total_bytes"] == sum(map(len, set(tiny_model().values())))
    assert {file["path"]: file["size_bytes"] for file in told["models"][0]["files"]} == {
        path: len(data) for path, data in tiny_model().items()
    }
    assert (told["models"][0]["is_complete"], told["models"][0]["uses"], told["unneeded_bytes"]) == (True, [], 0)


def test_verify_finds_and_removes_what_is_damaged_and_the_next_start_fetches_it(served: Path) -> None:
    right = run(["cache", "verify", MODEL], environment(served))
    assert right.returncode == 0
    assert "all of them are as they were fetched" in right.stdout
    cache = open_cache(served / "cache", default=served, fallback=served)
    entry = cache.index.load(ModelUri.parse(MODEL))
    assert entry
    digest = entry.manifest.files[0].digest
    assert digest
    path = cache.store.path_of(digest)
    path.chmod(0o644)
    path.write_bytes(b"?" * path.stat().st_size)
    rehearsed = run(["cache", "verify", "--dry-run"], environment(served))
    assert rehearsed.returncode == 4
    assert f"damaged: {digest} of {MODEL}\n" in rehearsed.stdout
    assert "without --dry-run" in rehearsed.stderr
    damaged = run(["cache", "verify", "--json"], environment(served))
    assert damaged.returncode == 4
    assert json.loads(damaged.stdout)["damaged"] == {str(digest): [MODEL]}
    assert "1 of" in damaged.stderr
    with HubSimulator() as hub:
        hub.add_model("demo/tiny", tiny_model())
        path_variable = f"{install(served / 'engine2')}:{environment(served)['PATH']}"
        environ = environment(served, HF_ENDPOINT=hub.endpoint, PATH=path_variable)
        with running(["serve", MODEL], environ, served / "log2") as program:
            program.wait_until_ready()
            assert program.stop() == 0
        assert {request.file for request in hub.requests if request.status == 206} == {entry.manifest.files[0].path}
    assert run(["cache", "verify"], environment(served)).returncode == 0


def test_gc_has_nothing_to_do(served: Path) -> None:
    done = run(["cache", "gc", "--unused-for", "2w", "--dry-run"], environment(served))
    assert done.stdout == "0 files, 0 unfinished ones, 0 workspaces would be deleted; 0 B would be freed\n"
    assert json.loads(run(["cache", "gc", "--json"], environment(served)).stdout)["blobs"] == 0


def test_remove(tmp_path: Path, served: Path) -> None:
    shutil.copytree(served / "cache", tmp_path / "cache", symlinks=True)
    rehearsed = run(["cache", "remove", MODEL, "--dry-run"], environment(tmp_path))
    done = run(["cache", "remove", MODEL], environment(tmp_path))
    assert done.stdout.startswith(f"forgot {MODEL}\n")
    would = done.stdout.replace("forgot", "would forget").replace("deleted", "would be deleted")
    assert rehearsed.stdout == would.replace("freed", "would be freed")
    assert json.loads(run(["cache", "list", "--json"], environment(tmp_path)).stdout)["models"] == []
    again = run(["cache", "remove", MODEL], environment(tmp_path))
    assert again.returncode == 3
    assert "`lading cache list`" in again.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["cache", "gc", "--unused-for", "soon"], ["--unused-for soon", "30d"]),
        (["cache", "verify", "nothing"], ["not a model location"]),
    ],
)
def test_bad_usage_is_one_clear_error(tmp_path: Path, arguments: list[str], words: list[str]) -> None:
    done = run(arguments, environment(tmp_path))
    assert done.returncode == 2
    assert all(word in done.stderr for word in words)
