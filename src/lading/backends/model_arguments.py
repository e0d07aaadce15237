"""Engine flags that a model brings along: in ``runtime_config.json`` among its files, in the tag ``nim_json_args``.

Both are a JSON object of flags, with dashes or underscores, to values: ``{"max_model_len": 8192, "seed": 1}``. NIM
documents neither the keys nor the values; these are what its engines take. A model comes from strangers, and flags can
load code, name other models or open ports: only those of a short list are taken, the others are told and left out.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from lading.backends.interface import Argument
from lading.errors import MalformedModel

RUNTIME_CONFIG = "runtime_config.json"
TAG = "nim_json_args"
MOST_BYTES = 1 << 20
_TAKEN: Mapping[str, frozenset[str]] = {
    "vllm": frozenset(
        {
            "tensor-parallel-size", "pipeline-parallel-size", "data-parallel-size", "enable-expert-parallel",
            "max-model-len", "max-num-seqs", "max-num-batched-tokens", "gpu-memory-utilization", "block-size",
            "dtype", "kv-cache-dtype", "quantization", "enforce-eager", "cpu-offload-gb", "seed",
            "enable-chunked-prefill", "enable-prefix-caching", "max-cudagraph-capture-size", "limit-mm-per-prompt",
            "enable-lora", "max-loras", "max-lora-rank", "max-cpu-loras", "fully-sharded-loras", "max-logprobs",
            "tool-call-parser", "enable-auto-tool-choice", "reasoning-parser", "chat-template-content-format",
            "override-generation-config", "scheduling-policy", "tokenizer-mode", "async-scheduling",
        }
    ),
    "sglang": frozenset(
        {
            "tp-size", "pp-size", "dp-size", "ep-size", "context-length", "max-running-requests",
            "max-total-tokens", "mem-fraction-static", "page-size", "dtype", "kv-cache-dtype", "quantization",
            "disable-cuda-graph", "cuda-graph-max-bs", "chunked-prefill-size", "cpu-offload-gb", "random-seed",
            "enable-lora", "max-loras-per-batch", "max-lora-rank", "tool-call-parser", "reasoning-parser",
            "schedule-policy", "attention-backend", "tokenizer-mode",
        }
    ),
    "tensorrt_llm": frozenset(
        {
            "tp-size", "pp-size", "ep-size", "max-seq-len", "max-batch-size", "max-num-tokens", "kv-cache-dtype",
            "kv-cache-free-gpu-memory-fraction",
        }
    ),
}  # fmt: skip


def model_argument(family: str, text: str | bytes, origin: str) -> tuple[Argument, tuple[str, ...]]:
    """The flags of an engine family that a model's JSON asks for, and the names of those that are not taken.

    Raises MalformedModel, naming ``origin``, for what is no JSON object.
    """
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise MalformedModel(f"{origin} is not valid JSON: {error}") from None
    if not isinstance(values, dict):
        raise MalformedModel(f"{origin} holds no JSON object")
    flags = {key.strip().lstrip("-").replace("_", "-"): value for key, value in values.items()}
    taken = _TAKEN[family]
    tokens = [token for name, value in flags.items() if name in taken for token in _tokens(family, name, value)]
    return Argument(tuple(tokens), origin), tuple(name for name in flags if name not in taken)


def _tokens(family: str, name: str, value: Any) -> list[str]:
    flag = f"--{name.replace('-', '_') if family == 'tensorrt_llm' else name}"
    match value:
        case None:
            return []
        case True:
            return [flag]
        case False:
            return [f"--no-{name}"] if family == "vllm" else []
        case dict() | list():
            return [flag, json.dumps(value)]
        case _:
            return [flag, str(value)]
