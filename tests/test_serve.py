"""``lading serve`` as a user meets it: hub simulator in front, a stand-in engine behind, real processes and sockets between."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from huggingface_hub import snapshot_download

from lading.units import MIB
from tests.models import safetensors, tiny_model, write_model
from tests.program import Program, environment, run, running, without_sockets
from tests.simulators.faults import Corrupt, CutAfter, Latency, Status, Throttle, Truncate
from tests.simulators.hub import HubSimulator
from tests.simulators.vllm_program import install
from tests.supervisor.test_supervisor import eventually, is_alive

MODEL = "hf://demo/tiny"
SHARD = "model-00001-of-00002.safetensors"


@pytest.fixture
def hub():
    with HubSimulator() as simulator:
        yield simulator


@pytest.fixture
def engine(tmp_path):
    return install(tmp_path / "engine")


@pytest.fixture
def environ(tmp_path, hub, engine):
    (tmp_path / "home").mkdir()
    return environment(tmp_path, HF_ENDPOINT=hub.endpoint, PATH=f"{engine}:{os.environ['PATH']}")


def blobs(tmp_path: Path) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in (tmp_path / "cache/blobs").rglob("*") if path.is_file()}


def leftovers(tmp_path: Path) -> list[str]:
    return [
        path.name
        for folder in ("partial", "tmp")
        for path in (tmp_path / "cache" / folder).rglob("*")
        if path.is_file()
    ]


def test_a_model_is_served_stopped_and_served_again_without_the_hub(tmp_path, hub, environ):
    commit = hub.add_model("demo/tiny", tiny_model())
    with running(["serve", MODEL], environ, tmp_path / "first.log") as program:
        program.wait_until_ready()
        assert program.get("/v1/health/live").status == 200
        assert program.get("/v1/health/ready").json()["status"] == "ready"
        assert program.get("/v1/models").json()["data"][0]["id"] == "demo/tiny"
        answer = program.get("/v1/chat/completions", {"model": "demo/tiny", "messages": []})
        assert answer.json()["choices"][0]["message"]["content"] == "Hello"
        streamed = program.get("/v1/chat/completions", {"model": "demo/tiny", "messages": [], "stream": True})
        assert streamed.body.endswith(b"data: [DONE]\n\n")
        metadata = program.get("/v1/metadata").json()
        assert metadata["revision"] == commit
        assert metadata["selectedModelProfileId"]
        assert program.get("/v1/version").json()["release"]
        assert SHARD in program.get("/v1/manifest").body.decode()
        metrics = program.get("/v1/metrics").body.decode()
        assert "lading_ready 1" in metrics
        assert metrics.endswith("vllm:num_requests_running 0\n")
        assert "try: curl" in program.output
        assert program.stop() == 0
    hub.stop()
    with running([MODEL], without_sockets(tmp_path, environ), tmp_path / "second.log") as program:
        program.wait_until_ready()
        assert program.get("/v1/metadata").json()["revision"] == commit
        assert program.stop() == 0


def test_a_hub_that_redirects_small_files_and_names_no_error_codes_serves_as_well(tmp_path, environ):
    with HubSimulator(resolve_cache=True, repo_not_found_code=False) as hub:
        hub.add_model("demo/tiny", tiny_model())
        environ |= {"HF_ENDPOINT": hub.endpoint}
        with running([MODEL], environ, tmp_path / "log") as program:
            program.wait_until_ready()
        refused(["hf://demo/nothing"], environ, 3, "demo/nothing", "HF_TOKEN")


def test_an_existing_hub_cache_is_used_and_not_changed(tmp_path, hub, environ):
    hub.add_model("demo/tiny", tiny_model())
    kept = tmp_path / "hf"
    snapshot_download("demo/tiny", endpoint=hub.endpoint, cache_dir=kept / "hub", token=False)
    before = {path: path.lstat().st_mtime_ns for path in kept.rglob("*")}
    asked = len(hub.requests)
    with running([MODEL], {**environ, "HF_HOME": str(kept)}, tmp_path / "1.log") as program:
        program.wait_until_ready()
    assert [request.path for request in hub.requests[asked:] if request.host == "cdn"] == []
    assert {path: path.lstat().st_mtime_ns for path in kept.rglob("*")} == before
    elsewhere = {**environ, "HF_HOME": str(kept), "NIM_CACHE_PATH": str(tmp_path / "other")}
    with running([MODEL, "--offline"], elsewhere, tmp_path / "2.log") as program:
        program.wait_until_ready()


def test_forbidden_sockets_are_really_forbidden(tmp_path, hub, environ):
    hub.add_model("demo/tiny", tiny_model())
    done = run([MODEL], without_sockets(tmp_path, environ))
    assert done.returncode != 0
    assert hub.requests == []


def test_offline_an_unknown_model_is_said(environ, hub):
    hub.add_model("demo/tiny", tiny_model())
    refused([MODEL, "--offline"], environ, 3, "demo/tiny")
    assert hub.requests == []


def test_the_second_start_asks_the_hub_nothing(tmp_path, hub, environ):
    hub.add_model("demo/tiny", tiny_model())
    for number in (1, 2):
        asked = len(hub.requests)
        with running([MODEL], environ, tmp_path / f"{number}.log") as program:
            program.wait_until_ready()
            program.stop()
    assert len(hub.requests) == asked


def test_refresh_takes_the_new_commit_and_nothing_else_does(tmp_path, hub, environ):
    first = hub.add_model("demo/tiny", tiny_model())
    plan = ["serve", MODEL, "--dry-run"]
    with running([MODEL], environ, tmp_path / "log") as program:
        program.wait_until_ready()
        program.stop()
    second = hub.add_model("demo/tiny", tiny_model() | {"README.md": b"new"})
    assert first in run(plan, environ).stdout
    assert second in run([*plan, "--refresh"], environ).stdout


def test_a_local_directory_is_served_in_place_without_a_cache(tmp_path, environ):
    directory = write_model(tmp_path / "my model", tiny_model())
    with running([str(directory)], environ, tmp_path / "log") as program:
        program.wait_until_ready()
        assert program.get("/v1/models").json()["data"][0]["id"] == str(directory)
        assert program.stop() == 0
    assert not (tmp_path / "cache").exists()


def test_the_gateway_is_alive_and_tells_phase_and_progress_while_the_model_is_fetched(tmp_path, hub, environ):
    hub.add_model("demo/tiny", tiny_model(elements=MIB))
    hub.fault(SHARD, Throttle(bytes_per_second=500_000), times=None)
    with running([MODEL], environ, tmp_path / "log") as program:
        program.wait_until_listening()
        assert program.get("/v1/health/live").status == 200
        program.wait_for_line("downloading")
        assert eventually(lambda: (program.get("/v1/health/ready").json().get("percent") or 0) > 0)
        answer = program.get("/v1/health/ready")
        assert answer.status == 503
        assert answer.json()["phase"] == "downloading"
        assert 0 < answer.json()["percent"] < 100
        refused = program.get("/v1/chat/completions", {"model": "x"})
        assert refused.status == 503
        assert refused.header("Retry-After")
        assert refused.json()["error"]["phase"] == "downloading"


def test_the_dry_run_prints_the_plan_with_origins_and_does_nothing(tmp_path, hub, environ):
    hub.add_model("demo/tiny", tiny_model())
    environ |= {"NIM_PASSTHROUGH_ARGS": "--seed 7", "NIM_MAX_MODEL_LEN": "256"}
    done = run(["serve", MODEL, "--dry-run", "--max-num-seqs", "4", "--api-key", "canary"], environ)
    assert done.returncode == 0
    for text in (
        "vllm-bf16-tp1-pp1",
        "fits on the fewest devices",
        "--max-num-seqs 4",
        "command line",
        "NIM_PASSTHROUGH_ARGS",
        "NIM_MAX_MODEL_LEN",
        "--enforce-eager",
        "to fetch",
        "weights",
    ):
        assert text in done.stdout
    assert "canary" not in done.stdout + done.stderr
    assert blobs(tmp_path) == {}


def test_names_and_port_come_from_command_line_then_environment(tmp_path, hub, environ):
    hub.add_model("demo/tiny", tiny_model())
    environ |= {"NIM_SERVED_MODEL_NAME": "from-env", "NIM_MODEL_PATH": MODEL}
    with running(["serve"], environ, tmp_path / "1.log") as program:
        program.wait_until_ready()
        assert program.get("/v1/models").json()["data"][0]["id"] == "from-env"
    with running(["--served-model-name", "mine"], environ, tmp_path / "2.log") as program:
        program.wait_until_ready()
        assert program.get("/v1/models").json()["data"][0]["id"] == "mine"


def test_json_lines_hold_the_engines_lines_too(tmp_path, hub, environ):
    hub.add_model("demo/tiny", tiny_model())
    with running([MODEL], {**environ, "NIM_JSONL_LOGGING": "1"}, tmp_path / "log") as program:
        program.wait_for_line("the model answers")
        program.stop()
        records = [json.loads(line) for line in program.output.splitlines()]
    assert {record["source"] for record in records} == {"lading", "engine"}
    assert all(list(record)[:5] == ["level", "time", "file_name", "line_number", "message"] for record in records)


def stop_at(line: str, program: Program) -> int:
    program.wait_for_line(line)
    return program.stop()


@pytest.mark.parametrize(
    ("line", "faults", "stand_in", "code"),
    [
        ("resolving", [(None, Latency(3))], {}, 143),
        ("to fetch", [(SHARD, Throttle(200_000))], {}, 143),
        ("starting: ", [], {"start_seconds": 60, "fork": True}, 143),
        ("warming", [], {"healthy_only": True, "fork": True}, 143),
        ("ready: ", [], {"fork": True}, 0),
        ("ready: ", [], {"ignore_term": True, "fork": True}, 137),
    ],
    ids=["resolving", "downloading", "starting", "warming", "ready", "engine ignores TERM"],
)
def test_term_ends_every_phase_with_the_right_code_and_no_process_left(
    tmp_path, hub, environ, line, faults, stand_in, code
):
    hub.add_model("demo/tiny", tiny_model(elements=MIB))
    for path, fault in faults:
        hub.fault(path, fault, times=None)
    pid_file = tmp_path / "pids"
    environ |= {"STAND_IN": json.dumps({**stand_in, "pid_file": str(pid_file)}), "LADING_STOP_SECONDS": "1"}
    with running([MODEL], environ, tmp_path / "log") as program:
        assert stop_at(line, program) == code
    pids = [int(pid) for pid in pid_file.read_text().split()] if pid_file.exists() else []
    assert [pid for pid in pids if is_alive(pid)] == []


def test_int_before_ready_exits_with_130(tmp_path, environ, hub):
    hub.add_model("demo/tiny", tiny_model())
    with running([MODEL], {**environ, "STAND_IN": '{"start_seconds": 60}'}, tmp_path / "log") as program:
        program.wait_for_line("starting: ")
        assert program.stop(signal.SIGINT) == 130


def test_when_lading_is_killed_the_engine_goes_too(tmp_path, environ, hub):
    hub.add_model("demo/tiny", tiny_model())
    pid_file = tmp_path / "pids"
    with running(
        [MODEL], {**environ, "STAND_IN": json.dumps({"fork": True, "pid_file": str(pid_file)})}, tmp_path / "log"
    ) as program:
        program.wait_until_ready()
        program.process.kill()
        program.process.wait()
    pids = [int(pid) for pid in pid_file.read_text().split()]
    assert len(pids) == 2
    assert eventually(lambda: not any(is_alive(pid) for pid in pids), seconds=20)


def test_a_download_that_was_killed_continues_where_it_stopped(tmp_path, hub, environ):
    files = tiny_model(elements=16 * MIB)
    hub.add_model("demo/tiny", files)
    hub.fault(SHARD, Throttle(bytes_per_second=40 * MIB), times=None)
    with running([MODEL], environ, tmp_path / "1.log") as program:
        assert eventually(
            lambda: sum(path.stat().st_blocks for path in (tmp_path / "cache/partial").rglob("*.part")) > 0, seconds=30
        )
        time.sleep(1.2)
        program.process.kill()
        program.process.wait()
    before = len(hub.requests)
    with running([MODEL], environ, tmp_path / "2.log") as program:
        program.wait_until_ready()
        program.stop()
    fetched_again = [
        request
        for request in hub.requests[before:]
        if request.file and request.file.endswith(".safetensors") and request.host == "cdn"
    ]
    assert len(fetched_again) < 2 * (32 * MIB // (8 * MIB))
    assert sorted(blobs(tmp_path).values()) == sorted(len(data) for data in files.values())
    assert leftovers(tmp_path) == []


def refused(arguments: list[str], environ: dict[str, str], code: int, *words: str) -> str:
    """The error of a run that must fail with ``code`` and say ``words``, in two lines and no traceback."""
    done = run(arguments, environ)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    error = done.stderr[done.stderr.index("error: ") :]
    assert all(word in error for word in words), error
    assert "\ntry: " in error
    return error


def test_a_missing_model_is_said(environ):
    refused(["hf://demo/nothing"], environ, 3, "demo/nothing", "HF_TOKEN")


def test_a_gated_model_is_said(hub, environ):
    hub.add_model("demo/gated", tiny_model(), gated=True)
    refused(["hf://demo/gated"], environ, 3, "licence", "HF_TOKEN")


def test_a_rejected_token_is_said_and_not_shown(hub, environ):
    hub.require_token("hf_good")
    hub.add_model("demo/private", tiny_model(), private=True)
    assert "canary" not in refused(["hf://demo/private"], {**environ, "HF_TOKEN": "hf_canary"}, 3, "HF_TOKEN")


def test_a_missing_revision_is_said(hub, environ):
    hub.add_model("demo/tiny", tiny_model())
    refused([f"{MODEL}:nosuch"], environ, 3, "nosuch")


def test_an_unreachable_hub_is_said(environ):
    refused([MODEL], {**environ, "HF_ENDPOINT": "http://127.0.0.1:9"}, 3, "127.0.0.1:9")


def test_a_truncated_shard_is_found_before_it_is_fetched(hub, environ):
    files = tiny_model()
    hub.add_model("demo/tiny", files | {SHARD: files[SHARD][:-100]})
    refused([MODEL], environ, 4, SHARD, "truncated")


def test_a_shard_that_the_index_names_and_nobody_has_is_said(hub, environ):
    files = tiny_model()
    del files[SHARD]
    hub.add_model("demo/tiny", files)
    refused([MODEL], environ, 4, SHARD)


def test_a_corrupted_shard_is_refused_and_nothing_of_it_kept(tmp_path, hub, environ):
    files = tiny_model()
    hub.add_model("demo/tiny", files)
    hub.fault(SHARD, Corrupt(offset=5000), times=None)
    refused([MODEL], environ, 4, SHARD, "sha256")
    assert leftovers(tmp_path) == [] or not any(SHARD in name for name in leftovers(tmp_path))
    assert len(blobs(tmp_path)) < len(files)


def test_a_body_that_is_always_cut_is_given_up_with_a_reason(hub, environ):
    hub.add_model("demo/tiny", tiny_model())
    hub.fault("config.json", Truncate(to_bytes=3), times=None)
    refused([MODEL], environ, 3, "config.json")


def test_passing_faults_pass(tmp_path, hub, environ):
    hub.add_model("demo/tiny", tiny_model())
    hub.fault(SHARD, CutAfter(10_000, reset=True), times=2)
    hub.fault(SHARD, Status(503, retry_after=0), times=1, on="cdn")
    with running([MODEL], environ, tmp_path / "log") as program:
        program.wait_until_ready()


def test_a_model_without_config_is_said(hub, environ):
    files = tiny_model()
    del files["config.json"]
    hub.add_model("demo/tiny", files)
    refused([MODEL], environ, 4, "config.json")


def test_an_empty_local_directory_is_said(tmp_path, environ):
    (tmp_path / "empty").mkdir()
    refused([str(tmp_path / "empty")], environ, 3, str(tmp_path / "empty"))


def test_an_unknown_architecture_is_said_before_any_download(tmp_path, hub, environ):
    hub.add_model("demo/tiny", tiny_model(config={"architectures": ["LlamaForCausalLX"]}))
    refused([MODEL], environ, 5, "LlamaForCausalLX", "LlamaForCausalLM")
    assert blobs(tmp_path) == {}


def test_a_model_that_does_not_fit_names_the_flag_that_makes_it(hub, environ):
    huge = {"max_position_embeddings": 1 << 24, "num_hidden_layers": 4096}
    hub.add_model("demo/tiny", tiny_model(config=huge))
    refused([MODEL], environ, 5, "--max-model-len=")


def test_an_unwritable_cache_is_said(tmp_path, hub, environ):
    hub.add_model("demo/tiny", tiny_model())
    (tmp_path / "file").write_text("")
    refused(
        [MODEL],
        {**environ, "NIM_CACHE_PATH": str(tmp_path / "file/cache")},
        6,
        str(tmp_path / "file/cache"),
        "NIM_CACHE_PATH",
    )


@pytest.fixture
def small_disk(tmp_path):
    """A filesystem of its own with room for 2 MiB."""
    place = tmp_path / "small"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(place)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("mounting a small filesystem needs rights that this user does not have")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_disk_that_is_too_small_is_said_before_the_first_byte(hub, environ, small_disk):
    hub.add_model("demo/tiny", tiny_model(elements=4 * MIB))
    error = refused(
        [MODEL], {**environ, "NIM_CACHE_PATH": str(small_disk)}, 6, str(small_disk), "NIM_CACHE_PATH", "MiB"
    )
    assert "are free" in error
    assert list(small_disk.rglob("*.part")) == []


def test_a_port_in_use_is_said(tmp_path, hub, environ):
    hub.add_model("demo/tiny", tiny_model())
    refused([MODEL, "--port", str(hub.port)], environ, 6, str(hub.port), "NIM_SERVER_PORT")


def test_no_engine_is_said_with_the_command_that_installs_one(hub, environ):
    hub.add_model("demo/tiny", tiny_model())
    refused([MODEL], {**environ, "PATH": "/usr/bin:/bin"}, 7, "lading engine install")


def test_an_engine_that_crashes_gives_its_cause(tmp_path, hub, environ):
    hub.add_model("demo/tiny", tiny_model())
    crash = {
        "crash": "ERROR 11-20 ValueError: To serve at least one request ... the estimated maximum model length is 384."
    }
    error = refused([MODEL], {**environ, "STAND_IN": json.dumps(crash)}, 7, "--max-model-len=384")
    assert "before the model answered" in error


def test_an_engine_that_dies_while_serving_is_an_error_even_with_code_0(tmp_path, hub, environ):
    hub.add_model("demo/tiny", tiny_model())
    pid_file = tmp_path / "pids"
    with running(
        [MODEL], {**environ, "STAND_IN": json.dumps({"pid_file": str(pid_file)})}, tmp_path / "log"
    ) as program:
        program.wait_until_ready()
        os.kill(int(pid_file.read_text()), signal.SIGTERM)  # the stand-in ends with 0, as vLLM does when a worker dies
        assert program.process.wait(30) == 7
        assert "while it was serving" in program.output


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nosuch"], ["nosuch", "lading --help"]),
        (["serv"], ["did you mean `lading serve`"]),
        (["serve"], ["no model was named", "NIM_MODEL_PATH"]),
        (["serve", "meta-llama/Llama"], ["hf://meta-llama/Llama"]),
        (["serve", "https://host/x"], ["cannot be listed", "NIM_REPOSITORY_OVERRIDE"]),
        (["serve", "hf://a/b?file=config.json"], ["one file"]),
        (["serve", "hf://a/b", "--model", "hf://c/d"], ["two models"]),
        (["serve", "hf://a/b", "-tp", "two"], ["--tensor-parallel-size two"]),
    ],
)
def test_bad_usage_is_one_clear_error(environ, arguments, words):
    done = run(arguments, environ)
    assert done.returncode == 2
    assert all(word in done.stderr for word in words), done.stderr
    assert "Traceback" not in done.stderr


def test_a_profile_that_does_not_exist_names_the_nearest(hub, environ):
    hub.add_model("demo/tiny", tiny_model())
    refused([MODEL], {**environ, "NIM_MODEL_PROFILE": "vllm-bf16-tp9-pp1"}, 2, "vllm-bf16-tp1-pp1")


def test_the_listing_has_the_shape_that_parsers_expect(hub, environ):
    hub.add_model("demo/tiny", tiny_model())
    done = run(["list-model-profiles", MODEL], environ)
    assert done.returncode == 0
    assert "- Compatible with system and runnable:\n  - " in done.stdout
    assert "- Compatible with system but low memory: <None>" in done.stdout
    document = json.loads(run(["list-model-profiles", "--format", "json", "--model", MODEL], environ).stdout)
    assert {profile["name"] for profile in document["profiles"]} >= {"vllm-bf16-tp1-pp1", "vllm-bf16-tp2-pp1-feat_lora"}


def test_a_relative_directory_is_taken_from_where_the_user_stands(tmp_path, environ):
    write_model(tmp_path / "here", tiny_model())
    done = run(["./here", "--dry-run"], environ, directory=tmp_path)
    assert f"vllm serve {tmp_path}/here" in done.stdout


def test_with_json_logs_the_error_is_json_too(environ):
    done = run(["serve", "nosuch://x"], {**environ, "NIM_JSONL_LOGGING": "true"})
    record = json.loads(done.stderr)
    assert (record["level"], record["exit_code"]) == ("ERROR", 2)


def test_an_engine_with_an_api_key_becomes_ready(tmp_path, hub, environ):
    hub.add_model("demo/tiny", tiny_model())
    with running(
        [MODEL, "--api-key", "canary"], {**environ, "STAND_IN": '{"api_key": "canary"}'}, tmp_path / "log"
    ) as program:
        program.wait_until_ready()
        assert program.get("/v1/chat/completions", {"messages": []}).status == 401
        assert "canary" not in program.get("/v1/metadata").body.decode()


def test_a_model_that_writes_no_text_is_ready_once_it_is_listed(tmp_path, hub, environ):
    hub.add_model("demo/tiny", tiny_model())
    with running([MODEL], {**environ, "STAND_IN": '{"no_completions": true}'}, tmp_path / "log") as program:
        program.wait_until_ready()


def test_debug_shows_the_traceback(environ):
    assert "Traceback" in run(["serve", "nosuch://x", "--debug"], environ).stderr


def test_a_model_with_only_pickled_weights_is_served_and_says_so(tmp_path, environ):
    files = {name: data for name, data in tiny_model().items() if "safetensors" not in name}
    directory = write_model(tmp_path / "pickled", files | {"pytorch_model.bin": safetensors({"x": ("BF16", [8])})})
    done = run(["serve", str(directory), "--dry-run"], environ)
    assert done.returncode == 0
    assert "not safetensors" in done.stderr
