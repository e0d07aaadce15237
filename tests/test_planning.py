"""Which GPUs of the catalogue could serve a model."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from lading.hardware.catalogue import catalogue, described
from lading.hardware.inventory import Device
from lading.planning import COUNTS, Offer, plan_machines
from lading.profiles.fit import Engine, Wish
from lading.profiles.generate import generate_profiles
from lading.profiles.options import EngineOptions
from lading.units import GIB
from tests.profiles.situations import LLAMA_8B
from tests.program import environment, run

LLAMA_70B = replace(LLAMA_8B, weights_bytes=141_000_000_000, layers=80)
NAMES = {described(f"1x{name}").gpus[0].name: name for name in ("L4", "L40S", "H100", "B200")}
GPUS = tuple(each for each in catalogue() if each.name in NAMES)


def offers(wish: Wish = Wish(), facts=LLAMA_70B) -> dict[tuple[str, int], Offer]:
    engines = [Engine("vllm", "0.33.0", Device.CPU)]
    profiles = generate_profiles(facts, ["vllm"], "m", extra_sizes=[(wish.tp, wish.pp or 1)] if wish.tp else [])
    found = plan_machines(facts, profiles, engines, wish, GPUS)
    return {(NAMES[each.gpu.name], each.count): each for each in found}


def test_a_large_model_needs_few_large_gpus_or_many_small_ones():
    found = offers()
    assert {count for _, count in found} == set(COUNTS)
    assert {key for key, each in found.items() if not each.serves} == {
        ("L4", 1), ("L4", 2), ("L4", 4), ("L40S", 1), ("L40S", 2), ("H100", 1),
    }  # fmt: skip
    assert found["B200", 1].fit.profile.name == "vllm-bf16-tp1-pp1"


def test_a_length_is_the_models_own_or_the_longest_that_fits():
    found = offers()
    assert found["B200", 2].max_model_len == 131_072
    assert found["B200", 2].concurrency > 1
    shorter = found["H100", 2]
    assert 0 < shorter.max_model_len < 131_072
    assert shorter.concurrency == pytest.approx(1, abs=0.2)


def test_more_gpus_hold_more_at_once():
    found = offers(Wish(options=EngineOptions(max_model_len=8192)))
    assert found["H100", 4].concurrency < found["H100", 8].concurrency


def test_parallel_flags_leave_only_the_machines_that_they_use():
    assert {count for _, count in offers(Wish(tp=4))} == {4, 8}


def test_heads_that_do_not_split_are_served_in_stages():
    odd = replace(LLAMA_8B, attention_heads=7, kv_heads=7, weights_bytes=100 * GIB)
    found = offers(facts=odd)
    assert found["H100", 2].fit.profile.name == "vllm-bf16-tp1-pp2"
    assert ("H100", 4) not in found


def test_the_plan_is_printed_for_people_and_for_programs(tmp_path: Path):
    text = run(["plan", "demo"], environment(tmp_path))
    assert text.returncode == 0
    assert "1 x NVIDIA L40S" in text.stdout
    done = run(["plan", "demo", "--format", "json", "--engine", "sglang==0.5.23"], environment(tmp_path))
    machines = json.loads(done.stdout)["machines"]
    assert {each["count"] for each in machines} == set(COUNTS)
    old = [each for each in machines if each["gpu"].startswith("Tesla")]
    assert old
    assert not any(each["fits"] for each in old)
    others = [each for each in machines if each not in old]
    assert all(each["fits"] and each["max_model_len"] and each["concurrency"] > 0 for each in others)
    assert machines[0]["profile"] == "sglang-bf16-tp1-pp1"


def test_a_model_that_nothing_serves_says_so(tmp_path: Path):
    done = run(["plan", "demo", "--tensor-parallel-size", "3"], environment(tmp_path))
    assert done.returncode == 0
    assert "no GPU of the catalogue serves it" in done.stdout
