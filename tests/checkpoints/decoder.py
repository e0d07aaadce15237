"""Decoders of the usual form: attention, a gated MLP or experts, two or four norms. One table says how they differ."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tests.checkpoints.parts import Config, Part, Use, buffer, draft, head, linear, plain, table, vector


@dataclass(frozen=True, slots=True)
class Style:
    """How a family differs from Llama. ``qk_norm`` is over a head, or over all heads where ``norms_all_heads``."""

    qkv_bias: bool = False
    out_bias: bool = False
    qk_norm: bool = False
    norms_all_heads: bool = False
    fused: bool = False
    sinks: bool = False
    norms: tuple[str, ...] = ("input_layernorm", "post_attention_layernorm")
    mlp: Callable[[Config, str, int], list[Part]] | None = None


_FOUR_NORMS = (
    "input_layernorm", "post_attention_layernorm", "pre_feedforward_layernorm", "post_feedforward_layernorm",
)  # fmt: skip


def head_dim(config: Config) -> int:
    """Elements of a head."""
    own = config.get("head_dim")
    return int(own or config["hidden_size"] // config["num_attention_heads"])


def attention(config: Config, prefix: str, style: Style) -> list[Part]:
    """Queries, keys, values and output of a layer, with its norms and biases."""
    hidden, heads, width = config["hidden_size"], config["num_attention_heads"], head_dim(config)
    keys = config.get("num_key_value_heads") or heads
    bias = style.qkv_bias or bool(config.get("attention_bias"))
    out_bias = style.out_bias or (bool(config.get("attention_bias")) and not style.qkv_bias)
    if style.fused:
        parts = linear(f"{prefix}.qkv_proj", (heads + 2 * keys) * width, hidden, bias=bias)
    else:
        parts = [
            *linear(f"{prefix}.q_proj", heads * width, hidden, bias=bias),
            *linear(f"{prefix}.k_proj", keys * width, hidden, bias=bias),
            *linear(f"{prefix}.v_proj", keys * width, hidden, bias=bias),
        ]
    parts += linear(f"{prefix}.o_proj", hidden, heads * width, bias=out_bias)
    if style.qk_norm:
        parts += plain(f"{prefix}.q_norm", heads * width if style.norms_all_heads else width)
        parts += plain(f"{prefix}.k_norm", keys * width if style.norms_all_heads else width)
    if style.sinks:
        parts += vector(f"{prefix}.sinks", heads)
    return parts


def gated(prefix: str, hidden: int, inner: int, *, names: tuple[str, str, str] | None = None) -> list[Part]:
    """An MLP with a gate."""
    gate, up, down = names or ("gate_proj", "up_proj", "down_proj")
    return [
        *linear(f"{prefix}.{gate}", inner, hidden),
        *linear(f"{prefix}.{up}", inner, hidden),
        *linear(f"{prefix}.{down}", hidden, inner),
    ]


def dense_mlp(config: Config, layer: str, _number: int) -> list[Part]:
    return gated(f"{layer}.mlp", config["hidden_size"], config["intermediate_size"])


def _fused_mlp(config: Config, layer: str, _number: int) -> list[Part]:
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    return [
        *linear(f"{layer}.mlp.gate_up_proj", 2 * inner, hidden),
        *linear(f"{layer}.mlp.down_proj", hidden, inner),
    ]


def experts(prefix: str, count: int, hidden: int, inner: int, names: tuple[str, str, str] | None = None) -> list[Part]:
    """Each expert's own MLP."""
    return [part for number in range(count) for part in gated(f"{prefix}.experts.{number}", hidden, inner, names=names)]


def stacked(prefix: str, *matrices: tuple[str, int, int, int]) -> list[Part]:
    """Experts in one tensor for each matrix."""
    return [
        Part(f"{prefix}.{name}", shape, Use.STACK) for name, *shape_list in matrices if (shape := tuple(shape_list))
    ]


