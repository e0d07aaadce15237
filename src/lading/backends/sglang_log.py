"""What SGLang prints, understood: the phase of a start, the cause of a failure. Wording of 0.4 to 0.5.23.

``Application startup complete`` is not the end of a start: a warm-up request follows. Readiness comes from HTTP.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from lading.backends.failure_log import SHARED_CAUSES, FailureDialect, cause, explain_by, phase_by
from lading.backends.interface import Cause
from lading.events import Phase

_PHASES = (
    (re.compile(r"server_args=|Init torch distributed begin"), Phase.STARTING),
    (re.compile(r"Load weight begin|Loading safetensors checkpoint shards|Multi-thread loading shards"), Phase.LOADING),
    (
        re.compile(
            r"Load weight end|KV Cache is allocated|Capture .{0,60}?(?:cuda|CUDA) graph begin|fired up and ready"
        ),
        Phase.WARMING,
    ),
)
_CAUSES = (
    cause(
        r"Capture (?:prefill )?(?:cuda|CUDA) graph failed",
        "the GPU has no memory left for CUDA graphs",
        "lower --mem-fraction-static (NIM_GPU_MEM_FRACTION), or the largest batch of the graphs",
    ),
    cause(
        r"OutOfMemoryError: CUDA out of memory",
        "the GPU ran out of memory",
        "lower --mem-fraction-static, --max-running-requests or --chunked-prefill-size, or use more GPUs",
    ),
    cause(
        r"Not enough memory\. Please try to increase --mem-fraction-static",
        "the weights leave nothing of SGLang's share of the GPU for the KV cache",
        "raise --mem-fraction-static (NIM_GPU_MEM_FRACTION), or use more GPUs",
    ),
    cause(
        r"memory capacity is unbalanced",
        "the GPUs do not have the same memory free: another process holds some of one",
        "stop that process, or choose other GPUs with CUDA_VISIBLE_DEVICES",
    ),
    cause(
        r"Rank (\d+) scheduler died during initialization \(exit code: -9\)|Rank (\d+) scheduler is dead",
        "a process of the engine was killed while it started, as the kernel does when RAM runs out",
        "raise the container's memory limit",
    ),
    cause(
        r"User-specified context_length \((\d+)\) is greater than the derived context_length \((\d+)\)",
        "--context-length {0} is longer than the model's own {1} tokens",
        "--context-length={1} is the longest it was made for (NIM_MAX_MODEL_LEN={1})",
    ),
    cause(
        r"Model architectures \['([^']+)'\] are not supported",
        "this SGLang does not run {0} models",
        "use a newer engine, or try --model-impl transformers",
    ),
    cause(
        r"The quantization method (\S+) is not supported for the current GPU\. Minimum capability: (\d+)\."
        r" Current capability: (\d+)",
        "{0} needs a GPU of compute capability {1}, this one has {2}",
        "use another checkpoint or another GPU",
    ),
    cause(
        r"SGLang only supports sm75 and above",
        "SGLang needs a GPU of compute capability 7.5 or more",
        "use another engine or another GPU",
    ),
    cause(
        r"need to specify both --max-lora-rank and --lora-target-modules",
        "LoRA without adapters at the start needs to know their rank and modules",
        "add --max-lora-rank and --lora-target-modules",
    ),
    cause(
        r"LoRA adapter (\S+) with rank (\d+) is incompatible",
        "the adapter {0} has rank {1}, more than the engine was started for",
        "--max-lora-rank={1}",
    ),
    cause(
        r"custom code which must be executed|to execute the configuration file|setting .?trust_remote_code",
        "the model brings code of its own, which is not run unless you ask for it",
        "if you trust its authors, set NIM_TRUST_CUSTOM_CODE=1 or add --trust-remote-code",
    ),
    cause(
        r"Cannot find any model weights with",
        "the directory holds no weights that SGLang can read",
        "fetch the model again; --refresh asks its source",
    ),
    cause(
        r"error: (unrecognized arguments: .+|argument .+|ambiguous option: .+)",
        "SGLang refused a flag: {0}",
        "`sglang serve --help` lists its flags; switches have no --no-x form",
    ),
    *SHARED_CAUSES,
)
_DIALECT = FailureDialect(
    causes=_CAUSES,
    prefix=re.compile(r"^\[\d{4}-\d\d-\d\d [\d:]+[^\]]*\]\s*"),
    harmless=re.compile(r"^(?:DEBUG|INFO|WARNING)\b|^Ignore import error|^Compute capability below sm80"),
    trouble=re.compile(
        r"\bERROR\b|Traceback|error:|Error:|memory capacity is unbalanced|Rank \d+ scheduler (?:died|is)"
    ),
    generic=("Initialization failed", "Rank 0 scheduler", "Received sigquit"),
)


def phase_of(line: str) -> Phase | None:
    """The start-up phase that a line announces, or None."""
    return phase_by(_PHASES, line)


def explain(lines: Sequence[str]) -> Cause | None:
    """The cause of a failed start, or None when the lines do not tell."""
    return explain_by(_DIALECT, lines)
