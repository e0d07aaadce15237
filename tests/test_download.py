"""Downloads without serving, as a user runs them: what is asked of the source, what moves, what is refused, what is left."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.faults.disks import remount, small_disk
from tests.faults.harness import CountingHub, eventually
from tests.faults.rules import kept_bytes
from tests.models import tiny_model, write_model
from tests.program import environment, run, running, without_sockets
from tests.simulators import nvml
from tests.simulators.hub import HubSimulator
from tests.simulators.vllm_program import install

MODEL = "hf://demo/tiny"
FILES = tiny_model(elements=400_000)
TOTAL_BYTES = sum(map(len, FILES.values()))
PROFILE = "vllm-bf16-tp1-pp1"


@pytest.fixture
def hub() -> Iterator[CountingHub]:
    with CountingHub() as simulator:
        simulator.add_model("demo/tiny", FILES)
        yield simulator


@pytest.fixture
def environ(hub: HubSimulator, tmp_path: Path) -> dict[str, str]:
    """A machine without a GPU and without an engine."""
    return environment(tmp_path, HF_ENDPOINT=hub.endpoint, PATH="/usr/bin:/bin", NIM_MODEL_PATH=MODEL)


def done(environ: dict[str, str], *arguments: str) -> dict[str, Any]:
    """What a command tells programs; it must end well."""
    found = run([*arguments, "--json"], environ)
    assert found.returncode == 0, found.stderr
    told: dict[str, Any] = json.loads(found.stdout)
    return told


def content_of(directory: Path) -> dict[str, bytes]:
    paths = [path for path in directory.rglob("*") if not path.is_dir()]
    assert not [path for path in paths if path.is_symlink()]
    return {path.relative_to(directory).as_posix(): path.read_bytes() for path in paths}


def test_a_model_is_fetched_once_and_a_second_run_says_that_it_moves_nothing(
    hub: CountingHub, environ: dict[str, str]
) -> None:
    first = done(environ, "download-to-cache")
    assert first["fetched_bytes"] == first["moved_bytes"] == TOTAL_BYTES
    assert [each["name"] for each in first["profiles"]] == [PROFILE]
    assert {each["path"] for each in first["files"]} == FILES.keys()
    sent = hub.settled_bytes()
    assert done(environ, "download-to-cache")["moved_bytes"] == 0
    assert "nothing: all 6 files were here already" in run(["download-to-cache"], environ).stdout
    assert hub.settled_bytes() == sent


def test_what_is_in_the_cache_is_served_without_a_socket_and_a_token(
    hub: CountingHub, environ: dict[str, str], tmp_path: Path
) -> None:
    done({**environ, "HF_TOKEN": "unused"}, "download-to-cache")
    hub.stop()
    path = f"{install(tmp_path / 'engine')}:{os.environ['PATH']}"
    with running([MODEL], without_sockets(tmp_path, {**environ, "PATH": path}), tmp_path / "log") as program:
        program.wait_until_ready()
        assert program.stop() == 0


OFFLINE = {
    "use cache": (["--use-cache"], {}),
    "offline": ([], {"LADING_OFFLINE": "1"}),
    "offline, as the hub says it": ([], {"HF_HUB_OFFLINE": "1"}),
}


@pytest.mark.parametrize(("flags", "variables"), OFFLINE.values(), ids=OFFLINE)
@pytest.mark.parametrize("command", ["download-to-cache", "download-model", "create-model-store"])
def test_with_a_complete_cache_no_socket_is_opened(
    command: str, flags: list[str], variables: dict[str, str], hub: CountingHub, environ: dict[str, str], tmp_path: Path
) -> None:
    done(environ, "download-to-cache")
    hub.stop()
    place = ["-p", PROFILE, "-m", str(tmp_path / "store")] if command == "create-model-store" else []
    denied = without_sockets(tmp_path, {**environ, **variables})
    found = run([command, *place, *flags, "--json", "--debug"], denied)
    assert found.returncode == 0, found.stderr
    assert json.loads(found.stdout)["moved_bytes"] == 0
    assert "a socket was used" not in found.stderr
    assert "no connection" not in found.stderr


def test_a_source_that_does_not_answer_is_no_error_while_the_cache_is_complete(
    hub: CountingHub, environ: dict[str, str]
) -> None:
    done(environ, "download-to-cache")
    hub.stop()
    found = run(["download-to-cache"], environ)
    assert found.returncode == 0
    assert f"the cache has {MODEL} complete" in found.stderr


def test_offline_without_a_complete_cache_the_command_is_named_that_would_fetch_it(environ: dict[str, str]) -> None:
    found = run(["download-to-cache"], {**environ, "LADING_OFFLINE": "1"})
    assert found.returncode == 3
    assert f"download-to-cache --model-uri {MODEL}" in found.stderr


def test_unless_the_cache_is_to_do_a_newer_model_is_taken(hub: CountingHub, environ: dict[str, str]) -> None:
    old = done(environ, "download-to-cache")["revision"]
    new = hub.add_model("demo/tiny", FILES | {"README.md": b"# newer\n"})
    assert done(environ, "download-to-cache", "--use-cache")["revision"] == old
    taken = done(environ, "download-to-cache")
    assert (taken["revision"], taken["fetched_bytes"]) == (new, len(b"# newer\n"))


def test_an_id_of_the_revision_in_the_cache_is_found_after_the_source_has_a_newer_one(
    hub: CountingHub, environ: dict[str, str], tmp_path: Path
) -> None:
    told = done(environ, "download-to-cache")
    hub.add_model("demo/tiny", FILES | {"README.md": b"# newer\n"})
    arguments = ["create-model-store", "-p", told["profiles"][0]["id"], "-m", str(tmp_path / "store")]
    stored = done(environ, *arguments)
    assert stored["revision"] == told["revision"]
    assert content_of(tmp_path / "store") == FILES


def test_verify_checksums_hashes_what_the_cache_has_and_fetches_what_is_damaged(
    hub: CountingHub, environ: dict[str, str], tmp_path: Path
) -> None:
    told = done(environ, "download-to-cache")
    digest = next(each["digest"] for each in told["files"] if each["path"].endswith("2-of-00002.safetensors"))
    blob = next((tmp_path / "cache").glob(f"blobs/sha256/*/{digest.partition(':')[2]}"))
    before = blob.stat()
    blob.chmod(0o644)
    blob.write_bytes(bytes(before.st_size))
    os.utime(blob, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert done(environ, "download-to-cache", "--no-verify-checksums")["fetched_bytes"] == 0
    assert done(environ, "download-to-cache")["fetched_bytes"] == 0
    assert done(environ, "download-to-cache", "--verify-checksums")["fetched_bytes"] == before.st_size


def test_a_dry_run_prints_the_plan_and_fetches_nothing(
    hub: CountingHub, environ: dict[str, str], tmp_path: Path
) -> None:
    store = ["-p", PROFILE, "-m", str(tmp_path / "store")]
    workspace = ["--workspace-path", str(tmp_path / "workspace")]
    for command in (["download-to-cache"], ["download-model", *workspace], ["create-model-store", *store]):
        planned = done(environ, *command, "--dry-run")
        assert planned["transfer"]["fetch_bytes"] == TOTAL_BYTES
        assert planned["transfer"]["needed_bytes"] > TOTAL_BYTES
        found = run([*command, "--dry-run"], environ)
        assert "1.53 MiB to fetch" in found.stdout, found.stdout
        assert "free" in found.stdout
    assert planned["store"]["way"] == "hard link"
    assert sorted(os.listdir(tmp_path)) == ["cache"]
    assert not list((tmp_path / "cache").glob("blobs/*/*/*"))
    assert hub.settled_bytes() < TOTAL_BYTES // 10


def test_the_cache_may_be_named(environ: dict[str, str], tmp_path: Path) -> None:
    told = done(environ, "download-to-cache", "--model-cache-path", str(tmp_path / "other"))
    assert told["cache"] == str(tmp_path / "other")
    assert not (tmp_path / "cache").exists()


def test_a_uri_on_the_command_line_wins(hub: CountingHub, environ: dict[str, str]) -> None:
    hub.add_model("demo/other", tiny_model(shards=1))
    assert done(environ, "download-to-cache", "--model-uri", "hf://demo/other")["model"] == "hf://demo/other"


def test_a_workspace_is_a_plain_directory_where_one_is_named_and_links_in_the_cache_else(
    environ: dict[str, str], tmp_path: Path
) -> None:
    assert done(environ, "download-model", "--workspace-path", str(tmp_path / "w"))["directory"] == str(tmp_path / "w")
    assert content_of(tmp_path / "w") == FILES
    unnamed = Path(done(environ, "download-model")["directory"])
    assert unnamed.is_relative_to(tmp_path / "cache")
    assert {path.name: path.read_bytes() for path in unnamed.iterdir()} == FILES


def test_a_store_is_served_where_it_was_carried_with_sockets_denied(
    hub: CountingHub, environ: dict[str, str], tmp_path: Path
) -> None:
    """By tar, and by a copy that drops symbolic links; into a place without a cache."""
    done(environ, "create-model-store", "-p", PROFILE, "-m", str(tmp_path / "store"))
    hub.stop()
    shutil.rmtree(tmp_path / "cache")
    (tmp_path / "carried").mkdir()
    subprocess.run(["tar", "-C", str(tmp_path), "-cf", str(tmp_path / "store.tar"), "store"], check=True)
    subprocess.run(["tar", "-C", str(tmp_path / "carried"), "-xf", str(tmp_path / "store.tar")], check=True)
    copy_without_links(tmp_path / "store", tmp_path / "copied")
    path = f"{install(tmp_path / 'engine')}:{os.environ['PATH']}"
    isolated = without_sockets(tmp_path, {**environ, "PATH": path})
    for number, place in enumerate((tmp_path / "carried" / "store", tmp_path / "copied")):
        assert content_of(place) == FILES
        with running(["serve", str(place)], isolated, tmp_path / f"{number}.log") as program:
            program.wait_until_ready()
            assert program.stop() == 0


def copy_without_links(source: Path, target: Path) -> None:
    """As ``rsync -r`` without ``-l`` does it."""
    for path in sorted(source.rglob("*")):
        if path.is_symlink():
            continue
        place = target / path.relative_to(source)
        if path.is_dir():
            place.mkdir(parents=True)
        else:
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, place)


def test_a_local_directory_is_not_copied_into_a_cache_but_may_be_made_a_store(
    environ: dict[str, str], tmp_path: Path
) -> None:
    model = write_model(tmp_path / "model", FILES)
    local = {**environ, "NIM_MODEL_PATH": str(model)}
    told = done(local, "download-to-cache", "--profile", PROFILE)
    assert (told["moved_bytes"], told["cache"]) == (0, None)
    assert done(local, "download-model")["directory"] == str(model)
    done(local, "create-model-store", "--profile", PROFILE, "--model-store", str(tmp_path / "store"))
    assert content_of(tmp_path / "store") == FILES
    (tmp_path / "store" / "README.md").write_text("changed")
    assert (model / "README.md").read_bytes() == FILES["README.md"]
    inside = run(["create-model-store", "-p", PROFILE, "-m", str(model / "store")], local)
    assert inside.returncode == 2


def test_a_store_inside_the_cache_is_refused(environ: dict[str, str], tmp_path: Path) -> None:
    found = run(["create-model-store", "-p", PROFILE, "-m", str(tmp_path / "cache" / "store")], environ)
    assert found.returncode == 2
    assert "name a directory elsewhere" in found.stderr


def test_killed_half_way_the_next_run_fetches_only_the_rest(
    hub: CountingHub, environ: dict[str, str], tmp_path: Path
) -> None:
    hub.on_sent = lambda sent: hub.gate.clear() if sent > TOTAL_BYTES // 2 else None
    store = ["create-model-store", "-p", PROFILE, "-m", str(tmp_path / "store")]
    with running(store, {**environ, "LADING_PART_SIZE": "64KiB"}, tmp_path / "log") as program:
        eventually(lambda: not hub.gate.is_set())
        program.process.kill()
        program.process.wait()
    assert not (tmp_path / "store").exists()
    hub.on_sent = lambda _: None
    hub.gate.set()
    kept, before = kept_bytes(tmp_path / "cache", FILES), hub.settled_bytes()
    done(environ, *store)
    assert hub.settled_bytes() - before == TOTAL_BYTES - kept
    assert content_of(tmp_path / "store") == FILES


def test_a_signal_ends_it_with_the_signals_code_and_what_was_fetched_is_kept(
    hub: CountingHub, environ: dict[str, str], tmp_path: Path
) -> None:
    hub.on_sent = lambda sent: hub.gate.clear() if sent > TOTAL_BYTES // 2 else None
    with running(["download-to-cache"], environ, tmp_path / "log") as program:
        eventually(lambda: not hub.gate.is_set())
        assert program.stop(signal.SIGTERM) == 143
    assert "Traceback" not in program.output
    assert "what was fetched is kept" in program.output
    hub.on_sent = lambda _: None
    hub.gate.set()
    done(environ, "download-to-cache")


def test_a_cache_that_cannot_be_written_gives_what_it_has_and_takes_nothing_more(
    hub: CountingHub, environ: dict[str, str], tmp_path: Path
) -> None:
    hub.add_model("demo/other", tiny_model(shards=1))
    with small_disk(tmp_path / "disk", "60m") as disk:
        there = {**environ, "NIM_CACHE_PATH": str(disk / "cache")}
        done(there, "download-to-cache")
        remount(disk, "ro")
        assert done(there, "download-to-cache", "--use-cache")["moved_bytes"] == 0
        assert done(there, "download-to-cache")["moved_bytes"] == 0
        stored = done(there, "create-model-store", "-p", PROFILE, "-m", str(tmp_path / "store"))
        assert stored["placed_bytes"] == {"copy": TOTAL_BYTES}
        refused = run(["download-to-cache", "--model-uri", "hf://demo/other"], there)
        assert refused.returncode == 6
        assert "NIM_CACHE_PATH" in refused.stderr
        remount(disk, "rw")


def test_a_disk_that_is_too_small_is_said_with_the_numbers_before_a_file_is_fetched(
    hub: CountingHub, environ: dict[str, str], tmp_path: Path
) -> None:
    with small_disk(tmp_path / "disk", "20m") as disk:
        found = run(["download-to-cache"], {**environ, "NIM_CACHE_PATH": str(disk)})
        assert found.returncode == 6
        assert "needs 33.5 MiB more" in found.stderr
        assert "MiB are free" in found.stderr
        store = run(["create-model-store", "-p", PROFILE, "-m", str(disk / "store")], environ)
        assert store.returncode == 6
        assert "need 33.5 MiB" in store.stderr
        assert hub.settled_bytes() < TOTAL_BYTES // 10
        assert not (disk / "store").exists()


@pytest.fixture
def gpus(environ: dict[str, str], tmp_path: Path) -> dict[str, str]:
    """A machine with two GPUs and an engine for them."""
    (tmp_path / "nvml").mkdir()
    variables = nvml.build(tmp_path / "nvml")
    if variables is None:
        pytest.skip("no C compiler")
    engine = install(tmp_path / "engine", version="0.33.0")
    return {**environ, **variables, "PATH": f"{engine}:/usr/bin:/bin"}


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"NIM_MODEL_PROFILE": "default"},
        {"NIM_MODEL_PROFILE": "vllm-bf16-tp2-pp1"},
        {"NIM_PASSTHROUGH_ARGS": "--tensor-parallel-size 2"},
        {"NIM_PASSTHROUGH_ARGS": "--enable-lora"},
    ],
    ids=lambda variables: " ".join(variables.values()) or "nothing asked",
)
def test_what_is_chosen_is_what_serving_would_choose(variables: dict[str, str], gpus: dict[str, str]) -> None:
    (chosen,) = done({**gpus, **variables}, "download-to-cache", "--dry-run")["profiles"]
    served = run(["serve", "--dry-run"], {**gpus, **variables})
    assert served.returncode == 0, served.stderr
    assert f"{chosen['name']} ({chosen['id']})" in served.stdout


def test_a_driver_that_fails_keeps_no_file_away(gpus: dict[str, str]) -> None:
    found = run(["download-to-cache", "--json"], {**gpus, "FAIL": "999"})
    assert found.returncode == 0, found.stderr
    assert json.loads(found.stdout)["fetched_bytes"] == TOTAL_BYTES
    assert "as if there were no GPU" in found.stderr
