"""What an adapter's config and header tell, and the reasons that follow."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from lading.errors import MalformedModel
from lading.model.facts import ModelFacts
from lading.model.lora import AdapterConfig, rank_room, unfit
from lading.model.safetensors import Tensor
from tests.adapters.adapters import config, layer

BASE = replace(
    ModelFacts.unknown(1000),
    architecture="LlamaForCausalLM",
    hidden_size=64,
    intermediate_size=128,
    layers=2,
    attention_heads=4,
    kv_heads=2,
    head_dim=16,
)


def tensors(*layers: dict[str, tuple[str, list[int]]]) -> list[Tensor]:
    return [Tensor(name, dtype, tuple(shape)) for each in layers for name, (dtype, shape) in each.items()]


GOOD = tensors(
    layer("0.self_attn.q_proj", 8, 64, 64),
    layer("0.self_attn.k_proj", 8, 64, 32),
    layer("0.self_attn.o_proj", 8, 64, 64),
    layer("1.mlp.gate_proj", 8, 64, 128),
    layer("1.mlp.down_proj", 8, 128, 64),
)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"{", "not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
        (b"[]", "no JSON object"),
        (b'{"peft_type": "IA3", "r": 8}', "of type IA3"),
        (b"{}", "no rank"),
        (b'{"r": 0}', "no rank"),
        (b'{"r": true}', "no rank"),
        (b'{"r": 8, "rank_pattern": {"q_proj": "x"}}', "no rank"),
        (b'{"r": 8, "rank_pattern": [1.5]}', "no rank"),
    ],
)
def test_a_config_that_says_nothing_usable_is_refused(text, reason):
    with pytest.raises(MalformedModel, match=reason):
        AdapterConfig.parse(text)


def test_the_rank_is_the_largest_of_all_layers():
    parsed = AdapterConfig.parse(config(8, rank_pattern={"q_proj": 64}))
    assert (parsed.rank, parsed.has_one_rank, parsed.base) == (64, False, "demo/tiny")


@pytest.mark.parametrize(("rank", "room"), [(1, 8), (8, 8), (9, 16), (200, 256), (512, 512), (600, 600)])
def test_room_comes_in_sizes(rank, room):
    assert rank_room(rank) == room


def reason(found: list[Tensor] | None = None, *, base: ModelFacts = BASE, room: int = 16, **changes: Any) -> str | None:
    return unfit(AdapterConfig.parse(config(8, **changes)), GOOD if found is None else found, base, room)


def test_an_adapter_that_fits_has_no_reason():
    assert reason() is None
    assert reason(room=8) is None
    assert unfit(AdapterConfig.parse(config()), None, BASE, 8) is None


def test_a_rank_above_the_room_is_refused():
    assert reason(room=7) == "its rank is 8, and there is room for 7 (NIM_MAX_LORA_RANK)"


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"use_dora": True}, "DoRA"),
        ({"bias": "all"}, "biases"),
        ({"lora_bias": True}, "biases"),
        ({"modules_to_save": ["lm_head", "score"]}, "whole modules (lm_head in modules_to_save)"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights=pissa"),
        ({"layer_replication": [[0, 1]]}, "layer_replication"),
        ({"use_qalora": True}, "use_qalora"),
    ],
    ids=str,
)
def test_what_no_engine_serves_is_named(changes, word):
    assert word in str(reason(**changes))


def test_what_changes_nothing_is_no_reason():
    assert reason(bias="none", modules_to_save=None, init_lora_weights="Gaussian", use_dora=False) is None
    assert reason(modules_to_save=["classifier"]) is None


@pytest.mark.parametrize(
    ("found", "text"),
    [
        ([], "no LoRA matrices"),
        (GOOD[:-1], "lack one of lora_A and lora_B"),
        (tensors(layer("0.self_attn.q_proj", 4, 64, 64)), "says rank 8, its weights have 4"),
        (tensors(layer("0.self_attn.q_proj", 8, 96, 64)), "hidden size is 96, the model's 64; it was made for demo/tiny"),
        (tensors(layer("0.self_attn.o_proj", 8, 64, 96)), "hidden size is 96"),
        (tensors(layer("0.self_attn.v_proj", 8, 64, 64)), "width of keys and values is 64, the model's 32"),
        (tensors(layer("0.mlp.up_proj", 8, 64, 160)), "intermediate size is 160"),
        (tensors(layer("0.mlp.down_proj", 8, 160, 64)), "intermediate size is 160"),
        (tensors(layer("2.self_attn.q_proj", 8, 64, 64)), "changes layer 2, and the model has 2"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_weights_that_do_not_fit_are_refused(found, text):
    assert text in str(reason(found))


def test_layers_of_several_sizes_speak_against_nothing_where_one_fits():
    mixed = tensors(layer("0.self_attn.k_proj", 8, 64, 32), layer("1.self_attn.k_proj", 8, 64, 128))
    assert reason(mixed) is None


def test_what_is_not_known_of_the_base_is_not_held_against_an_adapter():
    unknown = ModelFacts.unknown(1000)
    assert reason(tensors(layer("90.self_attn.q_proj", 8, 9, 9)), base=unknown) is None
    assert reason(tensors(layer("0.mlp.up_proj", 8, 64, 999)), base=replace(BASE, experts=8)) is None
    tower = {
        name.replace("model.layers", "vision.layers"): value for name, value in layer("40.mlp.up_proj", 8, 7, 7).items()
    }
    assert reason([*GOOD, *tensors(tower)]) is None
    packed = {
        "base_model.model.model.layers.0.mlp.up_proj.lora_A": ("BF16", [2, 8, 9]),
        "base_model.model.model.layers.0.mlp.up_proj.lora_B": ("BF16", [2, 9, 8]),
    }
    assert reason(tensors(packed)) is None


def test_layers_with_ranks_of_their_own_are_believed():
    mixed = tensors(layer("0.self_attn.q_proj", 8, 64, 64), layer("1.self_attn.q_proj", 16, 64, 64))
    assert reason(mixed, rank_pattern={"layers.1.self_attn.q_proj": 16}) is None
    assert json.loads(config())["r"] == 8
