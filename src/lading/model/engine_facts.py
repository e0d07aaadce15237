"""What a built engine of TensorRT-LLM is, by its own config and by what lies beside it. Pure.

``config.json`` beside the engine's ranks has ``version``, ``pretrained_config`` (the model, in names like those of
Hugging Face, and ``mapping``) and ``build_config`` (for which sizes it was built), as releases 0.9 to 1.2 write it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from lading.errors import MalformedModel
from lading.model.built_engine import BuiltEngine
from lading.model.config import table, whole
from lading.model.facts import ModelFacts, gather_facts

_DTYPES = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32"}
_ALGORITHMS = (
    ("NVFP4", "nvfp4"), ("FP8", "fp8"), ("W4A16_AWQ", "int4_awq"), ("W4A8_AWQ", "int4_awq"),
    ("W4A16_GPTQ", "int4_gptq"), ("W4", "int4"), ("W8", "int8"), ("MIXED", "mixed"),
)  # fmt: skip
_ONE_BYTE_CACHES = ("FP8", "INT8")
_NO_TOKENIZER = "there is no tokenizer beside the built engine: name the directory of one with --tokenizer"


@dataclass(frozen=True, slots=True)
class EngineFiles:
    """What was read of an engine: its config, the model's own where it lies above, and the record of its build.

    ``ranks`` are those whose engines are there; ``size_bytes`` is what all of them take.
    """

    folder: str
    config: Mapping[str, Any]
    model_config: Mapping[str, Any] | None
    record: Mapping[str, Any]
    ranks: frozenset[int]
    size_bytes: int
    has_tokenizer: bool


def engine_facts(files: EngineFiles) -> ModelFacts:
    """The facts of a built engine. Raises MalformedModel where its config is no engine's, or ranks are missing."""
    model, build = table(files.config.get("pretrained_config")), table(files.config.get("build_config"))
    if not model:
        raise MalformedModel(
            f"config.json beside the built engine in {files.folder or 'the directory'} has no pretrained_config",
            remedy="it was overwritten by another config.json: build the engine again (nim-optimize)",
        )
    mapping = table(model.get("mapping"))
    tp, pp = whole(mapping, "tp_size") or 1, whole(mapping, "pp_size") or 1
    if missing := [f"rank{rank}.engine" for rank in range(tp * pp) if rank not in files.ranks]:
        raise MalformedModel(
            f"the built engine lacks {', '.join(missing[:3])}: it was built for {tp * pp} GPUs",
            remedy="the copy is incomplete: bring all of its ranks",
        )
    facts = gather_facts(files.model_config or _as_hugging_face(model), ())
    quantization = table(model.get("quantization"))
    kv = facts.kv
    if kv and quantization.get("kv_cache_quant_algo") in _ONE_BYTE_CACHES:
        kv = kv.with_kv_bytes(1)
    return replace(
        facts,
        precision=_precision(model, quantization),
        quantization=None,
        weights_bytes=files.size_bytes,
        max_model_len=whole(build, "max_seq_len") or facts.max_model_len,
        kv=kv,
        notes=facts.notes if files.has_tokenizer else (*facts.notes, _NO_TOKENIZER),
        built=BuiltEngine(
            files.folder,
            _text(files.config, "version"),
            tp,
            pp,
            _text(files.record, "gpu"),
            _text(files.record, "name"),
        ),
    )


def _as_hugging_face(model: Mapping[str, Any]) -> dict[str, Any]:
    """The model's config under the names of Hugging Face; the rest are the same in both."""
    named = {"architectures": [model.get("architecture")], "head_dim": model.get("head_size")}
    return {**model, **named, "quantization": None}


def _text(values: Mapping[str, Any], key: str) -> str:
    found = values.get(key)
    return found if isinstance(found, str) else ""


def _precision(model: Mapping[str, Any], quantization: Mapping[str, Any]) -> str:
    algorithm = quantization.get("quant_algo")
    if isinstance(algorithm, str):
        return next((name for start, name in _ALGORITHMS if algorithm.startswith(start)), algorithm.lower())
    return _DTYPES.get(str(model.get("dtype")), "bf16")
