"""Facts from published configs and from hostile ones."""

from __future__ import annotations

import pytest

from lading.errors import MalformedModel
from lading.model.facts import gather_facts, read_json_object
from lading.model.safetensors import Tensor
from tests.model.published import facts_of


@pytest.mark.parametrize(
    ("name", "precision", "max_model_len", "growth_bytes", "is_exact"),
    [
        ("Qwen__Qwen3-8B", "bf16", 40960, 36 * 2 * 8 * 128 * 2, True),
        ("Qwen__Qwen2.5-0.5B", "bf16", 32768, 24 * 2 * 2 * 64 * 2, True),
        ("nvidia__Llama-3.1-70B-Instruct-FP8", "fp8", 131072, 80 * 2 * 8 * 128 * 1, True),
        ("codellama__CodeLlama-34b-hf", "bf16", 16384, 48 * 2 * 8 * 128 * 2, True),
        ("meta-llama__Llama-3.2-1B-Instruct", "bf16", 131072, 16 * 2 * 8 * 64 * 2, True),
        ("tiiuae__falcon-7b", "bf16", 2048, 32 * 2 * 1 * 64 * 2, True),
        ("Qwen__Qwen3-VL-8B-Instruct", "bf16", 262144, 36 * 2 * 8 * 128 * 2, True),
        ("openai__gpt-oss-20b", "mxfp4", 131072, 12 * 2 * 8 * 64 * 2, True),
        ("google__gemma-3-27b-it", "bf16", 131_072, 10 * 2 * 16 * 128 * 2, True),
        ("deepseek-ai__DeepSeek-V3", "fp8", 163840, 61 * (512 + 64) * 2, True),
        ("example-bnb-int8__Llama-3.1-8B-Instruct-bnb-8bit", "int8_bnb", 131072, 32 * 2 * 8 * 128 * 2, True),
        ("nvidia__Qwen3.6-27B-NVFP4", "mixed", 262144, 16 * 2 * 4 * 256 * 1, True),
        ("llava-hf__llava-1.5-7b-hf", "fp16", 4096, 32 * 2 * 32 * 128 * 2, True),
    ],
)
def test_a_published_config_is_understood(name, precision, max_model_len, growth_bytes, is_exact):
    facts = facts_of(name)
    assert facts.precision == precision
    assert facts.max_model_len == max_model_len
    assert (
        (facts.kv.growth_bytes(), facts.kv.is_exact) == (growth_bytes, is_exact) if facts.kv else growth_bytes is None
    )


def test_a_cache_that_is_not_counted_says_so():
    bare = {"architectures": ["NewForCausalLM"], "num_hidden_layers": 4}
    assert any("not counted" in note for note in gather_facts(bare, ()).notes)
    bounded = gather_facts(LLAMA | {"layer_types": ["a_new_kind"] * 2}, ())
    assert any("is a bound" in note for note in bounded.notes)


LLAMA = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "num_hidden_layers": 2, "hidden_size": 64,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512, "torch_dtype": "bfloat16",
}  # fmt: skip


@pytest.mark.parametrize(
    ("quantization", "precision"),
    [
        ({"quant_method": "fp8"}, "fp8"),
        ({"quant_method": "awq", "bits": 4}, "int4_awq"),
        ({"quant_method": "gptq", "bits": 8}, "int8_gptq"),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "int4_bnb"),
        ({"quant_method": "mxfp4"}, "mxfp4"),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, "nvfp4"),
        ({"quant_method": "compressed-tensors", "config_groups": {"g": {"weights": {"type": "float", "num_bits": 8}}}}, "fp8"),
        ({"quant_method": "compressed-tensors", "config_groups": {"g": {"weights": {"type": "int", "num_bits": 4}}}}, "int4"),
        ({"quant_method": "compressed-tensors", "config_groups": {"g": {"weights": {"type": "float", "num_bits": 4, "group_size": 16}}}}, "nvfp4"),
        ({"quant_method": "compressed-tensors", "config_groups": {"a": {"weights": {"type": "int", "num_bits": 4}}, "b": {"weights": {"type": "float", "num_bits": 8}}}}, "mixed"),
        ({}, "bf16"),
        ("nonsense", "bf16"),
    ],
)  # fmt: skip
def test_quantisation_in_its_forms_gives_the_precision(quantization, precision):
    assert gather_facts(LLAMA | {"quantization_config": quantization}, ()).precision == precision


@pytest.mark.parametrize(
    ("rope", "length"),
    [
        ({"type": "linear", "factor": 4}, 2048),
        ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 256}, 1024),
        ({"rope_type": "llama3", "factor": 8.0}, 512),
        ({"rope_type": "default"}, 512),
        ({"type": "linear", "factor": "four"}, 512),
    ],
)
def test_rope_scaling_stretches_the_length_as_the_engine_does(rope, length):
    assert gather_facts(LLAMA | {"rope_scaling": rope}, ()).max_model_len == length


def test_weights_are_the_sum_of_the_headers():
    facts = gather_facts(LLAMA, [Tensor("a", "BF16", (10, 10)), Tensor("b", "F8_E4M3", (7,))])
    assert (facts.weights_bytes, facts.parameters) == (207, 107)


def test_a_float32_checkpoint_is_held_in_16_bit():
    facts = gather_facts(LLAMA | {"torch_dtype": "float32"}, [Tensor("a", "F32", (10,))])
    assert (facts.weights_bytes, facts.precision) == (20, "bf16")


def test_without_a_declared_type_the_most_bytes_decide():
    config = {key: value for key, value in LLAMA.items() if key != "torch_dtype"}
    assert gather_facts(config, [Tensor("a", "F16", (100,)), Tensor("b", "F32", (1,))]).precision == "fp16"


def test_unread_weights_count_and_are_mentioned():
    facts = gather_facts(LLAMA, (), unread_weights_bytes=1000)
    assert facts.weights_bytes == 1000
    assert any("not safetensors" in note for note in facts.notes)


@pytest.mark.parametrize("config", [{}, {"architectures": []}, {"architectures": "Llama"}, {"model_type": 3}])
def test_a_config_without_identity_is_refused(config):
    with pytest.raises(MalformedModel, match="neither"):
        gather_facts(config, ())


@pytest.mark.parametrize("value", [None, "x", -1, True, [], 1.5])
def test_fields_of_the_wrong_type_count_as_absent(value):
    unknown = LLAMA | {"model_type": "no_class_knows_it"}
    facts = gather_facts(unknown | {"num_hidden_layers": value, "max_position_embeddings": value}, ())
    assert facts.layers is None
    assert facts.max_model_len is None
    assert facts.kv is None


def test_a_length_that_the_config_leaves_out_is_that_of_its_class():
    falcon = {"architectures": ["FalconForCausalLM"], "model_type": "falcon"}
    assert gather_facts(falcon, ()).max_model_len == 2048


@pytest.mark.parametrize(("tp", "share"), [(1, 1), (2, 2), (4, 2)])
def test_kv_heads_are_split_and_then_repeated(tp, share):
    facts = gather_facts(LLAMA, ())
    assert facts.kv.growth_bytes(tp) == 2 * 2 * 2 * 16 * 2 // share


@pytest.mark.parametrize("data", [b"", b"[]", b"{", b"\xff", b"[" * 100_000])
def test_what_is_no_json_object_is_refused_by_name(data):
    with pytest.raises(MalformedModel, match=r"config\.json"):
        read_json_object("config.json", data)
