"""A config.json as it can be trusted: the language model's part of it, and fields that have the type they should.

Configs nest the language model's part under several names and call one thing by many; :data:`ALIASES` and
``_TEXT_CONFIGS`` list those met in the wild. In a nested config ``transformers`` leaves out what its class has by
default, so ``_DEFAULTS`` has that for the classes which other models nest. A value of the wrong type, or beyond all
sense, counts as absent: what is computed from it says so instead of guessing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypedDict

from lading.errors import MalformedModel

CONFIG_FILE = "config.json"
MOST_LAYERS = 10_000

_MOST = 1 << 40
_MOST_LENGTH = 1 << 30
_MOST_FACTOR = 1 << 20
_TEXT_CONFIGS = (
    "text_config", "llm_config", "language_config", "language_model_config", "thinker_config", "decoder_config",
)  # fmt: skip
ALIASES: dict[str, tuple[str, ...]] = {
    "layers": ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers", "num_decoder_layers"),
    "attention_heads": ("num_attention_heads", "n_head", "n_heads", "num_heads", "decoder_attention_heads"),
    "kv_heads": (
        "num_key_value_heads", "num_kv_heads", "n_head_kv", "multi_query_group_num", "num_attention_groups",
        "num_query_groups",
    ),
    "head_dim": ("head_dim", "kv_channels", "attention_head_dim", "hidden_size_per_head", "d_kv"),
    "hidden_size": ("hidden_size", "n_embd", "d_model", "model_dim", "dim"),
    "vocab_size": ("vocab_size", "padded_vocab_size"),
    "intermediate_size": (
        "intermediate_size", "n_inner", "ffn_dim", "ffn_hidden_size", "d_ff", "decoder_ffn_dim", "ff_dim",
    ),
}  # fmt: skip
_LENGTHS = (
    "max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "model_max_length", "max_target_positions",
    "max_sequence_length", "max_seq_length", "seq_len",
)  # fmt: skip
_SCALED_ROPE = {"linear", "dynamic", "yarn", "deepseek_yarn"}
_NAMED = ("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim", "vocab_size",
          "intermediate_size", "max_position_embeddings")  # fmt: skip
_DEFAULTS: dict[str, dict[str, int]] = {
    kind: {name: value for name, value in zip(_NAMED, values, strict=True) if value}
    for kind, values in {
        "llama": (4096, 32, 32, 0, 0, 32_000, 11_008, 2048),
        "mistral": (4096, 32, 32, 8, 0, 32_000, 14_336, 131_072),
        "mixtral": (4096, 32, 32, 8, 0, 32_000, 14_336, 131_072),
        "qwen2": (4096, 32, 32, 32, 0, 151_936, 22_016, 32_768),
        "qwen3": (4096, 32, 32, 32, 128, 151_936, 22_016, 32_768),
        "gemma": (3072, 28, 16, 16, 256, 256_000, 24_576, 8192),
        "gemma2": (2304, 26, 8, 4, 256, 256_000, 9216, 8192),
        "gemma3_text": (2304, 26, 8, 4, 256, 262_208, 9216, 131_072),
        "gemma3n_text": (2048, 35, 8, 2, 256, 262_400, 16_384, 32_768),
        "llama4_text": (5120, 48, 40, 8, 128, 202_048, 8192, 131_072),
        "mllama_text_model": (4096, 40, 32, 8, 0, 128_256, 14_336, 131_072),
        "phi3": (3072, 32, 32, 32, 0, 32_064, 8192, 4096),
        "phi": (2048, 24, 32, 32, 0, 51_200, 8192, 2048),
        "gpt2": (768, 12, 12, 12, 0, 50_257, 3072, 1024),
        "opt": (768, 12, 12, 12, 0, 50_272, 3072, 2048),
        "falcon": (4544, 32, 71, 0, 0, 65_024, 0, 2048),
        "bert": (768, 12, 12, 12, 0, 30_522, 3072, 512),
        "modernbert": (768, 22, 12, 12, 0, 50_368, 1152, 8192),
    }.items()
}

TIED_BY_CLASS = {
    "bloom", "cohere", "cohere2", "cohere2_moe", "falcon", "falcon_mamba", "gemma", "gemma2", "gemma3", "gemma3_text",
    "gemma3n", "gemma3n_text", "gemma4", "gemma4_text", "gpt2", "gpt_bigcode", "lfm2", "lfm2_moe", "mamba", "minicpm3",
    "mpt", "opt", "recurrent_gemma", "smollm3", "starcoder2", "t5", "whisper", "zamba2",
}  # fmt: skip
"""Model types of language models whose head is the embedding where the config is silent."""


def whole(table: Mapping[str, Any], *keys: str) -> int:
    """The first of the keys that is a positive whole number, written as ``1`` or ``1.0``; 0 for none."""
    for key in keys:
        if number := whole_number(table.get(key)):
            return number
    return 0


def whole_number(value: object) -> int:
    """``value`` where it is a positive whole number that can be meant; 0 for anything else."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if type(value) is int and 0 < value < _MOST else 0


