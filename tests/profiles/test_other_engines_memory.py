"""SGLang's and TensorRT-LLM's accounting, held to their start-up logs and formulas."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from lading.hardware.inventory import Device
from lading.model.attention import Kind, KvLayout
from lading.model.facts import ModelFacts
from lading.profiles.memory import estimate
from lading.profiles.options import EngineOptions
from lading.profiles.profile import Profile
from lading.profiles.terms import Estimate, Target
from lading.units import GIB, MIB
from tests.profiles.situations import H100_BYTES, LLAMA_8B, vision


def held(
    engine: str,
    version: str,
    facts: ModelFacts = LLAMA_8B,
    total_bytes: int = H100_BYTES,
    tp: int = 1,
    **options: Any,
) -> Estimate:
    asked = EngineOptions(**options)
    where = Target(Device.CUDA, total_bytes, engine, version, "GPU", (9, 0), options=asked)
    return estimate(facts, Profile(engine, facts.precision, tp, 1, False, "m"), where)


def test_sglangs_first_fractions_give_the_pool_of_a_published_log() -> None:
    gemma = replace(
        LLAMA_8B,
        weights_bytes=int(8.13 * GIB),
        layers=34,
        kv=KvLayout({Kind.FULL: 34}, 0, 4, 512, 2),
        vision=vision(1152, 4304, 4096, 256),
    )
    rank = held("sglang", "0.4.4", gemma, int(139.81 * GIB)).binding
    assert rank.kv_pool_bytes / GIB == pytest.approx(108.24, rel=0.01)
    assert rank.kv_pool_tokens == pytest.approx(834_615, rel=0.01)


@pytest.mark.parametrize(
    ("total_gib", "tp", "reserved_mib"),
    [
        (24, 1, 512 + 1.5 * 2048 + 2 * 24 + 128),
        (24, 4, 512 + 1.5 * 2048 + 2 * 80 + 512),
        (44, 1, 512 + 1.5 * 4096 + 2 * 32 + 128),
        (79, 1, 512 + 1.5 * 8192 + 2 * 256 + 128),
        (178, 8, 512 + 1.5 * 16_384 + 2 * 512 + 1024),
    ],
)
def test_sglangs_reserve_follows_its_formula(total_gib: int, tp: int, reserved_mib: float) -> None:
    total = total_gib * GIB
    rank = held("sglang", "0.5.23", total_bytes=total, tp=tp).ranks[0]
    kept = rank.bytes_of("activation", "cuda_graphs", "reserve")
    assert kept == pytest.approx((total - GIB / 2) * reserved_mib * MIB / total, rel=1e-6)


def test_sglangs_share_is_of_what_is_free_before_the_weights_are_loaded() -> None:
    rank = held("sglang", "0.5.23", gpu_utilization=0.8).ranks[0]
    assert rank.kv_pool_bytes + rank.bytes_of("weights") == pytest.approx(0.8 * (H100_BYTES - GIB / 2), rel=1e-6)


def test_sglang_counts_the_cache_token_by_token() -> None:
    found = held("sglang", "0.5.23", max_model_len=1001).binding
    assert found.kv_bytes_per_request == (1001 + 1) * 131_072
    assert held("sglang", "0.5.23", kv_pool_tokens=5000).binding.kv_pool_tokens == 5000


def test_sglangs_windowed_layers_have_a_share_of_the_tokens_and_the_figure_is_a_bound() -> None:
    mixed = replace(LLAMA_8B, kv=KvLayout({Kind.FULL: 10, Kind.SLIDING: 10}, 128, 8, 256, 2), layers=20)
    whole = replace(LLAMA_8B, kv=KvLayout({Kind.FULL: 18}, 0, 8, 256, 2), layers=20)
    found = held("sglang", "0.5.23", mixed)
    assert found.kv_bytes == held("sglang", "0.5.23", whole).kv_bytes
    assert not found.is_exact


def test_tensorrt_llm_bounds_the_pool_of_a_published_log_from_below() -> None:
    facts = replace(
        LLAMA_8B, precision="fp8", weights_bytes=int(8.46 * GIB), kv=KvLayout({Kind.FULL: 32}, 0, 8, 256, 1)
    )
    asked: dict[str, Any] = {"gpu_utilization": 0.8, "batched_tokens": 23_552, "max_sequences": 4096}
    pool = held("tensorrt_llm", "0.20.0", facts, **asked).binding
    assert 0.9 * 52.51 < pool.kv_pool_bytes / GIB <= 52.51
    assert pool.kv_pool_tokens % 32 == 0


@pytest.mark.parametrize("engine", ["sglang", "tensorrt_llm"])
def test_figures_that_were_not_measured_say_so(engine: str) -> None:
    assert any("not measured" in note for note in held(engine, "").notes)


@pytest.mark.parametrize("engine", ["sglang", "tensorrt_llm"])
def test_terms_and_pool_fill_the_gpu(engine: str) -> None:
    found = held(engine, "")
    for rank in found.ranks:
        assert rank.fixed_bytes + rank.kv_pool_bytes == found.budget_bytes == H100_BYTES
