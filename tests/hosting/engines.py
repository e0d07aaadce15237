"""Built engines as TensorRT-LLM leaves them, small."""

from __future__ import annotations

import json
from collections.abc import Mapping

from tests.models import CONFIG, tiny_model

MODEL = {name: value for name, value in CONFIG.items() if isinstance(value, int)} | {
    "architecture": "LlamaForCausalLM",
    "dtype": "float16",
    "head_size": 16,
}


def engine_config(
    tp: int = 1, pp: int = 1, *, version: str = "1.2.1", model: Mapping[str, object] | None = None
) -> dict[str, object]:
    """The ``config.json`` beside the engine."""
    mapping = {"world_size": tp * pp, "tp_size": tp, "pp_size": pp}
    quantization = {"quant_algo": None, "kv_cache_quant_algo": None}
    pretrained = {**MODEL, "mapping": mapping, "quantization": quantization, **(model or {})}
    return {
        "version": version,
        "pretrained_config": pretrained,
        "build_config": {"max_seq_len": 256, "max_batch_size": 4},
    }


def engine_files(
    tp: int = 1, pp: int = 1, *, folder: str = "trtllm_engine/", version: str = "1.2.1"
) -> dict[str, bytes]:
    """A directory as nim-optimize makes it; with ``folder`` "" the engine alone and a tokenizer."""
    files = {f"{folder}rank{rank}.engine": b"e" * 1000 for rank in range(tp * pp)}
    files[f"{folder}config.json"] = json.dumps(engine_config(tp, pp, version=version)).encode()
    files["tokenizer.json"] = b"{}"
    return files | ({"config.json": tiny_model()["config.json"]} if folder else {})
