"""What was asked of an engine that changes its memory: values, read from its flags by its backend.

None, or False for a switch, always means that nothing was asked and the engine's own default counts.
"""

from __future__ import annotations

from dataclasses import dataclass

LONGEST_THAT_FITS = -1
"""As ``max_model_len``: the engine shall take the longest sequence that its cache has room for (``auto``, ``-1``)."""

DTYPE_BYTES = {"float32": 4, "float": 4, "half": 2, "float16": 2, "bfloat16": 2}


@dataclass(frozen=True, slots=True)
class Speculation:
    """Tokens guessed ahead: how many, and whether the model's own layers for it (MTP) or a draft model guess them."""

    tokens: int = 0
    own_layers: bool = False
    draft_model: str = ""


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """What was asked of an engine, as far as it changes what the engine holds in memory.

    ``gpu_utilization`` is the engine's own share: of all it may use for vLLM, of weights and cache together for SGLang,
    of the memory left free for TensorRT-LLM. ``gpu_share`` is of the whole GPU, for any engine; the engine's own wins.
    ``capture_sizes`` are the batch sizes for which CUDA graphs are captured, ``largest_capture`` the greatest of them
    where only that was said. ``others`` is a digest of the flags that nobody here reads: they may change something.
    """

    max_model_len: int | None = None
    gpu_utilization: float | None = None
    kv_pool_bytes: int | None = None
    max_sequences: int | None = None
    batched_tokens: int | None = None
    chunked_prefill: bool | None = None
    dtype: str | None = None
    kv_dtype: str | None = None
    quantization: str | None = None
    eager: bool = False
    capture_sizes: tuple[int, ...] = ()
    largest_capture: int | None = None
    block_size: int | None = None
    max_loras: int | None = None
    max_lora_rank: int | None = None
    sharded_loras: bool = False
    expert_parallel: bool = False
    data_parallel: int = 1
    cpu_offload_bytes: int = 0
    speculation: Speculation | None = None
    skip_mm_profiling: bool = False
    language_model_only: bool = False
    images_per_prompt: int | None = None
    kv_pool_tokens: int | None = None
    gpu_share: float | None = None
    others: str = ""

    @property
    def element_bytes(self) -> int:
        """Bytes of an activation: 4 for float32, else 2."""
        return DTYPE_BYTES.get(self.dtype or "", 2)

    @property
    def reads_images(self) -> bool:
        """Whether the encoder of a model that has one is used."""
        return not self.language_model_only and self.images_per_prompt != 0
