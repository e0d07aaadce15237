"""One model of each family, as its config is published: what each layer keeps, what is pooled, what sees and hears."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from lading.model.attention import Kind, KvLayout
from lading.model.experts import sparse_layers
from lading.model.facts import ModelFacts, gather_facts
from lading.model.layers import Keep, layers_of
from lading.model.pool import Blocks, Pool, Strip
from lading.model.states import State
from lading.model.towers import MOST_IMAGE_TOKENS
from lading.model.weights import Heads, Loading
from tests.sparse import bf16

CONFIGS = Path(__file__).parents[1] / "assets/model-configs"
FULL, SLIDING, CHUNKED, STATE, CROSS = Kind.FULL, Kind.SLIDING, Kind.CHUNKED, Kind.STATE, Kind.CROSS


def facts_of(**config: Any) -> ModelFacts:
    return gather_facts({"architectures": ["XForCausalLM"], "model_type": "x", "hidden_size": 4096} | config, ())


def layout_of(**config: Any) -> KvLayout:
    found = facts_of(**config).kv
    assert found
    return found


HEADS = {"num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128}


@pytest.mark.parametrize(
    ("config", "layers"),
    [
        ({"model_type": "gpt_bigcode", "n_layer": 4, "n_head": 16, "n_embd": 2048, "multi_query": True}, {FULL: 4}),
        ({"model_type": "chatglm", "num_layers": 28, "num_attention_heads": 32, "multi_query_group_num": 2, "kv_channels": 128}, {FULL: 28}),
        ({"model_type": "ministral", "num_hidden_layers": 4, "sliding_window": [512, None]} | HEADS, {FULL: 2, SLIDING: 2}),
        ({"model_type": "phi3", "num_hidden_layers": 4, "sliding_window": 2047} | HEADS, {SLIDING: 4}),
        ({"model_type": "cohere2", "num_hidden_layers": 8, "sliding_window": 4096} | HEADS, {FULL: 2, SLIDING: 6}),
        ({"model_type": "olmo3", "num_hidden_layers": 4, "sliding_window": 4096, "layer_types": ["sliding_attention"] * 3 + ["full_attention"]} | HEADS, {FULL: 1, SLIDING: 3}),
        ({"model_type": "exaone4", "num_hidden_layers": 8, "sliding_window": 4096, "sliding_window_pattern": "LLLG"} | HEADS, {FULL: 2, SLIDING: 6}),
        ({"model_type": "afmoe", "num_hidden_layers": 8, "sliding_window": 2048, "global_attn_every_n_layers": 4} | HEADS, {FULL: 2, SLIDING: 6}),
        ({"model_type": "gemma3n_text", "num_hidden_layers": 10, "num_kv_shared_layers": 5, "sliding_window": 512, "layer_types": (["sliding_attention"] * 4 + ["full_attention"]) * 2} | HEADS, {FULL: 1, SLIDING: 4}),
        ({"model_type": "llama4_text", "num_hidden_layers": 8, "attention_chunk_size": 8192, "no_rope_layers": [1, 1, 1, 0] * 2} | HEADS, {FULL: 2, CHUNKED: 6}),
        ({"model_type": "mimo_v2_flash", "num_hidden_layers": 4, "attention_chunk_size": 128, "sliding_window_size": 128, "hybrid_layer_pattern": [0, 1, 1, 1], "swa_head_dim": 192, "swa_v_head_dim": 128, "swa_num_key_value_heads": 8, "v_head_dim": 128, "head_dim": 192, "num_attention_heads": 64, "num_key_value_heads": 4}, {FULL: 1, SLIDING: 3}),
        ({"model_type": "falcon_h1", "num_hidden_layers": 4, "mamba_n_heads": 24, "mamba_d_head": 64, "mamba_d_state": 256, "mamba_d_conv": 4} | HEADS, {FULL: 4, STATE: 4}),
        ({"model_type": "zamba2", "num_hidden_layers": 3, "layers_block_type": ["mamba", "hybrid", "mamba"], "n_mamba_heads": 64, "mamba_headdim": 64, "mamba_d_state": 64, "mamba_d_conv": 4, "attention_head_dim": 224, "num_attention_heads": 32}, {FULL: 1, STATE: 3}),
        ({"model_type": "bamba", "num_hidden_layers": 4, "attn_layer_indices": [2], "mamba_n_heads": 128, "mamba_d_head": 64, "mamba_d_state": 128, "mamba_d_conv": 4} | HEADS, {FULL: 1, STATE: 3}),
        ({"model_type": "jamba", "num_hidden_layers": 8, "attn_layer_period": 8, "attn_layer_offset": 4, "mamba_expand": 2, "mamba_d_state": 16, "mamba_d_conv": 4} | HEADS, {FULL: 1, STATE: 7}),
        ({"model_type": "granitemoehybrid", "num_hidden_layers": 4, "layer_types": ["mamba", "mamba", "attention", "mamba"], "mamba_n_heads": 48, "mamba_d_head": 64, "mamba_d_state": 128, "mamba_d_conv": 4} | HEADS, {FULL: 1, STATE: 3}),
        ({"model_type": "nemotron_h", "num_hidden_layers": 5, "hybrid_override_pattern": "ME*E-", "mamba_num_heads": 64, "mamba_head_dim": 64, "ssm_state_size": 128, "conv_kernel": 4} | HEADS, {FULL: 1, STATE: 1}),
        ({"model_type": "lfm2", "num_hidden_layers": 4, "full_attn_idxs": [2], "conv_L_cache": 3} | HEADS, {FULL: 1, STATE: 3}),
        ({"model_type": "minimax_text_01", "num_hidden_layers": 8, "attn_type_list": [0] * 7 + [1]} | HEADS, {FULL: 1, STATE: 7}),
        ({"model_type": "bailing_hybrid", "num_hidden_layers": 8, "layer_group_size": 4, "kv_lora_rank": 512, "qk_rope_head_dim": 64} | HEADS, {FULL: 2, STATE: 6}),
        ({"model_type": "kimi_linear", "num_hidden_layers": 4, "kv_lora_rank": 512, "qk_rope_head_dim": 64, "num_attention_heads": 32, "linear_attn_config": {"full_attn_layers": [4], "kda_layers": [1, 2, 3], "num_heads": 32, "head_dim": 128, "short_conv_kernel_size": 4}}, {FULL: 1, STATE: 3}),
        ({"model_type": "plamo2", "num_hidden_layers": 4, "mamba_step": 2, "mamba_num_heads": 64, "hidden_size_per_head": 128, "mamba_d_state": 64, "mamba_d_conv": 4, "num_attention_heads": 32}, {FULL: 2, STATE: 2}),
        ({"model_type": "mamba2", "num_hidden_layers": 4, "num_heads": 128, "head_dim": 64, "state_size": 128, "conv_kernel": 4, "n_groups": 8}, {STATE: 4}),
        ({"model_type": "falcon_mamba", "num_hidden_layers": 4, "state_size": 16, "conv_kernel": 4, "intermediate_size": 8192}, {STATE: 4}),
        ({"model_type": "nemotron-nas", "num_hidden_layers": 2, "num_attention_heads": 64, "block_configs": [{"attention": {"n_heads_in_group": 8}}, {"attention": {"no_op": True, "n_heads_in_group": None}}]}, {FULL: 1}),
        ({"model_type": "longcat_flash", "num_layers": 28, "num_hidden_layers": 56, "num_attention_heads": 64, "kv_lora_rank": 512, "qk_rope_head_dim": 64}, {FULL: 56}),
        ({"model_type": "deepseek_v32", "num_hidden_layers": 2, "layer_types": ["indexed_attention"] * 2, "num_attention_heads": 128, "kv_lora_rank": 512, "qk_rope_head_dim": 64, "index_topk": 2048, "index_head_dim": 128}, {FULL: 2}),
        ({"model_type": "kimi_linear", "num_hidden_layers": 2, "layer_types": ["linear_attention", "full_attention"], "linear_num_heads": 32, "linear_head_dim": 128, "linear_conv_kernel_dim": 4, "num_attention_heads": 32, "kv_lora_rank": 512, "qk_rope_head_dim": 64}, {FULL: 1, STATE: 1}),
        ({"model_type": "deepseek_v4", "num_hidden_layers": 2, "layer_types": ["heavily_compressed_attention", "sliding_attention"], "compress_rates": {"heavily_compressed_attention": 128}, "sliding_window": 128, "head_dim": 512, "qk_rope_head_dim": 64, "num_attention_heads": 64, "num_key_value_heads": 1}, {SLIDING: 2, FULL: 1}),
        ({"model_type": "whisper", "d_model": 1280, "decoder_layers": 32, "encoder_layers": 32, "decoder_attention_heads": 20, "max_source_positions": 1500, "max_target_positions": 448}, {FULL: 32, CROSS: 32}),
        ({"model_type": "t5", "d_model": 512, "num_layers": 6, "num_heads": 8, "d_kv": 64, "is_encoder_decoder": True, "n_positions": 512}, {FULL: 6, CROSS: 6}),
        ({"model_type": "deepseek_v4", "num_hidden_layers": 3, "compress_ratios": [0, 4, 128], "sliding_window": 128, "head_dim": 512, "qk_rope_head_dim": 64, "num_attention_heads": 64, "num_key_value_heads": 1}, {SLIDING: 3, FULL: 2}),
    ],
    ids=lambda value: value.get("model_type", ""),
)  # fmt: skip
def test_each_layer_keeps_what_its_family_does(config: Mapping[str, Any], layers: Mapping[Kind, int]) -> None:
    layout = layout_of(**config)
    assert dict(layout.layers) == layers
    assert (layout.state is not None) == (STATE in layers)
    assert layout.is_exact == (config["model_type"] != "deepseek_v4")
    assert layout.request_bytes(1000) > 0


@pytest.mark.parametrize(
    ("config", "bytes_by_tp"),
    [  # conv tail and matrix, as vLLM's state shapes have them
        ({"model_type": "mamba2", "num_heads": 128, "head_dim": 64, "state_size": 128, "conv_kernel": 4, "n_groups": 8},
         {1: (3 * (8192 + 2 * 8 * 128) + 128 * 64 * 128) * 2, 8: (3 * (8192 + 2 * 8 * 128) + 128 * 64 * 128) * 2 // 8}),
        ({"model_type": "granitemoehybrid", "layer_types": ["mamba"] * 3 + ["attention"], "mamba_n_heads": 48, "mamba_d_head": 64, "mamba_d_state": 128, "mamba_d_conv": 4, "mamba_n_groups": 1} | HEADS,
         {1: (3 * (3072 + 256) + 48 * 64 * 128) * 2, 4: 3 * (3072 // 4 + 256) * 2 + 48 * 64 * 128 * 2 // 4}),
        ({"model_type": "jamba", "attn_layer_period": 4, "attn_layer_offset": 1, "mamba_expand": 2, "mamba_d_state": 16, "mamba_d_conv": 4} | HEADS,
         {1: 8192 * (3 + 16) * 2, 2: 4096 * (3 + 16) * 2}),
        ({"model_type": "lfm2", "full_attn_idxs": [1], "conv_L_cache": 3, "conv_dim": 2048} | HEADS, {1: 2 * 2048 * 2}),
        ({"model_type": "minimax", "attn_type_list": [0, 0, 0, 1]} | HEADS, {1: 8 * 128 * 128 * 2}),
        ({"model_type": "kimi_linear", "num_attention_heads": 32, "kv_lora_rank": 512, "linear_attn_config": {"full_attn_layers": [4], "num_heads": 32, "head_dim": 128}},
         {1: 3 * 3 * 4096 * 2 + 32 * 128 * 128 * 4}),
        ({"model_type": "nemotron_h", "hybrid_override_pattern": "MM*M", "mamba_num_heads": 64, "mamba_head_dim": 64, "ssm_state_size": 128, "conv_kernel": 4, "n_groups": 8} | HEADS,
         {1: 3 * (4096 + 2048) * 2 + 64 * 64 * 128 * 4}),
    ],
    ids=lambda value: value.get("model_type", ""),
)  # fmt: skip
def test_a_state_has_the_size_that_the_engine_gives_it(
    config: Mapping[str, Any], bytes_by_tp: Mapping[int, int]
) -> None:
    state = layout_of(num_hidden_layers=4, **config).state
    assert state
    assert {tp: state.size_bytes(tp) for tp in bytes_by_tp} == bytes_by_tp


def test_tokens_guessed_ahead_lengthen_the_tail_and_take_a_state_each() -> None:
    assert State(3, 100, 1000).size_bytes(1, 2) == 5 * 100 * 2 + 2000
    layout = KvLayout({FULL: 2, STATE: 6}, 0, 4, 256, 2, state=State(3, 1000, 100_000))
    plain, ahead, kept = (
        layout.pool(blocks=how).request_blocks(100) for how in (Blocks(), Blocks(speculative=2), Blocks(keeps_states=True))
    )  # fmt: skip
    assert (ahead - plain, kept - plain) == (3 * 2, 3)


class TestPools:
    def test_a_hybrid_of_27b_has_blocks_of_784_tokens_and_of_1568_with_keys_in_8_bit(self) -> None:
        """As vLLM says when it starts Qwen 3.5 27B."""
        layout = layout_of(
            num_hidden_layers=64, num_attention_heads=24, num_key_value_heads=4, head_dim=256, model_type="qwen3_5_text",
            full_attention_interval=4, linear_num_value_heads=48, linear_num_key_heads=16, linear_key_head_dim=128,
            linear_value_head_dim=128, linear_conv_kernel_dim=4, mamba_ssm_dtype="float32",
        )  # fmt: skip
        assert [each.pool().groups[0][0].block for each in (layout, layout.with_kv_bytes(1))] == [784, 1568]

    def test_latent_attention_beside_states_is_cut_into_blocks_of_128(self) -> None:
        layout = KvLayout({FULL: 4, STATE: 12}, 0, 0, 576, 2, state=State(3, 12_288, 524_288, 4))
        assert layout.pool().groups[0][0].block % 128 == 0

    def test_layers_that_keep_less_of_a_token_have_longer_blocks(self) -> None:
        """Gemma 4: 25 sliding layers of 8 heads of 256, 5 full ones of 2 heads of 512."""
        published = json.loads((CONFIGS / "google__gemma-3-27b-it.json").read_text())["config"]["text_config"]
        layout = layout_of(
            num_hidden_layers=30, num_attention_heads=16, num_key_value_heads=8, head_dim=256, global_head_dim=512,
            num_global_key_value_heads=2, sliding_window=1024, layer_types=(["sliding_attention"] * 5 + ["full_attention"]) * 5,
        )  # fmt: skip
        assert published["sliding_window"] == 1024
        pool = layout.pool()
        assert {strip.kind: strip.block for strip, _ in pool.groups} == {SLIDING: 16, FULL: 32}
        assert pool.block_bytes == 5 * 16 * 8 * 512 * 2
        assert layout.growth_bytes() == 5 * 2 * 1024 * 2

    def test_kinds_that_are_about_as_many_share_groups_of_the_larger(self) -> None:
        """gpt-oss with a layer more of full attention, as a draft brings it: 13 and 12, not 2 groups of 12 and 1."""
        pool = KvLayout({FULL: 13, SLIDING: 12}, 128, 8, 128, 2).pool()
        assert [count for _, count in pool.groups] == [1, 1]
        assert pool.block_bytes == 13 * 16 * 8 * 128 * 2

    def test_pages_that_do_not_divide_are_added_up(self) -> None:
        strips = [Strip(FULL, 4, 0, 3000, 16), Strip(SLIDING, 4, 100, 7000, 16)]
        pool = Pool.of(strips, Blocks(), 0)
        assert pool.block_bytes == 4 * 10_000
        assert pool.request_bytes(1600, 16) == pytest.approx(100 * 4 * 3000 + 9 * 4 * 7000, rel=0.06)

    def test_an_engine_without_groups_gives_every_layer_blocks_for_all_tokens(self) -> None:
        layout = KvLayout({FULL: 4, SLIDING: 20}, 512, 8, 256, 2)
        whole = KvLayout({FULL: 24}, 0, 8, 256, 2)
        assert layout.request_bytes(50_000, blocks=Blocks(has_groups=False)) == whole.request_bytes(50_000)
        assert layout.request_bytes(50_000) < whole.request_bytes(50_000) / 2

    def test_a_pipeline_stage_has_its_layers_blocks(self) -> None:
        layout = KvLayout({FULL: 61}, 0, 8, 256, 2)
        assert layout.pool(share=layout.largest_share(2)).block_bytes * 61 == layout.pool().block_bytes * 31
        assert layout.pool(tp=4, share=1 / 61).block_bytes * 61 * 4 == layout.pool().block_bytes

    def test_newer_versions_print_what_requests_of_full_length_hold(self) -> None:
        pool = KvLayout({FULL: 2}, 0, 1, 128, 2).pool()
        assert pool.capacity(pool.block_bytes * 100, 160) == 1600
        assert pool.capacity(pool.block_bytes * 100, 161) == int(100 / 11 * 161)
        assert Pool((), 0).capacity(100, 10) == 0

    def test_an_encoders_tokens_are_kept_for_cross_attention(self) -> None:
        layout = KvLayout({FULL: 4, CROSS: 4}, 0, 20, 128, 2, encoder_tokens=1500)
        assert layout.pool().request_blocks(448) == 448 // 16 + 94

    def test_sparse_latent_attention_in_8_bit_is_packed(self) -> None:
        layout = KvLayout({FULL: 61}, 0, 0, 576, 2, extra_bytes=132, is_sparse=True)
        assert (layout.token_bytes(), layout.with_kv_bytes(1).token_bytes()) == (1152 + 132, 656 + 132)


@pytest.mark.parametrize(
    ("config", "sparse"),
    [
        ({"n_routed_experts": 8, "first_k_dense_replace": 2}, [2, 3, 4, 5]),
        ({"n_routed_experts": 8, "first_k_dense_replace": 1, "moe_layer_freq": 2}, [2, 4]),
        ({"n_routed_experts": 8, "moe_layer_freq": [0, 1, 1, 0, 1, 1]}, [1, 2, 4, 5]),
        ({"num_experts": 8, "decoder_sparse_step": 2, "mlp_only_layers": [3]}, [1, 5]),
        ({"num_local_experts": 8, "interleave_moe_layer_step": 2}, [1, 3, 5]),
        ({"num_local_experts": 8, "moe_layers": [0, 2]}, [0, 2]),
        ({"moe_num_experts": 8, "moe_layers_enum": "4, 5"}, [4, 5]),
        ({"num_experts": 8, "expert_layer_period": 2, "expert_layer_offset": 1}, [1, 3, 5]),
        ({"moe_num_experts": [8, 8], "moe_layer_start_index": 1, "moe_layer_end_index": 4}, [1, 2, 3, 4]),
        ({"num_experts": 8, "mlp_layer_types": ["dense"] + ["sparse"] * 5}, [1, 2, 3, 4, 5]),
        ({"n_routed_experts": 8, "hybrid_override_pattern": "ME*E-E"}, [1, 3, 5]),
        ({"num_experts": 8, "num_dense_layers": 3}, [3, 4, 5]),
        ({"num_experts": 8}, [0, 1, 2, 3, 4, 5]),
        ({}, []),
    ],
)  # fmt: skip
def test_the_layers_with_experts_are_told(config: Mapping[str, Any], sparse: list[int]) -> None:
    assert [number for number, has in enumerate(sparse_layers(config, 6)) if has] == sparse


def test_layers_may_have_heads_of_their_own() -> None:
    text = {
        "sliding_window": 512, "layer_types": ["full_attention", "sliding_attention"],
        "attention_other_setting": {"attention_type": "sliding_attention", "num_attention_groups": 2, "head_dim": 64},
    }  # fmt: skip
    assert layers_of(text, 2, Keep(FULL, 8, 256)) == [(Keep(FULL, 8, 256),), (Keep(SLIDING, 2, 128, 512),)]


@pytest.mark.parametrize(
    ("architecture", "model_type", "pooling", "is_encoder"),
    [
        ("BertModel", "bert", True, True),
        ("XLMRobertaForSequenceClassification", "xlm-roberta", True, True),
        ("ModernBertForTokenClassification", "modernbert", True, True),
        ("NomicBertModel", "nomic_bert", True, True),
        ("Qwen2Model", "qwen2", True, False),
        ("Qwen2ForSequenceClassification", "qwen2", True, False),
        ("LlamaForCausalLM", "llama", False, False),
        ("ChatGLMModel", "chatglm", False, False),
        ("GPT2LMHeadModel", "gpt2", False, False),
        ("InternVLChatModel", "internvl_chat", False, False),
        ("Qwen2_5OmniModel", "qwen2_5_omni", False, False),
        ("UltravoxModel", "ultravox", False, False),
    ],
)
def test_models_that_give_no_text_are_known(
    architecture: str, model_type: str, pooling: bool, is_encoder: bool
) -> None:
    facts = facts_of(architectures=[architecture], model_type=model_type, num_hidden_layers=2, num_attention_heads=4)
    assert (facts.pooling, facts.is_encoder) == (pooling, is_encoder)
    assert (facts.kv is None) == is_encoder
    assert facts.notes == ()


@pytest.mark.parametrize(
    ("config", "patches", "tokens", "is_bounded"),
    [
        ({"vision_config": {"image_size": 336, "patch_size": 14, "num_hidden_layers": 24, "hidden_size": 1024}}, 576, 576, False),
        ({"vision_config": {"image_size": 896, "patch_size": 14, "num_hidden_layers": 27, "hidden_size": 1152}, "mm_tokens_per_image": 256}, 4096, 256, False),
        ({"vision_config": {"depth": 32, "hidden_size": 1280, "patch_size": 14, "spatial_merge_size": 2}}, MOST_IMAGE_TOKENS * 4, MOST_IMAGE_TOKENS, True),
        ({"vision_config": {"image_size": 1540, "patch_size": 14, "hidden_size": 1024}, "spatial_merge_size": 2}, 12_100, 3025, False),
        ({"vision_config": {"image_size": 448, "patch_size": 14, "hidden_size": 1024}, "downsample_ratio": 0.5, "max_dynamic_patch": 12}, 1024 * 13, 256 * 13, False),
        ({"vision_config": {"image_size": [448, 448], "patch_size": [14, 14], "hidden_size": 1024}, "downsample_ratio": 0.5}, 1024, 256, False),
        ({"vision_config": {"image_size": 560, "patch_size": 14, "max_num_tiles": 4, "hidden_size": 1280}}, 6400, 6400, False),
        ({"vision_config": {"image_size": 336, "patch_size": 14, "hidden_size": 1024}, "image_grid_pinpoints": [[336, 672], [672, 672]]}, 576 * 5, 576 * 5, False),
        ({"thinker_config": {"vision_config": {"depth": 32, "hidden_size": 1280, "patch_size": 14, "spatial_merge_size": 2}}}, MOST_IMAGE_TOKENS * 4, MOST_IMAGE_TOKENS, True),
    ],
)  # fmt: skip
def test_an_image_becomes_so_many_tokens_at_most(
    config: dict[str, Any], patches: int, tokens: int, is_bounded: bool
) -> None:
    vision = facts_of(**config).vision
    assert vision
    assert (vision.patches, vision.image_tokens, vision.is_bounded) == (patches, tokens, is_bounded)
    assert vision.hidden_size


def test_what_hears_is_told() -> None:
    whisper = facts_of(model_type="whisper", num_mel_bins=80, encoder_layers=32, d_model=1280, encoder_attention_heads=20, max_source_positions=1500)  # fmt: skip
    assert whisper.audio
    assert (whisper.audio.layers, whisper.audio.hidden_size, whisper.audio.clip_tokens) == (32, 1280, 1500)
    assert facts_of(audio_config={"d_model": 1280, "encoder_layers": 32}).audio
    assert facts_of().audio is None
    assert facts_of().vision is None


def test_a_nested_config_leaves_out_what_its_class_has_by_default() -> None:
    facts = facts_of(text_config={"model_type": "mistral", "vocab_size": 32_064})
    assert (facts.layers, facts.kv_heads, facts.vocab_size, facts.intermediate_size) == (32, 8, 32_064, 14_336)
    assert facts_of(text_config={"model_type": "of tomorrow"}).layers is None


def test_what_the_config_does_not_say_the_tensors_may() -> None:
    facts = gather_facts({"architectures": ["X"]}, [bf16("model.embed_tokens.weight", 320, 64)])
    assert (facts.vocab_size, facts.hidden_size, facts.kv) == (320, 64, None)
    assert any("not counted" in note for note in facts.notes)


@pytest.mark.parametrize(
    ("declared", "tensors", "is_tied"),
    [
        (True, ["model.embed_tokens.weight", "lm_head.weight"], True),
        (False, ["model.embed_tokens.weight", "lm_head.weight"], False),
        (None, ["model.embed_tokens.weight", "lm_head.weight"], False),
        (None, ["model.embed_tokens.weight"], True),
        (False, ["model.embed_tokens.weight"], False),
    ],
)
def test_a_head_is_tied_where_it_is_said_or_where_there_is_none(
    declared: bool | None, tensors: list[str], is_tied: bool
) -> None:
    config = {"architectures": ["X"], "tie_word_embeddings": declared}
    weights = gather_facts(config, [bf16(name, 64, 8) for name in tensors]).weights
    assert weights
    assert weights.build.is_tied == is_tied


def test_what_is_of_a_kind_that_nobody_knows_is_bounded_and_said() -> None:
    layer = "model.layers.0.wondrous_block.thing.weight"
    known = [bf16("model.layers.0.self_attn.q_proj.weight", 64, 64), bf16("model.layers.0.big_norm.weight", 640)]
    facts = gather_facts({"architectures": ["X"]} | HEADS, [*known, bf16(layer, 64, 64)])
    assert facts.weights
    assert facts.weights.rank_bytes(Loading(2, 1, Heads())) == (64 * 64 * 3 + 1280,)
    assert any("46% of the weights are in layers of no known kind" in note for note in facts.notes)
    assert not any("no known kind" in note for note in gather_facts({"architectures": ["X"]} | HEADS, known).notes)


@pytest.mark.parametrize(
    "hint",
    [
        {"ssm_state_dim": 16}, {"rwkv_version": 7}, {"recurrent_block": True}, {"attention_window": 512},
        {"compress_rates": [4]}, {"layer_types": ["of_tomorrow"] * 4},
    ],
)  # fmt: skip
def test_a_config_that_speaks_of_something_not_understood_gives_a_bound(hint: dict[str, Any]) -> None:
    assert facts_of(num_hidden_layers=4, **HEADS).notes == ()
    facts = facts_of(num_hidden_layers=4, **HEADS, **hint)
    assert facts.kv
    assert not facts.kv.is_exact
    assert any("is a bound" in note for note in facts.notes)
