"""What a model is, told by its config.json, its quantisation config and its safetensors headers.

Everything here is pure: text and tensors in, one :class:`ModelFacts` out. A field that a config does not have is None,
and whatever is computed from it says so in a note instead of guessing silently.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lading.errors import MalformedModel
from lading.model.attention import KvLayout, kv_layout, odd_heads
from lading.model.built_engine import BuiltEngine
from lading.model.config import (
    CONFIG_FILE,
    TIED_BY_CLASS,
    Sizes,
    identity,
    max_model_len,
    named_sizes,
    text_config,
    type_of,
    whole,
)
from lading.model.experts import EXPERT_SIZES, EXPERTS, EXPERTS_PER_TOKEN, first_of, has_wide_routers
from lading.model.layers import thinned_heads
from lading.model.placement import Stage, everywhere, has_whole_projector, place
from lading.model.quantization import Quantization, quantization_of
from lading.model.rope import rope_numbers
from lading.model.safetensors import Tensor
from lading.model.states import state_of
from lading.model.towers import AudioFacts, VisionFacts, audio_of, tower_layers, vision_of
from lading.model.weights import Build, WeightTable, weight_table

__all__ = ["CONFIG_FILE", "QUANTIZATION_FILE", "ModelFacts", "gather_facts", "read_json_object"]

QUANTIZATION_FILE = "hf_quant_config.json"

_MENTIONED = 0.01  # less than this share of the weights is not worth a sentence
_DRAFT_LAYERS = ("num_nextn_predict_layers", "mtp_num_hidden_layers", "num_mtp_layers", "n_predict")
_DTYPE_NAMES = {
    "bfloat16": "bf16", "float16": "fp16", "half": "fp16", "float32": "fp32", "float": "fp32", "float64": "fp32",
    "BF16": "bf16", "F16": "fp16", "F32": "fp32", "F64": "fp32",
}  # fmt: skip
_FLOATS = {"BF16", "F16", "F32", "F64"}
_POOLING_ENDINGS = (
    "ForSequenceClassification", "ForTokenClassification", "ForMaskedLM", "EmbeddingModel", "ForRetrieval",
    "ForRewardModel", "ForProcessRewardModel",
)  # fmt: skip
_GENERATING_MODELS = (
    "LMHeadModel", "LMModel", "ChatGLMModel", "ChatModel", "OmniModel", "UltravoxModel", "AudioModel", "MTPModel",
    "DraftModel",
)  # fmt: skip
_ENCODERS = {
    "bert", "roberta", "xlm-roberta", "xlm_roberta", "modernbert", "nomic_bert", "new", "gte", "jina", "camembert",
    "distilbert", "electra", "mpnet", "deberta", "deberta-v2", "clip", "siglip", "xlm-roberta-flash", "e5", "albert",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """A model as far as placing it on a machine needs.

    ``weights_bytes`` are the bytes that the engine will hold, all ranks together. ``kv`` says what a request takes of
    the KV cache; None where the config does not tell, or for an encoder, which keeps none (``is_encoder``). ``notes``
    say in sentences what could not be known. ``weights`` says where the weights go when they are split; None where they
    could not be read. ``rope_numbers`` are those of the tables of rotary positions. ``experts_per_token`` and
    ``experts`` are 0 without experts, whose inner size is ``expert_size``. ``pooling`` says that the model gives
    vectors or scores, no text. ``draft_layers`` are those for multi-token prediction, which are loaded for speculative
    decoding alone. ``quantization_group`` is how many weights of a row share a scale (the side of a block of fp8), 0
    for none. ``built``: the files are an engine of TensorRT-LLM, whose precision and ``max_model_len`` are fixed.
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
    rope_numbers: int = 0
    experts_per_token: int = 0
    expert_size: int = 0
    experts: int = 0
    pooling: bool = False
    is_encoder: bool = False
    draft_layers: int = 0
    vision: VisionFacts | None = None
    audio: AudioFacts | None = None
    quantization_group: int = 0
    built: BuiltEngine | None = None

    @classmethod
    def unknown(cls, weights_bytes: int) -> ModelFacts:
        """Of a model whose files say nothing that could be read."""
        return cls(
            architecture="",
            model_type="",
            precision="unknown",
            quantization=None,
            weights_bytes=weights_bytes,
            parameters=0,
            max_model_len=None,
            layers=None,
            hidden_size=None,
            attention_heads=None,
            kv_heads=None,
            head_dim=None,
            vocab_size=None,
            intermediate_size=None,
            has_remote_code=False,
        )

    @property
    def rope_cache_bytes(self) -> int:
        """The tables of rotary positions that every rank keeps, in 16 bit."""
        return self.rope_numbers * 2


