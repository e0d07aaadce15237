"""What the config of a built engine says of it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lading.errors import MalformedModel
from lading.model.built_engine import BuiltEngine, engine_folder
from lading.model.engine_facts import EngineFiles, engine_facts
from tests.hosting.engines import engine_config
from tests.models import CONFIG

FILES = EngineFiles("trtllm_engine", engine_config(2), CONFIG, {}, frozenset({0, 1}), 2000, has_tokenizer=True)


def test_an_engine_is_of_one_size_length_and_release():
    facts = engine_facts(replace(FILES, record={"gpu": "NVIDIA H200"}))
    assert facts.built == BuiltEngine("trtllm_engine", "1.2.1", 2, 1, "NVIDIA H200")
    assert (facts.precision, facts.max_model_len, facts.weights_bytes) == ("fp16", 256, 2000)
    assert (facts.architecture, facts.notes) == ("LlamaForCausalLM", ())


def test_without_the_models_config_its_own_tells_the_same():
    alone = engine_facts(replace(FILES, model_config=None, folder=""))
    beside = engine_facts(FILES)
    assert (alone.attention_heads, alone.kv_heads, alone.head_dim, alone.layers) == (4, 2, 16, 2)
    assert alone.kv == beside.kv


@pytest.mark.parametrize(
    ("algorithm", "precision"),
    [
        ("FP8", "fp8"),
        ("W8A16", "int8"),
        ("W4A16_AWQ", "int4_awq"),
        ("W4A16", "int4"),
        ("NVFP4", "nvfp4"),
        ("NEW", "new"),
    ],
)
def test_the_precision_is_what_it_was_quantised_to(algorithm, precision):
    model = {"quantization": {"quant_algo": algorithm, "kv_cache_quant_algo": "FP8"}}
    facts = engine_facts(replace(FILES, config=engine_config(2, model=model)))
    assert facts.precision == precision
    plain = engine_facts(FILES)
    assert facts.kv and plain.kv
    assert facts.kv.pool().request_bytes(64, 64) * 2 == plain.kv.pool().request_bytes(64, 64)


def test_what_is_missing_is_said():
    with pytest.raises(MalformedModel, match="has no pretrained_config") as caught:
        engine_facts(replace(FILES, config=CONFIG))
    assert "overwritten" in str(caught.value.remedy)
    with pytest.raises(MalformedModel, match=r"lacks rank1\.engine: it was built for 2 GPUs"):
        engine_facts(replace(FILES, ranks=frozenset({0})))
    assert "--tokenizer" in engine_facts(replace(FILES, has_tokenizer=False)).notes[-1]


@pytest.mark.parametrize("config", [{"pretrained_config": {"mapping": 3, "architecture": 4, "quantization": []}}, {"pretrained_config": 7}])  # fmt: skip
def test_nonsense_is_malformed(config):
    with pytest.raises(MalformedModel):
        engine_facts(replace(FILES, config=config, model_config=None))


@pytest.mark.parametrize(
    ("paths", "folder"),
    [
        (["config.json", "rank0.engine"], ""),
        (["config.json", "trtllm_engine/config.json", "trtllm_engine/rank0.engine"], "trtllm_engine"),
        (["rank0.engine", "trtllm_engine/rank0.engine"], "trtllm_engine"),
        (["config.json", "model.safetensors", "old/rank0.engine", "rank.engine"], None),
    ],
)
def test_an_engine_is_known_by_its_ranks(paths, folder):
    assert engine_folder(paths) == folder
