"""What a quantised checkpoint stores instead of a matrix, by the scheme that its config declares.

:func:`scheme_of` finds for each module the scheme that packs it, from ``quantization_config`` or
``hf_quant_config.json`` with their lists of modules left as they are; :func:`stored` gives the tensors of one part.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from math import ceil
from typing import Any

from lading.model.safetensors import Tensor
from tests.checkpoints.parts import Config, Part, Use

Pack = Callable[[str, tuple[int, int], str], list[Tensor]]
"""The tensors that hold a module's matrix: its name, its shape (out, in), the model's own type."""

_HEADS = "re:(?:.*[._])?head$"  # no quantiser packs heads unless told to


@dataclass(frozen=True, slots=True)
class Scheme:
    """How modules are packed. ``pick`` gives a module's packing, None for one that is left as it is.

    ``stack`` packs the experts of a family that stores them in one tensor. ``has_kv_scales`` where keys and values
    are quantised with factors of their own.
    """

    pick: Callable[[str], Pack | None]
    stack: Callable[[Part, str], list[Tensor]] | None = None
    has_kv_scales: bool = False


def scheme_of(config: Config, quantization_file: Mapping[str, Any] | None = None) -> Scheme | None:
    """The scheme of a checkpoint; None for one that is not quantised. KeyError for a method that is not known."""
    declared = config.get("quantization_config") or {}
    modelopt = (quantization_file or {}).get("quantization") or (declared if declared.get("quant_algo") else None)
    if modelopt:
        return _modelopt(modelopt, str(config.get("model_type")))
    if not declared:
        return None
    return _METHODS[declared["quant_method"]](declared, config)


def stored(part: Part, scheme: Scheme | None, dtype: str) -> list[Tensor]:
    """The tensors that a checkpoint has for a part."""
    plain = [Tensor(part.name, part.dtype or dtype, part.shape)]
    if scheme is None or part.use not in (Use.LINEAR, Use.STACK, Use.HEAD):
        return plain
    if part.use is Use.STACK:
        return scheme.stack(part, dtype) if scheme.stack else plain
    pack = scheme.pick(part.module)
    if pack is None:
        return plain
    packed = pack(part.module, (part.shape[0], part.shape[1]), dtype)
    scale = {"k_proj": "k_scale", "v_proj": "v_scale"}.get(part.module.rpartition(".")[2])
    if scheme.has_kv_scales and scale and not part.is_draft:
        packed.append(Tensor(f"{part.module}.{scale}", "F32", ()))
    return packed


def _excluder(patterns: Iterable[str]) -> Callable[[str], bool]:
    """Whether a module is among those that a list names: whole, by a part above it, with stars or as ``re:``."""
    listed = list(patterns)
    regular = [re.compile(each.removeprefix("re:")) for each in listed if each.startswith("re:")]
    starred = [each for each in listed if "*" in each and not each.startswith("re:")]
    names = {each for each in listed if "*" not in each and not each.startswith("re:")}

    def excludes(module: str) -> bool:
        parents = module.split(".")
        if any(".".join(parents[: count + 1]) in names for count in range(len(parents))):
            return True
        return any(fnmatchcase(module, each) or fnmatchcase(module, f"{each}.*") for each in starred) or any(
            each.match(module) for each in regular
        )

    return excludes


def _but(excluded: Iterable[str], pack: Pack) -> Callable[[str], Pack | None]:
    excludes = _excluder([*excluded, _HEADS])
    return lambda module: None if excludes(module) else pack


def _block_fp8(name: str, shape: tuple[int, int], _dtype: str, *, scale: str, scale_dtype: str) -> list[Tensor]:
    rows, columns = ceil(shape[0] / 128), ceil(shape[1] / 128)
    return [Tensor(f"{name}.weight", "F8_E4M3", shape), Tensor(f"{name}.{scale}", scale_dtype, (rows, columns))]


def _tensor_fp8(name: str, shape: tuple[int, int], dtype: str, *, scales: tuple[str, str], wide: bool) -> list[Tensor]:
    kind = "F32" if wide else dtype
    return [Tensor(f"{name}.weight", "F8_E4M3", shape), *(Tensor(f"{name}.{scale}", kind, ()) for scale in scales)]


def _channel(name: str, shape: tuple[int, int], _dtype: str, *, weight: str, scale: str) -> list[Tensor]:
    return [Tensor(f"{name}.weight", weight, shape), Tensor(f"{name}.weight_scale", scale, (shape[0], 1))]


def _nvfp4(name: str, shape: tuple[int, int], _dtype: str, *, inputs: bool) -> list[Tensor]:
    out_size, in_size = shape
    return [
        Tensor(f"{name}.weight", "U8", (out_size, in_size // 2)),
        Tensor(f"{name}.weight_scale", "F8_E4M3", (out_size, in_size // 16)),
        Tensor(f"{name}.weight_scale_2", "F32", ()),
        *([Tensor(f"{name}.input_scale", "F32", ())] if inputs else []),
    ]


_MODELOPT: dict[str, Pack] = {
    "FP8": partial(_tensor_fp8, scales=("weight_scale", "input_scale"), wide=True),
    "NVFP4": partial(_nvfp4, inputs=True),
    "W4A16_NVFP4": partial(_nvfp4, inputs=False),
}


def _modelopt(declared: Mapping[str, Any], model_type: str) -> Scheme:
    has_kv = "FP8" in str(declared.get("kv_cache_quant_algo") or declared.get("kv_cache_scheme") or "").upper()
    if declared["quant_algo"] != "MIXED_PRECISION":
        excluded = declared.get("exclude_modules") or declared.get("ignore") or ()
        return Scheme(_but(excluded, _MODELOPT[declared["quant_algo"]]), has_kv_scales=has_kv)
    algorithms = {name: _MODELOPT[each["quant_algo"]] for name, each in declared["quantized_layers"].items()}
    rest = partial(_block_fp8, scale="scale", scale_dtype="F8_E8M0") if model_type == "deepseek_v4" else None

    def pick(module: str) -> Pack | None:
        parents = module.split(".")
        names = (".".join(parents[:count]) for count in range(len(parents), 0, -1))
        found = next((algorithms[name] for name in names if name in algorithms), None)
        return found or (rest if module.startswith(("layers.", "mtp.")) else None)

    return Scheme(pick, has_kv_scales=has_kv)


def _fp8(declared: Mapping[str, Any], config: Config) -> Scheme:
    excluded = declared.get("modules_to_not_convert") or ()
    if config.get("model_type") in ("deepseek_v4", "deepseek_ref"):
        return _deepseek_v4(config)
    if declared.get("weight_block_size"):
        return Scheme(_but(excluded, partial(_block_fp8, scale="weight_scale_inv", scale_dtype="F32")))
    static = partial(_tensor_fp8, scales=("activation_scale", "weight_scale_inv"), wide=False)
    return Scheme(_but(excluded, static))


def _deepseek_v4(config: Config) -> Scheme:
    block = partial(_block_fp8, scale="scale", scale_dtype="F8_E8M0")
    experts = _four_bit_experts if config.get("expert_dtype") == "fp4" else block
    pick: Callable[[str], Pack | None] = _but((), block)
    return Scheme(lambda module: experts if ".ffn.experts." in module else pick(module))


def _four_bit_experts(name: str, shape: tuple[int, int], _dtype: str) -> list[Tensor]:
    out_size, in_size = shape
    return [
        Tensor(f"{name}.weight", "I8", (out_size, in_size // 2)),
        Tensor(f"{name}.scale", "F8_E8M0", (out_size, in_size // 32)),
    ]


def _fbgemm(declared: Mapping[str, Any], _config: Config) -> Scheme:
    return Scheme(_but(declared.get("modules_to_not_convert") or (), partial(_channel, weight="F8_E4M3", scale="F32")))


def _mxfp4(declared: Mapping[str, Any], _config: Config) -> Scheme:
    return Scheme(_but(("*",), _four_bit_experts), stack=_mxfp4_stack)


def _mxfp4_stack(part: Part, _dtype: str) -> list[Tensor]:
    count, in_size, out_size = part.shape
    blocks = in_size // 32
    return [
        Tensor(f"{part.name}_blocks", "U8", (count, out_size, blocks, 16)),
        Tensor(f"{part.name}_scales", "U8", (count, out_size, blocks)),
    ]


def _awq(declared: Mapping[str, Any], _config: Config) -> Scheme:
    group, per_word = declared.get("group_size", 128), 32 // declared.get("bits", 4)

    def pack(name: str, shape: tuple[int, int], _dtype: str) -> list[Tensor]:
        out_size, in_size = shape
        return [
            Tensor(f"{name}.qweight", "I32", (in_size, out_size // per_word)),
            Tensor(f"{name}.qzeros", "I32", (in_size // group, out_size // per_word)),
            Tensor(f"{name}.scales", "F16", (in_size // group, out_size)),
        ]

    return Scheme(_but(declared.get("modules_to_not_convert") or (), pack))


def _gptq(declared: Mapping[str, Any], _config: Config) -> Scheme:
    bits, group = declared["bits"], declared.get("group_size", 128)

    def pack(name: str, shape: tuple[int, int], dtype: str) -> list[Tensor]:
        out_size, in_size = shape
        groups = in_size // group if group > 0 else 1
        return [
            Tensor(f"{name}.qweight", "I32", (in_size * bits // 32, out_size)),
            Tensor(f"{name}.qzeros", "I32", (groups, out_size * bits // 32)),
            Tensor(f"{name}.scales", "F16", (groups, out_size)),
            Tensor(f"{name}.g_idx", "I32", (in_size,)),
        ]

    return Scheme(_but(declared.get("modules_to_not_convert") or (), pack))


def _bitsandbytes(declared: Mapping[str, Any], _config: Config) -> Scheme:
    eight = declared.get("load_in_8bit") or declared.get("_load_in_8bit")
    pack = _bnb_8bit if eight else partial(_bnb_4bit, twice=bool(declared.get("bnb_4bit_use_double_quant")))
    return Scheme(_but(declared.get("llm_int8_skip_modules") or (), pack))


def _bnb_8bit(name: str, shape: tuple[int, int], _dtype: str) -> list[Tensor]:
    return [
        Tensor(f"{name}.weight", "I8", shape),
        Tensor(f"{name}.SCB", "F32", (shape[0],)),
        Tensor(f"{name}.weight_format", "U8", ()),
    ]


def _bnb_4bit(name: str, shape: tuple[int, int], _dtype: str, *, twice: bool) -> list[Tensor]:
    blocks = ceil(shape[0] * shape[1] / 64)
    nested = [
        Tensor(f"{name}.weight.nested_absmax", "F32", (ceil(blocks / 256),)),
        Tensor(f"{name}.weight.nested_quant_map", "F32", (256,)),
    ]
    return [
        Tensor(f"{name}.weight", "U8", (shape[0] * shape[1] // 2, 1)),
        Tensor(f"{name}.weight.absmax", "U8" if twice else "F32", (blocks,)),
        *(nested if twice else []),
        Tensor(f"{name}.weight.quant_map", "F32", (16,)),
        Tensor(f"{name}.weight.quant_state.bitsandbytes__nf4", "U8", (86,)),
    ]


def _compressed_tensors(declared: Mapping[str, Any], _config: Config) -> Scheme:
    groups = list(declared["config_groups"].values())
    excludes = _excluder([*(declared.get("ignore") or ()), _HEADS])
    packs = [(_excluder(group.get("targets") or ["Linear"]), _compressed_group(group)) for group in groups]

    def pick(module: str) -> Pack | None:
        if excludes(module):
            return None
        named = next((pack for targets, pack in packs if targets(module)), None)
        return named or next((pack for targets, pack in packs if targets("Linear")), None)

    return Scheme(pick, has_kv_scales=bool(declared.get("kv_cache_scheme")))


def _compressed_group(group: Mapping[str, Any]) -> Pack:
    weights = group["weights"]
    inputs = group.get("input_activations") or {}
    match weights["type"], weights["num_bits"], weights.get("strategy"):
        case "float", 8, "block":
            return partial(_block_fp8, scale="weight_scale", scale_dtype="BF16")
        case "float", 8, "tensor":
            static = ("weight_scale", "input_scale") if inputs.get("dynamic") is False else ("weight_scale",)
            return partial(_compressed_tensor, scales=static)
        case "float", 8, _:
            return partial(_channel, weight="F8_E4M3", scale="BF16")
        case "float", 4, _:
            return partial(_compressed_fp4, group=weights.get("group_size", 16))
        case "int", 8, _ if inputs:
            return partial(_channel, weight="I8", scale="BF16")
        case _:
            return partial(
                _compressed_packed,
                bits=weights["num_bits"],
                group=weights.get("group_size") or 0,
                is_symmetric=weights.get("symmetric", True),
            )


def _compressed_tensor(name: str, shape: tuple[int, int], dtype: str, *, scales: tuple[str, ...]) -> list[Tensor]:
    return [Tensor(f"{name}.weight", "F8_E4M3", shape), *(Tensor(f"{name}.{scale}", dtype, (1,)) for scale in scales)]


def _compressed_fp4(name: str, shape: tuple[int, int], _dtype: str, *, group: int) -> list[Tensor]:
    out_size, in_size = shape
    is_nvfp4 = group == 16
    return [
        Tensor(f"{name}.weight_packed", "U8", (out_size, in_size // 2)),
        Tensor(f"{name}.weight_scale", "F8_E4M3" if is_nvfp4 else "U8", (out_size, in_size // group)),
        *([Tensor(f"{name}.{kind}_global_scale", "F32", (1,)) for kind in ("weight", "input")] if is_nvfp4 else []),
    ]


def _compressed_packed(
    name: str, shape: tuple[int, int], dtype: str, *, bits: int, group: int, is_symmetric: bool
) -> list[Tensor]:
    out_size, in_size = shape
    groups = in_size // group if group > 0 else 1
    zeros = [] if is_symmetric else [Tensor(f"{name}.weight_zero_point", "I32", (out_size * bits // 32, groups))]
    return [
        Tensor(f"{name}.weight_packed", "I32", (out_size, in_size * bits // 32)),
        Tensor(f"{name}.weight_scale", dtype, (out_size, groups)),
        Tensor(f"{name}.weight_shape", "I64", (2,)),
        *zeros,
    ]


_METHODS: dict[str, Callable[[Mapping[str, Any], Config], Scheme]] = {
    "awq": _awq,
    "bitsandbytes": _bitsandbytes,
    "compressed-tensors": _compressed_tensors,
    "fbgemm_fp8": _fbgemm,
    "fp8": _fp8,
    "gptq": _gptq,
    "mxfp4": _mxfp4,
}
