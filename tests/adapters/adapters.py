"""LoRA adapters for tests: PEFT's files with true headers."""

from __future__ import annotations

import json
import math
import random
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.models import CONFIG, safetensors

HIDDEN, INNER = int(str(CONFIG["hidden_size"])), int(str(CONFIG["intermediate_size"]))


def layer(module: str, rank: int, inputs: int, outputs: int) -> dict[str, tuple[str, list[int]]]:
    """The two matrices of one layer."""
    name = f"base_model.model.model.layers.{module}"
    return {
        f"{name}.lora_A.weight": ("BF16", [rank, inputs]),
        f"{name}.lora_B.weight": ("BF16", [outputs, rank]),
    }


def config(rank: int = 8, **changes: Any) -> bytes:
    """An adapter_config.json."""
    fields = {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": 16,
        "target_modules": ["q_proj", "down_proj"],
        "base_model_name_or_path": "demo/tiny",
    }
    return json.dumps(fields | changes).encode()


def adapter(rank: int = 8, *, seed: int = 0, hidden: int = HIDDEN, **changes: Any) -> dict[str, bytes]:
    """The files of an adapter for the tiny model; ``seed`` makes its weights."""
    tensors = {
        **layer("0.self_attn.q_proj", rank, hidden, hidden),
        **layer("1.mlp.down_proj", rank, INNER, hidden),
    }
    return {
        "adapter_config.json": config(rank, **changes),
        "adapter_model.safetensors": safetensors(tensors, seed=seed),
    }


def strong_adapter(base: Mapping[str, Any], *, rank: int, seed: int) -> dict[str, bytes]:
    """An adapter that changes all that a Llama of the config ``base`` says: large weights behind every MLP."""
    hidden, inner = base["hidden_size"], base["intermediate_size"]
    tensors: dict[str, tuple[str, list[int]]] = {}
    for number in range(base["num_hidden_layers"]):
        tensors |= {
            name: ("F32", shape) for name, (_, shape) in layer(f"{number}.mlp.down_proj", rank, inner, hidden).items()
        }
    draw = random.Random(seed)
    count = sum(math.prod(shape) for _, shape in tensors.values())
    weights = struct.pack(f"<{count}f", *(draw.gauss(0, 0.5) for _ in range(count)))
    header = safetensors(tensors)[: -len(weights)]
    files = {"adapter_config.json": config(rank, target_modules=["down_proj"])}
    return {**files, "adapter_model.safetensors": header + weights}


def write(directory: Path, files: Mapping[str, bytes]) -> Path:
    """The files in ``directory``."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (directory / name).write_bytes(data)
    return directory
