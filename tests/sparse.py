"""Checkpoints of any size that take no room: true headers before data that is not there.

``decoder`` gives the tensors of a decoder as its published config describes it, ``sharded`` cuts them into files as
hubs hold them, and ``SparseSource`` serves those; ``write_sparse`` puts them on a disk with holes for the data.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lading.model.safetensors import Tensor
from tests.simulators.memory_source import MemorySource


@dataclass(frozen=True)
class SparseFile:
    """A file: what it begins with, and its size; the rest is zeros."""

    head: bytes
    size_bytes: int


def safetensors_file(tensors: Sequence[Tensor]) -> SparseFile:
    """A safetensors file of these tensors, in this order."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for tensor in tensors:
        start, end = end, end + tensor.size_bytes
        header[tensor.name] = {"dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return SparseFile(struct.pack("<Q", len(text)) + text, 8 + len(text) + end)


def sharded(tensors: Iterable[Tensor], files: int, *, with_index: bool = True) -> dict[str, SparseFile]:
    """The tensors in so many files of about one size, with the index that says where each is."""
    ordered = list(tensors)
    total = sum(tensor.size_bytes for tensor in ordered)
    shards: list[list[Tensor]] = [[] for _ in range(files)]
    done = 0
    for tensor in ordered:
        shards[min(files - 1, done * files // total)].append(tensor)
        done += tensor.size_bytes
    names = [f"model-{number:05}-of-{files:06}.safetensors" for number in range(1, files + 1)]
    found = {name: safetensors_file(each) for name, each in zip(names, shards, strict=True)}
    if with_index:
        table = {tensor.name: name for name, each in zip(names, shards, strict=True) for tensor in each}
        text = json.dumps({"metadata": {"total_size": total}, "weight_map": table}, indent=2).encode()
        found["model.safetensors.index.json"] = SparseFile(text, len(text))
    return found


def model_files(config: Mapping[str, Any], weights: Mapping[str, SparseFile]) -> dict[str, SparseFile]:
    """A model: its weights and its config."""
    text = json.dumps(config).encode()
    return {"config.json": SparseFile(text, len(text)), **weights}


class SparseSource(MemorySource):
    """A source of such files: what is asked for beyond a file's beginning is zeros."""

    def put(self, files: Mapping[str, SparseFile]) -> SparseSource:
        """Offer the files."""
        for name, file in files.items():
            is_whole = file.size_bytes == len(file.head)
            self.add(name, file.head, promise="sha256" if is_whole else None, listed_bytes=file.size_bytes, etag="e")
            self.data[name] = file.head + b"\0" * min(1 << 20, file.size_bytes - len(file.head))
        return self


def write_sparse(directory: Path, files: Mapping[str, SparseFile]) -> Path:
    """The files below ``directory``, with holes."""
    for name, file in files.items():
        with (directory / name).open("wb") as out:
            out.write(file.head)
            out.truncate(file.size_bytes)
    return directory


def bf16(name: str, *shape: int) -> Tensor:
    """A tensor of bfloat16."""
    return Tensor(name, "BF16", shape)


def llama(config: Mapping[str, Any]) -> list[Tensor]:
    """The tensors of a dense decoder of Llama's shape."""
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    head = config.get("head_dim", hidden // config["num_attention_heads"])
    queries, keys = config["num_attention_heads"] * head, config["num_key_value_heads"] * head
    found = [bf16("model.embed_tokens.weight", config["vocab_size"], hidden)]
    for number in range(config["num_hidden_layers"]):
        name = f"model.layers.{number}"
        found += [
            bf16(f"{name}.self_attn.q_proj.weight", queries, hidden),
            bf16(f"{name}.self_attn.k_proj.weight", keys, hidden),
            bf16(f"{name}.self_attn.v_proj.weight", keys, hidden),
            bf16(f"{name}.self_attn.o_proj.weight", hidden, queries),
            bf16(f"{name}.mlp.gate_proj.weight", inner, hidden),
            bf16(f"{name}.mlp.up_proj.weight", inner, hidden),
            bf16(f"{name}.mlp.down_proj.weight", hidden, inner),
            bf16(f"{name}.input_layernorm.weight", hidden),
            bf16(f"{name}.post_attention_layernorm.weight", hidden),
        ]
    return [*found, bf16("model.norm.weight", hidden), bf16("lm_head.weight", config["vocab_size"], hidden)]


def deepseek(config: Mapping[str, Any], *, drafts: int = 1) -> list[Tensor]:
    """The tensors of DeepSeek V3 in blocks of fp8, with its layers for multi-token prediction behind the others."""
    hidden, layers = config["hidden_size"], config["num_hidden_layers"]
    found = [bf16("model.embed_tokens.weight", config["vocab_size"], hidden)]
    for number in range(layers + drafts):
        name = f"model.layers.{number}"
        found += _latent_attention(name, config)
        if number < config["first_k_dense_replace"]:
            found += _mlp(f"{name}.mlp", hidden, config["intermediate_size"])
        else:
            found += [
                bf16(f"{name}.mlp.gate.weight", config["n_routed_experts"], hidden),
                Tensor(f"{name}.mlp.gate.e_score_correction_bias", "F32", (config["n_routed_experts"],)),
            ]
            found += _mlp(f"{name}.mlp.shared_experts", hidden, config["moe_intermediate_size"])
            for expert in range(config["n_routed_experts"]):
                found += _mlp(f"{name}.mlp.experts.{expert}", hidden, config["moe_intermediate_size"])
        if number >= layers:
            found += [
                bf16(f"{name}.embed_tokens.weight", config["vocab_size"], hidden),
                bf16(f"{name}.shared_head.head.weight", config["vocab_size"], hidden),
                bf16(f"{name}.eh_proj.weight", hidden, 2 * hidden),
            ]
        if number == layers - 1:
            found += [bf16("model.norm.weight", hidden), bf16("lm_head.weight", config["vocab_size"], hidden)]
    return found


def _latent_attention(name: str, config: Mapping[str, Any]) -> list[Tensor]:
    heads, hidden, latent = config["num_attention_heads"], config["hidden_size"], config["kv_lora_rank"]
    nope, rope, value = config["qk_nope_head_dim"], config["qk_rope_head_dim"], config["v_head_dim"]
    rank = config["q_lora_rank"]
    return [
        *_fp8(f"{name}.self_attn.q_a_proj", rank, hidden),
        *_fp8(f"{name}.self_attn.q_b_proj", heads * (nope + rope), rank),
        *_fp8(f"{name}.self_attn.kv_a_proj_with_mqa", latent + rope, hidden),
        *_fp8(f"{name}.self_attn.kv_b_proj", heads * (nope + value), latent),
        *_fp8(f"{name}.self_attn.o_proj", hidden, heads * value),
        bf16(f"{name}.self_attn.q_a_layernorm.weight", rank),
        bf16(f"{name}.self_attn.kv_a_layernorm.weight", latent),
        bf16(f"{name}.input_layernorm.weight", hidden),
        bf16(f"{name}.post_attention_layernorm.weight", hidden),
    ]


def _mlp(name: str, hidden: int, inner: int) -> list[Tensor]:
    up = [each for part in ("gate_proj", "up_proj") for each in _fp8(f"{name}.{part}", inner, hidden)]
    return [*up, *_fp8(f"{name}.down_proj", hidden, inner)]


def _fp8(name: str, rows: int, columns: int) -> list[Tensor]:
    scales = (-(-rows // 128), -(-columns // 128))
    return [Tensor(f"{name}.weight", "F8_E4M3", (rows, columns)), Tensor(f"{name}.weight_scale_inv", "F32", scales)]


def qwen_moe(config: Mapping[str, Any]) -> list[Tensor]:
    """The tensors of a Qwen 3 with experts."""
    dense = [each for each in llama({**config, "intermediate_size": 1}) if ".mlp." not in each.name]
    hidden, inner = config["hidden_size"], config["moe_intermediate_size"]
    experts = [
        tensor
        for number in range(config["num_hidden_layers"])
        for name in [f"model.layers.{number}.mlp"]
        for tensor in [
            bf16(f"{name}.gate.weight", config["num_experts"], hidden),
            *(
                each
                for expert in range(config["num_experts"])
                for each in (
                    bf16(f"{name}.experts.{expert}.gate_proj.weight", inner, hidden),
                    bf16(f"{name}.experts.{expert}.up_proj.weight", inner, hidden),
                    bf16(f"{name}.experts.{expert}.down_proj.weight", hidden, inner),
                )
            ),
        ]
    ]
    order = {tensor.name: tensor for tensor in [*dense, *experts]}
    return sorted(order.values(), key=lambda tensor: _position(tensor.name))


def _position(name: str) -> tuple[int, str]:
    layer = name.split(".")[2] if ".layers." in name else ""
    ends = {"model.embed_tokens.weight": -1}
    return (int(layer) if layer else ends.get(name, 1 << 20), name)
