"""What vLLM holds beside weights and KV cache, held to what its logs say."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lading.model.facts import ModelFacts
from lading.profiles.overhead import (
    Limits,
    activation_bytes,
    constants_for,
    graph_bytes,
    non_torch_bytes,
)
from lading.units import GIB

H100, L40S, A100 = "NVIDIA H100 80GB HBM3", "NVIDIA L40S", "NVIDIA A100-SXM4-80GB"
SERVER = Limits(8192, 1024)


def shape(
    hidden: int, inner: int, vocabulary: int, *, layers: int = 32, experts: int = 0, precision: str = "bf16"
) -> ModelFacts:
    return ModelFacts(
        architecture="X", model_type="x", precision=precision, quantization=None, weights_bytes=0, parameters=0,
        max_model_len=None, layers=layers, hidden_size=hidden, attention_heads=None, kv_heads=None, head_dim=None,
        vocab_size=vocabulary, intermediate_size=inner, has_remote_code=False, experts_per_token=experts,
        expert_size=inner,
    )  # fmt: skip


LLAMA_8B, QWEN_7B, QWEN_72B = shape(4096, 14_336, 128_256), shape(3584, 18_944, 152_064), shape(8192, 29_568, 152_064)
QWEN3_30B_A3B, GPT_OSS_20B = (
    shape(2048, 768, 151_936, experts=8, layers=48),
    shape(2880, 2880, 201_088, experts=4, precision="mxfp4"),
)


@pytest.mark.parametrize(
    ("facts", "version", "tp", "activation_gib", "non_torch_gib"),
    [  # "torch peak memory increase" and "non-torch forward increase" of published logs on H100
        (LLAMA_8B, "0.19.0", 1, 1.89, 0.25),
        (LLAMA_8B, "0.19.0", 2, 1.89, 2.07),
        (LLAMA_8B, "0.19.0", 4, 1.89, 2.13),
        (QWEN_7B, "0.19.0", 1, 2.21, 0.24),
        (QWEN_72B, "0.19.0", 4, 2.29, 2.21),
        (QWEN3_30B_A3B, "0.19.0", 1, 2.68, 0.27),
        (GPT_OSS_20B, "0.19.0", 1, 2.87, 0.25),
        (GPT_OSS_20B, "0.11.0", 1, 7.38, 0.13),
        (LLAMA_8B, "0.11.0", 1, 4.76, 0.13),
    ],
)
def test_the_profile_runs_peak_is_what_the_engine_measured(
    facts: ModelFacts, version: str, tp: int, activation_gib: float, non_torch_gib: float
) -> None:
    constants = constants_for(version)
    assert activation_bytes(facts, constants, SERVER, tp) / GIB == pytest.approx(activation_gib, rel=0.02)
    assert non_torch_bytes(constants, H100, tp) / GIB == pytest.approx(non_torch_gib, abs=0.12)


def test_a_wide_layer_outweighs_a_small_vocabulary() -> None:
    facts = replace(LLAMA_8B, vocab_size=1000)
    assert activation_bytes(facts, constants_for("0.19"), SERVER, 1) == 8192 * (3 * 14_336 + 4 * 4096) * 2


@pytest.mark.parametrize(
    ("version", "utilization", "budget_has_graphs"),
    [
        ("0.6.5.dev0", 0.90, False),
        ("0.19.1+cu128", 0.90, False),
        ("0.20.0", 0.90, False),
        ("0.21", 0.92, True),
        ("0.33.0", 0.92, True),
        ("7.1", 0.92, True),
        ("of any version", 0.92, True),
        ("", 0.92, True),
    ],
)
def test_a_version_has_the_constants_of_the_last_one_that_was_measured(
    version: str, utilization: float, budget_has_graphs: bool
) -> None:
    found = constants_for(version)
    assert (found.utilization, found.budget_has_graphs) == (utilization, budget_has_graphs)


@pytest.mark.parametrize(
    ("name", "total_gib", "limits"),
    [
        (H100, 79.19, Limits(8192, 1024)),
        ("NVIDIA H200", 139.81, Limits(8192, 1024)),
        ("NVIDIA B200", 178.35, Limits(16_384, 1024)),
        (L40S, 44.42, Limits(2048, 256)),
        (A100, 79.15, Limits(2048, 256)),
        ("NVIDIA GB10", 121.69, Limits(2048, 256)),
    ],
)
def test_the_engines_limits_go_by_the_gpu(name: str, total_gib: float, limits: Limits) -> None:
    assert Limits.of(name, int(total_gib * GIB)) == limits


def test_ranks_that_reduce_over_nvlink_take_more_than_over_pcie() -> None:
    constants = constants_for("0.19")
    assert non_torch_bytes(constants, "NVIDIA A100 80GB PCIe", 8) == non_torch_bytes(constants, L40S, 8)
    assert non_torch_bytes(constants, L40S, 8) < non_torch_bytes(constants, A100, 2)


def test_graphs_are_those_of_a_stages_layers() -> None:
    constants = constants_for("0.33")
    assert graph_bytes(LLAMA_8B, constants, 1) / GIB == pytest.approx(0.25 + 32 * 0.0205, abs=0.01)
    assert graph_bytes(LLAMA_8B, constants, 4) / GIB == pytest.approx(0.25 + 8 * 0.0205, abs=0.01)
    assert graph_bytes(QWEN3_30B_A3B, constants, 1) > graph_bytes(
        replace(QWEN3_30B_A3B, experts_per_token=0), constants, 1
    )
