"""Families with names of their own: Falcon, GPT-NeoX, GPT-2, OPT, Phi, BERT, Mamba, Llama 3.2 Vision's decoder."""

from __future__ import annotations

from dataclasses import replace

from tests.checkpoints.decoder import STYLES, attention, decoder_layer, gated
from tests.checkpoints.parts import Config, Part, head, linear, plain, table, vector


def falcon(config: Config) -> list[Part]:
    """Falcon; its files hold the head although it is the embedding."""
    hidden, heads, vocabulary = config["hidden_size"], config["num_attention_heads"], config["vocab_size"]
    new = config.get("new_decoder_architecture")
    keys = config["num_kv_heads"] if new else 1 if config["multi_query"] else heads
    width, bias = hidden // heads, bool(config.get("bias"))
    inner = config.get("ffn_hidden_size") or 4 * hidden
    norms = ("ln_attn", "ln_mlp") if new else ("input_layernorm",)
    parts = table("transformer.word_embeddings", vocabulary, hidden)
    for number in range(config["num_hidden_layers"]):
        layer = f"transformer.h.{number}"
        parts += linear(f"{layer}.self_attention.query_key_value", (heads + 2 * keys) * width, hidden, bias=bias)
        parts += linear(f"{layer}.self_attention.dense", hidden, heads * width, bias=bias)
        parts += linear(f"{layer}.mlp.dense_h_to_4h", inner, hidden, bias=bias)
        parts += linear(f"{layer}.mlp.dense_4h_to_h", hidden, inner, bias=bias)
        parts += [part for name in norms for part in plain(f"{layer}.{name}", hidden, bias=True)]
    parts += plain("transformer.ln_f", hidden, bias=True)
    return parts + [replace(part, is_copy=True) for part in head("lm_head", vocabulary, hidden)]


def gpt_neox(config: Config) -> list[Part]:
    """GPT-NeoX and Pythia."""
    hidden, inner, vocabulary = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    parts = table("gpt_neox.embed_in", vocabulary, hidden)
    for number in range(config["num_hidden_layers"]):
        layer = f"gpt_neox.layers.{number}"
        parts += plain(f"{layer}.input_layernorm", hidden, bias=True)
        parts += plain(f"{layer}.post_attention_layernorm", hidden, bias=True)
        parts += linear(f"{layer}.attention.query_key_value", 3 * hidden, hidden, bias=True)
        parts += linear(f"{layer}.attention.dense", hidden, hidden, bias=True)
        parts += linear(f"{layer}.mlp.dense_h_to_4h", inner, hidden, bias=True)
        parts += linear(f"{layer}.mlp.dense_4h_to_h", hidden, inner, bias=True)
    return parts + plain("gpt_neox.final_layer_norm", hidden, bias=True) + head("embed_out", vocabulary, hidden)


def gpt2(config: Config) -> list[Part]:
    """GPT-2, whose matrices are stored (in, out)."""
    hidden = config["n_embd"]
    parts = [*table("wte", config["vocab_size"], hidden), *table("wpe", config["n_positions"], hidden)]
    for number in range(config["n_layer"]):
        layer = f"h.{number}"
        for name, in_size, out_size in (
            ("attn.c_attn", hidden, 3 * hidden),
            ("attn.c_proj", hidden, hidden),
            ("mlp.c_fc", hidden, 4 * hidden),
            ("mlp.c_proj", 4 * hidden, hidden),
        ):
            parts += [Part(f"{layer}.{name}.weight", (in_size, out_size)), Part(f"{layer}.{name}.bias", (out_size,))]
        parts += plain(f"{layer}.ln_1", hidden, bias=True) + plain(f"{layer}.ln_2", hidden, bias=True)
    return parts + plain("ln_f", hidden, bias=True)


def opt(config: Config) -> list[Part]:
    """OPT with norms before its layers."""
    hidden, inner = config["hidden_size"], config["ffn_dim"]
    prefix = "model.decoder."
    parts = table(f"{prefix}embed_tokens", config["vocab_size"], hidden)
    parts += table(f"{prefix}embed_positions", config["max_position_embeddings"] + 2, hidden)
    for number in range(config["num_hidden_layers"]):
        layer = f"{prefix}layers.{number}"
        for name in ("k_proj", "v_proj", "q_proj", "out_proj"):
            parts += linear(f"{layer}.self_attn.{name}", hidden, hidden, bias=True)
        parts += linear(f"{layer}.fc1", inner, hidden, bias=True) + linear(f"{layer}.fc2", hidden, inner, bias=True)
        parts += plain(f"{layer}.self_attn_layer_norm", hidden, bias=True)
        parts += plain(f"{layer}.final_layer_norm", hidden, bias=True)
    return parts + plain(f"{prefix}final_layer_norm", hidden, bias=True)