def _mixtral(config: Config, layer: str, _number: int) -> list[Part]:
    hidden, block = config["hidden_size"], f"{layer}.block_sparse_moe"
    count = config["num_local_experts"]
    return [
        *plain(f"{block}.gate", count, hidden),
        *experts(block, count, hidden, config["intermediate_size"], ("w1", "w3", "w2")),
    ]


def _qwen_moe(config: Config, layer: str, number: int) -> list[Part]:
    step = config.get("decoder_sparse_step", 1)
    if number in config.get("mlp_only_layers", ()) or (number + 1) % step:
        return dense_mlp(config, layer, number)
    hidden, count, block = config["hidden_size"], config["num_experts"], f"{layer}.mlp"
    inner = config["moe_intermediate_size"]
    parts = plain(f"{block}.gate", count, hidden)
    match config["model_type"]:
        case "qwen3_vl_moe_text":  # stored for multiplication from the left
            parts += stacked(
                f"{block}.experts", ("gate_up_proj", count, hidden, 2 * inner), ("down_proj", count, inner, hidden)
            )
        case "qwen3_5_moe_text":
            parts += stacked(
                f"{block}.experts", ("gate_up_proj", count, 2 * inner, hidden), ("down_proj", count, hidden, inner)
            )
        case _:
            parts += experts(block, count, hidden, inner)
    if shared := config.get("shared_expert_intermediate_size"):
        parts += gated(f"{block}.shared_expert", hidden, shared)
        parts += plain(f"{block}.shared_expert_gate", 1, hidden)
    return parts


def deepseek_mlp(config: Config, layer: str, number: int) -> list[Part]:
    """Dense in the first layers, then routed experts and the shared ones, with the router's bias in the files."""
    if number < config.get("first_k_dense_replace", 0) or number % config.get("moe_layer_freq", 1):
        return dense_mlp(config, layer, number)
    hidden, count, inner = config["hidden_size"], config["n_routed_experts"], config["moe_intermediate_size"]
    parts = plain(f"{layer}.mlp.gate", count, hidden)
    if config.get("topk_method") == "noaux_tc" or config["model_type"] in ("glm4_moe", "glm_moe_dsa"):
        parts += buffer(f"{layer}.mlp.gate.e_score_correction_bias", count, dtype="F32")
    parts += experts(f"{layer}.mlp", count, hidden, inner)
    if shared := config.get("n_shared_experts"):
        parts += gated(f"{layer}.mlp.shared_experts", hidden, shared * inner)
    return parts


def _gpt_oss(config: Config, layer: str, _number: int) -> list[Part]:
    hidden, inner, count = config["hidden_size"], config["intermediate_size"], config["num_local_experts"]
    block = f"{layer}.mlp"
    return [
        *plain(f"{block}.router", count, hidden, bias=True),
        *stacked(f"{block}.experts", ("gate_up_proj", count, hidden, 2 * inner), ("down_proj", count, inner, hidden)),
        *vector(f"{block}.experts.gate_up_proj_bias", count, 2 * inner),
        *vector(f"{block}.experts.down_proj_bias", count, hidden),
    ]


def _step3(config: Config, layer: str, number: int) -> list[Part]:
    hidden, inner, count = config["hidden_size"], config["moe_intermediate_size"], config["num_experts"]
    if number < config["first_k_dense_replace"] or number >= config["num_hidden_layers"]:
        return dense_mlp(config, layer, number)
    return [
        *plain(f"{layer}.moe.gate", count, hidden),
        *buffer(f"{layer}.moe.router_bias", count, dtype="F32"),
        *stacked(f"{layer}.moe", ("gate_proj.weight", count, inner, hidden), ("up_proj.weight", count, inner, hidden)),
        *stacked(f"{layer}.moe", ("down_proj.weight", count, hidden, inner)),
        *gated(f"{layer}.share_expert", hidden, config["share_expert_dim"]),
    ]


