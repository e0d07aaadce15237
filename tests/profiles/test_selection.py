"""Which profile is run, why, and why not the others; and every spelling of a profile's name."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lading.errors import NoRunnableProfile, UsageError
from lading.hardware.inventory import Device
from lading.profiles.fit import Engine, Fit, Verdict, Wish, fit
from lading.profiles.generate import generate_profiles
from lading.profiles.naming import named
from lading.profiles.options import LONGEST_THAT_FITS, EngineOptions
from lading.profiles.select import select
from lading.units import GIB
from tests.profiles.situations import GPU_VLLM, H100_BYTES, LLAMA_8B, fit_named, fits_of, profile, server, shape

EIGHT = fits_of(LLAMA_8B, server(count=8))
TP2 = fit_named(EIGHT, "vllm-bf16-tp2-pp1").profile
TP2_LORA = fit_named(EIGHT, "vllm-bf16-tp2-pp1-feat_lora").profile
FP8 = fit_named(EIGHT, "vllm-fp8-tp2-pp1").profile


@pytest.mark.parametrize(
    ("text", "profile"),
    [
        ("vllm-bf16-tp2-pp1", TP2),
        (" VLLM-BF16-tp2-pp1 ", TP2),
        ("vllm-bf16-tp2-pp1-34.0", TP2),
        ("vllm-bf16-tp2-pp1-34", TP2),
        ("vllm-tp2-pp1", TP2),
        ("vllm-tp2-pp1-" + "ab" * 32, TP2),
        ("vllm-bf16-tp2-pp1-lora", TP2_LORA),
        ("vllm-bf16-tp2-pp1-feat_lora", TP2_LORA),
        ("vllm-bf16-tp2-pp1-feat_lora-34.0", TP2_LORA),
        ("vllm-tp2-pp1-feat_lora-" + "ab" * 32, TP2_LORA),
        ("vllm-fp8-tp2-pp1", FP8),
        (TP2.id, TP2),
        (TP2.id.upper(), TP2),
        (TP2.id[:8], TP2),
        (f"{TP2.id} (vllm-bf16-tp2-pp1)", TP2),
        (f"- {TP2.id} (vllm-bf16-tp2-pp1) [requires >=34 GB/gpu]", TP2),
    ],
)
def test_a_profile_is_found_by_every_spelling(text: str, profile: object) -> None:
    assert named(EIGHT, text).profile == profile


@pytest.mark.parametrize(
    ("text", "nearest"),
    [("vllm-bf16-tp3-pp1", "vllm-bf16-tp2-pp1"), ("auto", "nearest: vllm-bf16-tp1-pp1"), (TP2.id[:7], "nearest"), ("f" * 64, "nearest")],
)  # fmt: skip
def test_an_unknown_profile_names_the_nearest_and_how_to_list(text: str, nearest: str) -> None:
    with pytest.raises(UsageError) as refusal:
        named(EIGHT, text)
    assert nearest in str(refusal.value.remedy)
    assert "lading list-model-profiles" in str(refusal.value.remedy)


def test_an_ambiguous_prefix_says_so() -> None:
    twice = [*EIGHT, replace(EIGHT[0], reason="again")]
    with pytest.raises(UsageError, match="several"):
        named(twice, EIGHT[0].profile.id[:8])


TWO_ENGINES = (Engine("sglang", "0.5.23", Device.CUDA), GPU_VLLM)


def two_engines(small_first: bool) -> list[Fit]:
    """Fits for two engines; the first may be unable to run the model on one GPU."""
    names = ["sglang", "vllm"]
    profiles = generate_profiles(LLAMA_8B, names, "m")
    machine = server(count=4)
    fits = [fit(each, LLAMA_8B, machine, TWO_ENGINES, Wish()) for each in profiles]
    if not small_first:
        return fits
    return [
        replace(each, verdict=Verdict.INCOMPATIBLE)
        if each.profile.backend == "sglang" and each.profile.ranks == 1
        else each
        for each in fits
    ]


def test_unset_takes_the_fewest_devices_and_default_the_first_engine() -> None:
    fits = two_engines(small_first=True)
    assert select(fits, Wish()).chosen.profile.name == "vllm-bf16-tp1-pp1"
    assert select(fits, Wish(profile="default")).chosen.profile.name == "sglang-bf16-tp2-pp1"
    assert select(fits, Wish(profile=" Default ")).chosen.profile.backend == "sglang"


def test_of_equals_the_first_engine_is_taken() -> None:
    assert select(two_engines(small_first=False), Wish()).chosen.profile.name == "sglang-bf16-tp1-pp1"


def test_stages_are_a_last_resort() -> None:
    wish = Wish(options=EngineOptions(max_model_len=131_072))
    fits = fits_of(replace(LLAMA_8B, weights_bytes=100 * GIB), server(count=2), wish)
    assert select(fits, wish).chosen.profile.name == "vllm-bf16-tp2-pp1"
    odd = replace(LLAMA_8B, weights_bytes=100 * GIB, attention_heads=7, kv_heads=7)
    assert select(fits_of(odd, server(count=2)), Wish()).chosen.profile.name == "vllm-bf16-tp1-pp2"


def test_weights_are_quantised_while_loading_only_when_asked_by_name() -> None:
    large = replace(LLAMA_8B, weights_bytes=100 * GIB, max_model_len=4096)
    fits = fits_of(large, server(count=1))
    assert fit_named(fits, "vllm-fp8-tp1-pp1").is_runnable
    with pytest.raises(NoRunnableProfile):
        select(fits, Wish())
    assert select(fits, Wish(profile="vllm-fp8-tp1-pp1")).chosen.profile.online


@pytest.mark.parametrize(
    ("wish", "name"),
    [
        (Wish(profile="vllm-bf16-tp2-pp1", tp=4), "vllm-bf16-tp4-pp1"),
        (Wish(profile="vllm-bf16-tp2-pp1", pp=2), "vllm-bf16-tp2-pp2"),
        (Wish(profile="vllm-bf16-tp2-pp1", lora=True), "vllm-bf16-tp2-pp1-feat_lora"),
        (Wish(tp=8), "vllm-bf16-tp8-pp1"),
        (Wish(pp=2), "vllm-bf16-tp1-pp2"),
        (Wish(lora=True), "vllm-bf16-tp1-pp1-feat_lora"),
    ],
)
def test_flags_win_over_the_named_profile(wish: Wish, name: str) -> None:
    assert select(fits_of(LLAMA_8B, server(count=8), wish), wish).chosen.profile.name == name


def test_flags_are_checked_again() -> None:
    wish = Wish(profile="vllm-bf16-tp2-pp1", tp=3)
    with pytest.raises(NoRunnableProfile, match="32 attention heads do not split over 3 ranks"):
        select(fits_of(LLAMA_8B, server(count=8), wish), wish)


def test_every_profile_leaves_a_line() -> None:
    selection = select(EIGHT, Wish(), gpus=8)
    assert len(selection.lines) == len(EIGHT) + 1
    assert selection.lines[0].startswith(f"chosen: vllm-bf16-tp1-pp1 ({selection.chosen.profile.id}), because: fits on")
    not_chosen = {line.split()[2].rstrip(","): line for line in selection.lines[1:-1]}
    assert not_chosen["vllm-bf16-tp2-pp1"].endswith("because: runs, but takes 2 devices where 1 does")
    assert not_chosen["vllm-fp8-tp1-pp1"].endswith("only done when asked for by name")
    assert "needs 16 GPUs" in not_chosen["vllm-bf16-tp8-pp2"]
    assert selection.lines[-1] == "7 of 8 GPUs stay idle: --tensor-parallel-size 8 would use 8"


@pytest.mark.parametrize(
    ("wish", "gpus", "idle"),
    [
        (Wish(), 1, None),
        (Wish(tp=8), 8, None),
        (Wish(tp=4), 8, "4 of 8 GPUs stay idle: --tensor-parallel-size 8 would use 8"),
        (Wish(tp=8), 9, "1 of 9 GPUs stays idle: no profile uses more"),
    ],
)
def test_idle_gpus_are_told_with_the_flag_that_uses_them(wish: Wish, gpus: int, idle: str | None) -> None:
    assert select(EIGHT, wish, gpus=gpus).idle == idle


def test_the_smallest_gpu_counts_where_they_differ() -> None:
    mixed = fit_named(fits_of(LLAMA_8B, server(H100_BYTES, 24 * GIB)), "vllm-bf16-tp2-pp1")
    small = fit_named(fits_of(LLAMA_8B, server(24 * GIB, 24 * GIB)), "vllm-bf16-tp2-pp1")
    assert mixed.have_bytes == small.have_bytes


def test_memory_that_others_hold_now_is_a_warning_and_not_a_verdict() -> None:
    free = fit_named(fits_of(LLAMA_8B, server(count=1)), "vllm-bf16-tp1-pp1")
    busy = fit_named(fits_of(LLAMA_8B, server(count=1, free_bytes=10 * GIB)), "vllm-bf16-tp1-pp1")
    assert (busy.verdict, free.verdict) == (Verdict.COMPATIBLE, Verdict.COMPATIBLE)
    assert "10.0 GiB free now" in str(busy.warning)
    assert free.warning is None


def test_a_length_to_fit_is_compatible_where_a_shorter_one_fits() -> None:
    wish = Wish(options=EngineOptions(max_model_len=LONGEST_THAT_FITS))
    found = fit_named(fits_of(LLAMA_8B, server(24 * GIB), wish), "vllm-bf16-tp1-pp1")
    fixed = fit_named(fits_of(LLAMA_8B, server(24 * GIB)), "vllm-bf16-tp1-pp1")
    assert found.verdict is Verdict.COMPATIBLE
    assert fixed.verdict is Verdict.LOW_MEMORY
    assert found.suggested_max_model_len == fixed.suggested_max_model_len


def test_a_pool_that_was_asked_for_has_to_fit_the_gpu_and_one_request_it() -> None:
    def fitted(pool_gib: int) -> Fit:
        wish = Wish(options=EngineOptions(kv_pool_bytes=pool_gib * GIB, max_model_len=32_768))
        return fit_named(fits_of(LLAMA_8B, server(count=1), wish), "vllm-bf16-tp1-pp1")

    assert fitted(20).verdict is Verdict.COMPATIBLE
    assert fitted(20).estimate.binding.kv_pool_bytes == 20 * GIB
    assert fitted(2).verdict is Verdict.LOW_MEMORY
    assert fitted(70).verdict is Verdict.INCOMPATIBLE


@pytest.mark.parametrize(
    ("vocabulary", "utilization", "version", "verdict"),
    [
        (201_088, 0.95, "0.19.0", Verdict.LOW_MEMORY),
        (201_088, 0.90, "0.19.0", Verdict.COMPATIBLE),
        (128_256, 0.95, "0.19.0", Verdict.COMPATIBLE),
        (201_088, 0.92, "0.33.0", Verdict.COMPATIBLE),
    ],
)
def test_a_warm_up_that_will_not_fit_beside_the_graphs_is_foreseen(
    vocabulary: int, utilization: float, version: str, verdict: Verdict
) -> None:
    gpt_oss = replace(
        shape(2880, 2880, vocabulary, experts=4, precision="mxfp4", layers=24),
        weights_bytes=int(13.6 * GIB), attention_heads=64, kv_heads=8, head_dim=64, max_model_len=8192,
    )  # fmt: skip
    engine = Engine("vllm", version, Device.CUDA)
    wish = Wish(options=EngineOptions(gpu_utilization=utilization))
    found = fit(profile("mxfp4"), gpt_oss, server(count=1), [engine], wish)
    assert found.verdict is verdict
    if verdict is Verdict.LOW_MEMORY:
        assert "--gpu-memory-utilization=0.9" in str(found.remedy)


def test_where_nothing_runs_the_reason_is_that_of_the_profile_that_lacks_the_fewest_gpus() -> None:
    wish = Wish(tp=8)
    with pytest.raises(NoRunnableProfile, match="tp8-pp1 does not run on this machine: needs 8 GPUs"):
        select(fits_of(LLAMA_8B, server(count=4), wish), wish, gpus=4)
    long = Wish(options=EngineOptions(max_model_len=200_000))
    with pytest.raises(NoRunnableProfile, match="200000 tokens were asked for"):
        select(fits_of(LLAMA_8B, server(count=4), long), long, gpus=4)