def phi(config: Config) -> list[Part]:
    """Phi 1 and 2."""
    hidden, inner, vocabulary = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    parts = table("model.embed_tokens", vocabulary, hidden)
    for number in range(config["num_hidden_layers"]):
        layer = f"model.layers.{number}"
        for name in ("q_proj", "k_proj", "v_proj", "dense"):
            parts += linear(f"{layer}.self_attn.{name}", hidden, hidden, bias=True)
        parts += linear(f"{layer}.mlp.fc1", inner, hidden, bias=True)
        parts += linear(f"{layer}.mlp.fc2", hidden, inner, bias=True)
        parts += plain(f"{layer}.input_layernorm", hidden, bias=True)
    parts += plain("model.final_layernorm", hidden, bias=True)
    return parts + head("lm_head", vocabulary, hidden) + vector("lm_head.bias", vocabulary)


def bert(config: Config) -> list[Part]:
    """BERT and what is trained from it; the bare model."""
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    parts = table("embeddings.word_embeddings", config["vocab_size"], hidden)
    parts += table("embeddings.position_embeddings", config["max_position_embeddings"], hidden)
    parts += table("embeddings.token_type_embeddings", config["type_vocab_size"], hidden)
    parts += plain("embeddings.LayerNorm", hidden, bias=True)
    for number in range(config["num_hidden_layers"]):
        layer = f"encoder.layer.{number}"
        for name in ("query", "key", "value"):
            parts += linear(f"{layer}.attention.self.{name}", hidden, hidden, bias=True)
        parts += linear(f"{layer}.attention.output.dense", hidden, hidden, bias=True)
        parts += plain(f"{layer}.attention.output.LayerNorm", hidden, bias=True)
        parts += linear(f"{layer}.intermediate.dense", inner, hidden, bias=True)
        parts += linear(f"{layer}.output.dense", hidden, inner, bias=True)
        parts += plain(f"{layer}.output.LayerNorm", hidden, bias=True)
    return parts + plain("pooler.dense", hidden, hidden, bias=True)


def mamba(config: Config) -> list[Part]:
    """Mamba 1 and Falcon Mamba; the head is the embedding."""
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    states, rank = config["state_size"], config["time_step_rank"]
    parts = table("backbone.embeddings", config["vocab_size"], hidden)
    for number in range(config["num_hidden_layers"]):
        layer = f"backbone.layers.{number}"
        parts += plain(f"{layer}.norm", hidden)
        parts += linear(f"{layer}.mixer.in_proj", 2 * inner, hidden)
        parts += plain(f"{layer}.mixer.conv1d", inner, 1, config["conv_kernel"], bias=True)
        parts += linear(f"{layer}.mixer.x_proj", rank + 2 * states, inner)
        parts += linear(f"{layer}.mixer.dt_proj", inner, rank, bias=True)
        parts += vector(f"{layer}.mixer.A_log", inner, states) + vector(f"{layer}.mixer.D", inner)
        parts += linear(f"{layer}.mixer.out_proj", hidden, inner)
    return parts + plain("backbone.norm_f", hidden)


def mllama(config: Config, prefix: str = "language_model.model.") -> list[Part]:
    """Llama 3.2 Vision's decoder: every fifth layer attends to the image and to nothing else."""
    hidden, vocabulary = config["hidden_size"], config["vocab_size"]
    parts = table(f"{prefix}embed_tokens", vocabulary + 8, hidden)  # eight rows more than the head, for images
    for number in range(config["num_hidden_layers"]):
        layer = f"{prefix}layers.{number}"
        if number not in config["cross_attention_layers"]:
            parts += decoder_layer(config, layer, number, STYLES["llama"])
            continue
        parts += attention(config, f"{layer}.cross_attn", STYLES["qwen3"])
        parts += gated(f"{layer}.mlp", hidden, config["intermediate_size"])
        parts += [part for name in STYLES["llama"].norms for part in plain(f"{layer}.{name}", hidden)]
        parts += vector(f"{layer}.cross_attn_attn_gate", 1) + vector(f"{layer}.cross_attn_mlp_gate", 1)
    return parts + plain(f"{prefix}norm", hidden) + head("language_model.lm_head", vocabulary, hidden)
