"""The engines' flags that change the memory a model needs: how each family writes them, and what they mean.

One table for each family; a row is a flag, the field that it sets and how its value is read. All other flags stay
opaque.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lading.backends.arguments import Flag, Values, last_values, without
from lading.errors import UsageError
from lading.profiles.fit import Wish
from lading.profiles.options import DTYPE_BYTES, LONGEST_THAT_FITS, EngineOptions, Speculation
from lading.units import GIB

_UNITS = {
    "k": 10**3, "K": 1 << 10, "m": 10**6, "M": 1 << 20, "g": 10**9, "G": 1 << 30, "t": 10**12, "T": 1 << 40,
}  # fmt: skip
_OWN_SPECULATION = "mtp"
_DTYPES = ("auto", *DTYPE_BYTES)
_A_DTYPE = f"one of {', '.join(_DTYPES)}"
_A_SHARE = "a number above 0, and 1 at most"
_A_LENGTH = "a number of tokens: 32768, 32k (thousands), 32K (1024s), auto for the longest that fits"
_A_SIZE = "a number of bytes: 8589934592, 8G, 8.5G"
_A_JSON = "a JSON object"
_STRETCHING = tuple(
    Flag(name, prefixes=False)
    for name in ("--hf-overrides", "--hf-config-path", "--rope-scaling", "--rope-theta", "--json-model-override-args")
)
CHANGE_NOTHING = (
    Flag("--model"),
    Flag("--model-path"),
    Flag("--served-model-name", Values.MANY),
    Flag("--host", prefixes=False),
    Flag("--port"),
    Flag("--uds"),
    Flag("--api-key", Values.MANY, prefixes=False),
)
"""Flags that say what is served and where: no memory depends on them."""


@dataclass(frozen=True, slots=True)
class Option:
    """A flag that is read: ``field`` names what it sets, of the wish or of its options.

    ``takes`` says what values there are.
    """

    flag: Flag
    field: str
    read: Callable[[Sequence[str]], object]
    takes: str = "a whole number above 0"


def parse_number(text: str) -> int:
    """A whole number as engines read it: ``2048``, ``32k`` (thousands), ``32K`` (1024s), ``1M``, ``1.5G``."""
    unit = _UNITS.get(text[-1:], 1)
    number = int(float(text[:-1]) * unit) if unit > 1 else int(text)
    if number <= 0:
        raise ValueError(text)
    return number


def parse_length(text: str) -> int:
    """A length as engines read it; :data:`LONGEST_THAT_FITS` for ``auto`` and ``-1``."""
    return LONGEST_THAT_FITS if text in ("auto", "-1") else parse_number(text)


def read_wish(family: str, tokens: Sequence[str]) -> Wish:
    """What ``tokens``, written for an engine family, ask for. Raises UsageError for a value that cannot be read."""
    found: dict[str, object] = {}
    for option in OPTIONS[family]:
        values = last_values(tokens, flags_of(family), option.flag.name)
        if values is not None and (value := _value(option, values)) is not None:
            found.update(value if isinstance(value, dict) else {option.field: value})
    wished = {name: value for name, value in found.items() if name in ("tp", "pp", "lora")}
    options: dict[str, Any] = {name: value for name, value in found.items() if name not in wished}
    given: dict[str, Any] = wished
    stretched = any(last_values(tokens, _STRETCHING, flag.name) for flag in _STRETCHING)
    return Wish(**given, any_length=stretched, options=EngineOptions(**options, others=_others(family, tokens)))


def _others(family: str, tokens: Sequence[str]) -> str:
    """A digest of the tokens that are neither read nor known to change nothing; "" for none."""
    known = (*flags_of(family), *CHANGE_NOTHING)
    left = without(tokens, known, (flag.name for flag in known))
    return hashlib.sha256("\0".join(left).encode()).hexdigest() if left else ""


def flags_of(family: str) -> tuple[Flag, ...]:
    """The flags of a family that are read here."""
    return tuple(option.flag for option in OPTIONS[family])


def counterpart(name: str, family: str) -> tuple[str, str] | None:
    """Of another family's flag ``name``: what ``family`` calls the same, and that other; None for any other name."""
    for other, options in OPTIONS.items():
        meant = {each.field for each in options if name in (each.flag.name, *each.flag.short)}
        same = next((each.flag.name for each in OPTIONS[family] if each.field in meant), None)
        if other != family and same:
            return same, other
    return None


def _value(option: Option, values: Sequence[str]) -> object:
    try:
        return option.read(values)
    except (ValueError, IndexError, TypeError, AttributeError, ArithmeticError):
        asked = " ".join((option.flag.name, *values))
        raise UsageError(f"{asked}: the value cannot be read", remedy=option.takes) from None


