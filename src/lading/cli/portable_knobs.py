"""The settings that every engine understands, written as the flags of one: ``NIM_MAX_MODEL_LEN`` and its like.

What an engine has no flag for is a UsageError before anything is started. The share of the GPU is not among them: what
it is of differs between engines, so it is converted once the estimate is known (``docs/reference/engines.md``).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from lading.backends.interface import Argument, Draft
from lading.backends.spelling import spell
from lading.cli.engine_choice import SpokenEngine
from lading.errors import UsageError
from lading.settings import Settings

_KNOBS = {
    "max_model_len": "NIM_MAX_MODEL_LEN",
    "tensor_parallel": "NIM_TENSOR_PARALLEL_SIZE",
    "pipeline_parallel": "NIM_PIPELINE_PARALLEL_SIZE",
    "max_sequences": "NIM_MAX_NUM_SEQS",
    "no_cuda_graph": "NIM_DISABLE_CUDA_GRAPH",
    "trust_code": "NIM_TRUST_CUSTOM_CODE",
    "tokenizer": "NIM_MODEL_TOKENIZER",
    "tokenizer_mode": "NIM_TOKENIZER_MODE",
}
_DRAFT_PATH, _DRAFT_TOKENS = "NIM_DRAFT_MODEL_PATH", "NIM_NUM_SPECULATIVE_TOKENS"


def knob_arguments(settings: Settings, engine: SpokenEngine) -> Iterator[Argument]:
    """The flags of ``engine`` for the portable settings that are set, each with its variable as origin."""
    values = {
        "max_model_len": settings.max_model_len,
        "tensor_parallel": settings.tensor_parallel_size,
        "pipeline_parallel": settings.pipeline_parallel_size,
        "max_sequences": settings.max_num_seqs,
        "no_cuda_graph": settings.disable_cuda_graph or None,
        "trust_code": settings.trust_custom_code or None,
        "tokenizer": settings.model_tokenizer,
        "tokenizer_mode": settings.tokenizer_mode,
    }
    for what, value in values.items():
        if value is not None:
            tokens = spell(engine.backend.name, engine.version, what, value, origin=_KNOBS[what])
            yield Argument(tokens, _KNOBS[what])
    if draft := _draft(settings):
        yield Argument(engine.backend.speculation(draft, engine.version), draft.origin)


def _draft(settings: Settings) -> Draft | None:
    directory, tokens = settings.draft_model_path, settings.num_speculative_tokens
    if directory is not None:
        origin = _DRAFT_PATH if tokens is None else f"{_DRAFT_PATH}, {_DRAFT_TOKENS}"
        return Draft(directory, _architecture(directory), tokens, origin)
    return None if tokens is None else Draft(None, "", tokens, _DRAFT_TOKENS)


def _architecture(directory: Path) -> str:
    """The class of the model in ``directory``; raises UsageError where there is none."""
    try:
        config = json.loads((directory / "config.json").read_bytes())
        return str(config["architectures"][0])
    except (OSError, ValueError, LookupError, TypeError):
        raise UsageError(
            f"{_DRAFT_PATH}={directory}: there is no config.json that names the model's class",
            remedy="name the directory that holds the draft model",
        ) from None