def table(value: object) -> Mapping[str, Any]:
    """``value`` where it is a table; an empty one for anything else."""
    return value if isinstance(value, dict) else {}


def listed(value: object) -> Sequence[Any]:
    """``value`` where it is a list; an empty one for anything else."""
    return value if isinstance(value, list | tuple) else ()


def type_of(text: Mapping[str, Any]) -> str:
    """The ``model_type``; "" where there is none."""
    found = text.get("model_type")
    return found if isinstance(found, str) else ""


def text_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The language model's part of a config, laid over the outer one so that shared keys are found in either.

    Below both lies what a nested config's class has by default. Keys without a value count as absent.
    """
    merged = {key: value for key, value in config.items() if value is not None}
    nested: Mapping[str, Any] = config
    for _ in range(len(_TEXT_CONFIGS)):
        inner = next((nested[key] for key in _TEXT_CONFIGS if isinstance(nested.get(key), dict)), None)
        if inner is None:
            break
        nested = inner
        merged |= {key: value for key, value in nested.items() if value is not None}
    return (_defaults(nested) if nested is not config else {}) | merged


def _defaults(nested: Mapping[str, Any]) -> dict[str, int]:
    return dict(_DEFAULTS.get(type_of(nested), {}))


class Sizes(TypedDict):
    """The sizes of a language model, None for those that are not told."""

    layers: int | None
    attention_heads: int | None
    kv_heads: int | None
    head_dim: int | None
    hidden_size: int | None
    vocab_size: int | None
    intermediate_size: int | None


def named_sizes(text: Mapping[str, Any]) -> Sizes:
    """The sizes that :data:`ALIASES` names."""
    found = {name: whole(text, *keys) or None for name, keys in ALIASES.items()}
    sizes = Sizes(
        layers=found["layers"],
        attention_heads=found["attention_heads"],
        kv_heads=found["kv_heads"],
        head_dim=found["head_dim"],
        hidden_size=found["hidden_size"],
        vocab_size=found["vocab_size"],
        intermediate_size=found["intermediate_size"],
    )
    if sizes["layers"] is None:
        pattern = text.get("layers_block_type") or text.get("hybrid_override_pattern") or text.get("block_configs")
        sizes["layers"] = len(pattern) if isinstance(pattern, list | str) and pattern else None
    if type_of(text) == "longcat_flash":  # two attention layers in each
        sizes["layers"] = whole(text, "num_layers") or sizes["layers"]
    if (sizes["layers"] or 0) > MOST_LAYERS:
        sizes["layers"] = None
    return sizes


def identity(config: Mapping[str, Any]) -> tuple[str, str]:
    """The architecture and the model type, "" for one that is missing; MalformedModel where both are."""
    first = next(iter(listed(config.get("architectures"))), None)
    model_type = config.get("model_type")
    if not isinstance(first, str) and not isinstance(model_type, str):
        raise MalformedModel(
            f"{CONFIG_FILE} names neither architectures nor model_type",
            remedy="this does not look like a Hugging Face model directory; check that config.json is the model's",
        )
    return (first if isinstance(first, str) else ""), (model_type if isinstance(model_type, str) else "")


def own_positions(text: Mapping[str, Any]) -> int:
    """The positions that the config names, or its class does where it names none; 0 for neither."""
    named = next((size for key in _LENGTHS if (size := whole(text, key))), 0)
    found = named or _defaults(text).get("max_position_embeddings", 0)
    return found if found < _MOST_LENGTH else 0


def max_model_len(text: Mapping[str, Any]) -> int | None:
    """The longest sequence the engine derives: positions, times the rope factor for the kinds that stretch them."""
    lengths: Iterable[int] = (whole(text, key) for key in _LENGTHS)
    found = [length for length in lengths if 0 < length < _MOST_LENGTH]
    if not (found or own_positions(text)):
        return None
    found = found or [own_positions(text)]
    rope = table(text.get("rope_scaling")) or table(text.get("rope_parameters"))
    kind = rope.get("rope_type", rope.get("type", "default"))
    factor = rope.get("factor", 1)
    if not isinstance(kind, str) or kind not in _SCALED_ROPE or type_of(text) in ("gemma3", "gemma3_text"):
        return min(found)
    if type(factor) not in (int, float) or not 0 < factor < _MOST_FACTOR:
        return min(found)
    original = whole(rope, "original_max_position_embeddings")
    base = original if kind.endswith("yarn") and original else min(found)
    return int(base * factor) or None
