"""The one mapping of engine families, in order of preference. A new member is one file beside this one and one line."""

from __future__ import annotations

from lading.backends.interface import Backend
from lading.backends.sglang import SglangBackend
from lading.backends.tensorrt_llm import TensorrtLlmBackend
from lading.backends.vllm import VllmBackend

BACKENDS: dict[str, Backend] = {
    "vllm": VllmBackend(),
    "sglang": SglangBackend(),
    "tensorrt_llm": TensorrtLlmBackend(),
}
