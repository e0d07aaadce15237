"""What vLLM prints, understood: the phase of a start, the cause of a failure.

Wording is a hint, never a state: readiness comes from HTTP, and a line that matches nothing changes nothing. File names
and line numbers change with every release, so patterns match the middle of a message. The recorded logs of many
versions that the tests hold these patterns to are in ``tests/assets/engine-logs/``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from lading.backends.failure_log import SHARED_CAUSES, FailureDialect, cause, explain_by, phase_by
from lading.backends.interface import Cause
from lading.events import Phase

_PHASES = (
    (re.compile(r"Resolved architecture:|Initializing a V1 LLM engine"), Phase.STARTING),
    (re.compile(r"Starting to load model|Loading safetensors checkpoint shards"), Phase.LOADING),
    (re.compile(r"Loading weights took|KV cache size:|init engine \(profile"), Phase.WARMING),
)

_CAUSES = (
    cause(
        r"estimated maximum model length is (\d+)",
        "the KV cache has no room for one request of the model's full length",
        "--max-model-len={0} fits",
    ),
    cause(
        r"User-specified max_model_len \((\d+)\) is greater than the derived max_model_len \(\D*(\d+)",
        "--max-model-len {0} is longer than the model's own {1} tokens",
        "--max-model-len={1} is the longest it was made for",
    ),
    cause(
        r"Total number of attention heads \((\d+)\) must be divisible by tensor parallel size \((\d+)\)",
        "{0} attention heads cannot be split over {1} ranks",
        "choose a --tensor-parallel-size that divides {0}",
    ),
    cause(
        r"World size \((\d+)\) is larger than the number of available GPUs \((\d+)\)",
        "{0} GPUs were asked for and {1} are there",
        "lower --tensor-parallel-size, or give the container more GPUs",
    ),
    cause(
        r"OutOfMemoryError: CUDA out of memory",
        "the GPU ran out of memory",
        "lower --max-model-len, --max-num-seqs or --gpu-memory-utilization, or use more GPUs",
    ),
    cause(
        r"Free memory on device (?:\S+ )?\(([\d.]+)/([\d.]+) GiB\) on startup is less than",
        "only {0} of {1} GiB of the GPU are free: another process holds the rest",
        "stop that process, or lower --gpu-memory-utilization",
    ),
    cause(
        r"No available memory for the cache blocks",
        "weights and activations leave no memory for the KV cache",
        "use more GPUs, or raise --gpu-memory-utilization",
    ),
    cause(
        r"Model architectures \['([^']+)'\] are not supported",
        "this vLLM does not run {0} models",
        "use a newer engine, or try --model-impl transformers",
    ),
    cause(
        r"Unknown quantization method: (\S+?)\.",
        "this vLLM does not know the quantisation method {0}",
        "use a newer engine or another checkpoint",
    ),
    cause(
        r"error: (unrecognized arguments: .+|argument .+)",
        "vLLM refused a flag: {0}",
        "`vllm serve --help` lists its flags",
    ),
    cause(
        r"custom code which must be executed|to execute the configuration file|setting .?trust_remote_code",
        "the model brings code of its own, which is not run unless you ask for it",
        "if you trust its authors, add --trust-remote-code",
    ),
    cause(
        r"LoRA rank (\d+) is greater than max_lora_rank (\d+)",
        "an adapter has rank {0}, the engine was started for {1}",
        "--max-lora-rank={0}",
    ),
    cause(
        r"Available memory on node \d+ \(([\d.]+)/([\d.]+) GiB\) on kv cache allocation is less than",
        "the KV cache asked for is larger than the {0} GiB of RAM that are free",
        "lower --kv-cache-memory-bytes, or leave it out to let Lading size it",
    ),
    cause(
        r"Available memory on node \d+ \(([\d.]+)/([\d.]+) GiB\) on startup is less than",
        "only {0} of {1} GiB of RAM are free, less than --gpu-memory-utilization asks for",
        "lower --gpu-memory-utilization, or leave it out",
    ),
    cause(
        r"start \(\d+\) \+ length \(\d+\) exceeds dimension size|shape mismatch|Attempted to load weight",
        "the weights do not have the shapes that config.json describes",
        "config.json and the weights are of different models; fetch both again",
    ),
    cause(
        r"adapter_config\.json'",
        "a LoRA adapter's adapter_config.json is missing",
        "check the path given to --lora-modules",
    ),
    *SHARED_CAUSES,
    cause(r"Value error, (.+?)(?: \[type=|$)", "vLLM refused the configuration: {0}", None),
)
_DIALECT = FailureDialect(
    causes=_CAUSES,
    prefix=re.compile(r"^\([A-Za-z0-9_ =.,]+\)\s*"),
    harmless=re.compile(r"^(?:DEBUG|INFO|WARNING)\b"),
    trouble=re.compile(r"\bERROR\b|Traceback|error:|Error:"),
    generic=("Engine core initialization failed", "WorkerProc initialization failed", "Worker failed with error"),
)


def phase_of(line: str) -> Phase | None:
    """The start-up phase that a line announces, or None. Unknown text means nothing."""
    return phase_by(_PHASES, line)


def explain(lines: Sequence[str]) -> Cause | None:
    """The cause of a failed start, or None when the lines do not tell."""
    return explain_by(_DIALECT, lines)
