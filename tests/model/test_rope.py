"""The tables of rotary positions, as vLLM 0.32's classes build them."""

from __future__ import annotations

from typing import Any

import pytest

from lading.model.rope import rope_numbers
from tests.model.published import facts_of

PLAIN = {"model_type": "llama", "max_position_embeddings": 1000, "rope_theta": 1e6}
SECTIONS = {"mrope_section": [16, 24, 24]}
NESTED = {
    "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
    "full_attention": {"rope_type": "proportional", "rope_theta": 1e6, "partial_rotary_factor": 0.25},
}


@pytest.mark.parametrize(
    ("config", "numbers"),
    [
        pytest.param({}, 1000 * 128, id="a row for each position"),
        pytest.param({"rope_theta": None}, 1000 * 128, id="turned by the class's default"),
        pytest.param({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, 1000 * 128, id="llama3 stretches none"),
        pytest.param({"rope_scaling": {"type": "linear", "factor": 4.0}}, 4000 * 128, id="linear"),
        pytest.param({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, 2000 * 128, id="dynamic"),
        pytest.param(
            {"rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 500}},
            2000 * 128,
            id="yarn, from the original",
        ),
        pytest.param(
            {"rope_scaling": {"type": "longrope"}, "original_max_position_embeddings": 100}, 1100 * 128, id="longrope"
        ),
        pytest.param({"rope_scaling": {"type": "mrope", **SECTIONS}}, 4000 * 128, id="positions ahead in a video"),
        pytest.param(
            {"rope_scaling": {"rope_type": "default", **SECTIONS}, "model_type": "qwen3_vl_text"},
            1000 * 128,
            id="positions that are not ahead",
        ),
        pytest.param({"partial_rotary_factor": 0.5}, 1000 * 64, id="half of a head"),
        pytest.param({"model_type": "glm4_moe"}, 1000 * 64, id="half of a head by the class's default"),
        pytest.param({"qk_rope_head_dim": 64}, 1000 * 64, id="latent attention"),
        pytest.param({"model_type": "gemma3_text", "rope_theta": None}, 2 * 1000 * 128, id="windows turn otherwise"),
        pytest.param(
            {"model_type": "gemma3_text", "rope_scaling": {"rope_type": "linear", "factor": 8.0}},
            9000 * 128,
            id="only what sees everything is stretched",
        ),
        pytest.param({"rope_parameters": NESTED, "global_head_dim": 512}, 1000 * (128 + 512), id="by kind of layer"),
        pytest.param({"rope_parameters": {kind: {"rope_theta": 1e4} for kind in NESTED}}, 128_000, id="kinds agree"),
        pytest.param({"swa_rope_theta": 10_000}, 2 * 1000 * 128, id="a base for windows"),
        pytest.param({"swa_rope_theta": 1_000_000}, 1000 * 128, id="the same base for windows"),
        pytest.param({"rope_theta": [1e4, 1e6, 1e4]}, 2 * 1000 * 128, id="a base for each layer"),
        pytest.param({"model_type": "nemotron_h"}, 0, id="attention that does not turn"),
        pytest.param({"model_type": "gpt2"}, 0, id="learned positions"),
        pytest.param({"alibi": True}, 0, id="alibi"),
        pytest.param({"position_embedding_type": "nope"}, 0, id="no positions"),
    ],
)
def test_there_is_a_table_for_each_way_to_turn(config: dict[str, Any], numbers: int) -> None:
    found = {key: value for key, value in (PLAIN | config).items() if value is not None}
    assert rope_numbers(found, 128) == numbers


@pytest.mark.parametrize("value", [-1, "x", [], {}, True, 1e300, float("nan")])
def test_a_factor_that_makes_no_sense_stretches_nothing(value: object) -> None:
    assert rope_numbers(PLAIN | {"rope_scaling": {"type": "linear", "factor": value}}, 128) == 128_000


@pytest.mark.parametrize(
    ("name", "size_bytes"),
    [  # buffers of the engine's classes
        ("Qwen__Qwen2.5-VL-7B-Instruct", 512_000 * 128 * 2),
        ("Qwen__Qwen3.5-9B", 262_144 * 64 * 2),
        ("google__gemma-3-27b-it", (1_048_576 + 131_072) * 128 * 2),
        ("openbmb__MiniCPM3-4B", 65_536 * 32 * 2),
        ("tiiuae__falcon-180B-chat", 2048 * 64 * 2),
        ("deepseek-ai__DeepSeek-V3", 163_840 * 64 * 2),
    ],
)
def test_a_published_model_keeps_what_the_engine_does(name: str, size_bytes: int) -> None:
    assert facts_of(name).rope_cache_bytes == size_bytes
