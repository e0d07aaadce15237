from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import pytest

from lading.profiles.calibration import Calibration, CalibrationKey, with_derived_activation
from lading.profiles.measurement import Measurement
from lading.units import GIB

KEY = CalibrationKey("vllm", "0.19.0", "NVIDIA L40S", "LlamaForCausalLM", "bf16", 16_060_522_496)
OTHERS: dict[str, Any] = {
    "engine": "sglang", "version": "0.19.1", "gpu": "NVIDIA H100 80GB HBM3", "architecture": "Qwen3ForCausalLM",
    "precision": "fp8", "weights_bytes": 1, "tp": 2, "pp": 2, "lora": True, "kv_dtype": "fp8", "batched_tokens": 8192,
    "sequences": 256, "eager": True, "other_flags": "ab",
}  # fmt: skip


def gib(size: float) -> int:
    return round(size * GIB)


def test_a_key_is_written_as_json_and_read_back() -> None:
    for key in (KEY, CalibrationKey(**OTHERS)):
        assert CalibrationKey.from_json(key.to_json()) == key
    assert OTHERS.keys() == {each.name for each in fields(CalibrationKey)}


@pytest.mark.parametrize("name", OTHERS)
def test_every_field_of_the_key_makes_another_calibration(name: str) -> None:
    other = replace(KEY, **{name: OTHERS[name]})
    assert other.digest != KEY.digest
    assert len(other.digest) == 64


def test_the_digest_of_a_key_never_changes() -> None:
    assert KEY.digest == "ba786e321184f4d113c860b5b5b7b6b54c1179fbf806b2521450a352f7a0a650"


def test_a_calibration_is_written_as_json_and_read_back() -> None:
    found = Calibration(KEY, (Measurement(1, 2, 3), Measurement(kv_pool_tokens=4)), (Measurement(5),), 1_700_000_000)
    assert Calibration.from_json(found.to_json()) == found


@pytest.mark.parametrize("change", [{"measured": []}, {"measured_at": 1.5}, {"key": []}, {"estimated": 3}])
def test_what_is_no_calibration_is_refused(change: dict[str, object]) -> None:
    data = Calibration(KEY, (Measurement(1),), (), 1).to_json()
    with pytest.raises((KeyError, TypeError, ValueError)):
        Calibration.from_json({**data, **change})


def test_an_activation_that_was_not_told_is_what_the_pool_lacks() -> None:
    estimated = Measurement(gib(15), gib(2), gib(0.25), None, gib(50))
    measured = Measurement(gib(15.1), None, None, gib(0.9), gib(48.4))
    assert with_derived_activation(measured, estimated).activation_bytes == pytest.approx(gib(3.5), abs=9)
    both = replace(measured, non_torch_bytes=gib(1.25))
    assert with_derived_activation(both, estimated).activation_bytes == pytest.approx(gib(2.5), abs=9)
    graphs = replace(estimated, cuda_graph_bytes=gib(0.5))
    assert with_derived_activation(measured, graphs).activation_bytes == pytest.approx(gib(3.1), abs=9)


UNKNOWN = {
    "told": (Measurement(gib(15), 1, None, None, gib(48)), Measurement(gib(15), gib(2), 0, None, gib(50))),
    "no pool estimated": (Measurement(gib(15), None, None, None, gib(48)), Measurement(gib(15), gib(2))),
    "no pool told": (Measurement(gib(15)), Measurement(gib(15), gib(2), 0, None, gib(50))),
    "no weights told": (Measurement(kv_pool_bytes=gib(4)), Measurement(gib(15), gib(2), 0, None, gib(50))),
    "no activation estimated": (Measurement(gib(15), None, None, None, gib(48)), Measurement(kv_pool_bytes=gib(5))),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_nothing_is_derived_from_less(name: str) -> None:
    measured, estimated = UNKNOWN[name]
    assert with_derived_activation(measured, estimated) is measured


def test_a_rank_that_spoke_for_itself_has_its_own_figures_and_others_the_largest() -> None:
    four = replace(KEY, pp=2, tp=2)
    told = (Measurement(10, 1), Measurement(20, 2), Measurement(30, 3), Measurement(5, 4))
    assert [Calibration(four, told, (), 1).of_rank(rank).activation_bytes for rank in range(4)] == [1, 2, 3, 4]
    assert Calibration(four, told[:2], (), 1).of_rank(3) == Measurement(20, 2)


def test_the_ranks_own_estimate_explains_its_pool() -> None:
    two = replace(KEY, pp=2)
    told = (Measurement(100, None, None, None, 50), Measurement(100, None, None, None, 40))
    estimated = (Measurement(100, 10, None, None, 52), Measurement(100, 20, None, None, 45))
    assert [Calibration(two, told, estimated, 1).of_rank(rank).activation_bytes for rank in (0, 1)] == [12, 25]
    assert Calibration(two, told, estimated[:1], 1).of_rank(1).activation_bytes == 22