def _one(read: Callable[[str], object]) -> Callable[[Sequence[str]], object]:
    return lambda values: read(values[0])


def _is_on(values: Sequence[str]) -> bool:
    return tuple(values) == ("true",)


def _positive(text: str) -> int:
    number = int(text)
    if number <= 0:
        raise ValueError(text)
    return number


def _named(text: str) -> str | None:
    return None if text == "auto" else text


def _dtype(text: str) -> str | None:
    if text not in _DTYPES:
        raise ValueError(text)
    return _named(text)


def _gib(text: str) -> int:
    size = int(float(text) * GIB)
    if size < 0:
        raise ValueError(text)
    return size


def _share(text: str) -> float:
    share = float(text)
    if not 0 < share <= 1:
        raise ValueError(text)
    return share


def _sizes(values: Iterable[str]) -> tuple[int, ...]:
    return tuple(_positive(str(value)) for value in values)


def _json_object(text: str) -> Mapping[str, Any]:
    value = json.loads(text)
    if not isinstance(value, dict):
        raise TypeError(text)
    return value


def _speculation(text: str) -> Speculation:
    config = _json_object(text)
    own = _OWN_SPECULATION in str(config.get("method", ""))
    draft = config.get("model")
    return Speculation(int(config.get("num_speculative_tokens") or 0), own, "" if own or not draft else str(draft))


def _images(text: str) -> int | None:
    """How many images a prompt may hold, of ``{"image": 2}``, ``{"image": {"count": 2}}`` or ``image=2``."""
    if "=" in text and not text.startswith("{"):
        pairs = dict(part.split("=", 1) for part in text.split(","))
        return int(pairs["image"]) if "image" in pairs else None
    image = _json_object(text).get("image")
    count = image.get("count") if isinstance(image, dict) else image
    return None if count is None else int(count)


def _compilation(text: str) -> dict[str, object]:
    """What ``--compilation-config`` says of CUDA graphs; a bare number is a level and says nothing."""
    if not text.startswith("{"):
        return {}
    config = _json_object(text)
    found: dict[str, object] = {}
    if sizes := config.get("cudagraph_capture_sizes"):
        found["capture_sizes"] = _sizes(sizes)
    if largest := config.get("max_cudagraph_capture_size"):
        found["largest_capture"] = _positive(str(largest))
    if str(config.get("cudagraph_mode", "")).upper() == "NONE":
        found["eager"] = True
    return found


def _switch(name: str, field: str, *, prefixes: bool = True, short: tuple[str, ...] = ()) -> Option:
    return Option(Flag(name, Values.NONE, short=short, prefixes=prefixes), field, _is_on)


