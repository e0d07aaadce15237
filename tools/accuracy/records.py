"""Measured start-ups of real engines: what was run, and what the engine's own log said.

A figure that a log does not give is None; sizes are bytes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.checkpoints import tensors_of
from tests.checkpoints.variants import config_of

from lading.model.safetensors import Tensor
from lading.units import GIB

ASSETS = Path(__file__).parents[2] / "tests/assets"
ROUNDING_BYTES = int(0.005 * GIB)  # logs give GiB with two digits
_USUAL_TOTAL = 79.19  # an H100 of 80 GB, which all records without a figure ran on


@dataclass(frozen=True, slots=True)
class Model:
    """A checkpoint as its files tell it: config, quantisation config, tensors."""

    config: Mapping[str, Any]
    quantization_file: Mapping[str, Any] | None
    tensors: tuple[Tensor, ...]

    @property
    def sees_everything(self) -> bool:
        """Whether every layer keeps every token, so that the tokens of a pool are the longest request."""
        text = self.config.get("text_config") or self.config
        windowed = text.get("sliding_window") and text.get("use_sliding_window", True)
        return not windowed and set(text.get("layer_types") or ["full_attention"]) == {"full_attention"}


@dataclass(frozen=True, slots=True)
class Record:
    """One start-up. ``kv_bytes`` and the terms are rank 0's; ``longest`` is the longest length the engine named."""

    id: str
    model: str
    config_file: str
    engine: str
    version: str
    gpu: str
    total_bytes: int
    tp: int
    pp: int
    dp: int
    ep: bool
    dtype: str | None
    quantization: str | None
    kv_dtype: str
    max_model_len: int | None
    utilization: float | None
    sequences: int | None
    batched_tokens: int | None
    eager: bool
    weights_bytes: int | None
    activation_bytes: int | None
    non_torch_bytes: int | None
    graph_bytes: int | None
    kv_bytes: int | None
    kv_tokens: int | None
    longest: int | None
    outcome: str
    is_excerpt: bool

    @property
    def started(self) -> bool | None:
        """Whether the engine came up; None where the log breaks off before."""
        return None if self.outcome == "incomplete_log" else self.outcome == "ok"


def records() -> list[Record]:
    """All records, in the order of the file."""
    data = json.loads((ASSETS / "memory-records.json").read_text())
    return [_record(each) for each in data["records"]]


def model_of(record: Record) -> Model:
    """The checkpoint that a record ran, from the published config of its family."""
    return published_model(record.config_file, record.model)


def published_model(config_file: str, model: str = "") -> Model:
    """The checkpoint of a published config; of ``model`` where that was made of it."""
    published = json.loads((ASSETS / "model-configs" / f"{config_file}.json").read_text())
    config, file = config_of(model, published["config"]), published.get("hf_quant_config")
    return Model(config, file, tuple(tensors_of(config, file)))


def _record(raw: Mapping[str, Any]) -> Record:
    is_table = raw["quality"].startswith("table")
    return Record(
        id=raw["id"],
        model=raw["model"],
        config_file=raw.get("config_file") or raw["model"].replace("/", "__"),
        engine=raw["engine"],
        version=raw["version"].partition(" ")[0].replace(".x", ".0"),
        gpu=raw["gpu"],
        total_bytes=int((raw.get("gpu_total_gib") or _USUAL_TOTAL) * GIB),
        tp=raw["tp"],
        pp=raw["pp"],
        dp=raw["dp"],
        ep=raw["ep"],
        dtype=raw.get("dtype"),
        quantization=raw.get("quantization"),
        kv_dtype=raw["kv_cache_dtype"],
        max_model_len=raw.get("max_model_len"),
        utilization=raw.get("gpu_memory_utilization"),
        sequences=raw.get("max_num_seqs"),
        batched_tokens=raw.get("max_num_batched_tokens"),
        eager=bool(raw.get("enforce_eager")),
        weights_bytes=_bytes(raw, "weights_gib"),
        activation_bytes=_bytes(raw, "activation_gib"),
        non_torch_bytes=_bytes(raw, "non_torch_gib"),
        graph_bytes=None if is_table else _bytes(raw, "cudagraph_gib"),  # tables give a change of free memory there
        kv_bytes=_bytes(raw, "kv_gib"),
        kv_tokens=raw.get("kv_tokens"),
        longest=raw.get("est_max_len"),
        outcome=raw["outcome"],
        is_excerpt=raw["quality"] == "excerpt",
    )


def _bytes(raw: Mapping[str, Any], key: str) -> int | None:
    value = raw.get(key)
    return None if value is None else round(value * GIB)
