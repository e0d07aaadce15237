"""From an engine's lines to a kept calibration: the decisions as values, and once through with a stand-in engine."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lading.backends.engine_options import read_wish
from lading.cache.calibrations import Calibrations
from lading.calibrate import keep, listening, told
from lading.events import EngineOutput, Event, Note, Phase, PhaseChanged
from lading.hardware.inventory import Gpu, Inventory
from lading.model.facts import ModelFacts, gather_facts
from lading.model.safetensors import Tensor
from lading.profiles.calibration import Calibration, CalibrationKey
from lading.profiles.fit import calibration_key, target_of
from lading.profiles.measurement import Measurement
from lading.profiles.profile import Profile
from lading.units import GIB
from tests.models import CONFIG, tiny_model
from tests.program import Program, environment, running
from tests.simulators.hub import HubSimulator
from tests.simulators.vllm_program import install

MODEL = "hf://demo/tiny"
LINES = [
    "(EngineCore pid=7) INFO 11-20 10:00:01 [m.py:1] Model loading took 0.01 GiB memory and 1.0 seconds",
    "(EngineCore pid=7) INFO 11-20 10:00:01 [w.py:1] Available KV cache memory: 0.25 GiB",
    "(EngineCore pid=7) INFO 11-20 10:00:01 [k.py:1] CPU KV cache size: 1,048,576 tokens, Maximum concurrency for 512",
]


def facts() -> ModelFacts:
    return gather_facts(CONFIG, [Tensor("model.embed_tokens.weight", "BF16", (256, 64))])


def machine(gpus: int) -> Inventory:
    sizes = {"NVIDIA L40S": 48 * GIB, "NVIDIA L4": 24 * GIB}
    found = (Gpu(index, name, size, size, (8, 9)) for index, (name, size) in enumerate(sizes.items()))
    return Inventory(tuple(found)[:gpus], 64 * GIB, 64 * GIB, 8)


PROFILE = Profile("vllm", "bf16", 1, 1, False, "key")


def key(*tokens: str, gpus: int = 1, profile: Profile = PROFILE) -> CalibrationKey:
    target = target_of(machine(gpus), "0.33.0", profile, read_wish("vllm", tokens).options)
    return calibration_key(profile, facts(), target)


def test_the_key_says_what_runs_on_what() -> None:
    found = key()
    assert (found.engine, found.version, found.gpu) == ("vllm", "0.33.0", "NVIDIA L40S")
    assert (found.architecture, found.precision, found.weights_bytes) == ("LlamaForCausalLM", "bf16", 256 * 64 * 2)
    assert (found.tp, found.pp, found.lora, found.eager, found.other_flags) == (1, 1, False, False, "")
    assert key(gpus=2).gpu == "NVIDIA L4"
    assert (key(gpus=0).gpu, key(gpus=0).eager) == ("cpu", True)
    other = key(profile=Profile("vllm", "bf16", 2, 4, True, "key"))
    assert (other.tp, other.pp, other.lora) == (2, 4, True)


FLAGS_AND_KEYS: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "tokens": (("--max-num-batched-tokens", "8192"), {"batched_tokens": 8192}),
    "tokens, joined": (("--max_num_batched_tokens=8192",), {"batched_tokens": 8192}),
    "sequences": (("--max-num-seqs", "64"), {"sequences": 64}),
    "cache": (("--kv-cache-dtype", "fp8"), {"kv_dtype": "fp8"}),
    "eager": (("--enforce-eager",), {"eager": True}),
    "not eager": (("--no-enforce-eager",), {}),
    "length, share, pool and names": (
        ("--max-model-len", "4096", "--gpu-memory-utilization=0.8", "--kv-cache-memory-bytes", "9", "--port", "1"), {}
    ),
    "a key of an API": (("--api-key", "canary", "--served-model-name", "a", "b"), {}),
    "parallel sizes, which the profile has": (("-tp", "2", "--pipeline-parallel-size", "1"), {}),
}  # fmt: skip


@pytest.mark.parametrize("name", FLAGS_AND_KEYS)
def test_flags_that_change_what_is_needed_are_in_the_key_and_others_are_not(name: str) -> None:
    tokens, change = FLAGS_AND_KEYS[name]
    assert key(*tokens) == replace(key(), **change)


def test_a_flag_that_is_not_known_makes_a_key_of_its_own_and_is_not_written_down() -> None:
    keys = [key(*tokens) for tokens in ((), ("--some-flag", "canary"), ("--some-flag", "other"))]
    assert len({each.other_flags for each in keys}) == 3
    assert "canary" not in json.dumps(keys[1].to_json())


def heard(*events: Event, backend: str = "vllm") -> tuple[list[tuple[Measurement, ...]], list[Event]]:
    concluded: list[tuple[Measurement, ...]] = []
    reported: list[Event] = []
    report = listening(reported.append, backend, concluded.append)
    for event in events:
        report(event)
    return concluded, reported


READY = PhaseChanged(Phase.READY, "the model answers")


def test_a_start_is_concluded_once_when_the_model_answers_and_lines_after_it_do_not_count() -> None:
    events: list[Event] = [*map(EngineOutput, LINES), READY, EngineOutput(LINES[1].replace("0.25", "9.0")), READY]
    concluded, reported = heard(*events)
    assert concluded == [(Measurement(round(0.01 * GIB), None, None, None, GIB // 4, 1_048_576),)]
    assert reported == events


def test_the_measurement_is_there_before_anybody_hears_that_the_model_answers() -> None:
    order: list[str] = []
    report = listening(lambda event: order.append(type(event).__name__), "vllm", lambda _: order.append("concluded"))
    report(EngineOutput(LINES[1]))
    report(READY)
    assert order == ["EngineOutput", "concluded", "PhaseChanged"]


def test_a_start_without_figures_or_without_an_end_is_not_concluded() -> None:
    assert heard(EngineOutput("INFO hello"), READY)[0] == []
    assert heard(*map(EngineOutput, LINES), PhaseChanged(Phase.STOPPED))[0] == []
    assert heard(*map(EngineOutput, LINES), READY, backend="unknown")[0] == []


def found(measured: Measurement, computed: Measurement, **change: Any) -> Calibration:
    return Calibration(replace(key(), **change), (measured,), (computed,), 1)


def test_the_log_has_one_line_for_all_and_one_for_each_at_debug() -> None:
    near = found(Measurement(15 * GIB, kv_pool_bytes=20 * GIB), Measurement(15 * GIB, kv_pool_bytes=20 * GIB))
    first, *others = told(near, None)
    assert first.level == "INFO"
    assert first.text.startswith("memory measured by the engine: weights 15.00 GiB, estimated 15.00 (+0.0 %); KV pool")
    assert [(note.level, note.text.partition(",")[0]) for note in others] == [
        ("DEBUG", "rank 0: weights 15.00 GiB"),
        ("DEBUG", "rank 0: KV pool 20.00 GiB"),
    ]


def test_a_serious_deviation_is_a_warning_with_the_figure_and_the_way_to_report_it() -> None:
    off = found(Measurement(kv_pool_bytes=20 * GIB), Measurement(kv_pool_bytes=22 * GIB), tp=2)
    (warning,) = (note for note in told(off, Path("/cache/x.json")) if note.level == "WARNING")
    for part in (
        "estimated 22.00 (+10.0 %)",
        "5%",
        "tp2",
        "vllm 0.33.0 on NVIDIA L40S",
        "docs/calibration.md",
        "x.json",
    ):
        assert part in warning.text


def test_a_calibration_that_cannot_be_kept_is_said_and_hinders_nothing(tmp_path: Path) -> None:
    (tmp_path / "calibrations").write_text("a file where the directory should be")
    notes: list[Event] = []
    keep(found(Measurement(1), Measurement(1)), Calibrations(tmp_path / "calibrations"), notes.append)
    deadline = time.monotonic() + 20
    while not notes and time.monotonic() < deadline:
        time.sleep(0.01)
    (note,) = notes
    assert isinstance(note, Note)
    assert note.level == "WARNING"


@pytest.fixture
def hub() -> Iterator[HubSimulator]:
    with HubSimulator() as simulator:
        simulator.add_model("demo/tiny", tiny_model())
        yield simulator


@pytest.fixture
def environ(hub: HubSimulator, tmp_path: Path) -> dict[str, str]:
    path = f"{install(tmp_path / 'engine')}:{os.environ['PATH']}"
    return environment(tmp_path, HF_ENDPOINT=hub.endpoint, PATH=path, STAND_IN=json.dumps({"lines": LINES}))


def kept(tmp_path: Path, seconds: float = 20) -> dict[str, Any]:
    """The one calibration in the cache, once it is there."""
    deadline = time.monotonic() + seconds
    while not (files := list((tmp_path / "cache/calibrations").glob("*.json"))):
        assert time.monotonic() < deadline, "no calibration was kept"
        time.sleep(0.01)
    (file,) = files
    data = json.loads(file.read_text())
    assert isinstance(data, dict)
    return data


def gauge(program: Program, name: str, labels: str) -> float:
    (line,) = (
        line for line in program.get("/v1/metrics").body.decode().splitlines() if f"lading_{name}{labels}" in line
    )
    return float(line.split()[-1])


def test_a_start_is_measured_told_exported_and_kept(tmp_path: Path, environ: dict[str, str]) -> None:
    with running(["serve", MODEL], environ, tmp_path / "log") as program:
        program.wait_until_ready()
        assert gauge(program, "memory_measured_bytes", '{term="kv_pool",rank="0"}') == GIB // 4
        assert gauge(program, "memory_estimated_bytes", '{term="kv_pool",rank="0"}') == GIB // 4
        assert gauge(program, "kv_pool_measured_tokens", '{rank="0"}') == 1_048_576
        assert program.get("/v1/metadata").json()["memory"]["measured"][0]["kv_pool_bytes"] == GIB // 4
        data = kept(tmp_path)
        assert "memory measured by the engine: weights 0.01 GiB" in program.output
        assert "off by more than" not in program.output
        assert program.stop() == 0
    assert (data["key"]["engine"], data["key"]["version"], data["key"]["gpu"]) == ("vllm", "0.32.0+cpu", "cpu")
    assert data["measured"][0]["kv_pool_tokens"] == 1_048_576


def test_a_start_that_differs_from_its_estimate_warns(tmp_path: Path, environ: dict[str, str]) -> None:
    lines = [LINES[1].replace("0.25", "0.35")]
    with running(["serve", MODEL], {**environ, "STAND_IN": json.dumps({"lines": lines})}, tmp_path / "log") as program:
        program.wait_until_ready()
        assert "KV pool 0.35 GiB, estimated 0.25 (-28.6 %), for LlamaForCausalLM bf16 tp1 pp1" in program.output
        kept(tmp_path)


def test_a_start_that_fails_is_no_measurement(tmp_path: Path, environ: dict[str, str]) -> None:
    settings = json.dumps({"lines": LINES, "crash": "ERROR it broke"})
    with running(["serve", MODEL], {**environ, "STAND_IN": settings}, tmp_path / "log") as program:
        assert program.process.wait(60) == 7
    assert not (tmp_path / "cache/calibrations").exists()
