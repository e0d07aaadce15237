"""Decoders with latent attention: DeepSeek V2 to V4, MiniCPM3."""

from __future__ import annotations

from tests.checkpoints.decoder import deepseek_mlp, dense_mlp, gated, next_layers
from tests.checkpoints.parts import Config, Part, buffer, draft, head, linear, plain, table, vector


def latent_attention(config: Config, prefix: str) -> list[Part]:
    """Down- and up-projections of queries and of keys with values; the indexer where attention is sparse."""
    hidden, heads, rank = config["hidden_size"], config["num_attention_heads"], config["kv_lora_rank"]
    nope, rope = config["qk_nope_head_dim"], config["qk_rope_head_dim"]
    value = config.get("v_head_dim") or hidden // heads
    queries = config.get("q_lora_rank")
    if queries:
        parts = [
            *linear(f"{prefix}.q_a_proj", queries, hidden),
            *plain(f"{prefix}.q_a_layernorm", queries),
            *linear(f"{prefix}.q_b_proj", heads * (nope + rope), queries),
        ]
    else:
        parts = linear(f"{prefix}.q_proj", heads * (nope + rope), hidden)
    parts += [
        *linear(f"{prefix}.kv_a_proj_with_mqa", rank + rope, hidden),
        *plain(f"{prefix}.kv_a_layernorm", rank),
        *linear(f"{prefix}.kv_b_proj", heads * (nope + value), rank),
        *linear(f"{prefix}.o_proj", hidden, heads * value),
    ]
    if config.get("index_topk"):
        index_heads, width = config["index_n_heads"], config["index_head_dim"]
        parts += [
            *linear(f"{prefix}.indexer.wq_b", index_heads * width, queries or hidden),
            *linear(f"{prefix}.indexer.wk", width, hidden),
            *plain(f"{prefix}.indexer.k_norm", width, bias=True),
            *plain(f"{prefix}.indexer.weights_proj", index_heads, hidden),
        ]
    return parts


def _layer(config: Config, layer: str, number: int) -> list[Part]:
    mlp = deepseek_mlp if config.get("n_routed_experts") else dense_mlp
    return [
        *latent_attention(config, f"{layer}.self_attn"),
        *mlp(config, layer, number),
        *plain(f"{layer}.input_layernorm", config["hidden_size"]),
        *plain(f"{layer}.post_attention_layernorm", config["hidden_size"]),
    ]


def latent_decoder(config: Config) -> list[Part]:
    """DeepSeek V2, V3, V3.2, MiniCPM3 and those that copy them."""
    hidden, vocabulary = config["hidden_size"], config["vocab_size"]
    parts = table("model.embed_tokens", vocabulary, hidden)
    for number in range(config["num_hidden_layers"]):
        parts += _layer(config, f"model.layers.{number}", number)
    parts += plain("model.norm", hidden)
    if not config.get("tie_word_embeddings"):
        parts += head("lm_head", vocabulary, hidden)
    return parts + next_layers(config, "model.", lambda layer, number: _layer(config, layer, number))


def deepseek_v4(config: Config) -> list[Part]:
    """DeepSeek V4: one shared key-value head, compressors, hyper-connections; names without ``model.``."""
    hidden, vocabulary = config["hidden_size"], config["vocab_size"]
    parts = [*table("embed", vocabulary, hidden), *plain("norm", hidden), *head("head", vocabulary, hidden)]
    parts += _streams("hc_head", config, rows=config["hc_mult"], scales=1)
    for number in range(config["num_hidden_layers"]):
        parts += _v4_layer(config, f"layers.{number}", number)
    for number in range(config.get("num_nextn_predict_layers", 0)):
        parts += draft(_v4_draft(config, f"mtp.{number}"))
    return parts


def _streams(name: str, config: Config, *, rows: int, scales: int) -> list[Part]:
    return [
        *vector(f"{name}_base", rows, dtype="F32"),
        *vector(f"{name}_fn", rows, config["hc_mult"] * config["hidden_size"], dtype="F32"),
        *vector(f"{name}_scale", scales, dtype="F32"),
    ]


