"""What the engine's classes build elsewhere, wider or not at all, told by family and config."""

from __future__ import annotations

from typing import Any

import pytest

from lading.model.facts import gather_facts
from lading.model.safetensors import Tensor
from lading.model.weights import Heads, Loading

EMBEDDING, HEAD, LAYER = 128 * 10 * 2, 64 * 10 * 2, 16 * 10 * 2
TENSORS = [
    Tensor("model.embed_tokens.weight", "BF16", (128, 10)),
    Tensor("lm_head.weight", "BF16", (64, 10)),
    *(Tensor(f"model.layers.{number}.mlp.up_proj.weight", "BF16", (16, 10)) for number in range(3)),
]


def stages(config: dict[str, Any], *tensors: Tensor, pp: int = 3) -> tuple[int, ...]:
    known = {"architectures": ["AnyForCausalLM"], "num_hidden_layers": 3, "tie_word_embeddings": False}
    facts = gather_facts(known | config, tensors or TENSORS)
    assert facts.weights
    return facts.weights.rank_bytes(Loading(1, pp, Heads()))


@pytest.mark.parametrize(
    ("model_type", "tables"),
    [
        ("llama", (EMBEDDING, 0, HEAD)),
        ("qwen3_moe", (EMBEDDING + HEAD,) * 3),
        ("mixtral", (EMBEDDING + HEAD,) * 3),
        ("qwen3_vl_moe_text", (EMBEDDING + HEAD,) * 3),
        ("qwen3_5_text", (EMBEDDING, EMBEDDING, EMBEDDING + HEAD)),
    ],
)
def test_a_family_that_does_not_ask_for_the_stage_has_its_tables_on_each(
    model_type: str, tables: tuple[int, ...]
) -> None:
    assert stages({"model_type": model_type}) == tuple(LAYER + each for each in tables)


def test_a_table_of_positions_is_where_the_embedding_is_and_whole() -> None:
    tensors = [Tensor("wpe.weight", "BF16", (33, 10)), Tensor("h.0.ln_1.weight", "BF16", (10,))]
    assert stages({"model_type": "gpt2"}, *tensors) == (680, 660, 660)
    assert stages({"model_type": "any"}, *tensors) == (680, 0, 0)


@pytest.mark.parametrize(
    ("model_type", "declared", "has_head"),
    [
        ("falcon", None, False),
        ("gemma3_text", None, False),
        ("falcon", False, True),
        ("llama", None, True),
        ("llama", True, False),
    ],
)
def test_a_head_in_the_files_is_not_loaded_where_the_class_ties_it(
    model_type: str, declared: bool | None, has_head: bool
) -> None:
    found = stages({"model_type": model_type, "tie_word_embeddings": declared}, pp=1)
    assert found == (EMBEDDING + 3 * LAYER + HEAD * has_head,)


@pytest.mark.parametrize(
    ("read", "layers", "has_norm"),
    [(-2, 3, False), (-1, 4, True), (2, 2, False), ([1, -3], 2, False), (None, 4, True), ("x", 4, True), (-9, 4, True)],
)
def test_a_tower_is_built_up_to_the_deepest_layer_that_is_read(read: object, layers: int, has_norm: bool) -> None:
    tower = "vision_tower.vision_model"
    tensors = [Tensor(f"{tower}.encoder.layers.{number}.mlp.fc1.weight", "BF16", (10, 10)) for number in range(4)]
    tensors.append(Tensor(f"{tower}.post_layernorm.weight", "BF16", (10,)))
    config = {"model_type": "llava", "vision_config": {"num_hidden_layers": 4}, "vision_feature_layer": read}
    assert stages(config, *tensors, pp=1) == (layers * 200 + has_norm * 20,)


@pytest.mark.parametrize(
    ("config", "width"),
    [
        ({"model_type": "glm4_moe"}, 4),
        ({"model_type": "qwen3_moe"}, 2),
        ({"model_type": "bailing_moe", "router_dtype": "fp32"}, 4),
    ],
)
def test_routers_of_some_families_are_float32(config: dict[str, Any], width: int) -> None:
    assert stages(config, Tensor("model.layers.0.mlp.gate.weight", "BF16", (8, 10)), pp=1) == (80 * width,)


@pytest.mark.parametrize(
    ("architecture", "has_pooler"), [("BertModel", False), ("BertForSequenceClassification", True)]
)
def test_a_pooler_is_built_for_scores_alone(architecture: str, has_pooler: bool) -> None:
    pooler = Tensor("bert.pooler.dense.weight", "BF16", (10, 10))
    norm = Tensor("bert.embeddings.LayerNorm.weight", "BF16", (10,))
    found = stages({"model_type": "bert", "architectures": [architecture]}, pooler, norm, pp=1)
    assert found == (20 + 200 * has_pooler,)


def test_a_mergers_layers_are_split_and_it_is_on_every_stage() -> None:
    facts = gather_facts(
        {"architectures": ["Qwen2VLForConditionalGeneration"], "model_type": "qwen2_vl", "num_hidden_layers": 2},
        [Tensor(f"visual.merger.mlp.{number}.weight", "BF16", (10, 10)) for number in (0, 2)],
    )
    assert facts.weights
    assert facts.weights.rank_bytes(Loading(2, 2, Heads())) == (200, 200)


@pytest.mark.parametrize(("model_type", "share"), [("llava", 2), ("llava_onevision", 1), ("internvl", 1)])
def test_a_projector_is_split_where_its_class_splits_it(model_type: str, share: int) -> None:
    tensor = Tensor("multi_modal_projector.linear_1.weight", "BF16", (10, 10))
    facts = gather_facts({"architectures": ["AnyForCausalLM"], "model_type": model_type}, [tensor])
    assert facts.weights
    assert facts.weights.rank_bytes(Loading(2, 1, Heads())) == (200 // share,)
