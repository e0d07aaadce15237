"""What a model is, told by its config.json, its quantisation config and its safetensors headers.

Everything here is pure: text and tensors in, one :class:`ModelFacts` out. Configs nest the language model's part under
several names and call one thing by many; :data:`_ALIASES` and :data:`_TEXT_CONFIGS` list those met in the wild. A field
that a config does not have is None, and whatever is computed from it says so instead of guessing silently.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lading.errors import MalformedModel
from lading.model.attention import KvLayout, kv_layout
from lading.model.safetensors import Tensor
from lading.model.weights import WeightTable, weight_table

CONFIG_FILE = "config.json"
QUANTIZATION_FILE = "hf_quant_config.json"
WEIGHTS_INDEX_FILE = "model.safetensors.index.json"

_TEXT_CONFIGS = ("text_config", "llm_config", "language_config", "language_model_config", "thinker_config")
_ALIASES: dict[str, tuple[str, ...]] = {
    "layers": ("num_hidden_layers", "n_layer", "n_layers", "num_layers"),
    "attention_heads": ("num_attention_heads", "n_head", "n_heads", "num_heads"),
    "kv_heads": ("num_key_value_heads", "num_kv_heads", "n_head_kv", "multi_query_group_num"),
    "head_dim": ("head_dim", "kv_channels", "attention_head_dim"),
    "hidden_size": ("hidden_size", "n_embd", "d_model", "model_dim"),
    "vocab_size": ("vocab_size", "padded_vocab_size"),
    "intermediate_size": ("intermediate_size", "n_inner", "ffn_dim", "ffn_hidden_size"),
}
_EXPERTS_PER_TOKEN = ("num_experts_per_tok", "experts_per_token", "moe_topk", "num_experts_per_token", "top_k_experts")
_EXPERT_SIZES = ("moe_intermediate_size", "expert_intermediate_size", "ffn_expert_hidden_size", "intermediate_size")
_LENGTHS = (
    "max_position_embeddings",
    "n_positions",
    "max_seq_len",
    "seq_length",
    "model_max_length",
    "max_sequence_length",
    "max_seq_length",
    "seq_len",
)
_SCALED_ROPE = {"linear", "dynamic", "yarn", "deepseek_yarn"}
_ROTARY = ("rope_theta", "rope_scaling", "qk_rope_head_dim", "rotary_dim", "partial_rotary_factor", "rotary_pct")
_DTYPE_NAMES = {
    "bfloat16": "bf16", "float16": "fp16", "half": "fp16", "float32": "fp32", "float": "fp32", "float64": "fp32",
    "BF16": "bf16", "F16": "fp16", "F32": "fp32", "F64": "fp32",
}  # fmt: skip
_FLOATS = {"BF16", "F16", "F32", "F64"}


@dataclass(frozen=True, slots=True)
class VisionFacts:
    """The encoder that turns images into tokens: its sizes, and the most patches and tokens that one image becomes."""

    hidden_size: int
    intermediate_size: int
    patches_per_image: int
    tokens_per_image: int


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """A model as far as placing it on a machine needs.

    ``weights_bytes`` are the bytes that the engine will hold, all ranks together. ``kv`` says what a request takes of
    the KV cache; None where the config does not tell. ``notes`` say in sentences what could not be known. ``weights``
    says where the weights go when they are split; None where they could not be read. ``rotary_dim`` is 0 without rotary
    positions; ``experts_per_token`` 0 without experts, whose inner size is ``expert_size``. ``vision`` is None for
    models that read no images. ``quantization_group`` is how many weights of a row share a scale (the side of a block
    of fp8); 0 for one scale per tensor or channel.
    """

    architecture: str
    model_type: str
    precision: str
    quantization: str | None
    weights_bytes: int
    parameters: int
    max_model_len: int | None
    layers: int | None
    hidden_size: int | None
    attention_heads: int | None
    kv_heads: int | None
    head_dim: int | None
    vocab_size: int | None
    intermediate_size: int | None
    has_remote_code: bool
    kv: KvLayout | None = None
    notes: tuple[str, ...] = ()
    weights: WeightTable | None = None
    rotary_dim: int = 0
    experts_per_token: int = 0
    expert_size: int = 0
    vision: VisionFacts | None = None
    quantization_group: int = 0

    @property
    def rope_cache_bytes(self) -> int:
        """The table of rotary positions that every rank keeps, in 16 bit: one row for each position."""
        return (self.max_model_len or 0) * self.rotary_dim * 2


def read_json_object(path: str, data: bytes) -> dict[str, Any]:
    """The JSON object in ``data``; raises MalformedModel, naming ``path``, for anything else."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise MalformedModel(f"{path} is not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise MalformedModel(f"{path} holds no JSON object")
    return value


def missing_shards(index: Mapping[str, Any], present: Iterable[str]) -> list[str]:
    """The shards that a ``model.safetensors.index.json`` names and ``present`` lacks, sorted."""
    weight_map = index.get("weight_map")
    if not isinstance(weight_map, dict):
        raise MalformedModel(f"{WEIGHTS_INDEX_FILE} has no weight_map")
    return sorted({str(shard) for shard in weight_map.values()} - set(present))


