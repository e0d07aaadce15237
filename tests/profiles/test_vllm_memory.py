"""vLLM's accounting, held to what its logs say."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from lading.model.attention import Kind, KvLayout
from lading.model.facts import ModelFacts
from lading.model.safetensors import Tensor
from lading.model.weights import Build, weight_table
from lading.profiles.memory import estimate
from lading.profiles.options import Speculation
from lading.profiles.profile import Profile
from lading.units import GIB, MIB
from tests.profiles.situations import A100, H100, L40S, LLAMA_8B, profile, shape, target, term, vision

QWEN_7B, QWEN_72B = shape(3584, 18_944, 152_064), shape(8192, 29_568, 152_064)
LLAMA = shape(4096, 14_336, 128_256)
QWEN3_30B_A3B = shape(2048, 768, 151_936, experts=8, layers=48)
GPT_OSS_20B = shape(2880, 2880, 201_088, experts=4, precision="mxfp4")


@pytest.mark.parametrize(
    ("facts", "version", "tp", "activation_gib", "non_torch_gib"),
    [  # "torch peak memory increase" and "non-torch forward increase" of published logs on H100
        (LLAMA, "0.19.0", 1, 1.89, 0.25),
        (LLAMA, "0.19.0", 2, 1.89, 2.07),
        (LLAMA, "0.19.0", 4, 1.89, 2.13),
        (QWEN_7B, "0.19.0", 1, 2.21, 0.24),
        (QWEN_72B, "0.19.0", 4, 2.29, 2.21),
        (QWEN3_30B_A3B, "0.19.0", 1, 2.68, 0.27),
        (GPT_OSS_20B, "0.19.0", 1, 2.87, 0.25),
        (GPT_OSS_20B, "0.11.0", 1, 7.38, 0.13),
        (LLAMA, "0.11.0", 1, 4.76, 0.13),
        (LLAMA, "0.6.5", 2, 1.26, 3.58),
    ],
)
def test_the_profile_runs_peak_is_what_the_engine_measured(
    facts: ModelFacts, version: str, tp: int, activation_gib: float, non_torch_gib: float
) -> None:
    length = 8192
    rank = estimate(facts, profile(tp=tp), target(version, max_model_len=length)).ranks[0]
    assert term(rank, "activation") / GIB == pytest.approx(activation_gib, rel=0.02)
    assert term(rank, "non_torch") / GIB == pytest.approx(non_torch_gib, abs=0.05)


def test_each_stage_of_a_pipeline_peaks_where_it_was_measured() -> None:
    ranks = estimate(replace(LLAMA_8B, weights=None), profile(pp=4), target("0.19.0")).ranks
    peaks = [term(rank, "activation") / GIB for rank in ranks]
    assert peaks == pytest.approx([1.05, 1.1, 1.1, 2.01], abs=0.05)
    assert {term(rank, "non_torch") for rank in ranks} == {int(0.07 * GIB)}


def test_the_last_stage_binds_since_it_alone_samples() -> None:
    found = estimate(LLAMA_8B, profile(pp=2), target("0.19.0"))
    assert [rank.rank for rank in found.ranks] == [0, 1]
    assert found.binding.rank == 1
    assert found.needed_bytes == found.ranks[1].needed_bytes > found.ranks[0].needed_bytes


def test_ranks_are_in_the_engines_order_tensor_parallel_innermost() -> None:
    ranks = estimate(LLAMA_8B, profile(tp=2, pp=2), target("0.19.0")).ranks
    assert [rank.rank for rank in ranks] == [0, 1, 2, 3]
    assert term(ranks[0], "activation") == term(ranks[1], "activation") < term(ranks[2], "activation")


def test_a_float32_model_takes_twice_the_weights_and_cache_and_wider_logits() -> None:
    half = estimate(LLAMA_8B, profile(), target("0.19.0", max_model_len=8192)).ranks[0]
    full = estimate(LLAMA_8B, profile(), target("0.19.0", max_model_len=8192, dtype="float32")).ranks[0]
    assert term(full, "weights") == 2 * term(half, "weights")
    assert full.kv_bytes_per_request == 2 * half.kv_bytes_per_request
    assert term(full, "activation") / GIB == pytest.approx(2.21, abs=0.03)  # a published log


def test_the_rest_of_each_segment_is_taken_from_the_pool() -> None:
    odd = [Tensor(f"model.layers.{number}.mlp.down_proj.weight", "BF16", (1024, 11 * 512)) for number in range(2)]
    tower = Tensor("visual.blocks.0.mlp.fc1.weight", "BF16", (1024, 11 * 512))
    table = weight_table([*odd, tower], Build(layers=2))
    rounded, even = replace(LLAMA, weights=table), replace(LLAMA, weights=replace(table, parameters=()))
    taken, spared = (estimate(each, profile(), target()).ranks[0] for each in (rounded, even))
    assert term(taken, "allocator") == 3 * MIB
    assert spared.kv_pool_bytes - taken.kv_pool_bytes == 3 * MIB
    assert term(estimate(rounded, profile(), target(language_model_only=True)).ranks[0], "allocator") == 2 * MIB
    assert term(estimate(rounded, profile(), target(cpu_offload_bytes=GIB)).ranks[0], "allocator") == 0


def test_a_wide_layer_outweighs_a_small_vocabulary() -> None:
    rank = estimate(replace(LLAMA, vocab_size=1000), profile(), target()).ranks[0]
    assert term(rank, "activation") == 8192 * (3 * 14_336 + 4 * 4096) * 2


def test_what_images_become_is_kept_while_the_model_is_profiled() -> None:
    mistral = replace(shape(5120, 32_768, 131_072), vision=vision(1024, 4096, 3025 * 4, 3025))
    rank = estimate(mistral, profile(), target("0.19.0")).ranks[0]
    assert (term(rank, "activation") + term(rank, "encoder")) / GIB == pytest.approx(2.03, abs=0.02)  # a published log
    blind = estimate(mistral, profile(), target("0.19.0", images_per_prompt=0)).ranks[0]
    assert term(blind, "encoder") == 0


def test_a_large_image_is_encoded_whole_though_the_batch_is_smaller() -> None:
    qwen_vl = replace(QWEN_7B, vision=vision(1280, 3420, 65_536, 16_384))
    small = estimate(qwen_vl, profile(), target(batched_tokens=2048, max_sequences=8)).ranks[0]
    assert term(small, "encoder") > 65_536 * 3420 * 2
    skipped = estimate(qwen_vl, profile(), target(batched_tokens=2048, skip_mm_profiling=True)).ranks[0]
    assert term(skipped, "encoder") == 0


@pytest.mark.parametrize(
    ("version", "utilization", "graphs_in_budget"),
    [
        ("0.6.5.dev0", 0.90, False), ("0.19.1+cu128", 0.90, False), ("0.20.0", 0.90, False), ("0.21", 0.92, True),
        ("0.33.0", 0.92, True), ("7.1", 0.92, True), ("of any version", 0.92, True), ("", 0.92, True),
    ],
)  # fmt: skip
def test_a_version_has_the_figures_of_the_last_one_that_was_measured(
    version: str, utilization: float, graphs_in_budget: bool
) -> None:
    found = estimate(LLAMA_8B, profile(), target(version))
    assert found.budget_bytes == pytest.approx(utilization * 79.19 * GIB, rel=1e-6)
    assert ("cuda_graphs" in [each.name for each in found.terms]) == graphs_in_budget
    assert term(found.ranks[0], "cuda_graphs") > 0


@pytest.mark.parametrize(
    ("version", "said"), [("0.19.0", ()), ("0.33.0", ()), ("0.41", ("the newest known",)), ("", ("not known",))]
)
def test_figures_of_another_version_are_owned_up_to(version: str, said: tuple[str, ...]) -> None:
    notes = estimate(LLAMA_8B, profile(), target(version)).notes
    assert len(notes) == len(said)
    assert all(words in note for words, note in zip(said, notes, strict=True))


@pytest.mark.parametrize(
    ("name", "total_gib", "version", "at_once"),
    [
        (H100, 79.19, "0.33", (1024, 8192)),
        ("NVIDIA H200", 139.81, "0.33", (1024, 8192)),
        ("NVIDIA B200", 178.35, "0.33", (1024, 16_384)),
        ("NVIDIA B200", 178.35, "0.27", (1024, 8192)),
        (L40S, 44.42, "0.33", (256, 2048)),
        (A100, 79.15, "0.33", (256, 2048)),
        ("NVIDIA GB10", 121.69, "0.33", (256, 2048)),
        (H100, 79.19, "0.7.3", (256, 4096)),
    ],
)
def test_how_much_is_computed_at_once_goes_by_gpu_and_version(
    name: str, total_gib: float, version: str, at_once: tuple[int, int]
) -> None:
    by_default = estimate(LLAMA_8B, profile(), target(version, name, int(total_gib * GIB), max_model_len=4096))
    sequences, tokens = at_once
    asked = target(
        version, name, int(total_gib * GIB), max_model_len=4096, max_sequences=sequences, batched_tokens=tokens
    )
    assert by_default.terms == estimate(LLAMA_8B, profile(), asked).terms


def test_no_more_sequences_are_sampled_than_tokens_are_computed() -> None:
    few = estimate(LLAMA_8B, profile(), target(batched_tokens=128)).ranks[0]
    assert few.terms == estimate(LLAMA_8B, profile(), target(batched_tokens=128, max_sequences=128)).ranks[0].terms


def test_ranks_that_reduce_over_nvlink_take_more_than_over_pcie() -> None:
    def held(gpu: str, is_linked: bool | None = None) -> int:
        where = replace(target("0.19.0", gpu), is_linked=is_linked)
        return term(estimate(LLAMA_8B, profile(tp=8), where).ranks[0], "non_torch")

    assert held("NVIDIA A100 80GB PCIe") == held(L40S) < held(A100)
    assert held(H100, is_linked=False) == held(L40S)
    assert held(L40S, is_linked=True) == held(H100)


def test_graphs_are_those_of_a_stages_layers_and_of_what_is_captured() -> None:
    def graphs(facts: ModelFacts = LLAMA_8B, pp: int = 1, lora: bool = False, **options: Any) -> int:
        return term(estimate(facts, profile(pp=pp, lora=lora), target(**options)).ranks[0], "cuda_graphs")

    assert graphs() / GIB == pytest.approx(0.84, abs=0.02)  # "Estimated CUDA graph memory" of a published log
    assert graphs(replace(LLAMA_8B, layers=16), pp=2) < graphs(pp=2) < graphs()
    assert graphs(capture_sizes=(1, 2, 4)) == graphs(largest_capture=4) < graphs(max_sequences=256) < graphs()
    assert graphs(lora=True) == 2 * graphs()
    assert graphs(eager=True) == 0
    assert graphs(QWEN3_30B_A3B) > graphs(replace(QWEN3_30B_A3B, experts_per_token=0))


def test_blackwell_captures_larger_batches_since_0_28() -> None:
    def graphs(version: str) -> int:
        blackwell = replace(target(version), compute_capability=(10, 0))
        return term(estimate(LLAMA_8B, profile(), blackwell).ranks[0], "cuda_graphs")

    assert graphs("0.28.0") > graphs("0.27.1")


def test_whole_experts_on_a_rank_need_a_wider_workspace() -> None:
    wide = replace(QWEN3_30B_A3B, expert_size=4096)
    split = estimate(wide, profile(tp=8), target()).ranks[0]
    whole = estimate(wide, profile(tp=8), target(expert_parallel=True)).ranks[0]
    assert term(whole, "activation") > term(split, "activation")


@pytest.mark.parametrize(
    ("tp", "version", "pool_gib", "tokens"),
    [(2, "0.19.0", 59.32, 2_591_776), (1, "0.19.0", 58.47, 1_277_184)],
)
def test_the_pool_of_a_hybrid_is_counted_as_the_log_does(tp: int, version: str, pool_gib: float, tokens: int) -> None:
    layout = KvLayout({Kind.FULL: 12, Kind.SLIDING: 12}, 128, 8, 128, 2)
    facts = replace(GPT_OSS_20B, kv=layout, layers=24, max_model_len=131_072)
    page = layout.pool(tp=tp).block_bytes
    blocks = round(pool_gib * GIB / page)
    asked = target(version, max_model_len=8192, kv_pool_bytes=blocks * page)
    rank = estimate(facts, profile(tp=tp), asked).binding
    assert rank.kv_pool_tokens == pytest.approx(tokens, rel=2e-4)  # the log rounds the pool to 0.01 GiB


def test_newer_versions_count_the_pool_in_requests_of_the_full_length() -> None:
    facts = replace(LLAMA_8B, max_model_len=10_000)
    blocks, one = 6250, 625
    asked: dict[str, Any] = {"kv_pool_bytes": blocks * 16 * 131_072, "max_model_len": 10_000}
    assert estimate(facts, profile(), target("0.33.0", **asked)).binding.kv_pool_tokens == blocks * 10_000 // one
    sliding = replace(facts, kv=KvLayout({Kind.FULL: 16, Kind.SLIDING: 16}, 128, 8, 256, 2))
    new = estimate(sliding, profile(), target("0.33.0", **asked)).binding
    old = estimate(sliding, profile(), target("0.19.0", **asked)).binding
    assert new.kv_pool_tokens > old.kv_pool_tokens
    assert new.concurrency == pytest.approx(new.kv_pool_tokens / 10_000, rel=1e-4)


@pytest.mark.parametrize(
    ("options", "bytes_per_token"),
    [({}, 131_072), ({"kv_dtype": "fp8"}, 65_536), ({"kv_dtype": "fp8_e5m2"}, 65_536), ({"kv_dtype": "bfloat16"}, 131_072)],
)  # fmt: skip
def test_the_type_of_the_cache_is_honoured(options: dict[str, Any], bytes_per_token: int) -> None:
    rank = estimate(LLAMA_8B, profile(), target(max_model_len=8192, **options)).ranks[0]
    assert rank.kv_bytes_per_request == (8192 + 16) * bytes_per_token


def test_blocks_are_as_long_as_asked() -> None:
    rank = estimate(LLAMA_8B, profile(), target(max_model_len=1000, block_size=128)).ranks[0]
    assert rank.kv_bytes_per_request == (8 + 1) * 128 * 131_072


def test_lora_slots_are_a_and_b_of_every_linear_layer() -> None:
    def slots(tp: int = 1, **options: Any) -> int:
        return term(estimate(LLAMA_8B, profile(tp=tp, lora=True), target(**options)).ranks[0], "lora")

    assert slots() == 80 * MIB
    assert slots(max_loras=8, max_lora_rank=64) == 32 * slots()
    assert slots(2) > slots() / 2
    assert slots(2, sharded_loras=True) == slots() // 2
    assert term(estimate(LLAMA_8B, profile(), target()).ranks[0], "lora") == 0


def test_weights_left_in_ram_are_not_on_the_gpu() -> None:
    whole = estimate(LLAMA_8B, profile(), target()).ranks[0]
    less = estimate(LLAMA_8B, profile(), target(cpu_offload_bytes=4 * GIB)).ranks[0]
    assert term(whole, "weights") - term(less, "weights") == 4 * GIB
    none = estimate(LLAMA_8B, profile(), target(cpu_offload_bytes=400 * GIB)).ranks[0]
    assert term(none, "weights") == 0


def test_terms_and_pool_fill_the_budget() -> None:
    for each in (profile(), profile(tp=2), profile(pp=2), profile(lora=True)):
        found = estimate(LLAMA_8B, each, target())
        for rank in found.ranks:
            assert rank.fixed_bytes + rank.kv_pool_bytes == found.budget_bytes


def test_a_profile_of_another_backend_is_counted_as_that_backend_counts() -> None:
    sglang = replace(target("0.5.23"), engine="sglang")
    found = estimate(LLAMA_8B, Profile("sglang", "bf16", 1, 1, False, "m"), sglang)
    assert found.budget_bytes == sglang.total_bytes
    assert "reserve" in [each.name for each in found.terms]


@pytest.mark.parametrize("pooling", [True, False])
def test_models_that_make_no_text_sample_nothing(pooling: bool) -> None:
    rank = estimate(replace(LLAMA, pooling=pooling), profile(), target()).ranks[0]
    layer = 8192 * (3 * 14_336 + 4 * 4096) * 2
    assert (term(rank, "activation") == layer) == pooling


@pytest.mark.parametrize(
    ("facts", "lora", "options", "said"),
    [
        (LLAMA, False, {"speculation": Speculation(2, own_layers=True)}, "the drafting layers' own memory"),
        (LLAMA, False, {"speculation": Speculation(2, draft_model="a/b")}, "the draft model's own memory"),
        (QWEN3_30B_A3B, True, {}, "adapters of experts"),
        (QWEN3_30B_A3B, False, {"data_parallel": 2}, "experts are counted whole"),
    ],
)
def test_what_is_not_in_the_figures_is_said(facts: ModelFacts, lora: bool, options: dict[str, Any], said: str) -> None:
    notes = estimate(facts, profile(lora=lora), target(**options)).notes
    assert any(said in note for note in notes)
    assert estimate(LLAMA, profile(lora=lora), target()).notes == ()