def read_json_object(path: str, data: bytes) -> dict[str, Any]:
    """The JSON object in ``data``; raises MalformedModel, naming ``path``, for anything else."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise MalformedModel(f"{path} is not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise MalformedModel(f"{path} holds no JSON object")
    return value


def gather_facts(
    config: Mapping[str, Any],
    tensors: Sequence[Tensor],
    *,
    quantization_file: Mapping[str, Any] | None = None,
    unread_weights_bytes: int = 0,
    notes: Sequence[str] = (),
    layer_scale: float = 1.0,
) -> ModelFacts:
    """The facts of a model.

    ``tensors`` are those of the files that the engine will load; ``unread_weights_bytes`` is the size of weight files
    whose headers cannot be read (pickles, GGUF); ``notes`` are what is to be said of either. ``layer_scale`` is by how
    much layers that were derived have to grow to come to what the files hold. Raises MalformedModel when the config
    names no architecture or type, and nothing else, whatever the config holds.
    """
    architecture, model_type = identity(config)
    text = text_config(config)
    sizes = _sizes(text, tensors)
    quantization = quantization_of(config, text, quantization_file)
    pooling = _is_pooling(architecture)
    is_encoder = pooling and _is_encoder(text)
    weights = _weights(config, text, sizes, tensors, quantization, layer_scale) if tensors else None
    facts = ModelFacts(
        architecture=architecture,
        model_type=model_type,
        precision=_precision(quantization, _dtype(config, text, tensors)),
        quantization=quantization.method if quantization else None,
        weights_bytes=(weights.total_bytes if weights else 0) + unread_weights_bytes,
        parameters=sum(each.elements for each in tensors),
        max_model_len=max_model_len(text),
        **sizes,
        has_remote_code=bool(config.get("auto_map")),
        kv=None if is_encoder else _kv(text, sizes, quantization),
        weights=weights,
        rope_numbers=rope_numbers(text, sizes["head_dim"]),
        experts_per_token=first_of(text, *EXPERTS_PER_TOKEN),
        expert_size=first_of(text, *EXPERT_SIZES),
        experts=first_of(text, *EXPERTS),
        pooling=pooling,
        is_encoder=is_encoder,
        draft_layers=whole(text, *_DRAFT_LAYERS),
        vision=vision_of(config),
        audio=audio_of(config),
        quantization_group=quantization.group if quantization else 0,
    )
    return replace(facts, notes=(*notes, *_notes(facts, quantization, unread_weights_bytes)))


def _sizes(text: Mapping[str, Any], tensors: Sequence[Tensor]) -> Sizes:
    """The named sizes, those that follow from others, and those that the tensors tell where the config does not."""
    sizes = named_sizes(text)
    if text.get("multi_query") is True and text.get("new_decoder_architecture") is not True:
        sizes["kv_heads"] = 1
    attention = text.get("attn_config")
    if isinstance(attention, dict):  # DBRX, MPT
        sizes["kv_heads"] = sizes["kv_heads"] or whole(attention, "kv_n_heads") or None
    sizes["kv_heads"] = sizes["kv_heads"] or thinned_heads(text) or None
    hidden, heads = sizes["hidden_size"], sizes["attention_heads"]
    sizes["kv_heads"] = sizes["kv_heads"] or heads
    sizes["head_dim"] = sizes["head_dim"] or (hidden // heads if hidden and heads else None) or None
    embedding = next((each for each in tensors if _is_embedding(each)), None)
    if embedding:
        sizes["vocab_size"] = sizes["vocab_size"] or embedding.shape[0]
        sizes["hidden_size"] = hidden or embedding.shape[1]
    return sizes


def _is_embedding(tensor: Tensor) -> bool:
    name = tensor.name
    return len(tensor.shape) == 2 and name.endswith(("embed_tokens.weight", "wte.weight", "word_embeddings.weight"))


def _kv(text: Mapping[str, Any], sizes: Sizes, quantization: Quantization | None) -> KvLayout | None:
    attentions = 2 if type_of(text) == "longcat_flash" else 1  # in each layer
    return kv_layout(
        text,
        layers=attentions * (sizes["layers"] or 0),
        heads=sizes["kv_heads"],
        head_dim=sizes["head_dim"],
        dtype_bytes=1 if quantization and quantization.kv_is_fp8 else 2,
    )


def _weights(
    config: Mapping[str, Any],
    text: Mapping[str, Any],
    sizes: Sizes,
    tensors: Sequence[Tensor],
    quantization: Quantization | None,
    layer_scale: float,
) -> WeightTable:
    groups, share = _state_groups(text, sizes)
    build = Build(
        layers=sizes["layers"] or 0,
        is_tied=_is_tied(config, text, tensors),
        experts=first_of(text, *EXPERTS),
        expert_inner=first_of(text, *EXPERT_SIZES),
        hidden=sizes["hidden_size"] or 0,
        is_mxfp4=bool(quantization and quantization.precision == "mxfp4"),
        keys=odd_heads(text, layers=sizes["layers"], heads=sizes["kv_heads"], head_dim=sizes["head_dim"]),
        state_groups=groups,
        group_share=share,
        layer_scale=layer_scale,
        everywhere=everywhere(type_of(text)),
        tower_layers=tower_layers(config),
        has_wide_routers=has_wide_routers(text),
        has_pooler=_has_pooler(config),
        has_whole_projector=has_whole_projector(identity(config)[1]),
    )
    return weight_table(tensors, build)


def _is_tied(config: Mapping[str, Any], text: Mapping[str, Any], tensors: Sequence[Tensor]) -> bool:
    """Whether the head is the embedding: as declared, else by the class, else where the files have no head."""
    declared = text.get("tie_word_embeddings", config.get("tie_word_embeddings"))
    if isinstance(declared, bool):
        return declared
    return type_of(text) in TIED_BY_CLASS or not _has_head(tensors)


def _has_pooler(config: Mapping[str, Any]) -> bool:
    """Whether the engine builds an encoder's pooler: for scores it does, for vectors it takes those of the tokens."""
    architecture, _ = identity(config)
    return "SequenceClassification" in architecture or not _is_pooling(architecture)


