"""``mirror`` as a user runs it: from NGC's API into real S3 servers and Google's, and served from there."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lading.digest import Digest
from tests.models import tiny_model
from tests.program import environment, run, running
from tests.simulators.ceph import Ceph
from tests.simulators.google import GoogleSimulator
from tests.simulators.ngc import NgcSimulator
from tests.simulators.s3 import S3Simulator
from tests.simulators.vllm_program import install
from tests.sources.test_destinations import make_bucket
from tests.sources.test_gcs import Emulator, emulator
from tests.sources.test_s3 import KEYS, needs_rclone, rclone

__all__ = ["emulator"]

pytest.importorskip("botocore", reason="botocore is not installed: pip install 'lading[s3]'")
pytestmark = pytest.mark.timeout(400)

MODEL = "ngc://nim/meta/tiny:hf-1+2"
FILES = tiny_model() | {"a?b=c%20d:e.json": b"{ }", "ünïcode/模型.json": b"[]", "empty.json": b""}
NOWHERE = {"NGC_CLI_API_URL": "http://127.0.0.1:1", "NGC_CLI_AUTH_URL": "http://127.0.0.1:1"}
BINARIES = Path(sys.executable).parent


@pytest.fixture
def ngc() -> Iterator[NgcSimulator]:
    with NgcSimulator() as simulator:
        simulator.add_model("nim/meta/tiny", "hf-1+2", FILES, public=True)
        yield simulator


def machine(directory: Path, ngc: NgcSimulator, **changes: str) -> dict[str, str]:
    return environment(
        directory,
        NIM_MODEL_PATH=MODEL,
        NGC_CLI_API_URL=ngc.endpoint,
        NGC_CLI_AUTH_URL=ngc.endpoint,
        AWS_EC2_METADATA_DISABLED="true",
        NO_GCE_CHECK="true",
        **changes,
    )


def told(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@needs_rclone
def test_from_ngc_to_a_real_server_and_served_from_there_without_ngc(tmp_path: Path, ngc: NgcSimulator) -> None:
    (tmp_path / "root/my-models-bucket").mkdir(parents=True)
    size = sum(map(len, FILES.values()))
    with rclone(tmp_path / "root", tmp_path / "log") as endpoint:
        s3 = {**KEYS, "AWS_ENDPOINT_URL": endpoint, "AWS_DEFAULT_REGION": "us-east-1"}
        environ = machine(tmp_path, ngc, **s3)
        planned = told(run(["mirror", "s3", "--bucket", "my-models-bucket/nim", "--dry-run", "--json"], environ))
        assert (planned["fetch_bytes"], planned["upload_bytes"], planned["dry_run"]) == (size, size, True)
        assert {each["step"] for each in planned["files"]} == {"upload"}
        assert not [path for path in (tmp_path / "root").rglob("*") if path.is_file()]
        plan = run(["mirror", "s3", "--bucket", "my-models-bucket/nim", "--dry-run"], environ).stdout
        assert "a?b=c%20d:e.json: it is not there" in plan
        assert "into the cache first" in plan

        first = told(run(["mirror", "s3", "-b", "s3://my-models-bucket/nim/", "--json"], environ))
        assert (first["fetched_bytes"], first["sent_bytes"], first["moved_bytes"]) == (size, size, 2 * size)
        assert first["destination"] == "s3://my-models-bucket/nim"
        stored = {path.name: path.read_bytes() for path in (tmp_path / "root/my-models-bucket/nim").iterdir()}
        assert "nim%2Fmeta%2Ftiny%3Ahf-1%2B2%3Ffile%3Da%3Fb%3Dc%2520d%3Ae.json" in stored
        assert {each["name"]: each["digest"] for each in first["files"]} == {
            name: str(Digest.of(data)) for name, data in stored.items()
        }

        second = told(run(["mirror", "s3", "-b", "my-models-bucket/nim", "--json"], environ))
        assert (second["moved_bytes"], {each["step"] for each in second["files"]}) == (0, {"skip"})
        text = run(["mirror", "s3", "-b", "my-models-bucket/nim"], environ).stdout
        assert "nothing: all 9 files were there already" in text
        plan = run(["mirror", "s3", "-b", "my-models-bucket/nim", "--dry-run"], environ).stdout
        assert "fetch     nothing: all is in the cache" in plan
        assert "upload    nothing: " in plan
        assert f"NIM_REPOSITORY_OVERRIDE=s3://my-models-bucket/nim lading serve {MODEL}" in text

        override = {"NIM_REPOSITORY_OVERRIDE": "s3://my-models-bucket/nim", **NOWHERE}
        path = f"{install(tmp_path / 'engine')}:{os.environ['PATH']}"
        other = {**machine(tmp_path / "other", ngc, **s3), **override, "PATH": path}
        with running(["serve", MODEL], other, tmp_path / "serve.log") as program:
            program.wait_until_ready()
            assert program.stop() == 0
        got = told(run(["download-to-cache", "--use-cache", "--json"], other))
        assert {each["path"]: each["digest"] for each in got["files"]} == {
            name: str(Digest.of(data)) for name, data in FILES.items()
        }


def test_bytes_that_the_mirror_has_wrongly_are_never_served(tmp_path: Path, ngc: NgcSimulator) -> None:
    with S3Simulator() as s3:
        bucket = s3.add("bucket", {})
        environ = machine(tmp_path, ngc, **KEYS, AWS_ENDPOINT_URL=s3.endpoint)
        files = {
            each["path"]: each["name"]
            for each in told(run(["mirror", "s3", "-b", "bucket", "--json"], environ))["files"]
        }
        name = files["tokenizer.json"]
        bucket.objects[name] = b"[]"
        other = machine(tmp_path / "other", ngc, **KEYS, AWS_ENDPOINT_URL=s3.endpoint)
        done = run(["download-to-cache"], {**other, "NIM_REPOSITORY_OVERRIDE": "s3://bucket", **NOWHERE})
        assert done.returncode == 4
        assert "tokenizer.json" in done.stderr


def test_a_run_that_was_killed_is_continued(tmp_path: Path, gateway: Ceph, ngc: NgcSimulator) -> None:
    weights = random.Random(3).randbytes(56 << 20)
    ngc.add_model("nim/meta/large", "1", tiny_model() | {"extra.safetensors": weights}, public=True)
    bucket = f"killed-{os.getpid()}"
    make_bucket(gateway, bucket)
    keys = {"AWS_ACCESS_KEY_ID": gateway.access_key, "AWS_SECRET_ACCESS_KEY": gateway.secret_key}
    environ = machine(tmp_path, ngc, AWS_ENDPOINT_URL=gateway.endpoint, **keys) | {
        "NIM_MODEL_PATH": "ngc://nim/meta/large:1"
    }
    assert run(["download-to-cache"], environ).returncode == 0
    log = tmp_path / "killed.log"
    command = ["mirror", "s3", "-b", bucket, "--json"]
    with running(command, {**environ, "LADING_MAX_BANDWIDTH": "12MiB", "LADING_CONNECTIONS": "2"}, log) as program:
        deadline = time.monotonic() + 60
        while not (planned := told(run([*command, "--dry-run"], environ)))["sent_earlier_bytes"]:
            assert time.monotonic() < deadline, program.output
        program.process.send_signal(signal.SIGKILL)
        program.process.wait()
    assert "continue" in {each["step"] for each in planned["files"]}
    done = told(run(command, environ))
    assert 0 < done["sent_bytes"] <= planned["upload_bytes"] - planned["sent_earlier_bytes"]
    assert told(run(command, environ))["moved_bytes"] == 0
    other = machine(tmp_path / "other", ngc, AWS_ENDPOINT_URL=gateway.endpoint, **keys)
    other |= {"NIM_REPOSITORY_OVERRIDE": f"s3://{bucket}", "NIM_MODEL_PATH": "ngc://nim/meta/large:1", **NOWHERE}
    got = told(run(["download-to-cache", "--json"], other))
    assert str(Digest.of(weights)) in {each["digest"] for each in got["files"]}


def test_to_google_with_the_program_on_path(tmp_path: Path, ngc: NgcSimulator, emulator: Emulator) -> None:
    emulator.make_bucket("my-google-bucket")
    environ = machine(tmp_path, ngc, STORAGE_EMULATOR_HOST=emulator.endpoint, PATH=f"{BINARIES}:/usr/bin:/bin")
    command = ["mirror", "gcs", "--bucket", "my-google-bucket", "--profiles", "vllm-bf16-tp1-pp1", "--json"]
    size = sum(map(len, FILES.values()))
    for sent_bytes in (size, 0):
        done = subprocess.run(command, env=environ, capture_output=True, text=True)
        assert told(done)["sent_bytes"] == sent_bytes
    other = machine(tmp_path / "other", ngc, STORAGE_EMULATOR_HOST=emulator.endpoint)
    other |= {"NIM_REPOSITORY_OVERRIDE": "gs://my-google-bucket", **NOWHERE}
    assert told(run(["download-to-cache", "--json"], other))["fetched_bytes"] == size


def test_google_is_asked_for_a_token_that_may_write(tmp_path: Path, ngc: NgcSimulator) -> None:
    pytest.importorskip("google.auth", reason="google-auth is not installed: pip install 'lading[gcs]'")
    with GoogleSimulator() as google:
        google.buckets["models"] = {}
        key = tmp_path / "sa.json"
        source = {"url": f"{google.endpoint}/subject"}
        federated = {
            "type": "external_account",
            "audience": "//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/p/providers/q",
            "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
            "token_url": f"{google.endpoint}/sts",
            "credential_source": source,
        }
        key.write_text(json.dumps(federated))
        environ = machine(tmp_path, ngc, GOOGLE_APPLICATION_CREDENTIALS=str(key))
        done = run(
            ["mirror", "gcs", "-b", "models", "--dry-run"],
            {**environ, "HTTPS_PROXY": google.endpoint, "NO_PROXY": "127.0.0.1"},
        )
        assert done.returncode == 3  # Google's own storage is not here
        assert "devstorage.read_write" in google.grants[0][1]["scope"]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["mirror", "s3", "-b", "hf://meta/llama"], 2, "model registries are not valid destinations"),
        (["mirror", "s3", "-b", "gs://bucket"], 2, "is no s3:// bucket"),
        (["mirror", "s3", "-b", "bucket", "--model-uri", "hf://meta/llama"], 2, "hf://meta/llama is not on NGC"),
        (["mirror", "s3", "-b", "bucket", "--model-uri", "/models"], 2, "is not on NGC"),
        (["mirror", "s3"], 2, "-b"),
        (["mirror", "azure", "-b", "x"], 2, "invalid choice"),
        (["mirror", "s3", "-b", "no-such-bucket"], 3, "there is no bucket|has no bucket no-such-bucket"),
    ],
)
def test_what_cannot_be_done_is_one_clear_error_before_a_byte_is_fetched(
    arguments: list[str], code: int, said: str, tmp_path: Path, ngc: NgcSimulator
) -> None:
    (tmp_path / "root").mkdir()
    with rclone(tmp_path / "root", tmp_path / "log") as endpoint:
        done = run(arguments, machine(tmp_path, ngc, **KEYS, AWS_ENDPOINT_URL=endpoint))
    assert done.returncode == code, done.stderr
    assert [each for each in said.split("|") if each in done.stderr], done.stderr
    assert "Traceback" not in done.stderr
    assert KEYS["AWS_SECRET_ACCESS_KEY"] not in done.stderr
    assert ngc.leaked_credentials == []
    assert not [each for each in ngc.requests if each.host == "cdn" and each.start is None]


def test_missing_credentials_are_told_before_a_byte_is_fetched(tmp_path: Path, ngc: NgcSimulator) -> None:
    (tmp_path / "root/bucket").mkdir(parents=True)
    with rclone(tmp_path / "root", tmp_path / "log") as endpoint:
        done = run(["mirror", "s3", "-b", "bucket"], machine(tmp_path, ngc, AWS_ENDPOINT_URL=endpoint))
    assert done.returncode == 3
    assert "no AWS credentials were found" in done.stderr
    assert "AWS_ACCESS_KEY_ID" in done.stderr


def test_a_signal_ends_it_soon_and_says_what_is_kept(tmp_path: Path, ngc: NgcSimulator) -> None:
    ngc.add_model("nim/meta/large", "1", tiny_model() | {"extra.safetensors": bytes(20 << 20)}, public=True)
    (tmp_path / "root/bucket").mkdir(parents=True)
    with rclone(tmp_path / "root", tmp_path / "log") as endpoint:
        environ = machine(tmp_path, ngc, **KEYS, AWS_ENDPOINT_URL=endpoint, LADING_MAX_BANDWIDTH="2MiB")
        environ["NIM_MODEL_PATH"] = "ngc://nim/meta/large:1"
        assert run(["download-to-cache"], {**environ, "LADING_MAX_BANDWIDTH": ""}).returncode == 0
        with running(["mirror", "s3", "-b", "bucket"], environ, tmp_path / "stopped.log") as program:
            program.wait_for_line("to upload")
            assert program.stop(signal.SIGTERM, seconds=10) == 128 + signal.SIGTERM
    assert "stopped by SIGTERM" in program.output
