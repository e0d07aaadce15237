"""What the classes of a config fill in where the published file says nothing, for the types that leave out something."""

from __future__ import annotations

from typing import Any

from tests.checkpoints.parts import Config

_QWEN35 = {"attn_output_gate": True, "linear_conv_kernel_dim": 4}
_GEMMA3 = {"vocab_size": 262_208, "head_dim": 256, "num_attention_heads": 8, "num_key_value_heads": 4}
DEFAULTS: dict[str, dict[str, Any]] = {
    "llama": {
        "hidden_size": 4096, "intermediate_size": 11_008, "num_hidden_layers": 32, "num_attention_heads": 32,
        "vocab_size": 32_000,
    },
    "mistral": {
        "hidden_size": 4096, "intermediate_size": 14_336, "num_hidden_layers": 32, "num_attention_heads": 32,
        "num_key_value_heads": 8, "vocab_size": 32_000,
    },
    "gemma": {"tie_word_embeddings": True, "head_dim": 256},
    "gemma2": {"tie_word_embeddings": True, "head_dim": 256},
    "gemma3_text": {"tie_word_embeddings": True, **_GEMMA3},
    "gemma3": {"tie_word_embeddings": True},
    "gemma4_text": {"tie_word_embeddings": True},
    "cohere2": {"tie_word_embeddings": True},
    "falcon": {"tie_word_embeddings": True},
    "minicpm3": {"tie_word_embeddings": True},
    "gpt2": {"tie_word_embeddings": True, "n_positions": 1024},
    "opt": {"tie_word_embeddings": True, "word_embed_proj_dim": None},
    "qwen3_5_text": _QWEN35,
    "qwen3_5_moe_text": _QWEN35,
    "qwen3_next": _QWEN35,
    "bert": {"type_vocab_size": 2},
    "siglip_vision_model": {"num_channels": 3},
    "clip_vision_model": {"num_channels": 3},
}  # fmt: skip


def filled(config: Config) -> dict[str, Any]:
    """``config`` with the values of its class where it has none."""
    given = {key: value for key, value in config.items() if value is not None}
    return {**DEFAULTS.get(str(config.get("model_type")), {}), **given}


def language_part(config: Config) -> dict[str, Any]:
    """The language model's part of a config, its own quantisation and type included, filled in."""
    text = filled(config.get("text_config") or config)
    outer = config.get("tie_word_embeddings")
    return {**text, "tie_word_embeddings": outer} if outer is not None and "text_config" in config else text
