"""Where an engine puts a tensor, told by its name: which pipeline stages have it, how ranks share it, whether at all.

By the rules of vLLM's parallel layers (``model_executor/layers/linear.py``, ``vocab_parallel_embedding.py`` in 0.33):

* linear layers, experts and vocabularies are split over the tensor-parallel ranks; norms, routers, MLA's
  down-projections and biases of row-parallel layers are on each rank; keys and values are split by whole heads;
* towers for images and sound, and encoders, are on every stage; their linear layers are split as all others are;
* embeddings are on the first stage, the final norm and the head on the last, but for families whose classes build them
  without asking for the stage (:func:`everywhere`);
* buffers that engines make themselves are not loaded; layers for multi-token prediction and other drafts only to guess
  ahead.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from enum import Enum, auto
from functools import lru_cache

_NUMBER = re.compile(r"\.\d{1,6}(?=\.|$)")
_LAYER = re.compile(r"(?:^|\.)(?:layers|h|blocks|block|layer|decoder_layers)\.(\d{1,6})(?:\.|$)")
_TOWER = re.compile(
    r"(?:^|[._])(?:visual|vision|audio|image|img|mm|multi_modal|multimodal|patch|vit|siglip|sam_model|speech"
    r"|multimodal_projector|mlp1|merger|resampler|perceiver|connector|embed_vision|embed_audio)(?:$|[._])"
)
_ENCODER = re.compile(r"(?:^|model\.)encoder\.(?:layers|block)\.")
_DRAFT = re.compile(r"(?:^|\.)(?:mtp|mtp_layers|nextn|eagle|medusa|medusa_head|mtp_block|nextn_predict_layers)(?:$|\.)")
_BUFFERS = re.compile(
    r"(?:rotary_emb\.inv_freq|rotary_emb\.(?:cos|sin)_cached|\.masked_bias|position_ids|\.attn\.bias|\.attention\.bias"
    r"|num_batches_tracked|rope\.freqs|_float_tensor)$"
)
_EMBEDDINGS = {
    "embed_tokens", "wte", "word_embeddings", "tok_embeddings", "embeddings", "embed_in", "embedding",
    "embed_tokens_per_layer", "tokens_embed", "shared", "ngram_embeddings", "position_embeddings",
    "token_type_embeddings",
}  # fmt: skip
_POSITIONS = {"wpe", "embed_positions"}
_HEADS = {"lm_head", "embed_out", "output", "output_layer", "proj_out"}
_KEYS_AND_VALUES = {"k_proj", "v_proj", "kv_proj", "wk", "wv", "k", "v"}
_FUSED = {"qkv_proj", "c_attn", "query_key_value", "Wqkv", "qkv", "wqkv", "in_proj_weight", "in_proj_bias"}
_ROWS = {
    "o_proj", "down_proj", "out_proj", "fc2", "c_proj", "dense", "dense_4h_to_h", "w2", "wo", "proj", "out_linear",
    "linear_2", "linear_fc2", "down", "fc_out", "Wo", "o", "out", "output_linear", "attn_out", "ff_out",
}  # fmt: skip
_COLUMNS = {
    "q_proj", "gate_proj", "up_proj", "gate_up_proj", "fc1", "c_fc", "dense_h_to_4h", "w1", "w3", "wq",
    "q_b_proj", "kv_b_proj", "in_proj_qkv", "in_proj_z", "in_proj_a", "in_proj_b", "in_proj_qkvz", "wq_b", "wkv_b",
    "in_proj_ba", "x_proj", "dt_proj", "A_log", "D", "dt_bias", "sinks", "linear_1", "linear_fc1", "in_proj",
    "gate", "up", "fc_in", "Wi", "query", "key", "value", "f_b_proj", "g_b_proj", "b_proj", "q_conv1d", "k_conv1d",
    "v_conv1d", "linear_in", "q", "wi", "wi_0", "wi_1", "output_gate", "conv1d", "input_linear", "up_gated_layer",
}  # fmt: skip
_FUSES = {
    **dict.fromkeys(("q_proj", "k_proj", "v_proj", "query", "key", "value", "wq", "wk", "wv"), "qkv"),
    **dict.fromkeys(("gate_proj", "up_proj"), "gate_up"),
    **dict.fromkeys(("w1", "w3"), "w13"),
    **dict.fromkeys(("q_a_proj", "kv_a_proj_with_mqa"), "qkv_a"),
    **dict.fromkeys(("in_proj_qkv", "in_proj_z"), "in_proj_qkvz"),
    **dict.fromkeys(("in_proj_b", "in_proj_a"), "in_proj_ba"),
}
"""What engines load into one parameter."""
_WHOLE = {"q_a_proj", "kv_a_proj_with_mqa", "kv_a_proj", "wq_a", "wkv_a", "fused_qkv_a_proj", "wk_indexer"}
_MERGER = re.compile(r"merger\.mlp\.0\.weight$")  # of Qwen2-VL: two linear layers in a list
_ROUTER = re.compile(
    r"(?:^|\.)(?:mlp|block_sparse_moe|feed_forward|moe|mixer|ffn)\.(?:gate|router|shared_expert_gate)\b|\.router\."
)
_POOLER = re.compile(r"(?:^|\.)pooler\.dense\.")
_INDEXER = re.compile(r"\.indexer\.")
_STATES = re.compile(r"\.(?:mamba|mixer|mamba_decoder\.mamba)\.(?:in_proj|conv1d)\.")
_EXPERTS = re.compile(r"(?:^|\.)(?:experts|local_experts)(?:$|[._])")
_PARAMETERS = re.compile(
    r"\.(?:weight|bias|qweight|qzeros|scales|g_idx|SCB|weight_\w+|bias_\w+|input_\w+|weight\.(?:absmax|nested_\w+"
    r"|quant_map|quant_state\.\w+)|(?:blocks|scales|bias)$)$"
)
_REPLICATED = re.compile(
    r"norm|\.bias$|\.indexer\.|\.router\.|\.(?:gate|router|shared_expert_gate)\b|ln_\d|conv|position|rotary"
)
_KINDS_OF_SCALE = re.compile(r"(?:scale|scales|scale_inv|scale_2|_shape|absmax|SCB|zero_point|qzeros|quant_map)$")

_WITH_BOTH = {
    "bloom", "chatglm", "cohere", "cohere2", "cohere2_moe", "dbrx", "falcon", "falcon_mamba", "gemma", "gemma2",
    "gemma3", "gemma4", "gpt2", "gpt_oss", "gptj", "granitemoe", "granitemoehybrid", "granitemoeshared", "hy_v3",
    "internlm2", "jamba", "mamba", "minicpm", "minicpm3", "mixtral", "molmo", "nemotron_h", "olmo_hybrid", "olmoe",
    "opt", "orion", "phimoe", "plamo3", "qwen2_moe", "qwen3_moe", "qwen3_next", "qwen3_omni_moe", "qwen3_vl_moe",
    "rnj1", "stablelm",
}  # fmt: skip
_WITH_EMBEDDING = {"lfm2", "lfm2_moe", "qwen3_5", "qwen3_5_moe"}
"""Model types whose classes in vLLM build the embedding, or it and the head, on every pipeline stage: in
``model_executor/models/`` of 0.32, those of ``SupportsPP`` that ask neither ``is_first_rank`` nor ``is_last_rank``."""

_WITH_WHOLE_PROJECTOR = {
    "audioflamingo3", "bee", "interns1", "internvl", "kimi_k25", "kimi_vl", "lfm2_vl", "llava_next_video",
    "llava_onevision", "musicflamingo",
}  # fmt: skip
"""Model types whose projector from a tower is of ``nn.Linear`` or ``ReplicatedLinear`` in vLLM 0.32."""


class Split(Enum):
    """How ranks share a tensor."""

    RANKS = auto()
    KEYS_AND_VALUES = auto()
    FUSED = auto()
    STATES = auto()
    EXPERTS = auto()
    NONE = auto()


class Stage(Enum):
    """Which pipeline stages have a tensor: the first, all, that of its layer, the last; none of a draft's."""

    FIRST = auto()
    TOWER = auto()
    DRAFT = auto()
    LAYER = auto()
    HEAD = auto()
    LAST = auto()


