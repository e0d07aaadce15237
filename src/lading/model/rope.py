"""The tables of rotary positions that a rank keeps: as many as attention layers turn in different ways.

By ``model_executor/layers/rotary_embedding/`` of vLLM 0.32: one table for each distinct set of parameters, a row for
each position that the kind of scaling stretches it to, cosines and sines of the dimensions that are turned. Configs
tell the parameters in one place for all layers, or for each kind of layer; ``transformers`` fills in what they leave
out, so a decoder turns unless it is of a family that does not.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from lading.model.config import listed, own_positions, table, type_of, whole

_UNTURNED = {
    "bart", "bert", "bloom", "deberta", "distilbert", "electra", "falcon_mamba", "gpt2", "gpt_bigcode", "gpt_neo",
    "jamba", "mamba", "mamba2", "mbart", "mpt", "nemotron_h", "opt", "roberta", "rwkv", "t5", "whisper", "xglm",
    "xlm-roberta", "kimi_linear", "mt5", "biogpt", "nemotron_h_puzzle", "camembert",
}  # fmt: skip
_ABSOLUTE = {"absolute", "learned", "alibi", "nope", "none"}
_PARTS = {
    "bamba": 0.5, "glm": 0.5, "glm4": 0.5, "glm4_moe": 0.5, "gpt_neox": 0.25, "nemotron": 0.5, "persimmon": 0.5,
    "phi": 0.5, "qwen3_5": 0.25, "qwen3_5_moe": 0.25, "qwen3_next": 0.25, "stablelm": 0.25,
}  # fmt: skip
"""The share of a head that is turned where the config is silent, by the configs' classes."""
_LOCAL_BASES = {"gemma3": 10_000, "gemma3n": 10_000, "modernbert": 10_000}
"""The base of layers with a window, of families that turn them in another way than the others."""
_BASES = {"gemma3": 1_000_000, "gemma3n": 1_000_000, "modernbert": 160_000}
_STRETCHED = {"linear", "dynamic", "ntk"}
_FROM_ORIGINAL = {"yarn", "deepseek_yarn", "deepseek_llama_scaling"}
_LONG_AND_SHORT = {"longrope", "su"}
_SECTION_STRETCH = 4  # positions in a video run ahead of its tokens
_UNSTRETCHED_SECTIONS = ("qwen3_vl", "qwen3_5")
_MOST_FACTOR = 1 << 20
_MOST_TABLES = 64

Parameters = Mapping[str, Any]


def rope_numbers(text: Mapping[str, Any], head_dim: int | None) -> int:
    """How many numbers the tables of a language model have, all together; 0 for one without rotary positions."""
    positions = own_positions(text)
    if not (positions and _turns(text)):
        return 0
    tables = {_table(text, each, head_dim or 0, positions) for each in list(_ways(text))[:_MOST_TABLES]}
    return sum(rows * width for rows, width, _ in tables)


def _turns(text: Mapping[str, Any]) -> bool:
    kind = text.get("position_embedding_type")
    is_absolute = text.get("alibi") is True or (isinstance(kind, str) and kind in _ABSOLUTE)
    return not (is_absolute or type_of(text) in _UNTURNED or text.get("use_mem_rope") is False)


def _ways(text: Mapping[str, Any]) -> Iterable[Parameters]:
    """The sets of parameters in which layers turn."""
    parameters = table(text.get("rope_parameters"))
    nested = {kind: table(each) for kind, each in parameters.items() if isinstance(each, dict)}
    if nested:
        yield from ({"layer_type": kind, **each} for kind, each in nested.items() if each)
        return
    family = type_of(text).removesuffix("_text")
    common = {**table(text.get("rope_scaling")), **parameters}
    own = common.get("rope_theta", text.get("rope_theta", text.get("rotary_emb_base", text.get("global_rope_theta"))))
    bases = listed(own) or [_BASES.get(family) if own is None else own]
    yield from ({**common, "rope_theta": base} for base in bases)
    for name in ("rope_local_base_freq", "local_rope_theta", "swa_rope_theta", "compress_rope_theta"):
        if base := whole(text, name):
            yield {"rope_theta": base}
            return
    if family in _LOCAL_BASES:
        yield {"rope_theta": _LOCAL_BASES[family]}


def _table(text: Mapping[str, Any], way: Parameters, head_dim: int, positions: int) -> tuple[int, int, object]:
    """The rows and the width of the table for a set of parameters, and what tells it from others of that size."""
    named = way.get("rope_type", way.get("type", "default"))
    kind = named if isinstance(named, str) else "default"
    base = way.get("rope_theta")
    own = (kind, base if isinstance(base, int | float) else None, _factor(way))
    return _rows(text, way, kind, positions), _width(text, way, kind, head_dim), own


def _rows(text: Mapping[str, Any], way: Parameters, kind: str, positions: int) -> int:
    original = whole(way, "original_max_position_embeddings") or whole(text, "original_max_position_embeddings")
    if kind in _LONG_AND_SHORT:
        return positions + (original or positions)
    rows: float = positions
    if kind in _FROM_ORIGINAL:
        rows = (original or positions) * _factor(way)
    elif kind in _STRETCHED:
        rows = positions * _factor(way)
    is_ahead = listed(way.get("mrope_section")) and not type_of(text).startswith(_UNSTRETCHED_SECTIONS)
    return int(rows * _SECTION_STRETCH if is_ahead else rows)


def _factor(way: Parameters) -> float:
    given = way.get("factor")
    return given if isinstance(given, int | float) and 0 < given < _MOST_FACTOR else 1


def _width(text: Mapping[str, Any], way: Parameters, kind: str, head_dim: int) -> int:
    """How many dimensions of a head are turned."""
    if own := whole(text, "qk_rope_head_dim", "rotary_dim"):
        return own
    if way.get("layer_type") == "full_attention":
        head_dim = whole(text, "global_head_dim") or head_dim
    if kind == "proportional":  # those that are not turned are there too
        return head_dim
    default = _PARTS.get(type_of(text).removesuffix("_text"), 1.0)
    share = way.get("partial_rotary_factor", text.get("partial_rotary_factor", text.get("rotary_pct", default)))
    return int(head_dim * share) if isinstance(share, int | float) and 0 < share <= 1 else head_dim