_VLLM = (
    Option(Flag("--tensor-parallel-size", short=("-tp",)), "tp", _one(parse_number)),
    Option(Flag("--pipeline-parallel-size", short=("-pp",)), "pp", _one(parse_number)),
    _switch("--enable-lora", "lora", prefixes=False),
    Option(Flag("--max-model-len"), "max_model_len", _one(parse_length), _A_LENGTH),
    Option(
        Flag("--gpu-memory-utilization", short=("--device-memory-utilization",)),
        "gpu_utilization",
        _one(_share),
        _A_SHARE,
    ),
    Option(Flag("--kv-cache-memory-bytes"), "kv_pool_bytes", _one(parse_number), _A_SIZE),
    Option(Flag("--max-num-seqs"), "max_sequences", _one(parse_number)),
    Option(Flag("--max-num-batched-tokens"), "batched_tokens", _one(parse_number)),
    _switch("--enable-chunked-prefill", "chunked_prefill"),
    Option(Flag("--dtype"), "dtype", _one(_dtype), _A_DTYPE),
    Option(Flag("--kv-cache-dtype"), "kv_dtype", _one(_named), "the name of a type"),
    Option(Flag("--quantization", short=("-q",)), "quantization", _one(str), "the name of a method"),
    _switch("--enforce-eager", "eager"),
    Option(Flag("--cudagraph-capture-sizes", Values.MANY), "capture_sizes", _sizes),
    Option(Flag("--cuda-graph-sizes", Values.MANY), "capture_sizes", _sizes),
    Option(Flag("--max-cudagraph-capture-size"), "largest_capture", _one(_positive)),
    Option(Flag("--compilation-config", short=("-cc",)), "compilation", _one(_compilation), _A_JSON),
    Option(Flag("--block-size"), "block_size", _one(_positive)),
    Option(Flag("--max-loras", prefixes=False), "max_loras", _one(_positive)),
    Option(Flag("--max-lora-rank", prefixes=False), "max_lora_rank", _one(_positive)),
    _switch("--fully-sharded-loras", "sharded_loras"),
    _switch("--enable-expert-parallel", "expert_parallel", short=("-ep",)),
    Option(Flag("--data-parallel-size", short=("-dp",), prefixes=False), "data_parallel", _one(parse_number)),
    Option(Flag("--cpu-offload-gb"), "cpu_offload_bytes", _one(_gib), "a number of GiB"),
    Option(Flag("--speculative-config", short=("-sc",)), "speculation", _one(_speculation), _A_JSON),
    Option(Flag("--limit-mm-per-prompt"), "images_per_prompt", _one(_images), f"{_A_JSON}, or image=2"),
    _switch("--skip-mm-profiling", "skip_mm_profiling"),
    _switch("--language-model-only", "language_model_only"),
)
_SGLANG = (
    Option(Flag("--tp-size", short=("--tp", "--tensor-parallel-size")), "tp", _one(_positive)),
    Option(Flag("--pp-size", short=("--pp", "--pipeline-parallel-size")), "pp", _one(_positive)),
    _switch("--enable-lora", "lora", prefixes=False),
    Option(Flag("--context-length"), "max_model_len", _one(_positive)),
    Option(Flag("--mem-fraction-static"), "gpu_utilization", _one(_share), _A_SHARE),
    Option(Flag("--max-total-tokens"), "kv_pool_tokens", _one(_positive)),
    Option(Flag("--max-running-requests"), "max_sequences", _one(_positive)),
    Option(Flag("--chunked-prefill-size"), "batched_tokens", lambda values: max(0, int(values[0])) or None),
    Option(Flag("--dtype"), "dtype", _one(_dtype), _A_DTYPE),
    Option(Flag("--kv-cache-dtype"), "kv_dtype", _one(_named), "the name of a type"),
    Option(Flag("--quantization"), "quantization", _one(str), "the name of a method"),
    _switch("--disable-cuda-graph", "eager", prefixes=False),
    _switch("--disable-decode-cuda-graph", "eager", prefixes=False),
    Option(
        Flag("--cuda-graph-backend-decode", prefixes=False),
        "eager",
        lambda values: values[0] == "disabled",
        "full, breakable or disabled",
    ),
    Option(
        Flag("--cuda-graph-max-bs", short=("--cuda-graph-max-bs-decode",), prefixes=False),
        "largest_capture",
        _one(_positive),
    ),
    Option(
        Flag("--cuda-graph-bs", Values.MANY, short=("--cuda-graph-bs-decode",), prefixes=False),
        "capture_sizes",
        _sizes,
    ),
    Option(Flag("--page-size"), "block_size", _one(_positive)),
    Option(Flag("--max-loras-per-batch"), "max_loras", _one(_positive)),
    Option(Flag("--max-lora-rank"), "max_lora_rank", _one(_positive)),
    Option(Flag("--dp-size", short=("--dp", "--data-parallel-size")), "data_parallel", _one(_positive)),
    Option(
        Flag("--ep-size", short=("--ep", "--expert-parallel-size")),
        "expert_parallel",
        lambda values: int(values[0]) > 1,
    ),
    Option(Flag("--cpu-offload-gb"), "cpu_offload_bytes", _one(_gib), "a number of GiB"),
)
_TENSORRT_LLM = (
    Option(Flag("--tp-size", short=("--tensor_parallel_size", "--tensor-parallel-size")), "tp", _one(_positive)),
    Option(Flag("--pp-size", short=("--pipeline_parallel_size", "--pipeline-parallel-size")), "pp", _one(_positive)),
    Option(Flag("--max-seq-len"), "max_model_len", _one(_positive)),
    Option(
        Flag("--kv-cache-free-gpu-memory-fraction", short=("--free-gpu-memory-fraction",)),
        "gpu_utilization",
        _one(_share),
        _A_SHARE,
    ),
    Option(Flag("--kv-cache-dtype"), "kv_dtype", _one(_named), "the name of a type"),
    Option(Flag("--max-batch-size"), "max_sequences", _one(_positive)),
    Option(Flag("--max-num-tokens"), "batched_tokens", _one(_positive)),
    Option(
        Flag("--ep-size", short=("--moe_expert_parallel_size",)), "expert_parallel", lambda values: int(values[0]) > 1
    ),
)
OPTIONS: dict[str, tuple[Option, ...]] = {"vllm": _VLLM, "sglang": _SGLANG, "tensorrt_llm": _TENSORRT_LLM}
