from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lading.profiles.measurement import Measurement, compare, merge, serious, summary
from lading.units import GIB, MIB

FIGURE = st.none() | st.integers(0, 1 << 60)
MEASUREMENTS = st.builds(Measurement, FIGURE, FIGURE, FIGURE, FIGURE, FIGURE, FIGURE)


def gib(size: float) -> int:
    return round(size * GIB)


@given(MEASUREMENTS)
def test_what_is_written_as_json_is_read_back(measurement: Measurement) -> None:
    assert Measurement.from_json(measurement.to_json()) == measurement


@pytest.mark.parametrize("value", ["1", 1.5, -1, True, [1]])
def test_figures_that_are_none_are_refused(value: object) -> None:
    with pytest.raises(ValueError, match="not figures"):
        Measurement.from_json({**Measurement().to_json(), "weights_bytes": value})


def test_a_missing_figure_is_refused() -> None:
    with pytest.raises(KeyError):
        Measurement.from_json({"weights_bytes": 1})


@given(st.lists(MEASUREMENTS, min_size=1), st.randoms())
def test_merging_takes_the_most_of_each_need_and_the_least_pool_in_any_order(ranks: list[Measurement], dice) -> None:
    merged = merge(ranks)
    dice.shuffle(ranks)
    assert merge(ranks) == merged
    assert merge([merged, *ranks]) == merged
    for rank in ranks:
        for term, value in rank.items():
            bound = dict(merged.items())[term]
            assert bound <= value if term.startswith("kv_pool") else bound >= value


def test_nothing_merged_is_nothing_told() -> None:
    assert merge([]).is_empty
    assert merge([Measurement(), Measurement(kv_pool_tokens=3)]) == Measurement(kv_pool_tokens=3)


def test_an_estimates_terms_become_the_figures_that_an_engine_tells() -> None:
    terms = {"weights": 100, "rope_cache": 10, "lora": 1, "kv_cache": 7, "activation": 20, "non_torch": 30}
    assert Measurement.of_terms(terms) == Measurement(111, 20, 30)
    whole = Measurement.of_terms({"cuda_graphs": 4, "kv_pool": 5, "kv_pool_tokens": 6})
    assert whole == Measurement(None, None, None, 4, 5, 6)


def test_the_comparison_reads_as_a_sentence() -> None:
    measured = Measurement(
        weights_bytes=gib(14.99), activation_bytes=gib(2.01), kv_pool_bytes=gib(50), kv_pool_tokens=409_600
    )
    estimated = Measurement(weights_bytes=gib(15.01), kv_pool_bytes=gib(49), kv_pool_tokens=401_408)
    assert summary(compare(estimated, measured)) == (
        "weights 14.99 GiB, estimated 15.01 (+0.1 %); activation 2.01 GiB; "
        "KV pool 50.00 GiB, estimated 49.00 (-2.0 %); KV pool 409,600 tokens, estimated 401,408 (-2.0 %)"
    )


def test_a_figure_of_nothing_has_no_share() -> None:
    (only,) = compare(Measurement(kv_pool_bytes=gib(1)), Measurement(kv_pool_bytes=0))
    assert str(only) == "KV pool 0.00 GiB, estimated 1.00"


SERIOUS: dict[str, tuple[dict[str, Any], dict[str, int], list[str]]] = {
    "all well": ({"activation_bytes": gib(2)}, {"activation_bytes": gib(2.4)}, []),
    "a term off by more than a twentieth of the pool": (
        {"activation_bytes": gib(2)}, {"activation_bytes": gib(2.6)}, ["activation"]
    ),
    "the same downwards": ({"weights_bytes": gib(15)}, {"weights_bytes": gib(14.4)}, ["weights"]),
    "the pool itself": ({}, {"kv_pool_bytes": gib(10.6)}, ["kv_pool"]),
    "only its tokens": ({"kv_pool_tokens": 1000}, {"kv_pool_tokens": 940}, ["kv_pool_tokens"]),
    "tokens within": ({"kv_pool_tokens": 1000}, {"kv_pool_tokens": 960}, []),
    "not estimated": ({"activation_bytes": gib(9)}, {}, []),
    "no pool told: bytes cannot be judged": (
        {"kv_pool_bytes": None, "weights_bytes": gib(9), "kv_pool_tokens": 9}, {"weights_bytes": 0, "kv_pool_tokens": 1},
        ["kv_pool_tokens"],
    ),
    "less than an engine can print": ({"kv_pool_bytes": 40 * MIB}, {"kv_pool_bytes": 47 * MIB}, []),
}  # fmt: skip


@pytest.mark.parametrize("name", SERIOUS)
def test_deviations_that_change_how_much_fits_are_serious(name: str) -> None:
    measured, estimated, terms = SERIOUS[name]
    found = compare(Measurement(**estimated), Measurement(**{"kv_pool_bytes": gib(10), **measured}))
    assert [each.term for each in serious(found)] == terms
