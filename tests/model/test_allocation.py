"""What PyTorch's allocator takes beyond the bytes of parameters as engines load them."""

from __future__ import annotations

import pytest

from lading.model.allocation import rest_of_segment
from lading.model.safetensors import Tensor
from lading.model.weights import Build, Heads, Loading, WeightTable, weight_table

MIB = 1 << 20


@pytest.mark.parametrize(
    ("mib", "rest"),
    [(0, 0), (3.5, 0), (9.5, 0), (10, 0), (11, 1), (11.5, 0.5), (12.5, 0), (12.875, 0), (13, 1), (1039.5, 0.5)],
)
def test_a_large_tensor_takes_the_rest_of_its_segment_where_that_is_small(mib: float, rest: float) -> None:
    assert rest_of_segment(int(mib * MIB)) == int(rest * MIB)


def rows(name: str, mib: float) -> Tensor:
    return Tensor(f"model.layers.{name}", "BF16", (1024, int(mib * 512)))


def rounding(*tensors: Tensor, tp: int = 1, pp: int = 1, build: Build | None = None, number_bytes: float = 2) -> float:
    table: WeightTable = weight_table(tensors, build or Build(layers=2))
    return table.rounding_bytes(Loading(tp, pp, Heads(8, 2), number_bytes=number_bytes))[0] / MIB


def test_what_is_loaded_into_one_parameter_is_rounded_as_one() -> None:
    qkv = [rows("0.self_attn.q_proj.weight", 11), rows("0.self_attn.k_proj.weight", 11)]
    assert rounding(*qkv) == 0
    assert rounding(*qkv, rows("0.self_attn.v_proj.weight", 11)) == 1
    assert rounding(rows("0.self_attn.q_proj.weight", 11), rows("0.self_attn.o_proj.weight", 11)) == 2
    assert rounding(rows("0.mlp.gate_proj.weight", 11), rows("1.mlp.up_proj.weight", 11)) == 2


def test_all_experts_of_a_layer_are_one_parameter() -> None:
    down = [rows(f"0.mlp.experts.{number}.down_proj.weight", 3) for number in range(5)]
    assert rounding(*down) == 1
    assert rounding(*down, *(rows(f"0.mlp.experts.{number}.up_proj.weight", 3) for number in range(5))) == 2
    assert rounding(*down, build=Build(layers=2, is_mxfp4=True)) == 0


def test_each_rank_rounds_its_own_share() -> None:
    down = [rows(f"{number}.mlp.down_proj.weight", 46) for number in range(2)]
    assert rounding(*down) == 0
    assert rounding(*down, tp=2) == 2
    assert rounding(*down, tp=2, pp=2) == 1
    assert rounding(*down, tp=2, number_bytes=4) == 0
    keys = rows("0.self_attn.k_proj.weight", 46)  # of 2 heads, repeated
    assert rounding(keys, tp=4) == 1


def test_the_tower_of_every_stage_rounds_each_layer() -> None:
    tower = [Tensor(f"visual.blocks.{number}.mlp.fc1.weight", "BF16", (1024, 11 * 512)) for number in range(3)]
    assert rounding(*tower, pp=2) == 3