@dataclass(frozen=True, slots=True)
class Place:
    """Where a tensor goes. ``layer`` is -1 for one in no layer; ``is_linear`` says that engines may quantise it.

    ``parameter`` names what it is loaded into, alike in all layers and with all experts of one in one; ``block`` is the
    layer of whatever it is a part of, a tower as well.
    ``is_scale`` says that it tells how another was quantised: engines keep it as it is. ``is_router`` and ``is_decay``
    say that it sends tokens to experts, or is the decay of a state, which engines hold in float32; ``is_pooler`` that
    it is of an encoder's pooler, ``is_last_norm`` that it may be the norm behind a tower, ``is_projector`` that it is
    between one and the language model. ``is_known`` is False for a layer of a kind that nothing here knows: all ranks
    are taken to have the whole.
    """

    stage: Stage
    layer: int
    split: Split
    is_linear: bool
    is_scale: bool
    is_known: bool = True
    is_router: bool = False
    is_decay: bool = False
    is_pooler: bool = False
    is_last_norm: bool = False
    is_projector: bool = False
    parameter: str = ""
    block: int = -1


def everywhere(model_type: str) -> frozenset[Stage]:
    """What of :attr:`Stage.FIRST` and :attr:`Stage.HEAD` the family of a language model has on every stage."""
    family = model_type.removesuffix("_text")
    if family in _WITH_BOTH:
        return frozenset({Stage.FIRST, Stage.HEAD})
    return frozenset({Stage.FIRST}) if family in _WITH_EMBEDDING else frozenset()


