"""What was measured at the last start takes the place of constants in the next estimate, and of nothing else."""

from __future__ import annotations

from dataclasses import replace

from lading.hardware.inventory import Device
from lading.profiles.calibration import Calibration, CalibrationKey
from lading.profiles.correction import corrected, figures_of, mismatches
from lading.profiles.fit import Engine, Fit, Wish, fit
from lading.profiles.measurement import Measurement
from lading.profiles.terms import Target, Term
from lading.units import GIB
from tests.profiles.situations import LLAMA_8B, profile, server

KEY = CalibrationKey("vllm", "0.33.0", "NVIDIA H100 80GB HBM3", "LlamaForCausalLM", "bf16", 1)


def gib(size: float) -> int:
    return round(size * GIB)


SIZES = {"weights": gib(15), "activation": gib(2), "non_torch": gib(0.25), "cuda_graphs": gib(0.9)}
TERMS = [Term(name, size, "computed") for name, size in SIZES.items()]


def after(measured: Measurement) -> dict[str, int]:
    target = Target(Device.CUDA, gib(80), measured=Calibration(KEY, (measured,), (), 1))
    return {term.name: term.size_bytes for term in corrected(TERMS, 0, target)}


def test_what_was_measured_replaces_what_was_guessed_and_nothing_else() -> None:
    measured = Measurement(gib(15.01), gib(2.5), gib(0.3), gib(1.1), gib(40), 1000)
    assert after(measured) == {**SIZES, "activation": gib(2.5), "non_torch": gib(0.3), "cuda_graphs": gib(1.1)}
    assert after(Measurement(activation_bytes=7)) == {**SIZES, "activation": 7}
    assert corrected(TERMS, 0, Target(Device.CUDA, gib(80))) == TERMS


def test_other_weights_are_told_and_rounding_is_not() -> None:
    (told,) = mismatches(Measurement(weights_bytes=gib(16)), Measurement(weights_bytes=gib(15)))
    assert told == "the engine loaded 16.00 GiB of weights at its last start here, 15.00 were computed"
    assert not list(mismatches(Measurement(weights_bytes=gib(0.01)), Measurement(weights_bytes=6_900_000)))


def test_another_size_of_a_token_is_told() -> None:
    measured = Measurement(kv_pool_bytes=gib(10), kv_pool_tokens=gib(10) // 1000)
    pool = Measurement(kv_pool_bytes=gib(20), kv_pool_tokens=gib(20) // 1000)
    assert not list(mismatches(measured, pool))
    (told,) = mismatches(measured, replace(pool, kv_pool_tokens=gib(20) // 2000))
    assert "took 1,000 bytes for each token at its last start here, 2,000 were computed" in told


def fitted(*found: Measurement) -> tuple[Fit, list[CalibrationKey]]:
    """Llama 8B on an H100; and for which keys calibrations were looked up."""
    asked: list[CalibrationKey] = []

    def find(key: CalibrationKey) -> Calibration | None:
        asked.append(key)
        return Calibration(key, found, (), 1) if found else None

    return fit(profile(), LLAMA_8B, server(), [Engine("vllm", "0.33.0", Device.CUDA)], Wish(), find), asked


def test_a_fit_takes_what_the_last_start_measured_and_its_pool_follows() -> None:
    before, (key,) = fitted()
    was = figures_of(before.estimate.binding)
    assert (key.gpu, key.version, key.tp) == (server().gpus[0].name, "0.33.0", 1)
    assert was.activation_bytes and was.kv_pool_bytes and was.kv_pool_tokens
    now = figures_of(fitted(Measurement(activation_bytes=was.activation_bytes + GIB))[0].estimate.binding)
    assert now.activation_bytes == was.activation_bytes + GIB
    assert now.kv_pool_bytes == was.kv_pool_bytes - GIB
    assert now.kv_pool_tokens and now.kv_pool_tokens < was.kv_pool_tokens


def test_a_fit_says_where_the_engine_loaded_something_else() -> None:
    notes = fitted(Measurement(weights_bytes=gib(40)))[0].estimate.notes
    assert any("the engine loaded 40.00 GiB of weights" in note for note in notes)
