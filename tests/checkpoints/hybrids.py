"""Decoders that mix attention with states or with layers of unlike size: Qwen3-Next, Qwen3.5, Nemotron, Gemma 4."""

from __future__ import annotations

from tests.checkpoints.decoder import STYLES, Style, attention, dense_mlp, experts, gated, stacked
from tests.checkpoints.parts import Config, Part, buffer, draft, head, linear, plain, table, vector

_PATTERN = {"M": "mamba", "E": "moe", "*": "attention", "-": "mlp"}
_GATED = Style(qk_norm=True)


def gated_delta(config: Config, prefix: str = "model.") -> list[Part]:
    """Qwen3-Next and Qwen3.5: linear attention in most layers, gated attention in every fourth."""
    hidden, vocabulary = config["hidden_size"], config["vocab_size"]
    parts = table(f"{prefix}embed_tokens", vocabulary, hidden)
    for number in range(config["num_hidden_layers"]):
        layer = f"{prefix}layers.{number}"
        is_full = (number + 1) % config["full_attention_interval"] == 0
        parts += _gated_attention(config, layer) if is_full else _linear_attention(config, f"{layer}.linear_attn")
        parts += _delta_rest(config, layer, number)
    parts += plain(f"{prefix}norm", hidden)
    if not config.get("tie_word_embeddings"):
        parts += head("lm_head", vocabulary, hidden)
    return parts + draft(_delta_draft(config))


def _delta_rest(config: Config, layer: str, number: int) -> list[Part]:
    mlp = STYLES["qwen3_moe"].mlp if config.get("num_experts") else dense_mlp
    assert mlp is not None
    return [
        *mlp(config, layer, number),
        *plain(f"{layer}.input_layernorm", config["hidden_size"]),
        *plain(f"{layer}.post_attention_layernorm", config["hidden_size"]),
    ]


def _gated_attention(config: Config, layer: str) -> list[Part]:
    hidden, width = config["hidden_size"], config["num_attention_heads"] * config["head_dim"]
    parts = attention(config, f"{layer}.self_attn", _GATED)
    twice = linear(f"{layer}.self_attn.q_proj", 2 * width, hidden)  # queries and the gate of the output
    return twice + parts[1:] if config.get("attn_output_gate") else parts


def _linear_attention(config: Config, prefix: str) -> list[Part]:
    hidden = config["hidden_size"]
    heads, values = config["linear_num_value_heads"], config["linear_num_value_heads"] * config["linear_value_head_dim"]
    mixed = 2 * config["linear_num_key_heads"] * config["linear_key_head_dim"] + values
    if config["model_type"] == "qwen3_next":
        inputs = [
            *linear(f"{prefix}.in_proj_qkvz", mixed + values, hidden),
            *linear(f"{prefix}.in_proj_ba", 2 * heads, hidden),
        ]
    else:
        inputs = [
            *linear(f"{prefix}.in_proj_qkv", mixed, hidden),
            *linear(f"{prefix}.in_proj_z", values, hidden),
            *plain(f"{prefix}.in_proj_a", heads, hidden),
            *plain(f"{prefix}.in_proj_b", heads, hidden),
        ]
    return [
        *inputs,
        *plain(f"{prefix}.conv1d", mixed, 1, config["linear_conv_kernel_dim"]),
        *vector(f"{prefix}.A_log", heads),
        *vector(f"{prefix}.dt_bias", heads),
        *plain(f"{prefix}.norm", config["linear_value_head_dim"]),
        *linear(f"{prefix}.out_proj", hidden, values),
    ]


def _delta_draft(config: Config) -> list[Part]:
    hidden = config["hidden_size"]
    count = 1 if config["model_type"] == "qwen3_next" else config.get("mtp_num_hidden_layers", 0)
    if not count:
        return []
    parts = [
        *plain("mtp.fc", hidden, 2 * hidden),
        *plain("mtp.norm", hidden),
        *plain("mtp.pre_fc_norm_embedding", hidden),
        *plain("mtp.pre_fc_norm_hidden", hidden),
    ]
    for number in range(count):
        layer = f"mtp.layers.{number}"
        parts += _gated_attention(config, layer) + _delta_rest(config, layer, number)
    return parts


def nemotron_h(config: Config) -> list[Part]:
    """Nemotron-H and Nemotron 3: one mixer a layer, Mamba 2, attention, an MLP or latent experts."""
    hidden, vocabulary = config["hidden_size"], config["vocab_size"]
    kinds = [_PATTERN.get(each, each) for each in config.get("layers_block_type") or config["hybrid_override_pattern"]]
    parts = table("backbone.embeddings", vocabulary, hidden)
    for number, kind in enumerate(kinds):
        parts += _mixer(config, f"backbone.layers.{number}", kind)
    parts += plain("backbone.norm_f", hidden) + head("lm_head", vocabulary, hidden)
    if config.get("num_nextn_predict_layers"):
        parts += draft(_nemotron_draft(config))
    return parts


def _mixer(config: Config, layer: str, kind: str) -> list[Part]:
    hidden, prefix = config["hidden_size"], f"{layer}.mixer"
    parts = plain(f"{layer}.norm", hidden)
    match kind:
        case "mamba":
            return parts + _mamba2(config, prefix)
        case "attention":
            own = {**config, "head_dim": config.get("head_dim") or config["attention_head_dim"]}
            return parts + attention(own, prefix, Style())
        case "moe":
            return parts + _latent_experts(config, prefix)
        case _:
            return parts + _two(prefix, hidden, config["intermediate_size"])


def _two(prefix: str, hidden: int, inner: int) -> list[Part]:
    return [*linear(f"{prefix}.up_proj", inner, hidden), *linear(f"{prefix}.down_proj", hidden, inner)]


