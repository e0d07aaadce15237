"""Weights of each rank as they are loaded, whatever was asked of the engine."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lading.model.safetensors import Tensor
from lading.model.weights import Build, weight_table
from lading.profiles.options import EngineOptions
from lading.profiles.sizes import quantization_of, rank_sizes
from tests.profiles.situations import LLAMA_8B, profile

ROWS, HIDDEN = 128, 64
TENSORS = [
    Tensor("model.embed_tokens.weight", "BF16", (ROWS, HIDDEN)),
    *(Tensor(f"model.layers.{layer}.mlp.up_proj.weight", "BF16", (HIDDEN, HIDDEN)) for layer in range(4)),
    *(Tensor(f"model.layers.{layer}.input_layernorm.weight", "BF16", (HIDDEN,)) for layer in range(4)),
    Tensor("vision_tower.merger.weight", "BF16", (HIDDEN, HIDDEN)),
    Tensor("lm_head.weight", "BF16", (ROWS, HIDDEN)),
]
TABLE = weight_table(TENSORS, Build(layers=4))
FACTS = replace(LLAMA_8B, weights=TABLE, weights_bytes=TABLE.total_bytes, layers=4)
VOCABULARY, LINEAR, NORM = ROWS * HIDDEN * 2, HIDDEN * HIDDEN * 2, HIDDEN * 2


def weights(
    options: EngineOptions = EngineOptions(), *, tp: int = 1, pp: int = 1, precision: str = "bf16"
) -> list[int]:
    ranks = rank_sizes(FACTS, replace(profile(precision, tp, pp), online=precision != "bf16"), options)
    return [rank.weights[0].size_bytes for rank in ranks]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (EngineOptions(), 2 * VOCABULARY + 5 * LINEAR + 4 * NORM),
        (EngineOptions(dtype="float32"), 2 * (2 * VOCABULARY + 5 * LINEAR + 4 * NORM)),
        (EngineOptions(language_model_only=True), 2 * VOCABULARY + 4 * LINEAR + 4 * NORM),
        (EngineOptions(quantization="fp8"), 2 * VOCABULARY + 3 * LINEAR + 4 * NORM),
        (EngineOptions(cpu_offload_bytes=LINEAR), 2 * VOCABULARY + 4 * LINEAR + 4 * NORM),
    ],
    ids=["as they are", "float32", "no images", "fp8 while loading", "a part in RAM"],
)
def test_weights_are_loaded_as_asked(options: EngineOptions, expected: int) -> None:
    assert weights(options) == [expected]


def test_a_profile_of_another_precision_than_the_checkpoint_quantises_while_loading() -> None:
    assert weights(precision="fp8") == weights(EngineOptions(quantization="fp8"))


@pytest.mark.parametrize(
    ("precision", "options", "method"),
    [
        ("bf16", EngineOptions(), None),
        ("bf16", EngineOptions(quantization="bitsandbytes"), "bitsandbytes"),
        ("fp8", EngineOptions(), "fp8"),
        ("fp8", EngineOptions(dtype="float32"), None),
        ("bf16", EngineOptions(quantization="awq"), None),
    ],
)
def test_only_16_bit_weights_are_quantised_while_loading(precision: str, options: EngineOptions, method: str) -> None:
    online = replace(profile(precision), online=precision != "bf16")
    assert quantization_of(FACTS, online, options) == method
    assert quantization_of(replace(FACTS, precision="int4_awq"), profile("int4_awq"), options) is None


def test_stages_have_their_layers_and_ranks_their_share() -> None:
    first, last = weights(pp=2)
    assert first == last == VOCABULARY + 3 * LINEAR + 2 * NORM
    assert weights(tp=2)[0] == weights(tp=2)[1] == VOCABULARY + 2 * LINEAR + LINEAR + 4 * NORM
    assert [rank.layers for rank in rank_sizes(FACTS, profile(pp=3), EngineOptions())] == [1, 2, 1]


def test_without_headers_the_files_are_split_evenly() -> None:
    facts = replace(FACTS, weights=None, weights_bytes=1000)
    assert rank_sizes(facts, profile(tp=3), EngineOptions())[0].weights[0].size_bytes == 334
    half = rank_sizes(facts, profile(), EngineOptions(quantization="fp8"))[0]
    assert half.weights[0].size_bytes == 500
