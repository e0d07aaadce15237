"""The generated checkpoint headers are those of the published files: counted, weighed, and listed through the program."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from lading.model.safetensors import Tensor, header_length, parse_header
from tests.checkpoints import checkpoint, parameters, tensors_of
from tests.checkpoints.sparse import write_sparse

CONFIGS = Path(__file__).parent / "assets/model-configs"
PUBLISHED: dict[str, dict[str, Any]] = {
    path.stem: json.loads(path.read_text()) for path in sorted(CONFIGS.glob("*.json"))
}
HEADER_SHARE = 1.0001  # what the headers themselves add to the files, at most


def tensors(name: str) -> list[Tensor]:
    return tensors_of(PUBLISHED[name]["config"], PUBLISHED[name].get("hf_quant_config"))


@pytest.mark.parametrize("name", [name for name, each in PUBLISHED.items() if "parameters" in each])
def test_a_model_has_as_many_parameters_as_its_classes_make(name):
    assert parameters(PUBLISHED[name]["config"]) == PUBLISHED[name]["parameters"]


def one_of_each_kind() -> list[str]:
    """A config for each model type and quantisation: the others differ in sizes only."""
    kinds = {
        (
            each["config"]["model_type"],
            bool(each["config"].get("quantization_config") or each.get("hf_quant_config")),
        ): name
        for name, each in PUBLISHED.items()
    }
    return list(kinds.values())


@pytest.mark.parametrize("name", one_of_each_kind())
def test_no_tensor_is_there_twice_and_none_is_empty(name):
    found = tensors(name)
    assert len({each.name for each in found}) == len(found)
    assert all(each.size_bytes for each in found)


@pytest.mark.parametrize("name", [name for name, each in PUBLISHED.items() if "total_bytes" in each])
def test_the_tensors_weigh_what_the_published_index_says(name):
    assert sum(each.size_bytes for each in tensors(name)) == PUBLISHED[name]["total_bytes"]


@pytest.mark.parametrize(
    ("name", "copies"),
    [
        ("Qwen__Qwen3.5-122B-A10B", 1),
        ("Qwen__Qwen3.5-9B", 1),
        ("deepseek-ai__DeepSeek-V3.2", 1),
        ("deepseek-ai__DeepSeek-V4-Pro", 1),
        ("google__gemma-3-27b-it", 1),
        ("mistralai__Mistral-7B-Instruct-v0.3", 1),
        ("nvidia__NVIDIA-Nemotron-3-Nano-30B-A3B-BF16", 1),
        ("openai__gpt-oss-120b", 2),  # the files of `original/` beside them
        ("openai__gpt-oss-20b", 2),
    ],
)
def test_the_files_of_a_repository_are_as_large_as_published(name, copies):
    gib = copies * sum(each.size_bytes for each in tensors(name)) / 2**30
    assert gib - 0.01 <= PUBLISHED[name]["files_gib"] <= gib * HEADER_SHARE + 0.01


@pytest.mark.parametrize(
    ("name", "elements"),
    [  # as the hub counts them, by type
        ("deepseek-ai__DeepSeek-V3", {"BF16": 3_918_786_560, "F8_E4M3": 680_571_043_840, "F32": 41_555_600}),
        ("openai__gpt-oss-20b", {"BF16": 1_804_459_584, "U8": 10_152_345_600}),
        ("Qwen__Qwen3-Next-80B-A3B-Instruct", {"BF16": 81_324_862_720}),
        ("zai-org__GLM-4.5-Air", {"BF16": 110_468_818_944, "F32": 5_888}),
    ],
)
def test_prediction_layers_scales_and_packed_experts_count_as_the_hub_counts(
    name: str, elements: dict[str, int]
) -> None:
    found: Counter[str] = Counter()
    for each in tensors(name):
        found[each.dtype] += each.elements
    assert found == elements


LINEAR = {"model_type": "llama", "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 1,
          "num_attention_heads": 2, "vocab_size": 100, "torch_dtype": "bfloat16"}  # fmt: skip


def group(**weights: object) -> dict[str, object]:
    return {"quant_method": "compressed-tensors", "config_groups": {"g": {"weights": weights}}, "ignore": ["lm_head"]}


@pytest.mark.parametrize(
    ("quantization", "expected"),
    [
        ({"quant_method": "awq", "bits": 4, "group_size": 128},
         {"qweight": ("I32", (256, 64)), "qzeros": ("I32", (2, 64)), "scales": ("F16", (2, 512))}),
        ({"quant_method": "gptq", "bits": 4, "group_size": 128},
         {"qweight": ("I32", (32, 512)), "qzeros": ("I32", (2, 64)), "scales": ("F16", (2, 512)), "g_idx": ("I32", (256,))}),
        ({"quant_method": "fp8", "weight_block_size": [128, 128]},
         {"weight": ("F8_E4M3", (512, 256)), "weight_scale_inv": ("F32", (4, 2))}),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4"},
         {"weight": ("U8", (512, 128)), "weight_scale": ("F8_E4M3", (512, 16)), "weight_scale_2": ("F32", ()), "input_scale": ("F32", ())}),
        (group(type="int", num_bits=4, group_size=128, symmetric=True, strategy="group"),
         {"weight_packed": ("I32", (512, 32)), "weight_scale": ("BF16", (512, 2)), "weight_shape": ("I64", (2,))}),
        (group(type="float", num_bits=8, strategy="channel"),
         {"weight": ("F8_E4M3", (512, 256)), "weight_scale": ("BF16", (512, 1))}),
        (group(type="float", num_bits=4, group_size=16),
         {"weight_packed": ("U8", (512, 128)), "weight_scale": ("F8_E4M3", (512, 16)), "weight_global_scale": ("F32", (1,)), "input_global_scale": ("F32", (1,))}),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True},
         {"weight": ("U8", (65536, 1)), "weight.absmax": ("F32", (2048,)), "weight.quant_map": ("F32", (16,)), "weight.quant_state.bitsandbytes__nf4": ("U8", (86,))}),
    ],
)  # fmt: skip
def test_each_scheme_stores_what_its_tools_write(quantization, expected):
    prefix = "model.layers.0.mlp.up_proj."
    found = {each.name: each for each in tensors_of(LINEAR | {"quantization_config": quantization})}
    kept = {
        name.removeprefix(prefix): (each.dtype, each.shape) for name, each in found.items() if name.startswith(prefix)
    }
    assert kept == expected
    assert found["lm_head.weight"].dtype == found["model.norm.weight"].dtype == "BF16"


def test_modules_that_a_list_names_are_left_as_they_are():
    found = {each.name: each.dtype for each in tensors("nvidia__DeepSeek-V3.1-NVFP4")}
    assert found["model.layers.5.self_attn.q_a_proj.weight"] == "BF16"
    assert found["model.layers.5.self_attn.o_proj.weight"] == "U8"
    assert found["model.layers.61.mlp.experts.0.up_proj.weight"] == "BF16"


def test_the_shards_are_no_larger_than_asked_and_their_headers_hold_every_tensor(tmp_path):
    config = PUBLISHED["Qwen__Qwen3-8B"]["config"]
    total = write_sparse(tmp_path, config, shard_bytes=2_000_000_000)
    read = {}
    for path in sorted(tmp_path.glob("*.safetensors")):
        with path.open("rb") as file:
            size, first = path.stat().st_size, file.read(8)
            read |= {path.name: parse_header(path.name, file.read(header_length(path.name, first, size)), size)}
    assert total == sum(each.size_bytes for shard in read.values() for each in shard) == 16_381_470_720
    assert all(sum(each.size_bytes for each in shard) <= 2_000_000_000 for shard in read.values())
    told = {(each.file, each.tensor) for each in checkpoint(config, shard_bytes=2_000_000_000)}
    assert told == {(name, each) for name, shard in read.items() for each in shard}


def test_a_model_of_seven_hundred_gigabytes_is_listed_from_holes(tmp_path):
    total = write_sparse(tmp_path / "model", PUBLISHED["deepseek-ai__DeepSeek-V3"]["config"])
    assert total > 688_000_000_000 > 1000 * sum(each.stat().st_blocks * 512 for each in (tmp_path / "model").iterdir())
    done = subprocess.run(
        [sys.executable, "-m", "lading.cli", "list-model-profiles", str(tmp_path / "model"), "--gpus", "8xH200", "--format", "json"],
        env={"PATH": "", "HOME": str(tmp_path)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    listing = json.loads(done.stdout)
    assert listing["architecture"] == "DeepseekV3ForCausalLM"
    verdicts = {each["name"]: each["verdict"] for each in listing["profiles"]}
    assert verdicts["vllm-fp8-tp8-pp1"] == "compatible"
    assert verdicts["vllm-fp8-tp4-pp1"] == "incompatible"
