"""What a state-space, linear-attention or convolution layer keeps of a request, whatever the request's length.

By vLLM's state shapes (``model_executor/layers/mamba/mamba_utils.py``): the tail of a short convolution, which is
longer by the tokens guessed ahead, and a matrix for each head. Ranks share both, but groups of B and C that they cannot
share are repeated.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lading.model.config import table, type_of, whole

_ELEMENT_BYTES = 2
_FLOAT_STATES = ("nemotron_h", "nemotron_h_puzzle")  # vLLM keeps these in float32 where the config is silent


@dataclass(frozen=True, slots=True)
class State:
    """One layer's state: ``tail`` steps of ``channels`` and of ``groups`` groups, and ``matrix`` elements of a type."""

    tail: int
    channels: int
    matrix: int
    matrix_bytes: int = _ELEMENT_BYTES
    groups: int = 0
    group_channels: int = 0

    def size_bytes(self, tp: int = 1, speculative: int = 0) -> int:
        """Bytes on one of ``tp`` ranks, with ``speculative`` tokens guessed ahead."""
        groups = self.groups if self.groups % tp == 0 else self.groups + tp - min(self.groups, tp)
        channels = -(-(self.channels + groups * self.group_channels) // tp)
        tail = (self.tail + speculative) * channels * _ELEMENT_BYTES if self.tail else 0
        return tail + -(-self.matrix // tp) * self.matrix_bytes


def state_of(text: Mapping[str, Any], *, heads: int | None, head_dim: int | None) -> State | None:
    """The state of the layers of this config that keep one; None where it does not tell enough."""
    if whole(text, "linear_num_value_heads"):
        return _gated_delta_net(text)
    if linear := table(text.get("linear_attn_config")):
        return _kimi_delta(linear)
    if whole(text, "linear_num_heads"):  # the same, as transformers writes it
        names = {"num_heads": "linear_num_heads", "head_dim": "linear_head_dim"}
        kernel = {"short_conv_kernel_size": "linear_conv_kernel_dim"}
        return _kimi_delta({name: text.get(key) for name, key in (names | kernel).items()})
    if whole(text, "conv_L_cache"):
        channels = whole(text, "conv_dim", "hidden_size")
        return State(whole(text, "conv_L_cache") - 1, channels, 0) if channels else None
    if found := _mamba2(text):
        return found
    if found := _mamba1(text):
        return found
    is_minimax = type_of(text).startswith("minimax")
    if (
        is_minimax or text.get("attn_type_list") or whole(text, "layer_group_size")
    ):  # lightning attention: a square for each head
        return State(0, 0, heads * head_dim * head_dim) if heads and head_dim else None
    return None


def _matrix_bytes(text: Mapping[str, Any]) -> int:
    named = next((text[key] for key in ("mamba_ssm_dtype", "mamba_ssm_cache_dtype") if text.get(key)), None)
    if named is None and type_of(text) in _FLOAT_STATES:
        named = "float32"
    return 4 if str(named).endswith("float32") else _ELEMENT_BYTES


def _gated_delta_net(text: Mapping[str, Any]) -> State | None:
    keys = whole(text, "linear_num_key_heads") * whole(text, "linear_key_head_dim")
    value_heads, value_dim = whole(text, "linear_num_value_heads"), whole(text, "linear_value_head_dim")
    kernel = whole(text, "linear_conv_kernel_dim")
    if not (keys and value_dim and kernel):
        return None
    matrix = value_heads * value_dim * whole(text, "linear_key_head_dim")
    return State(kernel - 1, 2 * keys + value_heads * value_dim, matrix, _matrix_bytes(text))


def _kimi_delta(linear: Mapping[str, Any]) -> State | None:
    heads, head_dim = whole(linear, "num_heads"), whole(linear, "head_dim")
    if not (heads and head_dim):
        return None
    kernel = whole(linear, "short_conv_kernel_size") or 4
    return State(kernel - 1, 3 * heads * head_dim, heads * head_dim * head_dim, 4)


def _mamba2(text: Mapping[str, Any]) -> State | None:
    heads = whole(text, "mamba_num_heads", "mamba_n_heads", "n_mamba_heads")
    head_dim = whole(text, "mamba_head_dim", "mamba_d_head", "mamba_headdim")
    if type_of(text) == "mamba2":
        heads, head_dim = whole(text, "num_heads"), whole(text, "head_dim")
    inner = whole(text, "mamba_d_ssm") or whole(text, "mamba_expand") * whole(text, "hidden_size")
    if heads and not head_dim:
        head_dim = whole(text, "hidden_size_per_head") or inner // heads
    size = whole(text, "ssm_state_size", "mamba_d_state", "state_size")
    kernel = whole(text, "conv_kernel", "mamba_d_conv")
    if not (heads and head_dim and size and kernel):
        return None
    groups = whole(text, "n_groups", "mamba_n_groups", "mamba_ngroups") or (0 if _is_plamo(text) else 1)
    return State(kernel - 1, heads * head_dim, heads * head_dim * size, _matrix_bytes(text), groups, 2 * size)


def _is_plamo(text: Mapping[str, Any]) -> bool:
    return type_of(text).startswith("plamo")


def _mamba1(text: Mapping[str, Any]) -> State | None:
    hidden = whole(text, "hidden_size", "d_model")
    is_pure = type_of(text) in ("mamba", "falcon_mamba")
    inner = whole(text, "mamba_expand") * hidden or (is_pure and (whole(text, "intermediate_size") or 2 * hidden))
    size = whole(text, "mamba_d_state", "state_size")
    kernel = whole(text, "mamba_d_conv", "conv_kernel")
    if not (inner and size and kernel):
        return None
    return State(kernel - 1, inner, inner * size, _matrix_bytes(text))
