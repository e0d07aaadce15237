"""Where an engine puts a checkpoint's tensors, and what vLLM itself says each rank took."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from lading.model.facts import gather_facts
from lading.model.safetensors import Tensor
from lading.model.weights import Build, Heads, Loading, WeightTable, stage_layers, weight_table
from lading.units import GIB


@dataclass(frozen=True)
class Shape:
    """A decoder as its published config describes it."""

    hidden: int
    layers: int
    heads: int
    keys: int
    inner: int
    vocabulary: int
    head_dim: int = 128
    positions: int = 131_072
    tied: bool = False
    biases: bool = False
    norms: bool = False
    experts: int = 0
    expert_inner: int = 0

    @property
    def config(self) -> dict[str, object]:
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_size": self.hidden,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.keys,
            "head_dim": self.head_dim,
            "vocab_size": self.vocabulary,
            "max_position_embeddings": self.positions,
            "rope_theta": 1e6,
            "tie_word_embeddings": self.tied,
            "torch_dtype": "bfloat16",
        }

    @property
    def tensors(self) -> list[Tensor]:
        found = [
            bf16("model.embed_tokens.weight", self.vocabulary, self.hidden),
            bf16("model.norm.weight", self.hidden),
        ]
        found += [] if self.tied else [bf16("lm_head.weight", self.vocabulary, self.hidden)]
        for number in range(self.layers):
            found += self.layer(f"model.layers.{number}")
        return found

    def layer(self, name: str) -> list[Tensor]:
        sizes = {"q_proj": self.heads, "k_proj": self.keys, "v_proj": self.keys}
        attention = f"{name}.self_attn"
        found = [
            bf16(f"{attention}.{part}.weight", count * self.head_dim, self.hidden) for part, count in sizes.items()
        ]
        found.append(bf16(f"{attention}.o_proj.weight", self.hidden, self.heads * self.head_dim))
        if self.biases:
            found += [bf16(f"{attention}.{part}.bias", count * self.head_dim) for part, count in sizes.items()]
        if self.norms:
            found += [bf16(f"{attention}.{part}.weight", self.head_dim) for part in ("q_norm", "k_norm")]
        found += [
            bf16(f"{name}.{part}.weight", self.hidden) for part in ("input_layernorm", "post_attention_layernorm")
        ]
        if not self.experts:
            return found + self.mlp(f"{name}.mlp", self.inner)
        experts = [each for e in range(self.experts) for each in self.mlp(f"{name}.mlp.experts.{e}", self.expert_inner)]
        return [*found, bf16(f"{name}.mlp.gate.weight", self.experts, self.hidden), *experts]

    def mlp(self, name: str, inner: int) -> list[Tensor]:
        up = [bf16(f"{name}.{part}.weight", inner, self.hidden) for part in ("gate_proj", "up_proj")]
        return [*up, bf16(f"{name}.down_proj.weight", self.hidden, inner)]


def bf16(name: str, *shape: int) -> Tensor:
    return Tensor(name, "BF16", shape)


LLAMA_8B = Shape(4096, 32, 32, 8, 14_336, 128_256)
QWEN25_7B = Shape(3584, 28, 28, 4, 18_944, 152_064, biases=True)
QWEN25_72B = Shape(8192, 80, 64, 8, 29_568, 152_064, biases=True)
QWEN3_06B = Shape(1024, 28, 16, 8, 3072, 151_936, positions=40_960, tied=True, norms=True)
QWEN3_8B = Shape(4096, 36, 32, 8, 12_288, 151_936, positions=40_960, norms=True)
QWEN3_32B = Shape(5120, 64, 64, 8, 25_600, 151_936, positions=40_960, norms=True)
QWEN3_30B_A3B = Shape(
    2048, 48, 32, 4, 0, 151_936, positions=40_960, norms=True, experts=128, expert_inner=768
)  # fmt: skip


@pytest.mark.parametrize(
    ("shape", "tp", "pp", "measured_gib"),
    [  # "Model loading took", per rank, as published logs of vLLM 0.11 and 0.19 on H100 have it
        (LLAMA_8B, 1, 1, 14.99),
        (LLAMA_8B, 2, 1, 7.51),
        (LLAMA_8B, 4, 1, 3.77),
        (LLAMA_8B, 1, 2, 7.51),
        (LLAMA_8B, 1, 4, 4.26),
        (QWEN25_7B, 1, 1, 14.25),
        (QWEN25_7B, 2, 1, 7.12),
        (QWEN25_72B, 2, 1, 67.8),
        (QWEN25_72B, 4, 1, 34.01),
        (QWEN3_06B, 1, 1, 1.12),
        (QWEN3_8B, 1, 1, 15.27),
        (QWEN3_32B, 1, 1, 61.03),
        (QWEN3_32B, 2, 1, 30.59),
        (QWEN3_30B_A3B, 1, 1, 56.88),
    ],
)
def test_the_largest_rank_is_what_the_engine_measured(shape: Shape, tp: int, pp: int, measured_gib: float) -> None:
    facts = gather_facts(shape.config, shape.tensors)
    assert facts.weights
    largest = max(facts.weights.rank_bytes(Loading(tp, pp, Heads(shape.heads, shape.keys))))
    assert (largest + facts.rope_cache_bytes) / GIB == pytest.approx(measured_gib, rel=0.005)


class TestSplitting:
    def table(self, *tensors: Tensor, layers: int = 2, is_tied: bool = False) -> WeightTable:
        return weight_table(tensors, Build(layers=layers, is_tied=is_tied))

    @pytest.mark.parametrize(
        ("name", "share"),
        [
            ("model.layers.0.self_attn.q_proj.weight", 1 / 8),
            ("model.layers.0.self_attn.k_proj.weight", 1 / 4),  # 4 heads: each of 8 ranks has a whole one
            ("model.layers.0.self_attn.o_proj.bias", 1),
            ("model.layers.0.mlp.down_proj.weight_scale", 1 / 8),
            ("model.layers.0.mlp.gate.weight", 1),
            ("model.layers.0.mlp.shared_expert_gate.weight", 1),
            ("model.layers.0.mlp.shared_expert.gate_proj.weight", 1 / 8),
            ("model.layers.0.mlp.experts.7.w2.qweight", 1 / 8),
            ("model.layers.0.mlp.experts.gate_up_proj_blocks", 1 / 8),
            ("model.layers.0.self_attn.kv_a_proj_with_mqa.weight", 1),
            ("model.layers.0.self_attn.kv_b_proj.weight", 1 / 8),
            ("model.layers.0.input_layernorm.weight", 1),
            ("backbone.layers.0.mixer.A_log", 2 / 8),  # in float32
            ("transformer.h.0.attn.c_attn.weight", 32 / 40 / 8 + 8 / 40 / 4),
            ("lm_head.weight", 1 / 8),
            ("vision_tower.transformer.layers.0.attention.q_proj.weight", 1 / 8),
            ("vision_tower.patch_conv.weight", 1),
        ],
    )
    def test_a_rank_has_its_share(self, name: str, share: float) -> None:
        table = self.table(bf16(name, 640, 100))
        assert table.rank_bytes(Loading(8, 1, Heads(32, 4))) == (round(128_000 * share),)

    def test_vocabularies_are_padded_to_64_rows(self) -> None:
        assert self.table(bf16("model.embed_tokens.weight", 65, 10)).total_bytes == 128 * 10 * 2
        assert self.table(bf16("lm_head.weight", 64, 10)).total_bytes == 64 * 10 * 2

    def test_a_tied_head_is_the_embedding_and_a_copy_on_the_last_stage(self) -> None:
        embedding, head = bf16("model.embed_tokens.weight", 64, 10), bf16("lm_head.weight", 64, 10)
        assert self.table(embedding, head, is_tied=True).rank_bytes(Loading(1, 1, Heads())) == (1280,)
        assert self.table(embedding, head, is_tied=True).rank_bytes(Loading(1, 3, Heads())) == (1280, 0, 1280)
        assert self.table(embedding, head).rank_bytes(Loading(1, 3, Heads())) == (1280, 0, 1280)
        assert self.table(embedding, head).rank_bytes(Loading(1, 1, Heads())) == (2560,)

    def test_layers_for_multi_token_prediction_are_not_loaded(self) -> None:
        kept = bf16("model.layers.1.mlp.up_proj.weight", 10, 10)
        extra = [bf16("model.layers.2.eh_proj.weight", 10, 10), bf16("mtp.layers.0.mlp.up_proj.weight", 10, 10)]
        assert self.table(kept, *extra).total_bytes == 200

    def test_wider_floats_are_held_in_the_models_type(self) -> None:
        norm = Tensor("model.norm.weight", "F32", (10,))
        table = self.table(norm, Tensor("x.weight_scale", "F32", (10,)), Tensor("x.weight", "F8_E4M3", (10,)))
        assert table.total_bytes == 20 + 40 + 10
        assert table.rank_bytes(Loading(1, 1, Heads(), number_bytes=4)) == (40 + 40 + 10,)


@pytest.mark.parametrize(
    ("layers", "pp", "counts"),
    [
        (32, 1, [32]),
        (32, 4, [8, 8, 8, 8]),
        (34, 4, [8, 9, 9, 8]),
        (35, 4, [9, 9, 9, 8]),
        (61, 2, [31, 30]),
        (5, 3, [2, 2, 1]),
        (0, 2, [0, 0]),
    ],
)
def test_a_remainder_of_layers_goes_to_the_stages_before_the_last(layers: int, pp: int, counts: list[int]) -> None:
    stages = stage_layers(layers, pp)
    assert [len(each) for each in stages] == counts
    assert [layer for each in stages for layer in each] == list(range(layers))
