"""Quantised checkpoints: what each rank holds, held to what vLLM itself says it took, and what is declared of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from lading.model.facts import ModelFacts, gather_facts
from lading.model.quantization import quantization_of
from lading.model.safetensors import Tensor
from lading.model.weights import Build, Heads, Loading, weight_table
from lading.units import GIB
from tests.sparse import bf16, deepseek, llama

LLAMA_8B = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 4096, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 8, "intermediate_size": 14_336, "vocab_size": 128_256,
    "max_position_embeddings": 131_072, "rope_theta": 5e5, "tie_word_embeddings": False, "torch_dtype": "bfloat16",
}  # fmt: skip
LLAMA_70B = LLAMA_8B | {
    "hidden_size": 8192, "num_hidden_layers": 80, "num_attention_heads": 64, "intermediate_size": 28_672,
}  # fmt: skip
GPT_OSS_20B = {
    "architectures": ["GptOssForCausalLM"], "model_type": "gpt_oss", "hidden_size": 2880, "num_hidden_layers": 24,
    "num_attention_heads": 64, "num_key_value_heads": 8, "head_dim": 64, "intermediate_size": 2880,
    "num_local_experts": 32, "num_experts_per_tok": 4, "vocab_size": 201_088, "max_position_embeddings": 131_072,
    "rope_theta": 150_000, "sliding_window": 128, "layer_types": ["sliding_attention", "full_attention"] * 12,
    "tie_word_embeddings": False, "torch_dtype": "bfloat16", "quantization_config": {"quant_method": "mxfp4"},
}  # fmt: skip

Quantize = Callable[[Tensor], list[Tensor]]


def quantized(tensors: list[Tensor], how: Quantize) -> list[Tensor]:
    """The tensors with the linear layers of the layers quantised."""
    found = []
    for tensor in tensors:
        is_linear = ".layers." in tensor.name and tensor.name.endswith("_proj.weight")
        found += how(tensor) if is_linear else [tensor]
    return found


def int8(tensor: Tensor) -> list[Tensor]:
    scale = Tensor(tensor.name.replace(".weight", ".weight_scale"), "BF16", (tensor.shape[0], 1))
    return [Tensor(tensor.name, "I8", tensor.shape), scale]


def fp8(tensor: Tensor) -> list[Tensor]:
    scale = Tensor(tensor.name.replace(".weight", ".weight_scale"), "BF16", (tensor.shape[0], 1))
    return [Tensor(tensor.name, "F8_E4M3", tensor.shape), scale]


def int4(tensor: Tensor) -> list[Tensor]:
    rows, columns = tensor.shape
    name = tensor.name.removesuffix(".weight")
    return [
        Tensor(f"{name}.weight_packed", "I32", (rows, columns // 8)),
        Tensor(f"{name}.weight_scale", "BF16", (rows, columns // 128)),
        Tensor(f"{name}.weight_zero_point", "I32", (rows // 8, columns // 128)),
        Tensor(f"{name}.weight_g_idx", "I32", (columns,)),
        Tensor(f"{name}.weight_shape", "I64", (2,)),
    ]


def gpt_oss(config: dict[str, Any]) -> list[Tensor]:
    hidden, inner, experts = config["hidden_size"], config["intermediate_size"], config["num_local_experts"]
    queries, keys = (
        config["num_attention_heads"] * config["head_dim"],
        config["num_key_value_heads"] * config["head_dim"],
    )
    found = [bf16(f"{name}.weight", config["vocab_size"], hidden) for name in ("model.embed_tokens", "lm_head")]
    for number in range(config["num_hidden_layers"]):
        name = f"model.layers.{number}"
        for part, rows in (("q", queries), ("k", keys), ("v", keys)):
            found += [bf16(f"{name}.self_attn.{part}_proj.weight", rows, hidden)]
            found += [bf16(f"{name}.self_attn.{part}_proj.bias", rows)]
        found += [
            bf16(f"{name}.self_attn.o_proj.weight", hidden, queries),
            bf16(f"{name}.self_attn.sinks", config["num_attention_heads"]),
            bf16(f"{name}.mlp.router.weight", experts, hidden),
            Tensor(f"{name}.mlp.experts.gate_up_proj_blocks", "U8", (experts, 2 * inner, hidden // 32, 16)),
            Tensor(f"{name}.mlp.experts.gate_up_proj_scales", "U8", (experts, 2 * inner, hidden // 32)),
            bf16(f"{name}.mlp.experts.gate_up_proj_bias", experts, 2 * inner),
            Tensor(f"{name}.mlp.experts.down_proj_blocks", "U8", (experts, hidden, inner // 32, 16)),
            Tensor(f"{name}.mlp.experts.down_proj_scales", "U8", (experts, hidden, inner // 32)),
            bf16(f"{name}.mlp.experts.down_proj_bias", experts, hidden),
        ]
    return found


def largest(facts: ModelFacts, tp: int, pp: int = 1, **how: Any) -> float:
    """The GiB of the rank that holds most, its rotary positions with it."""
    assert facts.weights
    heads = Heads(facts.attention_heads or 0, facts.kv_heads or 0)
    return (max(facts.weights.rank_bytes(Loading(tp, pp, heads, **how))) + facts.rope_cache_bytes) / GIB


@pytest.mark.parametrize(
    ("config", "tensors", "tp", "measured_gib"),
    [  # "Model loading took", per rank, as published logs of vLLM have it
        (LLAMA_8B, quantized(llama(LLAMA_8B), int8), 1, 8.49),
        (LLAMA_8B, quantized(llama(LLAMA_8B), int4), 1, 5.38),
        (LLAMA_70B, quantized(llama(LLAMA_70B), int8), 2, 33.88),
        (LLAMA_70B, quantized(llama(LLAMA_70B), fp8), 2, 33.88),
        (LLAMA_70B, quantized(llama(LLAMA_70B), fp8), 4, 16.96),
        (GPT_OSS_20B, gpt_oss(GPT_OSS_20B), 1, 13.64),
    ],
    ids=["int8", "int4", "70B int8", "70B fp8", "70B fp8 of 4", "mxfp4"],
)
def test_a_rank_holds_what_the_engine_measured(
    config: dict[str, Any], tensors: list[Tensor], tp: int, measured_gib: float
) -> None:
    assert largest(gather_facts(config, tensors), tp) == pytest.approx(measured_gib, rel=0.005)


def test_mxfp4_experts_are_padded_for_each_rank() -> None:
    """2880 becomes 3072, and half of it, 1440, becomes 1536; measured 7.01 GiB, within one per cent."""
    facts = gather_facts(GPT_OSS_20B, gpt_oss(GPT_OSS_20B))
    assert largest(facts, 2) == pytest.approx(7.01, rel=0.01)
    assert largest(facts, 2) > largest(gather_facts(GPT_OSS_20B | {"quantization_config": {}}, gpt_oss(GPT_OSS_20B)), 2)
    assert largest(facts, 2, expert_ranks=2) < largest(facts, 2)


def test_linear_layers_can_be_quantised_while_they_are_loaded() -> None:
    facts = gather_facts(LLAMA_8B, llama(LLAMA_8B))
    assert largest(facts, 1, quantize="fp8") == pytest.approx(8.49, rel=0.005)
    assert largest(facts, 1, quantize="bitsandbytes") == pytest.approx(5.7, rel=0.02)
    assert largest(facts, 1, number_bytes=4) == pytest.approx(29.98, rel=0.005)


def test_quantisation_on_line_leaves_embeddings_norms_routers_and_the_head() -> None:
    wide = ["model.embed_tokens.weight", "lm_head.weight", "model.layers.0.input_layernorm.weight",
            "model.layers.0.mlp.gate.weight", "model.layers.0.mlp.experts.gate_up_proj_bias"]  # fmt: skip
    narrow = ["model.layers.0.self_attn.q_proj.weight", "model.layers.0.self_attn.kv_a_proj_with_mqa.weight",
              "model.layers.0.mlp.experts.3.up_proj.weight", "model.layers.0.mlp.experts.gate_up_proj",
              "visual.blocks.0.mlp.linear_fc1.weight"]  # fmt: skip
    for names, size in ((wide, 2), (narrow, 1)):
        for name in names:
            table = weight_table([bf16(name, 64, 64)], Build(layers=1))
            assert table.rank_bytes(Loading(1, 1, Heads(), quantize="fp8")) == (64 * 64 * size,), name


def test_quantised_latent_projections_are_kept_in_16_bit_beside() -> None:
    name = "model.layers.0.self_attn.kv_b_proj.weight"
    assert weight_table([Tensor(name, "F8_E4M3", (64, 64))], Build()).total_bytes == 64 * 64 * 3
    assert weight_table([bf16(name, 64, 64)], Build()).total_bytes == 64 * 64 * 2


@pytest.mark.parametrize(("ranks", "here"), [(1, 256), (8, 32), (3, 86), (512, 1)])
def test_whole_experts_are_shared_among_ranks(ranks: int, here: int) -> None:
    experts = [bf16(f"model.layers.0.mlp.experts.{number}.up_proj.weight", 10, 10) for number in range(256)]
    shared = bf16("model.layers.0.mlp.shared_experts.up_proj.weight", 16, 10)
    table = weight_table([*experts, shared], Build(layers=1, experts=256))
    assert table.rank_bytes(Loading(2, 1, Heads(), expert_ranks=ranks)) == (here * 200 + 160,)


def test_drafts_are_counted_apart() -> None:
    config = {
        "architectures": ["DeepseekV3ForCausalLM"], "model_type": "deepseek_v3", "hidden_size": 128,
        "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 256, "moe_intermediate_size": 128,
        "n_routed_experts": 4, "first_k_dense_replace": 1, "kv_lora_rank": 32, "q_lora_rank": 32,
        "qk_nope_head_dim": 32, "qk_rope_head_dim": 16, "v_head_dim": 32, "vocab_size": 640,
        "num_nextn_predict_layers": 1, "tie_word_embeddings": False,
    }  # fmt: skip
    with_draft, without = (gather_facts(config, deepseek(config, drafts=drafts)) for drafts in (1, 0))
    assert with_draft.weights
    assert without.weights
    assert with_draft.weights_bytes == without.weights_bytes
    assert with_draft.weights.draft_bytes > 2 * 640 * 128 * 2
    assert (with_draft.draft_layers, without.weights.draft_bytes) == (1, 0)


@pytest.mark.parametrize(
    ("declared", "file", "precision", "is_bounded"),
    [
        ({"quant_method": "fp8", "weight_block_size": [128, 128]}, None, "fp8", False),
        ({"quant_method": "fbgemm_fp8"}, None, "fp8", False),
        ({"quant_method": "compressed_tensors", "config_groups": {"g": {"weights": {"type": "int", "num_bits": 8}}}}, None, "int8", False),
        ({"quant_method": "compressed-tensors", "config_groups": {"g": {"weights": {"type": "float", "num_bits": 8}}}, "sparsity_config": {"format": "sparse-24-bitmask"}}, None, "fp8", True),
        ({"quant_method": "modelopt_fp4"}, None, "nvfp4", False),
        ({"producer": {"name": "modelopt"}, "quantization": {"quant_algo": "FP8"}}, None, "fp8", False),
        ({"quant_method": "fp8"}, {"quantization": {"quant_algo": "NVFP4"}}, "nvfp4", False),
        ({}, {"quantization": {"quant_algo": "W4A8_AWQ"}}, "w4a8_awq", False),
        ({"quant_method": "gptq", "bits": 4, "desc_act": True}, None, "int4_gptq", False),
        ({"quant_method": "auto-round", "bits": 4}, None, "int4_auto-round", True),
        ({"quant_method": "hqq", "nbits": 8}, None, "int8_hqq", True),
        ({"quant_method": "quark"}, None, "int4_quark", True),
        ({"quant_method": "torchao"}, None, "int4_torchao", True),
        ({"quant_method": "of tomorrow", "bits": "many"}, None, "int4_of tomorrow", True),
    ],
)  # fmt: skip
def test_what_is_declared_in_its_forms(
    declared: dict[str, Any], file: dict[str, Any] | None, precision: str, is_bounded: bool
) -> None:
    found = quantization_of({"quantization_config": declared}, {}, file)
    assert found
    assert (found.precision, found.is_bounded) == (precision, is_bounded)
    notes = gather_facts(LLAMA_8B | {"quantization_config": declared}, (), quantization_file=file).notes
    assert any("is not known" in note for note in notes) == is_bounded


@pytest.mark.parametrize("holder", ["quantization_config", "compression_config"])
def test_a_nested_model_may_declare_its_own(holder: str) -> None:
    config = {
        "architectures": ["X"],
        "text_config": {holder: {"quant_method": "fp8", "kv_cache_scheme": {"type": "float", "num_bits": 8}}},
    }
    facts = gather_facts(config | {"num_hidden_layers": 2, "hidden_size": 64, "num_attention_heads": 4}, ())
    assert (facts.precision, facts.kv and facts.kv.dtype_bytes) == ("fp8", 1)
