"""Small models for tests: real files in the layout that hubs hold, with true safetensors headers."""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Mapping
from pathlib import Path

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 256,
    "max_position_embeddings": 512,
    "torch_dtype": "bfloat16",
}


def safetensors(tensors: Mapping[str, tuple[str, list[int]]], *, seed: int = 0) -> bytes:
    """A safetensors file of random bytes."""
    bits = {"BF16": 16, "F32": 32, "I8": 8}
    header, end = {}, 0
    for name, (dtype, shape) in tensors.items():
        size = bits[dtype] // 8
        for each in shape:
            size *= each
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + random.Random(seed).randbytes(end)


def tiny_model(
    *, shards: int = 2, elements: int = 40_000, config: Mapping[str, object] | None = None
) -> dict[str, bytes]:
    """The files of a model: config, tokenizer, an index and ``shards`` shards of ``elements`` bf16 numbers each."""
    names = [f"model-{number:05}-of-{shards:05}.safetensors" for number in range(1, shards + 1)]
    files = {
        name: safetensors({f"layer.{number}": ("BF16", [elements])}, seed=number) for number, name in enumerate(names)
    }
    weight_map = {f"layer.{number}": name for number, name in enumerate(names)}
    return files | {
        "config.json": json.dumps({**CONFIG, **(config or {})}).encode(),
        "model.safetensors.index.json": json.dumps({"metadata": {}, "weight_map": weight_map}).encode(),
        "tokenizer.json": b"{}",
        "README.md": b"# tiny\n",
    }


def write_model(directory: Path, files: Mapping[str, bytes]) -> Path:
    """``files`` below ``directory``."""
    for name, data in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return directory
