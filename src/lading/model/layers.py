"""What kind each layer of a language model is, in the many forms in which configs tell it.

A layer keeps nothing, keys and values of every token, of a window or of a chunk, a state, or two of these; and its
heads may be other than the model's. :func:`layers_of` reads that layer by layer. Where one form says nothing, the next
is tried; a form that is not understood counts as full attention, which no engine exceeds.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

from lading.model.config import listed, table, type_of, whole, whole_number

_SCALE_BYTES = 8
_MOST_INDEXED = 16  # layers that keep one vector for fewer tokens than this choose among them by an indexer
_HINTS = re.compile(
    r"(?:^|_)(?:ssm|mamba|rwkv|recurrent|retention|linear_num|linear_attn|kda|lightning|attention_window|keep_window"
    r"|compress_rates?|lru_width|delta_rule)"
)
_PATTERNS = {"gemma3": 6, "gemma3_text": 6, "gemma2": 2, "cohere2": 4}  # every n-th layer sees everything


class Kind(Enum):
    """What a layer keeps."""

    FULL = auto()
    SLIDING = auto()
    CHUNKED = auto()
    STATE = auto()
    CROSS = auto()


Kinds = tuple[Kind, ...]

_FULL: Kinds = (Kind.FULL,)
_SLIDING: Kinds = (Kind.SLIDING,)
_STATE: Kinds = (Kind.STATE,)
_NAMES: dict[str, Kinds] = {
    "full_attention": _FULL, "attention": _FULL, "global_attention": _FULL, "*": _FULL, "full": _FULL,
    "deepseek_sparse_attention": _FULL, "sparse_attention": _FULL, "mla": _FULL, "global": _FULL,
    "indexed_attention": _FULL, "compressed_sparse_attention": _FULL, "heavily_compressed_attention": _FULL,
    "sliding_attention": _SLIDING, "sliding_window": _SLIDING, "local_attention": _SLIDING, "local": _SLIDING,
    "sliding_window_attention": _SLIDING, "swa": _SLIDING,
    "chunked_attention": (Kind.CHUNKED,),
    "linear_attention": _STATE, "mamba": _STATE, "mamba2": _STATE, "conv": _STATE, "short_conv": _STATE,
    "recurrent": _STATE, "M": _STATE, "kda": _STATE, "gdn": _STATE, "lightning_attention": _STATE,
    "hybrid": (Kind.STATE, Kind.FULL),
    "moe": (), "mlp": (), "E": (), "-": (), "no_op": (),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Keep:
    """What one layer keeps of each token: ``heads`` heads of ``width`` elements; within ``window`` tokens.

    0 heads stand for a latent vector, of which every rank keeps the whole.
    """

    kind: Kind
    heads: int
    width: int
    window: int = 0


def layers_of(text: Mapping[str, Any], layers: int, common: Keep) -> list[tuple[Keep, ...]]:
    """What each layer keeps; ``common`` is what one of full attention does where nothing else is said of it."""
    if ratios := compression_of(text):
        return _compressed(text, layers, ratios)
    kinds = _kinds(text, layers)
    found = [tuple(_keep(text, number, kind, common) for kind in each) for number, each in enumerate(kinds)]
    shared = whole(text, "num_kv_shared_layers")  # the last ones read what earlier ones keep
    return found[: max(0, len(found) - shared)] if shared < len(found) else found


def compression_of(text: Mapping[str, Any]) -> Sequence[Any]:
    """For each layer, of how many tokens it keeps one vector, 0 for none beyond a window; empty where all are kept."""
    if ratios := listed(text.get("compress_ratios")):
        return ratios
    rates = table(text.get("compress_rates"))
    return [rates.get(each, 0) if isinstance(each, str) else 0 for each in _named(text)] if rates else ()


def _compressed(text: Mapping[str, Any], layers: int, ratios: Sequence[Any]) -> list[tuple[Keep, ...]]:
    """DeepSeek V4: a window of latent vectors in each layer, and in most one for every so many tokens.

    Eight bits for a number, but for the rotated ones, and their scales: given as so many numbers of 16 bit.
    """
    rope = whole(text, "qk_rope_head_dim")
    vector = (whole(text, "head_dim") + rope + _SCALE_BYTES) // 2
    index = whole(text, "index_head_dim") // 2
    found: list[tuple[Keep, ...]] = []
    for number in range(layers):
        ratio = whole_number(ratios[number]) if number < len(ratios) else 0
        near = Keep(Kind.SLIDING, 0, vector, _window(text))
        far = Keep(Kind.FULL, 0, -(-(vector + (index if ratio < _MOST_INDEXED else 0)) // ratio)) if ratio else None
        found.append((near, far) if far else (near,))
    return found


def has_unknown_kinds(text: Mapping[str, Any]) -> bool:
    """Whether the config names kinds of layers that nothing here knows."""
    named = _named(text)
    return bool(named) and not all(isinstance(each, str) and each in _NAMES for each in named)


def hints_not_understood(text: Mapping[str, Any], kinds: Collection[Kind]) -> list[str]:
    """The keys that speak of another kind of layer than full attention, in a config of which nothing else was read."""
    if set(kinds) - {Kind.FULL, Kind.CROSS}:
        return []
    return sorted(key for key, value in text.items() if isinstance(key, str) and value and _HINTS.search(key))


def _keep(text: Mapping[str, Any], number: int, kind: Kind, common: Keep) -> Keep:
    match kind:
        case Kind.FULL | Kind.CROSS:
            return _of_full(text, number, common)
        case Kind.SLIDING:
            return _of_sliding(text, number, common)
        case Kind.CHUNKED:
            return Keep(kind, common.heads, common.width, whole(text, "attention_chunk_size"))
        case Kind.STATE:
            return Keep(kind, 0, 0)


def thinned_heads(text: Mapping[str, Any]) -> int:
    """The heads of keys and values of a model whose layers a search thinned out, of its first that has any; else 0."""
    for block in listed(text.get("block_configs")):
        if size := whole(table(table(block).get("attention")), "n_heads_in_group"):
            return max(1, whole(text, "num_attention_heads") // size)
    return 0


def _of_full(text: Mapping[str, Any], number: int, common: Keep) -> Keep:
    heads, width = common.heads, common.width
    if whole(text, "global_head_dim"):  # Gemma 4
        width, heads = 2 * whole(text, "global_head_dim"), whole(text, "num_global_key_value_heads") or heads
    blocks = listed(text.get("block_configs"))
    if number < len(blocks) and (size := whole(table(table(blocks[number]).get("attention")), "n_heads_in_group")):
        heads = max(1, whole(text, "num_attention_heads") // size)
    return Keep(Kind.FULL, heads, width)


def _of_sliding(text: Mapping[str, Any], number: int, common: Keep) -> Keep:
    windows = listed(text.get("sliding_window") or text.get("interleaved_sliding_window"))
    window = whole_number(windows[number % len(windows)]) if windows else _window(text)
    heads, width = common.heads, common.width
    other = table(text.get("attention_other_setting"))  # Step 3.5
    if other.get("attention_type") == "sliding_attention":
        heads = whole(other, "num_attention_groups") or heads
        width = 2 * whole(other, "head_dim") or width
    if head_dim := whole(text, "swa_head_dim"):  # MiMo V2
        heads = whole(text, "swa_num_key_value_heads") or heads
        width = head_dim + (whole(text, "swa_v_head_dim") or head_dim)
    return Keep(Kind.SLIDING, heads, width, window)


def _window(text: Mapping[str, Any]) -> int:
    return whole(text, "sliding_window", "sliding_window_size", "interleaved_sliding_window")


def _kinds(text: Mapping[str, Any], layers: int) -> list[Kinds]:
    """The kinds of each layer, in the first form in which the config tells them."""
    forms: Sequence[Callable[[Mapping[str, Any], int], list[Kinds] | None]] = (
        _by_name, _by_blocks, _by_lists, _by_period, _chunked, _sliding, _pure_state,
    )  # fmt: skip
    for form in forms:
        if (found := form(text, layers)) is not None:
            return found
    return [_FULL] * layers


def _named(text: Mapping[str, Any]) -> Sequence[Any]:
    for key in ("layers_block_type", "layer_types", "hybrid_override_pattern"):
        value = text.get(key)
        if isinstance(value, list | str) and value:
            return value
    pattern = text.get("sliding_window_pattern")
    if isinstance(pattern, str) and set(pattern) <= {"L", "G"}:  # EXAONE 4
        return [{"L": "local", "G": "global"}[each] for each in pattern]
    return ()


def _by_name(text: Mapping[str, Any], layers: int) -> list[Kinds] | None:
    named = _named(text)
    if not named or has_unknown_kinds(text):
        return None
    if len(named) < layers:  # a pattern that repeats
        named = [named[number % len(named)] for number in range(layers)]
    found = [_NAMES[each] for each in named[:layers]]
    if not _window(text) and not listed(text.get("sliding_window")):
        found = [_FULL if each == _SLIDING else each for each in found]
    return found


def _by_blocks(text: Mapping[str, Any], layers: int) -> list[Kinds] | None:
    """Models whose layers a search thinned out: some have no attention."""
    blocks = listed(text.get("block_configs"))
    if len(blocks) != layers:
        return None
    attentions = [table(table(each).get("attention")) for each in blocks]
    return [() if each.get("no_op") or each.get("replace_with_linear") else _FULL for each in attentions]


def _by_lists(text: Mapping[str, Any], layers: int) -> list[Kinds] | None:
    """A list of the layers with full attention, or one number for each layer."""
    linear = table(text.get("linear_attn_config"))
    for full, offset in (
        (linear.get("full_attn_layers"), 1), (text.get("full_attn_idxs"), 0), (text.get("attn_layer_indices"), 0),
    ):  # fmt: skip
        if isinstance(full, list):
            return [_FULL if number + offset in full else _STATE for number in range(layers)]
    for key, others in (("attn_type_list", _STATE), ("hybrid_layer_pattern", _SLIDING)):
        flags = listed(text.get(key))
        if len(flags) >= layers:
            is_full = 1 if others is _STATE else 0
            return [_FULL if flags[number] == is_full else others for number in range(layers)]
    windows = listed(text.get("sliding_window") or text.get("interleaved_sliding_window"))
    if windows:
        return [_SLIDING if whole_number(windows[number % len(windows)]) else _FULL for number in range(layers)]
    return None


def _by_period(text: Mapping[str, Any], layers: int) -> list[Kinds] | None:
    if interval := whole(text, "full_attention_interval"):
        return _every(interval, layers, _STATE)
    if group := whole(text, "layer_group_size"):
        last = layers // group * group
        return [_FULL if (number + 1) % group == 0 or number >= last else _STATE for number in range(layers)]
    if period := whole(text, "attn_layer_period"):
        offset = whole(text, "attn_layer_offset")
        return [_FULL if number % period == offset else _STATE for number in range(layers)]
    if step := whole(text, "mamba_step"):  # PLaMo 2
        return [_FULL if number % step == step // 2 else _STATE for number in range(layers)]
    if (every := whole(text, "global_attn_every_n_layers")) and _window(text):
        return _every(every, layers, _SLIDING)
    return None


def _chunked(text: Mapping[str, Any], layers: int) -> list[Kinds] | None:
    """Llama 4: layers without rotary positions see everything, by default every fourth."""
    if not whole(text, "attention_chunk_size") or type_of(text).startswith("mimo"):
        return None
    rope = listed(text.get("no_rope_layers"))
    chunked: Kinds = (Kind.CHUNKED,)
    if len(rope) == layers:
        return [chunked if each else _FULL for each in rope]
    return _every(whole(text, "no_rope_layer_interval") or 4, layers, chunked)


def _sliding(text: Mapping[str, Any], layers: int) -> list[Kinds] | None:
    if not _window(text) or text.get("use_sliding_window") is False:
        return None
    pattern = whole(text, "sliding_window_pattern") or _PATTERNS.get(type_of(text), 0)
    if pattern:
        return _every(pattern, layers, _SLIDING)
    if text.get("use_sliding_window"):  # Qwen: the layers from there on
        full = min(layers, whole(text, "max_window_layers"))
        return [*[_FULL] * full, *[_SLIDING] * (layers - full)]
    return [_SLIDING] * layers


def _pure_state(text: Mapping[str, Any], layers: int) -> list[Kinds] | None:
    kind = type_of(text)
    if kind.startswith("falcon_h1"):
        return [_NAMES["hybrid"]] * layers
    is_pure = "mamba" in kind and not whole(text, "num_attention_heads")
    return [_STATE] * layers if is_pure else None


def _every(interval: int, layers: int, others: Kinds) -> list[Kinds]:
    return [_FULL if (number + 1) % interval == 0 else others for number in range(layers)]