def _has_head(tensors: Sequence[Tensor]) -> bool:
    return any(where.stage is Stage.HEAD for each in tensors if (where := place(each.name)))


def _state_groups(text: Mapping[str, Any], sizes: Sizes) -> tuple[int, float]:
    """The groups of B and C of state-space layers, and their share of the projection into them."""
    state = state_of(text, heads=sizes["kv_heads"], head_dim=sizes["head_dim"])
    if state is None or not state.groups:
        return 0, 0.0
    grouped = state.groups * state.group_channels
    return state.groups, grouped / (2 * state.channels + grouped)


def _is_pooling(architecture: str) -> bool:
    """Whether the model's class gives vectors or scores: engines run such classes with a pooler."""
    if architecture.endswith(_POOLING_ENDINGS) or "BidirectionalModel" in architecture:
        return True
    return architecture.endswith("Model") and not architecture.endswith(_GENERATING_MODELS)


def _is_encoder(text: Mapping[str, Any]) -> bool:
    """Whether every token sees every other, so that nothing is kept from one step to the next."""
    kind = type_of(text).lower()
    return kind in _ENCODERS or text.get("is_causal") is False or text.get("use_bidirectional_attention") is True


def _notes(facts: ModelFacts, quantization: Quantization | None, unread_weights_bytes: int) -> list[str]:
    """What is not known for certain, in sentences."""
    notes = []
    if unread_weights_bytes:
        notes.append("weights are not safetensors: their size in memory is taken from the files")
    if quantization and quantization.is_bounded:
        notes.append(
            f"how engines hold weights quantised by {quantization.method} is not known: the files' size is taken"
        )
    if facts.weights and facts.weights.unknown_bytes > _MENTIONED * facts.weights.total_bytes:
        share = facts.weights.unknown_bytes / facts.weights.total_bytes
        notes.append(
            f"{share:.0%} of the weights are in layers of no known kind: they count whole on every rank, a bound"
        )
    if facts.is_encoder:
        return notes
    if facts.kv is None:
        notes.append("the config does not tell how attention is built: the KV cache is not counted")
    elif not facts.kv.is_exact:
        notes.append("attention is of a kind that is not known exactly: the KV cache figure is a bound")
    return notes


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


def _precision(quantization: Quantization | None, dtype: str) -> str:
    if quantization:
        return quantization.precision
    return "bf16" if dtype == "fp32" else dtype  # engines hold float32 checkpoints in a 16-bit type unless told