def _mamba2(config: Config, prefix: str) -> list[Part]:
    hidden, heads = config["hidden_size"], config["mamba_num_heads"]
    inner = heads * config["mamba_head_dim"]
    mixed = inner + 2 * config["n_groups"] * config["ssm_state_size"]
    return [
        *linear(f"{prefix}.in_proj", inner + mixed + heads, hidden),
        *plain(f"{prefix}.conv1d", mixed, 1, config["conv_kernel"], bias=config["use_conv_bias"]),
        *vector(f"{prefix}.A_log", heads),
        *vector(f"{prefix}.D", heads),
        *vector(f"{prefix}.dt_bias", heads),
        *plain(f"{prefix}.norm", inner),
        *linear(f"{prefix}.out_proj", hidden, inner),
    ]


def _latent_experts(config: Config, prefix: str) -> list[Part]:
    hidden, count, inner = config["hidden_size"], config["n_routed_experts"], config["moe_intermediate_size"]
    latent = config.get("moe_latent_size")
    parts = plain(f"{prefix}.gate", count, hidden)
    parts += buffer(f"{prefix}.gate.e_score_correction_bias", count, dtype="F32")
    for number in range(count):
        parts += _two(f"{prefix}.experts.{number}", latent or hidden, inner)
    parts += _two(f"{prefix}.shared_experts", hidden, config["moe_shared_expert_intermediate_size"])
    if latent:
        parts += linear(f"{prefix}.fc1_latent_proj", latent, hidden)
        parts += linear(f"{prefix}.fc2_latent_proj", hidden, latent)
    return parts


def _nemotron_draft(config: Config) -> list[Part]:
    hidden = config["hidden_size"]
    pattern = config.get("mtp_layers_block_type") or config["mtp_hybrid_override_pattern"]
    kinds = [_PATTERN.get(each, each) for each in pattern]
    mixers = [part for number, kind in enumerate(kinds) for part in _mixer(config, f"mtp.layers.{number}", kind)]
    return [
        *mixers,
        *plain("mtp.layers.0.enorm", hidden),
        *plain("mtp.layers.0.hnorm", hidden),
        *plain("mtp.layers.0.eh_proj", hidden, 2 * hidden),
        *plain(f"mtp.layers.{len(kinds) - 1}.final_layernorm", hidden),
    ]


def nemotron_nas(config: Config) -> list[Part]:
    """DeciLM and Nemotron Super: Llama with layers that lack attention or have an MLP of a size of their own."""
    hidden, vocabulary = config["hidden_size"], config["vocab_size"]
    parts = table("model.embed_tokens", vocabulary, hidden)
    for number, block in enumerate(config["block_configs"]):
        layer = f"model.layers.{number}"
        if not block["attention"]["no_op"]:
            keys = config["num_attention_heads"] // block["attention"]["n_heads_in_group"]
            parts += attention({**config, "num_key_value_heads": keys}, f"{layer}.self_attn", Style())
            parts += plain(f"{layer}.input_layernorm", hidden)
        if not block["ffn"]["no_op"]:
            inner = -(-int(2 * block["ffn"]["ffn_mult"] * hidden / 3) // 256) * 256
            parts += gated(f"{layer}.mlp", hidden, inner)
            parts += plain(f"{layer}.post_attention_layernorm", hidden)
    return parts + plain("model.norm", hidden) + head("lm_head", vocabulary, hidden)


def gemma4(config: Config, prefix: str = "model.language_model.") -> list[Part]:
    """Gemma 4: wider heads in layers that see everything, keys that are the values there, experts beside the MLP."""
    hidden = config["hidden_size"]
    parts = table(f"{prefix}embed_tokens", config["vocab_size"], hidden)
    for number, kind in enumerate(config["layer_types"]):
        layer = f"{prefix}layers.{number}"
        parts += _gemma4_attention(config, f"{layer}.self_attn", is_full=kind == "full_attention")
        parts += dense_mlp(config, layer, number)
        if config.get("enable_moe_block"):
            parts += _gemma4_experts(config, layer)
        for name in STYLES["gemma3_text"].norms:
            parts += plain(f"{layer}.{name}", hidden)
        parts += buffer(f"{layer}.layer_scalar", 1)
    return parts + plain(f"{prefix}norm", hidden)


def _gemma4_attention(config: Config, prefix: str, *, is_full: bool) -> list[Part]:
    shares = is_full and config["attention_k_eq_v"]
    own = {**config}
    if is_full:
        own["head_dim"] = config["global_head_dim"]
    if shares:
        own["num_key_value_heads"] = config["num_global_key_value_heads"]
    parts = attention(own, prefix, _GATED)
    return [part for part in parts if not (shares and ".v_proj." in part.name)]


def _gemma4_experts(config: Config, layer: str) -> list[Part]:
    hidden, count, inner = config["hidden_size"], config["num_experts"], config["moe_intermediate_size"]
    is_packed = bool(config.get("quantization_config"))
    return [
        *vector(f"{layer}.router.scale", hidden),
        *vector(f"{layer}.router.per_expert_scale", count),
        *plain(f"{layer}.router.proj", count, hidden),
        *(
            experts(layer, count, hidden, inner)
            if is_packed
            else stacked(
                f"{layer}.experts", ("gate_up_proj", count, 2 * inner, hidden), ("down_proj", count, hidden, inner)
            )
        ),
        *plain(f"{layer}.post_feedforward_layernorm_1", hidden),
        *plain(f"{layer}.post_feedforward_layernorm_2", hidden),
        *plain(f"{layer}.pre_feedforward_layernorm_2", hidden),
    ]
