"""What attention keeps: the engine's block arithmetic, held to what its logs say."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lading.model.attention import Kind, KvLayout, kv_layout
from lading.model.facts import gather_facts
from lading.units import GIB

CONFIGS = Path(__file__).parents[1] / "assets/model-configs"


def layout_of(name: str) -> KvLayout:
    published = json.loads((CONFIGS / f"{name}.json").read_text())
    found = gather_facts(published["config"], (), quantization_file=published.get("hf_quant_config")).kv
    assert found
    return found


def told(**text: Any) -> KvLayout:
    found = kv_layout(text, layers=12, heads=4, head_dim=64, dtype_bytes=2)
    assert found
    return found


class TestPools:
    @pytest.mark.parametrize(
        ("layout", "tp", "pool_gib", "tokens"),
        [  # KV cache memory and "GPU KV cache size" of published vLLM 0.19 logs on H100; the GiB have two decimals
            (KvLayout({Kind.FULL: 32}, 0, 8, 256, 2), 1, 58.11, 476_016),
            (KvLayout({Kind.FULL: 32}, 0, 8, 256, 2), 4, 67.44, 2_209_792),
            (KvLayout({Kind.FULL: 32}, 0, 8, 256, 1), 1, 58.11, 952_032),
            (KvLayout({Kind.FULL: 28}, 0, 4, 256, 2), 1, 58.53, 1_096_000),
            (KvLayout({Kind.FULL: 80}, 0, 8, 256, 2), 2, 3.04, 19_920),
            (KvLayout({Kind.FULL: 80}, 0, 8, 256, 2), 4, 36.72, 481_296),
            (KvLayout({Kind.FULL: 48}, 0, 4, 256, 2), 1, 15.41, 168_288),
            (KvLayout({Kind.FULL: 12, Kind.SLIDING: 12}, 128, 8, 128, 2), 1, 58.47, 1_277_184),
            (KvLayout({Kind.FULL: 12, Kind.SLIDING: 12}, 128, 8, 128, 2), 2, 59.32, 2_591_776),
        ],
    )
    def test_a_pool_has_room_for_the_tokens_that_the_engine_says(
        self, layout: KvLayout, tp: int, pool_gib: float, tokens: int
    ) -> None:
        assert layout.pool_tokens(int(pool_gib * GIB), tp=tp) == pytest.approx(tokens, rel=2e-4)


class TestRequests:
    def test_whole_blocks_and_the_null_block(self) -> None:
        assert KvLayout({Kind.FULL: 1}, 0, 1, 1024, 2).request_bytes(17) == 3 * 16 * 2048

    def test_a_window_bounds_what_a_long_request_takes(self) -> None:
        layout = KvLayout({Kind.SLIDING: 2}, 1000, 1, 8, 2)
        short, long, longer = (layout.request_bytes(tokens, batched_tokens=500) for tokens in (600, 2000, 200_000))
        assert short < long == longer == (-(-1499 // 16) + 1 + 1) * 2 * 16 * 16

    def test_groups_have_the_size_of_the_rarest_kind(self) -> None:
        """Gemma 3 27B: 10 full layers, 52 sliding ones in 6 groups of 10, 8 of them empty."""
        layout = layout_of("google__gemma-3-27b-it")
        assert dict(layout.layers) == {Kind.FULL: 10, Kind.SLIDING: 52}
        page = 10 * 16 * 2 * 16 * 128 * 2
        blocks = 8192 // 16 + 6 * (-(-(1024 - 1 + 2048) // 16) + 1) + 1
        assert layout.request_bytes(8192, batched_tokens=2048) == page * blocks

    @pytest.mark.parametrize(("tp", "block"), [(1, 544), (2, 544)])
    def test_a_page_of_attention_is_no_smaller_than_a_state(self, tp: int, block: int) -> None:
        """Qwen3-Next: blocks of 544 tokens, as vLLM says when it starts."""
        text = {
            "full_attention_interval": 4, "linear_num_value_heads": 32, "linear_num_key_heads": 16,
            "linear_key_head_dim": 128, "linear_value_head_dim": 128, "linear_conv_kernel_dim": 4,
        }  # fmt: skip
        layout = kv_layout(text, layers=48, heads=2, head_dim=256, dtype_bytes=2)
        assert layout
        assert dict(layout.layers) == {Kind.FULL: 12, Kind.STATE: 36}
        one = layout.request_bytes(1, tp=tp)
        assert one == 12 * block * layout.token_bytes(tp) * (1 + 3 + 1)
        assert layout.request_bytes(block, tp=tp) == one < layout.request_bytes(block + 1, tp=tp)

    def test_latent_attention_is_whole_on_every_rank(self) -> None:
        layout = layout_of("deepseek-ai__DeepSeek-V3")
        assert layout.token_bytes(1) == layout.token_bytes(8) == (512 + 64) * 2
        assert layout_of("deepseek-ai__DeepSeek-V3.2").token_bytes() == (512 + 64) * 2 + 128 + 4

    @given(st.integers(1, 10**6), st.integers(1, 10**6), st.sampled_from([1, 2, 4, 8]))
    def test_more_tokens_never_take_less_and_more_ranks_never_more(self, one: int, two: int, tp: int) -> None:
        layout = KvLayout({Kind.FULL: 4, Kind.SLIDING: 20, Kind.CHUNKED: 5}, 512, 8, 128, 2)
        less, more = sorted((one, two))
        assert layout.request_bytes(less, tp=tp) <= layout.request_bytes(more, tp=tp)
        assert layout.request_bytes(more, tp=tp) <= layout.request_bytes(more)


class TestConfigs:
    @pytest.mark.parametrize(
        ("text", "layers"),
        [
            ({}, {Kind.FULL: 12}),
            ({"sliding_window": 64}, {Kind.SLIDING: 12}),
            ({"sliding_window": 64, "use_sliding_window": False}, {Kind.FULL: 12}),
            (
                {"sliding_window": 64, "use_sliding_window": True, "max_window_layers": 8},
                {Kind.FULL: 8, Kind.SLIDING: 4},
            ),
            ({"sliding_window": 64, "sliding_window_pattern": 6}, {Kind.FULL: 2, Kind.SLIDING: 10}),
            ({"sliding_window": 64, "model_type": "gemma2"}, {Kind.FULL: 6, Kind.SLIDING: 6}),
            (
                {"sliding_window": 64, "layer_types": ["sliding_attention"] * 8 + ["full_attention"] * 4},
                {Kind.FULL: 4, Kind.SLIDING: 8},
            ),
            ({"layer_types": ["sliding_attention"] * 12}, {Kind.FULL: 12}),
            ({"attention_chunk_size": 8192}, {Kind.FULL: 3, Kind.CHUNKED: 9}),
            ({"attention_chunk_size": 8192, "no_rope_layers": [1, 1, 0] * 4}, {Kind.FULL: 4, Kind.CHUNKED: 8}),
            ({"hybrid_override_pattern": "MEM*-E" * 2}, {Kind.FULL: 2, Kind.STATE: 4}),
            ({"layers_block_type": ["mamba", "moe", "attention"] * 4}, {Kind.FULL: 4, Kind.STATE: 4}),
            ({"attn_layer_period": 6, "attn_layer_offset": 2}, {Kind.FULL: 2, Kind.STATE: 10}),
            ({"layer_types": ["something_new"] * 12}, {Kind.FULL: 12}),
        ],
    )
    def test_the_kind_of_each_layer_is_read(self, text: Mapping[str, Any], layers: Mapping[Kind, int]) -> None:
        assert dict(told(**text).layers) == layers

    @pytest.mark.parametrize(
        "text",
        [
            {"compress_ratios": [0, 4]},
            {"global_head_dim": 80, "sliding_window": 64, "sliding_window_pattern": 6},
            {"full_attention_interval": 4},
            {"layer_types": ["something_new"] * 12},
        ],
    )
    def test_what_is_not_known_is_no_exact_figure(self, text: Mapping[str, Any]) -> None:
        assert not told(**text).is_exact

    def test_nothing_is_said_where_the_config_says_nothing(self) -> None:
        assert kv_layout({}, layers=None, heads=4, head_dim=64, dtype_bytes=2) is None
        assert kv_layout({}, layers=4, heads=None, head_dim=64, dtype_bytes=2) is None
        assert kv_layout({}, layers=10**9, heads=4, head_dim=64, dtype_bytes=2) is None
        assert KvLayout({}, 0, 0, 0, 2).request_bytes(100) == 0
