"""Generation, estimate, fit and selection: pure decisions, so plain tables."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lading.errors import NoRunnableProfile, UsageError
from lading.model.attention import Kind, KvLayout
from lading.profiles.fit import Verdict, Wish, longest_length
from lading.profiles.generate import generate_profiles
from lading.profiles.options import EngineOptions
from lading.profiles.profile import Profile
from lading.profiles.select import select
from lading.profiles.terms import KvNeed, RankEstimate
from lading.units import GIB, MIB, format_bytes
from tests.profiles.situations import (
    CPU_VLLM,
    GPU_VLLM,
    LLAMA_8B,
    TINY,
    fit_named,
    fits_of,
    laptop,
    server,
)


def test_names_ids_and_tags_are_those_of_nim():
    profile = Profile("vllm", "bf16", 2, 1, True, "hf://a/b:c")
    assert profile.name == "vllm-bf16-tp2-pp1-feat_lora"
    assert profile.tags == {"feat_lora": "true", "llm_engine": "vllm", "pp": "1", "precision": "bf16", "tp": "2"}
    assert profile.id == "54134d124d77bf6060b5e5dc216e070f0eb0e8d00badae06d87c102f51d5ace2"


def test_an_id_depends_on_every_tag_and_on_the_model():
    base = Profile("vllm", "bf16", 1, 1, False, "m")
    others = [
        replace(base, backend="sglang"), replace(base, precision="fp8"), replace(base, tp=2), replace(base, pp=2),
        replace(base, lora=True), replace(base, model_key="n"),
    ]  # fmt: skip
    assert len({base.id, *(each.id for each in others)}) == 7


@pytest.mark.parametrize(
    ("heads", "kv_heads", "sizes"),
    [(32, 8, [1, 2, 4, 8]), (14, 2, [1, 2]), (71, 1, [1]), (12, 2, [1, 2, 4]), (None, None, [1]), (24, 3, [1])],
)
def test_only_sizes_that_the_heads_allow_are_generated(heads, kv_heads, sizes):
    profiles = generate_profiles(replace(LLAMA_8B, attention_heads=heads, kv_heads=kv_heads), ["vllm"], "m")
    assert [each.tp for each in profiles if not each.lora and not each.online and each.pp == 1] == sizes


@pytest.mark.parametrize(
    ("inner", "vocabulary", "sizes"),
    [(14_336, 128_256, [1, 2, 4, 8]), (12, 128_256, [1, 2, 4]), (14_337, 128_256, [1]), (None, 65, [1, 2, 4, 8])],
)
def test_only_sizes_that_all_that_is_split_allows_are_generated(inner, vocabulary, sizes):
    facts = replace(LLAMA_8B, intermediate_size=inner, vocab_size=vocabulary)
    plain = [each for each in generate_profiles(facts, ["vllm"], "m") if not each.lora and not each.online]
    assert [each.tp for each in plain if each.pp == 1] == [each.tp for each in plain if each.pp == 2] == sizes


def test_a_size_that_was_asked_for_is_generated_too():
    profiles = generate_profiles(TINY, ["vllm"], "m", extra_sizes=[(3, 2)])
    assert (3, 2) in [(each.tp, each.pp) for each in profiles]


def test_a_machine_without_gpus_runs_one_rank_on_the_cpu_and_says_so():
    fits = fits_of(TINY, laptop())
    assert fit_named(fits, "vllm-bf16-tp1-pp1").verdict is Verdict.COMPATIBLE
    assert "RAM" in fit_named(fits, "vllm-bf16-tp1-pp1").reason
    assert fit_named(fits, "vllm-bf16-tp2-pp1").reason == "needs 2 GPUs, this machine has none"


def test_two_cpu_workers_run_when_asked_for():
    assert fit_named(fits_of(TINY, laptop(), Wish(tp=2)), "vllm-bf16-tp2-pp1").verdict is Verdict.COMPATIBLE


def test_low_memory_names_the_longest_length_that_fits():
    low = fit_named(fits_of(LLAMA_8B, laptop(24 * GIB)), "vllm-bf16-tp1-pp1")
    assert low.verdict is Verdict.LOW_MEMORY
    assert low.suggested_max_model_len % 256 == 0
    assert f"--max-model-len={low.suggested_max_model_len}" in low.remedy
    again = fit_named(
        fits_of(LLAMA_8B, laptop(24 * GIB), Wish(options=EngineOptions(max_model_len=low.suggested_max_model_len))),
        "vllm-bf16-tp1-pp1",
    )
    assert again.verdict is Verdict.COMPATIBLE


@given(st.integers(1, 200), st.integers(1, 2000), st.sampled_from([0, 1, 3]))
def test_the_suggested_length_always_fits_and_is_near_the_longest_that_does(pool_gib, width, sliding):
    layers = {Kind.FULL: 2} | ({Kind.SLIDING: sliding} if sliding else {})
    need = KvNeed.of(KvLayout(layers, 4096, 8, width, 2))
    pool = pool_gib * GIB
    longest = longest_length(RankEstimate(0, (), need, 131_072, pool, 0), pool)
    assert longest % 256 == 0
    assert need.bytes_at(longest) <= pool
    if longest < 131_072:
        assert need.bytes_at(longest + 256) > pool * 0.985


def test_weights_beyond_the_memory_are_incompatible():
    fits = fits_of(LLAMA_8B, laptop(8 * GIB))
    assert all(each.verdict is Verdict.INCOMPATIBLE for each in fits)


@pytest.mark.parametrize(
    ("facts", "engines", "reason", "remedy"),
    [
        (
            replace(TINY, architecture="LlamaForCausalLX"),
            (CPU_VLLM,),
            "does not run 'LlamaForCausalLX'",
            "LlamaForCausalLM",
        ),
        (TINY, (), "no vllm engine is installed", "lading engine install"),
        (TINY, (GPU_VLLM,), "build for cuda", None),
    ],
)
def test_what_the_engine_cannot_do_is_incompatible_with_its_reason(facts, engines, reason, remedy):
    found = fit_named(fits_of(facts, laptop(), engines=engines), "vllm-bf16-tp1-pp1")
    assert found.verdict is Verdict.INCOMPATIBLE
    assert reason in found.reason
    assert remedy is None or remedy in found.remedy


def test_an_architecture_that_the_engine_was_told_how_to_run_is_not_refused():
    fits = fits_of(replace(TINY, architecture="LlamaForCausalLX"), laptop(), Wish(any_architecture=True))
    assert fit_named(fits, "vllm-bf16-tp1-pp1").verdict is Verdict.COMPATIBLE


def test_too_few_gpus_is_said_with_both_numbers():
    assert (
        fit_named(fits_of(LLAMA_8B, server(count=2)), "vllm-bf16-tp4-pp1").reason == "needs 4 GPUs, this machine has 2"
    )


def test_unset_takes_the_fewest_devices_without_lora_and_says_why_not_the_others():
    selection = select(fits_of(LLAMA_8B, server(count=8)), Wish())
    assert selection.chosen.profile.name == "vllm-bf16-tp1-pp1"
    assert "fewest devices" in selection.reason
    why_not = {each.profile.name: why for each, why in selection.others}
    assert "2 devices where 1 does" in why_not["vllm-bf16-tp2-pp1"]
    assert "LoRA was not asked for" in why_not["vllm-bf16-tp1-pp1-feat_lora"]


def test_lora_profiles_are_taken_only_when_lora_is_asked_for():
    assert select(fits_of(LLAMA_8B, server(count=1), Wish(lora=True)), Wish(lora=True)).chosen.profile.lora


NAME = "vllm-bf16-tp2-pp1"


@pytest.mark.parametrize("spelling", ["name", "id", "prefix", "display", "lora"])
def test_a_profile_is_found_by_every_spelling(spelling):
    fits = fits_of(LLAMA_8B, server(count=8))
    wanted = fit_named(fits, NAME + ("-feat_lora" if spelling == "lora" else "")).profile
    text = {
        "name": wanted.name, "id": wanted.id, "prefix": wanted.id[:8],
        "display": f"{wanted.id} ({wanted.name})", "lora": NAME + "-lora",
    }[spelling]  # fmt: skip
    assert select(fits, Wish(profile=text)).chosen.profile == wanted


def test_default_is_the_best_that_fits():
    assert select(fits_of(LLAMA_8B, server(count=8)), Wish(profile="default")).chosen.profile.tp == 1


def test_an_unknown_profile_names_the_nearest():
    with pytest.raises(UsageError) as refusal:
        select(fits_of(LLAMA_8B, server(count=8)), Wish(profile="vllm-bf16-tp3-pp1"))
    assert NAME in refusal.value.remedy


def test_parallel_flags_win_over_the_named_profile():
    wish = Wish(profile=NAME, tp=4)
    assert select(fits_of(LLAMA_8B, server(count=8), wish), wish).chosen.profile.tp == 4


def test_a_named_profile_starts_even_when_memory_looks_short_but_not_when_it_cannot_run():
    wish = Wish(profile="vllm-bf16-tp1-pp1")
    assert select(fits_of(LLAMA_8B, laptop(24 * GIB), wish), wish).chosen.verdict is Verdict.LOW_MEMORY
    with pytest.raises(NoRunnableProfile, match="needs 2 GPUs"):
        select(fits_of(LLAMA_8B, laptop()), Wish(profile=NAME))


def test_low_memory_is_never_taken_unasked_and_the_error_names_the_flag():
    with pytest.raises(NoRunnableProfile) as refusal:
        select(fits_of(LLAMA_8B, laptop(24 * GIB)), Wish())
    assert "--max-model-len=" in refusal.value.remedy
    assert refusal.value.exit_code == 5


def test_no_profiles_at_all_is_an_error_too():
    with pytest.raises(NoRunnableProfile):
        select([], Wish())


@pytest.mark.parametrize(
    ("facts", "machine", "low", "high"),
    [
        (TINY, laptop(), 256 * MIB, 256 * MIB),
        (replace(LLAMA_8B, max_model_len=4096), laptop(64 * GIB), 4 * GIB, 5 * GIB),
        (LLAMA_8B, laptop(40 * GIB), 17 * GIB, 18 * GIB),
        (TINY, laptop(24 * GIB, available=3 * GIB), 4 * MIB, 256 * MIB),
    ],
    ids=["small model", "eight requests", "all that is free", "busy machine"],
)
def test_the_cpu_kv_pool_follows_the_granted_ram(facts, machine, low, high):
    needs = fit_named(fits_of(facts, machine), "vllm-bf16-tp1-pp1").estimate
    pool = needs.binding.kv_pool_bytes
    assert pool % MIB == 0
    assert low <= pool <= high
    assert pool >= needs.kv_bytes


@pytest.mark.parametrize(
    ("asked", "gib", "verdict", "suggested"),
    [
        (131_072, 80, Verdict.COMPATIBLE, None),
        (131_073, 80, Verdict.INCOMPATIBLE, 131_072),
        (10**9, 80, Verdict.INCOMPATIBLE, 131_072),
    ],
)
def test_no_more_tokens_than_the_model_was_made_for(asked, gib, verdict, suggested):
    wish = Wish(options=EngineOptions(max_model_len=asked))
    found = fit_named(fits_of(LLAMA_8B, server(gib * GIB), wish), "vllm-bf16-tp1-pp1")
    assert (found.verdict, found.suggested_max_model_len) == (verdict, suggested)
    if suggested:
        assert found.remedy == f"--max-model-len={suggested}"
        stretched = fits_of(LLAMA_8B, server(gib * GIB), replace(wish, any_length=True))
        assert fit_named(stretched, "vllm-bf16-tp1-pp1").reason != found.reason


def test_a_length_that_is_too_long_for_memory_and_model_gets_the_one_that_starts():
    wish = Wish(options=EngineOptions(max_model_len=10**9))
    found = fit_named(fits_of(LLAMA_8B, server(24 * GIB), wish), "vllm-bf16-tp1-pp1")
    assert found.verdict is Verdict.LOW_MEMORY
    assert 0 < found.suggested_max_model_len < 131_072


def test_what_is_too_large_at_any_length_says_what_a_short_one_needs():
    found = fit_named(fits_of(LLAMA_8B, server(8 * GIB)), "vllm-bf16-tp1-pp1")
    assert found.verdict is Verdict.INCOMPATIBLE
    assert "even for no more than 2048 tokens" in found.reason
    assert format_bytes(found.needed_bytes) not in found.reason
