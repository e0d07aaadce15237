"""What a config declares of a checkpoint's quantisation: the method, the precision to show, and the KV cache's type.

The bytes are not told here: the headers have them exactly, with every module that was left in 16 bit. Declared in
``quantization_config`` of the config, or of its language model's part, in ``compression_config``, or beside them in
``hf_quant_config.json``, which modelopt writes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from lading.model.config import listed, table, whole, whole_number

_BOUNDED = {"hqq", "quark", "torchao", "auto-round", "intel/auto-round", "inc", "aqlm", "fp_quant", "bitnet", "spqr"}


@dataclass(frozen=True, slots=True)
class Quantization:
    """How a checkpoint was quantised.

    ``is_bounded`` says that engines hold it in a form that is not known exactly. ``group`` is how many weights of a row
    share a scale (the side of a block of fp8); 0 for one scale per tensor or channel.
    """

    method: str
    precision: str
    kv_is_fp8: bool = False
    is_bounded: bool = False
    group: int = 0


def quantization_of(
    config: Mapping[str, Any], text: Mapping[str, Any], file: Mapping[str, Any] | None
) -> Quantization | None:
    """What is declared, None for a checkpoint that is not quantised. ``file`` is ``hf_quant_config.json``'s."""
    inner = table((file or {}).get("quantization"))
    if inner.get("quant_algo"):
        return _modelopt(inner)
    declared = next(
        (
            found
            for holder in (config, text)
            for key in ("quantization_config", "compression_config")
            if (found := table(holder.get(key)))
        ),
        {},
    )
    quantization = _declared(declared) if declared else None
    return replace(quantization, group=_group(declared)) if quantization else None


def _group(declared: Mapping[str, Any]) -> int:
    block = listed(declared.get("weight_block_size"))
    if block:
        return whole_number(block[0])
    first = next(iter(table(declared.get("config_groups")).values()), None)
    return whole(table(table(first).get("weights")) or declared, "group_size", "q_group_size")


def _declared(declared: Mapping[str, Any]) -> Quantization | None:
    method = str(declared.get("quant_method") or "").lower().replace("_tensors", "-tensors")
    nested = table(declared.get("quantization"))  # modelopt's older form, with a "producer" beside it
    if method.startswith("modelopt") or (not method and (declared.get("quant_algo") or nested.get("quant_algo"))):
        return _modelopt(declared if declared.get("quant_algo") else nested or declared)
    if method == "compressed-tensors" or declared.get("config_groups"):
        return _compressed_tensors(declared)
    bits = whole(declared, "bits", "w_bit", "nbits")
    match method:
        case "":
            return None
        case "fp8" | "fbgemm_fp8":
            return Quantization(method, "fp8", _has_fp8_kv(declared))
        case "mxfp4" | "mxfp8" | "nvfp4":
            return Quantization(method, method, _has_fp8_kv(declared))
        case "bitsandbytes":
            return Quantization(method, "int8_bnb" if declared.get("load_in_8bit") else "int4_bnb")
        case _:
            is_bounded = method in _BOUNDED or method not in ("awq", "gptq", "awq_marlin", "gptq_marlin")
            return Quantization(method, f"int{bits or 4}_{method}", _has_fp8_kv(declared), is_bounded)


def _modelopt(declared: Mapping[str, Any]) -> Quantization:
    algorithm = str(declared.get("quant_algo") or declared.get("quant_method") or "").lower()
    known = ("nvfp4", "mxfp8", "mxfp4", "fp8", "int8", "int4", "fp4")
    precision = next((name for name in known if name in algorithm), algorithm)
    precision = "mixed" if "mixed" in algorithm else "nvfp4" if precision == "fp4" else precision
    return Quantization("modelopt", precision or "mixed", _has_fp8_kv(declared))


def _compressed_tensors(declared: Mapping[str, Any]) -> Quantization:
    groups = [table(group) for group in table(declared.get("config_groups")).values()]
    weights = [found for group in groups if (found := table(group.get("weights")))]
    kinds = {(str(each.get("type")), whole(each, "num_bits"), whole(each, "group_size")) for each in weights}
    precision = "mixed" if len(kinds) > 1 else "int8"
    if len(kinds) == 1:
        kind, bits, group_size = next(iter(kinds))
        four_bit_float = "mxfp4" if group_size == 32 else "nvfp4"
        precision = (four_bit_float if bits == 4 else f"fp{bits or 8}") if kind == "float" else f"int{bits or 8}"
    sparsity = table(declared.get("sparsity_config")).get("format")
    is_sparse = sparsity not in (None, "dense")
    return Quantization("compressed-tensors", precision, _has_fp8_kv(declared), is_sparse)


def _has_fp8_kv(declared: Mapping[str, Any]) -> bool:
    named = str(declared.get("kv_cache_quant_algo") or declared.get("kv_cache_scheme") or "").lower()
    return "fp8" in named or ("float" in named and "8" in named)