def _llama4(config: Config, layer: str, number: int) -> list[Part]:
    hidden, inner, block = config["hidden_size"], config["intermediate_size"], f"{layer}.feed_forward"
    if (number + 1) % config.get("interleave_moe_layer_step", 1):
        return gated(block, hidden, config["intermediate_size_mlp"])
    count = config["num_local_experts"]
    return [
        *plain(f"{block}.router", count, hidden),
        *stacked(f"{block}.experts", ("gate_up_proj", count, hidden, 2 * inner), ("down_proj", count, inner, hidden)),
        *gated(f"{block}.shared_expert", hidden, inner),
    ]


STYLES: dict[str, Style] = {
    "llama": Style(),
    "llama4_text": Style(mlp=_llama4),
    "mistral": Style(),
    "ministral3": Style(),
    "mixtral": Style(mlp=_mixtral),
    "qwen2": Style(qkv_bias=True),
    "qwen2_vl": Style(qkv_bias=True),
    "qwen2_5_vl": Style(qkv_bias=True),
    "qwen2_moe": Style(qkv_bias=True, mlp=_qwen_moe),
    "qwen3": Style(qk_norm=True),
    "qwen3_vl_text": Style(qk_norm=True),
    "qwen3_moe": Style(qk_norm=True, mlp=_qwen_moe),
    "qwen3_vl_moe_text": Style(qk_norm=True, mlp=_qwen_moe),
    "gemma": Style(),
    "gemma2": Style(norms=_FOUR_NORMS),
    "gemma3_text": Style(qk_norm=True, norms=_FOUR_NORMS),
    "phi3": Style(fused=True, mlp=_fused_mlp),
    "olmo2": Style(
        qk_norm=True, norms_all_heads=True, norms=("post_attention_layernorm", "post_feedforward_layernorm")
    ),
    "cohere2": Style(norms=("input_layernorm",)),
    "granite": Style(),
    "glm4_moe": Style(qkv_bias=True, mlp=deepseek_mlp),
    "step3p7": Style(qk_norm=True, mlp=_step3),
    "gpt_oss": Style(sinks=True, mlp=_gpt_oss),
}


def decoder(config: Config, prefix: str = "model.", head_name: str = "lm_head") -> list[Part]:
    """A whole language model; its head is left out where it is the embedding or ``head_name`` is empty."""
    style = STYLES[config["model_type"]]
    hidden, vocabulary = config["hidden_size"], config["vocab_size"]
    parts = table(f"{prefix}embed_tokens", vocabulary, hidden)
    for number in range(config["num_hidden_layers"]):
        parts += decoder_layer(config, f"{prefix}layers.{number}", number, style)
    parts += plain(f"{prefix}norm", hidden)
    if head_name and not config.get("tie_word_embeddings"):
        parts += head(head_name, vocabulary, hidden)
    if config["model_type"] in ("glm4_moe", "step3p7"):
        parts += next_layers(config, prefix, lambda layer, number: decoder_layer(config, layer, number, style))
    return parts


def decoder_layer(config: Config, layer: str, number: int, style: Style) -> list[Part]:
    """One layer: attention, what comes after it, the norms."""
    mlp = style.mlp or dense_mlp
    return [
        *attention(config, f"{layer}.self_attn", style),
        *mlp(config, layer, number),
        *[part for name in style.norms for part in plain(f"{layer}.{name}", config["hidden_size"])],
    ]


def next_layers(config: Config, prefix: str, layer_of: Callable[[str, int], list[Part]]) -> list[Part]:
    """The layers of multi-token prediction as DeepSeek and GLM publish them: numbered on, with tables of their own."""
    hidden, vocabulary, first = config["hidden_size"], config["vocab_size"], config["num_hidden_layers"]
    parts: list[Part] = []
    for number in range(first, first + config.get("num_nextn_predict_layers", 0)):
        layer = f"{prefix}layers.{number}"
        parts += [
            *layer_of(layer, number),
            *table(f"{layer}.embed_tokens", vocabulary, hidden),
            *plain(f"{layer}.enorm", hidden),
            *plain(f"{layer}.hnorm", hidden),
            *plain(f"{layer}.eh_proj", hidden, 2 * hidden),
            *plain(f"{layer}.shared_head.norm", hidden),
            *head(f"{layer}.shared_head.head", vocabulary, hidden),
        ]
    return draft(parts)