def _v4_layer(config: Config, layer: str, number: int) -> list[Part]:
    hidden, streams = config["hidden_size"], config["hc_mult"]
    mixed = streams * (streams + 2)
    return [
        *_v4_attention(config, f"{layer}.attn", config["compress_ratios"][number]),
        *_v4_experts(config, f"{layer}.ffn", by_hash=number < config.get("num_hash_layers", 0)),
        *plain(f"{layer}.attn_norm", hidden),
        *plain(f"{layer}.ffn_norm", hidden),
        *_streams(f"{layer}.hc_attn", config, rows=mixed, scales=3),
        *_streams(f"{layer}.hc_ffn", config, rows=mixed, scales=3),
    ]


def _v4_attention(config: Config, prefix: str, ratio: int) -> list[Part]:
    hidden, heads, width = config["hidden_size"], config["num_attention_heads"], config["head_dim"]
    queries, groups, rank = config["q_lora_rank"], config["o_groups"], config["o_lora_rank"]
    parts = [
        *linear(f"{prefix}.wq_a", queries, hidden),
        *plain(f"{prefix}.q_norm", queries),
        *linear(f"{prefix}.wq_b", heads * width, queries),
        *linear(f"{prefix}.wkv", width, hidden),
        *plain(f"{prefix}.kv_norm", width),
        *linear(f"{prefix}.wo_a", groups * rank, heads * width // groups),
        *linear(f"{prefix}.wo_b", hidden, groups * rank),
        *vector(f"{prefix}.attn_sink", heads, dtype="F32"),
    ]
    if ratio:
        parts += _compressor(f"{prefix}.compressor", hidden, width, ratio)
    if ratio == 4:
        index_heads, index_width = config["index_n_heads"], config["index_head_dim"]
        parts += [
            *linear(f"{prefix}.indexer.wq_b", index_heads * index_width, queries),
            *plain(f"{prefix}.indexer.weights_proj", index_heads, hidden),
            *_compressor(f"{prefix}.indexer.compressor", hidden, index_width, ratio),
        ]
    return parts


def _compressor(prefix: str, hidden: int, width: int, ratio: int) -> list[Part]:
    out = 2 * width if ratio == 4 else width  # windows that overlap keep two
    return [
        *vector(f"{prefix}.ape", ratio, out, dtype="F32"),
        *plain(f"{prefix}.wkv", out, hidden),
        *plain(f"{prefix}.wgate", out, hidden),
        *plain(f"{prefix}.norm", width),
    ]


def _v4_experts(config: Config, prefix: str, *, by_hash: bool) -> list[Part]:
    hidden, inner, count = config["hidden_size"], config["moe_intermediate_size"], config["n_routed_experts"]
    names = ("w1", "w3", "w2")
    parts = plain(f"{prefix}.gate", count, hidden)
    if by_hash:
        parts += buffer(f"{prefix}.gate.tid2eid", config["vocab_size"], config["num_experts_per_tok"], dtype="I64")
    else:
        parts += buffer(f"{prefix}.gate.bias", count, dtype="F32")
    for number in range(count):
        parts += gated(f"{prefix}.experts.{number}", hidden, inner, names=names)
    return parts + gated(f"{prefix}.shared_experts", hidden, inner * config["n_shared_experts"], names=names)


def _v4_draft(config: Config, prefix: str) -> list[Part]:
    hidden = config["hidden_size"]
    return [
        *_v4_layer(config, prefix, config["num_hidden_layers"]),
        *linear(f"{prefix}.e_proj", hidden, hidden),
        *linear(f"{prefix}.h_proj", hidden, hidden),
        *plain(f"{prefix}.enorm", hidden),
        *plain(f"{prefix}.hnorm", hidden),
        *plain(f"{prefix}.norm", hidden),
        *_streams(f"{prefix}.hc_head", config, rows=config["hc_mult"], scales=1),
    ]
