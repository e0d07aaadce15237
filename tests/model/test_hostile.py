"""Configs that nobody should write: facts, or MalformedModel, and nothing else, in little time."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lading.errors import MalformedModel
from lading.model.facts import ModelFacts, gather_facts
from lading.model.pool import Blocks
from lading.model.safetensors import DTYPE_BITS, Tensor
from lading.model.sampling import Sample, derive, entries_in
from lading.model.weights import Heads, Loading

SOURCES = Path(__file__).parents[2] / "src/lading/model"
CONFIGS = Path(__file__).parents[1] / "assets/model-configs"
KEYS = sorted(
    {key for path in SOURCES.glob("*.py") for key in re.findall(r'"([a-z][a-zA-Z_0-9]{2,40})"', path.read_text())}
)
TYPES = ["llama", "deepseek_v3", "gemma3_text", "mamba2", "zamba2", "qwen2", "minicpm3", "falcon_h1", "bert", "plamo2"]

numbers = st.one_of(
    st.integers(-3, 300), st.sampled_from([0, 1 << 31, 10**9, 10**18, 1 << 80, -1, True, False]), st.floats()
)
scalars = st.one_of(
    st.none(),
    numbers,
    st.text(max_size=6),
    st.sampled_from(["full_attention", "sliding_attention", "mamba", "M", "fp8", "float", "sparse", "auto", *TYPES]),
)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=5), st.dictionaries(st.one_of(st.sampled_from(KEYS), st.text(max_size=4)), inner, max_size=6)
    ),
    max_leaves=12,
)  # fmt: skip
configs = st.dictionaries(st.sampled_from(KEYS), values, max_size=25)
names = st.sampled_from(
    [
        "model.embed_tokens.weight", "lm_head.weight", "model.layers.0.self_attn.q_proj.weight",
        "model.layers.7.mlp.experts.3.up_proj.weight", "model.layers.999999.mlp.gate.weight", "visual.blocks.1.attn.qkv.weight",
        "mtp.layers.0.eh_proj.weight", "backbone.layers.1.mixer.in_proj.weight", "x", "model.layers.1.mlp.experts.gate_up_proj",
        "model.layers.0.self_attn.kv_b_proj.weight", "h.0.attn.bias", "model.layers.2.self_attn.k_proj.weight_scale",
    ]
)  # fmt: skip
tensors = st.lists(
    st.builds(
        Tensor,
        names,
        st.sampled_from(sorted(DTYPE_BITS)),
        st.lists(st.integers(0, 1 << 40), max_size=3).map(tuple),
    ),
    max_size=8,
)


def use(facts: ModelFacts) -> None:
    """Everything that others ask of facts."""
    assert facts.rope_cache_bytes >= 0
    if facts.weights:
        heads = Heads(facts.attention_heads or 0, facts.kv_heads or 0)
        for tp, pp in ((1, 1), (8, 3)):
            for quantize in (None, "fp8"):
                ranks = facts.weights.rank_bytes(
                    Loading(tp, pp, heads, quantize=quantize, expert_ranks=tp if quantize else 0)
                )
                assert len(ranks) == pp
                assert all(math.isfinite(size) and size >= 0 for size in ranks)
    if facts.kv:
        for blocks in (Blocks(), Blocks(speculative=3, keeps_states=True), Blocks(tokens=128, has_groups=False)):
            need = facts.kv.request_bytes(5000, tp=8, pp=2, batched_tokens=8192, blocks=blocks)
            assert 0 <= need <= facts.kv.request_bytes(50_000, tp=8, pp=2, batched_tokens=8192, blocks=blocks)
            assert facts.kv.pool_tokens(10**11, tp=8, blocks=blocks) >= 0
            assert facts.kv.pool(blocks=blocks).capacity(10**11, 5000) >= 0


def facts_of(config: dict[str, Any], seen: list[Tensor], file: dict[str, Any] | None = None) -> None:
    try:
        use(gather_facts(config, seen, quantization_file=file))
    except MalformedModel as error:
        assert not (config.get("architectures") and isinstance(config.get("model_type"), str)), error


@settings(max_examples=400, deadline=None)
@given(configs, tensors, st.one_of(st.none(), configs))
def test_whatever_a_config_says_there_are_facts(
    config: dict[str, Any], seen: list[Tensor], file: dict[str, Any] | None
) -> None:
    facts_of({"architectures": ["XForCausalLM"], "model_type": "x"} | config, seen, file)
    facts_of(config, seen, file)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(sorted(CONFIGS.glob("*.json"))), st.data())
def test_a_published_config_with_fields_gone_wrong_gives_facts(path: Path, data: st.DataObject) -> None:
    config = json.loads(path.read_text())["config"]
    holders = [config, *(each for each in config.values() if isinstance(each, dict))]
    for _ in range(data.draw(st.integers(1, 4))):
        holder = data.draw(st.sampled_from(holders))
        key = data.draw(st.sampled_from(sorted(holder) or ["layers"]))
        holder[key] = data.draw(values)
    facts_of(config, data.draw(tensors))


@settings(max_examples=150, deadline=None)
@given(configs, tensors, st.integers(0, 1 << 50))
def test_whatever_was_sampled_something_is_derived(config: dict[str, Any], seen: list[Tensor], data_bytes: int) -> None:
    derived = derive(Sample(tuple(seen), 2, 5, data_bytes), config)
    assert derived.note
    assert math.isfinite(derived.scale)
    assert derived.scale > 0
    use(
        gather_facts(
            {"model_type": "x"} | config | {"architectures": ["X"]}, derived.tensors, layer_scale=derived.scale
        )
    )


@given(st.text(max_size=200))
def test_pieces_of_headers_may_hold_anything(text: str) -> None:
    assert entries_in(text) == []
    entry = '"a.b":{"dtype":"BF16","shape":[2,3],"data_offsets":[0,12]}'
    cut = text.replace('"', "").replace("\\", "").replace("{", "").replace("}", "")
    assert entries_in(f"{cut},{entry},{cut}") == [Tensor("a.b", "BF16", (2, 3))]


@pytest.mark.parametrize(
    "entry",
    [
        '"a":{"dtype":"F128","shape":[1],"data_offsets":[0,1]}', '"a":{"dtype":"BF16","shape":[-1],"data_offsets":[0,1]}',
        '"a":{"dtype":"BF16","shape":1}', '"__metadata__":{"format":"pt"}', '"a":{"dtype":"BF16","shape":[1',
        '"\\q":{"dtype":"BF16","shape":[1]}',
    ],
)  # fmt: skip
def test_an_entry_that_is_none_is_passed_over(entry: str) -> None:
    assert entries_in(entry) == []


def test_a_config_nested_in_itself_a_thousand_times_is_no_trouble() -> None:
    config: dict[str, Any] = {"num_hidden_layers": 2}
    for _ in range(500):
        config = {"text_config": config}
    assert gather_facts(config | {"model_type": "x"}, ()).layers is None