def gather_facts(
    config: Mapping[str, Any],
    tensors: Sequence[Tensor],
    *,
    quantization_file: Mapping[str, Any] | None = None,
    unread_weights_bytes: int = 0,
) -> ModelFacts:
    """The facts of a model.

    ``tensors`` are those of the files that the engine will load; ``unread_weights_bytes`` is the size of weight files
    whose headers cannot be read (pickles, GGUF). Raises MalformedModel when the config names no architecture or type.
    """
    text = _text_config(config)
    architecture, model_type = _identity(config)
    fields = {name: _positive(text, keys) for name, keys in _ALIASES.items()}
    quantization = _quantization(config, text, quantization_file)
    dtype = _dtype(config, text, tensors)
    notes = []
    if unread_weights_bytes:
        notes.append("weights are not safetensors: their size in memory is taken from the files")
    weights = None
    if tensors:
        is_tied = bool(text.get("tie_word_embeddings", config.get("tie_word_embeddings", False)))
        most_bits = 16 if dtype == "fp32" else 64  # engines hold float32 checkpoints in a 16-bit type unless told
        weights = weight_table(tensors, most_bits=most_bits, layers=fields["layers"], is_tied=is_tied)
    kv = kv_layout(
        text,
        layers=fields["layers"],
        heads=_kv_heads(text, fields),
        head_dim=_head_dim(fields),
        dtype_bytes=1 if quantization and quantization.kv_is_fp8 else 2,
    )
    if kv is None:
        notes.append("the config does not tell how attention is built: the KV cache is not counted")
    elif not kv.is_exact:
        notes.append("attention is of a kind that is not known exactly: the KV cache figure is a bound")
    return ModelFacts(
        architecture=architecture,
        model_type=model_type,
        precision=_precision(quantization, dtype),
        quantization=quantization.method if quantization else None,
        weights_bytes=(weights.total_bytes if weights else 0) + unread_weights_bytes,
        parameters=sum(each.elements for each in tensors),
        max_model_len=_max_model_len(text),
        layers=fields["layers"],
        hidden_size=fields["hidden_size"],
        attention_heads=fields["attention_heads"],
        kv_heads=_kv_heads(text, fields),
        head_dim=_head_dim(fields),
        vocab_size=fields["vocab_size"],
        intermediate_size=fields["intermediate_size"],
        has_remote_code=bool(config.get("auto_map")),
        kv=kv,
        notes=tuple(notes),
        weights=weights,
        rotary_dim=_rotary_dim(text, _head_dim(fields)),
        experts_per_token=_positive(text, _EXPERTS_PER_TOKEN) or 0,
        expert_size=_positive(text, _EXPERT_SIZES) or 0,
        quantization_group=_quantization_group(config, text),
    )


def _text_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The language model's part of a config, laid over the outer one so that shared keys are found in either."""
    for key in _TEXT_CONFIGS:
        nested = config.get(key)
        if isinstance(nested, dict):
            return {**config, **_text_config(nested)}
    return config


def _identity(config: Mapping[str, Any]) -> tuple[str, str]:
    architectures = config.get("architectures")
    first = architectures[0] if isinstance(architectures, list) and architectures else None
    model_type = config.get("model_type")
    if not isinstance(first, str) and not isinstance(model_type, str):
        raise MalformedModel(
            f"{CONFIG_FILE} names neither architectures nor model_type",
            remedy="this does not look like a Hugging Face model directory; check that config.json is the model's",
        )
    return (first if isinstance(first, str) else ""), (model_type if isinstance(model_type, str) else "")


def _positive(config: Mapping[str, Any], keys: Iterable[str]) -> int | None:
    for key in keys:
        value = config.get(key)
        if type(value) is int and value > 0:
            return value
    return None


def _kv_heads(text: Mapping[str, Any], fields: Mapping[str, int | None]) -> int | None:
    if text.get("multi_query") and not text.get("new_decoder_architecture"):
        return 1
    return fields["kv_heads"] or fields["attention_heads"]


