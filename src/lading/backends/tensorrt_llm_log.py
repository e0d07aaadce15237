"""What ``trtllm-serve`` prints, understood: the phase of a start, the cause of a failure. Wording of 0.20 to 1.2.

Graphs are captured twice, for an estimate and for good; both are warming. Readiness comes from HTTP.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from lading.backends.failure_log import SHARED_CAUSES, FailureDialect, cause, explain_by, phase_by
from lading.backends.interface import Cause
from lading.events import Phase

_PHASES = (
    (re.compile(r"TensorRT-LLM version: |Using LLM with PyTorch backend"), Phase.STARTING),
    (
        re.compile(
            r"for model weights|prefetching .+ to memory|Loading safetensors weights|Loading weights|Loaded engine size"
        ),
        Phase.LOADING,
    ),
    (re.compile(r"Model init total|MemUsageChange|Autotun|CUDA graph|Application startup complete"), Phase.WARMING),
)
_CAUSES = (
    cause(
        r"following component could not be created: KV cache",
        "the GPU has no memory for the KV cache",
        "lower --free_gpu_memory_fraction (NIM_GPU_MEM_FRACTION), or use more GPUs",
    ),
    cause(
        r"following component could not be created: (.+)",
        "the GPU has no memory for this part of the engine: {0}",
        "use more GPUs, or lower --max_num_tokens or --max_batch_size",
    ),
    cause(
        r"OutOfMemoryError: CUDA out of memory",
        "the GPU ran out of memory",
        "use more GPUs, or lower --max_num_tokens, --max_batch_size or --free_gpu_memory_fraction",
    ),
    cause(
        r"(?:Unknown architecture for AutoModelForCausalLM|Unsupported model architecture): (\S+)",
        "this TensorRT-LLM does not run {0} models",
        "use a newer engine",
    ),
    cause(
        r"custom code which must be executed|to execute the configuration file|setting .?trust_remote_code",
        "the model brings code of its own, which is not run unless you ask for it",
        "if you trust its authors, set NIM_TRUST_CUSTOM_CODE=1 or add --trust_remote_code",
    ),
    cause(
        r"No weight files found in (\S+)",
        "{0} holds no weights that TensorRT-LLM can read",
        "fetch the model again; a built engine needs --backend tensorrt and --tokenizer",
    ),
    cause(
        r"Error: (No such option: .+|Invalid value for .+|Got unexpected extra argument.+|Option .+ requires .+)",
        "trtllm-serve refused a flag: {0}",
        "`trtllm-serve serve --help` lists its flags: underscores, and no abbreviations",
    ),
    cause(r"Failed to bind socket to (\S+?): ", "the engine's address {0} is taken", "stop the process that holds it"),
    *SHARED_CAUSES,
    cause(r"Failed to initialize executor on rank \d+: (?!Executor creation failed due to insufficient)(.+)", "{0}"),
)
_DIALECT = FailureDialect(
    causes=_CAUSES,
    prefix=re.compile(r"^(?:\[\d\d/\d\d/\d{4}-[\d:]+\] )?\[TRT-LLM\] (?:\[RANK \d+\] )?(?=\[[EIVW]\])"),
    harmless=re.compile(r"^\[[IVW]\]|^\[TensorRT-LLM\]\[(?:INFO|WARNING|DEBUG)\]|^(?:DEBUG|INFO|WARNING)\b"),
    trouble=re.compile(r"\[E\]|\[ERROR\]|\bERROR\b|Traceback|Error: "),
    generic=("Executor worker returned error", "Executor worker died"),
)


def phase_of(line: str) -> Phase | None:
    """The start-up phase that a line announces, or None."""
    return phase_by(_PHASES, line)


def explain(lines: Sequence[str]) -> Cause | None:
    """The cause of a failed start, or None when the lines do not tell."""
    return explain_by(_DIALECT, lines)
