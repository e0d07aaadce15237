"""The demo model's files agree with each other; no engine and no torch is needed to see that."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from lading.demo import demo_model_directory

MAX_BYTES = 8 * 1000 * 1000
MODEL = demo_model_directory()
FILES = {
    "README.md",
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
}


def read_json(name: str) -> dict[str, Any]:
    value = json.loads((MODEL / name).read_text(encoding="utf-8"))
    assert isinstance(value, dict)
    return value


def safetensors_header(path: Path) -> tuple[dict[str, dict[str, Any]], int]:
    """Tensors by name, and how many bytes follow the header."""
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        header = json.loads(stream.read(length))
    header.pop("__metadata__", None)
    return header, path.stat().st_size - 8 - length


def expected_shapes(config: dict[str, Any]) -> dict[str, list[int]]:
    """Every tensor that a Llama of this config has; tied embeddings mean no ``lm_head.weight``."""
    assert config["tie_word_embeddings"]
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    queries = config["num_attention_heads"] * config["head_dim"]
    keys = config["num_key_value_heads"] * config["head_dim"]
    shapes = {"model.embed_tokens.weight": [config["vocab_size"], hidden], "model.norm.weight": [hidden]}
    for number in range(config["num_hidden_layers"]):
        layer = f"model.layers.{number}"
        shapes |= {
            f"{layer}.input_layernorm.weight": [hidden],
            f"{layer}.self_attn.q_proj.weight": [queries, hidden],
            f"{layer}.self_attn.k_proj.weight": [keys, hidden],
            f"{layer}.self_attn.v_proj.weight": [keys, hidden],
            f"{layer}.self_attn.o_proj.weight": [hidden, queries],
            f"{layer}.post_attention_layernorm.weight": [hidden],
            f"{layer}.mlp.gate_proj.weight": [inner, hidden],
            f"{layer}.mlp.up_proj.weight": [inner, hidden],
            f"{layer}.mlp.down_proj.weight": [hidden, inner],
        }
    return shapes


def token_ids() -> dict[str, int]:
    """Every token and its id, the special ones included."""
    tokenizer = read_json("tokenizer.json")
    vocab: dict[str, int] = tokenizer["model"]["vocab"]
    return vocab | {token["content"]: token["id"] for token in tokenizer["added_tokens"]}


def test_the_package_holds_a_whole_model_and_nothing_else() -> None:
    assert {path.name for path in MODEL.iterdir()} == FILES


def test_the_model_is_small_enough_to_ship() -> None:
    assert sum(path.stat().st_size for path in MODEL.iterdir()) <= MAX_BYTES


def test_the_tensors_are_those_the_config_implies() -> None:
    header, _ = safetensors_header(MODEL / "model.safetensors")
    assert {name: tensor["shape"] for name, tensor in header.items()} == expected_shapes(read_json("config.json"))


def test_every_tensor_is_bfloat16() -> None:
    header, _ = safetensors_header(MODEL / "model.safetensors")
    assert {tensor["dtype"] for tensor in header.values()} == {"BF16"}


def test_the_tensors_fill_the_file_without_a_gap() -> None:
    header, data_bytes = safetensors_header(MODEL / "model.safetensors")
    end = 0
    for tensor in sorted(header.values(), key=lambda tensor: tensor["data_offsets"]):
        start, stop = tensor["data_offsets"]
        assert (start, stop) == (end, end + 2 * math.prod(tensor["shape"]))
        end = stop
    assert end == data_bytes


def test_the_model_has_a_few_million_parameters() -> None:
    header, _ = safetensors_header(MODEL / "model.safetensors")
    assert 2_000_000 <= sum(math.prod(tensor["shape"]) for tensor in header.values()) <= 4_000_000


def test_the_config_is_a_llama_for_old_and_new_readers() -> None:
    config = read_json("config.json")
    assert (config["architectures"], config["model_type"]) == (["LlamaForCausalLM"], "llama")
    assert config["dtype"] == config["torch_dtype"] == "bfloat16"
    assert config["rope_theta"] == config["rope_parameters"]["rope_theta"]


def test_the_vocabulary_has_the_size_the_config_says() -> None:
    assert sorted(token_ids().values()) == list(range(read_json("config.json")["vocab_size"]))


@pytest.mark.parametrize("name", ["bos", "eos", "pad"])
def test_a_special_token_has_one_id_everywhere(name: str) -> None:
    token = read_json("tokenizer_config.json")[f"{name}_token"]
    assert read_json("special_tokens_map.json")[f"{name}_token"] == token
    assert read_json("config.json")[f"{name}_token_id"] == token_ids()[token]


def test_generation_stops_at_the_end_of_a_turn() -> None:
    assert token_ids()["<|end|>"] in read_json("generation_config.json")["eos_token_id"]


def test_default_sampling_is_cool_enough_to_stay_coherent() -> None:
    assert 0 < read_json("generation_config.json")["temperature"] <= 0.3


def test_the_chat_template_uses_only_special_tokens_of_the_tokenizer() -> None:
    template = read_json("tokenizer_config.json")["chat_template"]
    assert "add_generation_prompt" in template
    assert {"<|start|>", "<|end|>"} <= set(token_ids())
    assert template.count("<|start|>") == 2
    assert template.count("<|end|>") == 1


def test_the_tokenizer_puts_the_beginning_token_before_plain_text() -> None:
    first = read_json("tokenizer.json")["post_processor"]["single"][0]
    assert first["SpecialToken"]["id"] == read_json("tokenizer_config.json")["bos_token"]


def test_the_card_says_what_it_is_and_under_which_licence() -> None:
    card = (MODEL / "README.md").read_text(encoding="utf-8")
    assert "license: apache-2.0" in card
    assert "tools/train_demo_model.py" in card