def _head_dim(fields: Mapping[str, int | None]) -> int | None:
    hidden, heads = fields["hidden_size"], fields["attention_heads"]
    return fields["head_dim"] or (hidden // heads if hidden and heads else None)


def _rotary_dim(text: Mapping[str, Any], head_dim: int | None) -> int:
    """How many of a head's dimensions are turned by position; 0 for a model without rotary positions."""
    rope = text.get("rope_parameters")
    rope = rope if isinstance(rope, dict) else {}
    if not (rope or any(text.get(key) for key in _ROTARY)):
        return 0
    if own := _positive(text, ("qk_rope_head_dim", "rotary_dim")):
        return own
    share = text.get("partial_rotary_factor", rope.get("partial_rotary_factor", 1.0))
    return int((head_dim or 0) * share) if isinstance(share, int | float) and 0 < share <= 1 else head_dim or 0


def _max_model_len(text: Mapping[str, Any]) -> int | None:
    """The longest sequence the engine derives: positions, times the rope factor for the kinds that stretch them."""
    found = [value for key in _LENGTHS if type(value := text.get(key)) is int and value > 0]
    if not found:
        return None
    rope = text.get("rope_scaling") or text.get("rope_parameters")
    if not isinstance(rope, dict):
        return min(found)
    kind = rope.get("rope_type", rope.get("type", "default"))
    factor = rope.get("factor", 1)
    if kind not in _SCALED_ROPE or not isinstance(factor, int | float):
        return min(found)
    original = rope.get("original_max_position_embeddings")
    base = original if kind.endswith("yarn") and type(original) is int else min(found)
    return int(base * factor)


@dataclass(frozen=True, slots=True)
class _Quantization:
    method: str
    precision: str
    kv_is_fp8: bool


def _quantization(
    config: Mapping[str, Any], text: Mapping[str, Any], file: Mapping[str, Any] | None
) -> _Quantization | None:
    declared = config.get("quantization_config") or text.get("quantization_config") or config.get("compression_config")
    inner = file.get("quantization") if file else None
    if isinstance(inner, dict) and inner.get("quant_algo"):
        return _modelopt(inner)
    if not isinstance(declared, dict):
        return None
    method = str(declared.get("quant_method", "")).lower()
    if method == "modelopt" or (not method and declared.get("quant_algo")):
        return _modelopt(declared)
    if method == "compressed-tensors" or declared.get("config_groups"):
        return _compressed_tensors(declared)
    bits = declared.get("bits", declared.get("w_bit"))
    match method:
        case "":
            return None
        case "fp8" | "fbgemm_fp8":
            return _Quantization(method, "fp8", _has_fp8_kv(declared))
        case "mxfp4":
            return _Quantization(method, "mxfp4", False)
        case "bitsandbytes":
            return _Quantization(method, "int8_bnb" if declared.get("load_in_8bit") else "int4_bnb", False)
        case _:
            return _Quantization(method, f"int{bits if type(bits) is int else 4}_{method}", False)


def _quantization_group(config: Mapping[str, Any], text: Mapping[str, Any]) -> int:
    """How many weights share one scale, wherever the quantisation config says it; 0 where it does not."""
    declared = config.get("quantization_config") or text.get("quantization_config") or config.get("compression_config")
    if not isinstance(declared, dict):
        return 0
    block = declared.get("weight_block_size")
    if isinstance(block, list) and block and type(block[0]) is int:
        return block[0]
    groups = declared.get("config_groups")
    first: object = next(iter(groups.values()), None) if isinstance(groups, dict) else None
    weights = first.get("weights") if isinstance(first, dict) else None
    return max(0, _positive(weights if isinstance(weights, dict) else declared, ("group_size", "q_group_size")) or 0)


def _modelopt(declared: Mapping[str, Any]) -> _Quantization:
    algorithm = str(declared.get("quant_algo", "")).lower()
    precision = next((name for name in ("nvfp4", "mxfp4", "fp8", "int8", "int4") if name in algorithm), algorithm)
    return _Quantization("modelopt", "mixed" if "mixed" in precision else precision, _has_fp8_kv(declared))


def _compressed_tensors(declared: Mapping[str, Any]) -> _Quantization:
    groups = declared.get("config_groups")
    weights: list[Mapping[str, Any]] = [
        group["weights"]
        for group in (groups.values() if isinstance(groups, dict) else ())
        if isinstance(group, dict) and isinstance(group.get("weights"), dict)
    ]
    kinds = [(each.get("type"), each.get("num_bits"), each.get("group_size")) for each in weights]
    precision = "mixed" if len(set(kinds)) > 1 else "int8"
    if kinds and len(set(kinds)) == 1:
        kind, bits, group_size = kinds[0]
        four_bit_float = "mxfp4" if group_size == 32 else "nvfp4"
        precision = (four_bit_float if bits == 4 else f"fp{bits}") if kind == "float" else f"int{bits}"
    return _Quantization("compressed-tensors", precision, _has_fp8_kv(declared))


def _has_fp8_kv(declared: Mapping[str, Any]) -> bool:
    named = str(declared.get("kv_cache_quant_algo") or declared.get("kv_cache_scheme") or "").lower()
    return "fp8" in named or ("float" in named and "8" in named)


def _dtype(config: Mapping[str, Any], text: Mapping[str, Any], tensors: Sequence[Tensor]) -> str:
    """The type that unquantised weights are computed in: what the config says, else what most bytes have."""
    for declared in (text.get("dtype"), text.get("torch_dtype"), config.get("torch_dtype")):
        if isinstance(declared, str) and (name := _DTYPE_NAMES.get(declared.removeprefix("torch."))):
            return name
    sizes: Counter[str] = Counter()
    for tensor in tensors:
        if tensor.dtype in _FLOATS:
            sizes[tensor.dtype] += tensor.size_bytes
    return _DTYPE_NAMES[sizes.most_common(1)[0][0]] if sizes else "bf16"


def _precision(quantization: _Quantization | None, dtype: str) -> str:
    if quantization:
        return quantization.precision
    return "bf16" if dtype == "fp32" else dtype  # engines hold float32 checkpoints in a 16-bit type unless told