def has_whole_projector(model_type: str) -> bool:
    """Whether every rank has the whole of what lies between a tower and the language model."""
    return model_type in _WITH_WHOLE_PROJECTOR


def place(name: str) -> Place | None:
    """Where the tensor of this name goes; None for a buffer that engines make themselves."""
    found = _place(_NUMBER.sub(".0", name))
    layer = _LAYER.search(name)
    if found is None or layer is None:
        return found
    number = int(layer[1])
    return replace(found, layer=number if found.stage is Stage.LAYER else -1, block=number)


@lru_cache(maxsize=4096)
def _place(name: str) -> Place | None:
    """As :func:`place`, for a name with every number 0: layers and experts are alike."""
    if _BUFFERS.search(name):
        return None
    module = _module(name)
    stage = _stage(name, module)
    is_vocabulary = stage in (Stage.FIRST, Stage.HEAD) and module not in _POSITIONS
    split = Split.RANKS if is_vocabulary else _split(name, module, stage)
    is_linear = not is_vocabulary and _is_linear(name, module, split)
    is_scale = bool(_KINDS_OF_SCALE.search(name))
    is_known = split is not Split.NONE or is_linear or is_scale or bool(_REPLICATED.search(name))
    return Place(
        stage,
        -1,
        split,
        is_linear,
        is_scale,
        is_known=is_known or stage is not Stage.LAYER,
        is_router=bool(_ROUTER.search(name)),
        is_decay=module == "A_log",
        is_pooler=bool(_POOLER.search(name)),
        is_last_norm=".post_layernorm." in name,
        is_projector="multi_modal_projector." in name,
        parameter=_parameter(name),
    )


def _parameter(name: str) -> str:
    stem = _PARAMETERS.sub("", name)
    path, _, module = stem.rpartition(".")
    return f"{path}.{_FUSES.get(module, module)}{name[len(stem) :]}"


def _stage(name: str, module: str) -> Stage:
    if _DRAFT.search(name):
        return Stage.DRAFT
    if _TOWER.search(name) or _ENCODER.search(name):
        return Stage.TOWER
    if _LAYER.search(name):
        return Stage.LAYER
    if module in _EMBEDDINGS or module in _POSITIONS:
        return Stage.FIRST
    return Stage.HEAD if module in _HEADS else Stage.LAST


def _split(name: str, module: str, stage: Stage) -> Split:
    if _ROUTER.search(name) or _INDEXER.search(name) or "patch_embed" in name:
        return Split.NONE
    if _EXPERTS.search(name):
        return Split.EXPERTS
    if _MERGER.search(name):
        return Split.RANKS
    if _STATES.search(name):
        return Split.STATES
    if module in _KEYS_AND_VALUES:
        return Split.RANKS if stage is Stage.TOWER else Split.KEYS_AND_VALUES
    if module in _FUSED:
        return Split.RANKS if stage is Stage.TOWER else Split.FUSED
    if module in _ROWS:
        return Split.NONE if name.endswith(".bias") else Split.RANKS
    return Split.RANKS if module in _COLUMNS else Split.NONE


def _is_linear(name: str, module: str, split: Split) -> bool:
    """Whether the tensor is the weight of a linear layer, or of experts: what on-line quantisation narrows."""
    if split is Split.EXPERTS:
        return not name.endswith("bias")
    if not name.endswith(".weight") or "conv" in module or module in ("x_proj", "dt_proj", "D", "A_log"):
        return False
    return split is not Split.NONE or module in _WHOLE or (module in _ROWS and not _ROUTER.search(name))


def _module(name: str) -> str:
    """The layer that a tensor is a parameter of: the last part of its name without the parameter's own."""
    return _PARAMETERS.sub("", name).rpartition(".")[2]
