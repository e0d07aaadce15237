"""Which layers of a language model have experts, in the forms in which configs tell it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lading.model.config import listed, type_of, whole, whole_number

EXPERTS = ("num_experts", "n_routed_experts", "num_local_experts", "moe_num_experts", "num_routed_experts")
EXPERTS_PER_TOKEN = (
    "num_experts_per_tok", "experts_per_token", "moe_topk", "num_experts_per_token", "top_k_experts", "moe_top_k",
    "moe_k",
)  # fmt: skip
EXPERT_SIZES = (
    "moe_intermediate_size", "expert_intermediate_size", "ffn_expert_hidden_size", "expert_ffn_hidden_size",
    "intermediate_size", "ffn_hidden_size",
)  # fmt: skip
_WIDE_ROUTERS = {
    "afmoe", "bailing_moe_v3", "ernie4_5_moe", "ernie4_5_vl_moe", "glm4_moe", "glm4_moe_lite", "glm4v_moe", "hy_v3",
    "minimax_m2", "step3p5",
}  # fmt: skip
"""Model types whose classes in vLLM 0.32 make routers with ``params_dtype=torch.float32``."""

_SPARSE = ("sparse", "moe", "hash_moe", "E")


def first_of(text: Mapping[str, Any], *keys: str) -> int:
    """As :func:`lading.model.config.whole`, where some configs write a list with one number for each layer."""
    for key in keys:
        value = text.get(key)
        numbers = [whole_number(each) for each in listed(value)[:1]] or [whole_number(value)]
        if numbers[0]:
            return numbers[0]
    return 0


def sparse_layers(text: Mapping[str, Any], layers: int) -> list[bool]:
    """For each layer, whether it has experts."""
    if not first_of(text, *EXPERTS):
        return [False] * layers
    named = text.get("mlp_layer_types") or text.get("layers_block_type") or text.get("hybrid_override_pattern")
    if isinstance(named, list | str) and len(named) >= layers and any(each in _SPARSE for each in named):
        return [each in _SPARSE for each in named[:layers]]
    if (listed_layers := _listed(text)) is not None:
        return [number in listed_layers for number in range(layers)]
    frequencies = listed(text.get("moe_layer_freq"))
    if len(frequencies) >= layers:
        return [bool(each) for each in frequencies[:layers]]
    return [_by_rule(text, number) for number in range(layers)]


def _listed(text: Mapping[str, Any]) -> set[int] | None:
    """The layers with experts where the config lists them."""
    named = text.get("moe_layers_enum")
    if isinstance(named, str):
        return {int(each) for each in named.split(",") if each.strip().isdecimal() and len(each) < 7}
    found = text.get("moe_layers")
    return {each for each in found if type(each) is int} if isinstance(found, list) else None


def _by_rule(text: Mapping[str, Any], number: int) -> bool:
    dense = whole(text, "first_k_dense_replace", "num_dense_layers", "n_dense_layers", "moe_layer_num_skipped")
    if number < dense or number in listed(text.get("mlp_only_layers")):
        return False
    start = max(whole(text, "moe_layer_start_index"), 0)
    if number < start or number > (whole(text, "moe_layer_end_index") or number):
        return False
    if period := whole(text, "expert_layer_period"):
        return number % period == whole(text, "expert_layer_offset")
    step = whole(text, "decoder_sparse_step", "interleave_moe_layer_step", "moe_layer_interval")
    if step and (number + 1) % step:
        return False
    return number % (whole(text, "moe_layer_freq") or 1) == 0


def has_wide_routers(text: Mapping[str, Any]) -> bool:
    """Whether the engine holds the routers in float32, by the family or as the config asks."""
    asked = [text.get(key) for key in ("router_dtype", "moe_router_dtype")]
    return type_of(text).removesuffix("_text") in _WIDE_ROUTERS or any(each in ("fp32", "float32") for each in asked)
