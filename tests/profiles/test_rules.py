"""What an engine accepts of a model, whatever the memory: tables of sizes, precisions and supports."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lading.hardware.inventory import Device, Gpu, Inventory
from lading.model.facts import ModelFacts
from lading.profiles.fit import Engine, Verdict, Wish, fit
from lading.profiles.generate import generate_profiles
from lading.profiles.options import EngineOptions
from lading.profiles.profile import Profile
from lading.profiles.rules import Support, accepted_sizes, precision_refusal, split_refusal, unpacks_weights
from lading.units import GIB
from tests.profiles.situations import LLAMA_8B, fit_named, fits_of, profile, server

SIZES = (1, 2, 3, 4, 5, 8, 16)
FP8_BLOCKS = replace(LLAMA_8B, precision="fp8", quantization="fp8", quantization_group=128)
QWEN3_30B_FP8 = replace(
    FP8_BLOCKS, attention_heads=32, kv_heads=4, head_dim=128, intermediate_size=6144, vocab_size=151_936,
    experts_per_token=8, expert_size=768,
)  # fmt: skip
AWQ = replace(LLAMA_8B, precision="int4_awq", quantization="awq", quantization_group=128)


@pytest.mark.parametrize(
    ("facts", "sizes"),
    [
        (LLAMA_8B, (1, 2, 4, 8, 16)),
        (replace(LLAMA_8B, kv_heads=4), (1, 2, 4, 8, 16)),
        (replace(LLAMA_8B, attention_heads=40, kv_heads=8, intermediate_size=17_920, vocab_size=151_936), (1, 2, 4, 8)),
        (replace(LLAMA_8B, attention_heads=40, kv_heads=40, intermediate_size=17_920, vocab_size=151_936), (1, 2, 4, 8)),
        (replace(LLAMA_8B, attention_heads=24, kv_heads=24, intermediate_size=9216, vocab_size=192 * 500), (1, 2, 3, 4, 8)),
        (QWEN3_30B_FP8, (1, 2)),
        (FP8_BLOCKS, (1, 2, 4, 8, 16)),
        (replace(FP8_BLOCKS, intermediate_size=12_288 + 128), (1,)),
        (replace(AWQ, intermediate_size=18_944), (1, 2, 4)),
        (replace(AWQ, intermediate_size=29_568), (1,)),
        (replace(LLAMA_8B, attention_heads=None), (1,)),
    ],
    ids=[
        "llama", "repeated KV heads", "KV heads that do not repeat", "a vocabulary that does not split",
        "three ranks", "experts of whole blocks", "blocks", "an MLP not of whole blocks", "groups of AWQ",
        "groups that do not split at all", "unknown heads",
    ],
)  # fmt: skip
def test_the_engine_accepts_only_sizes_that_everything_splits_by(facts: ModelFacts, sizes: tuple[int, ...]) -> None:
    assert accepted_sizes(facts, SIZES) == sizes


@pytest.mark.parametrize(
    ("facts", "tp", "said"),
    [
        (LLAMA_8B, 3, "32 attention heads"),
        (replace(LLAMA_8B, kv_heads=3, attention_heads=24), 2, "3 KV heads"),
        (replace(LLAMA_8B, vocab_size=64), 128, "attention heads"),
        (replace(LLAMA_8B, attention_heads=40, kv_heads=40), 5, "vocabulary of 128256 rows"),
        (replace(LLAMA_8B, intermediate_size=14_338), 4, "an MLP of 14338"),
        (QWEN3_30B_FP8, 4, "an expert of 768 over 4 ranks is not made of whole blocks of 128"),
        (replace(AWQ, intermediate_size=18_944), 8, "whole groups of 128"),
    ],
)
def test_a_size_that_is_not_accepted_has_its_reason(facts: ModelFacts, tp: int, said: str) -> None:
    assert said in str(split_refusal(facts, tp))


def test_experts_that_are_not_split_do_not_mind() -> None:
    assert split_refusal(QWEN3_30B_FP8, 4) is not None
    assert split_refusal(QWEN3_30B_FP8, 4, expert_parallel=True) is None


V100, T4, A100, L4, H100, B200 = (7, 0), (7, 5), (8, 0), (8, 9), (9, 0), (10, 0)


@pytest.mark.parametrize(
    ("precision", "method", "refused", "unpacked", "native"),
    [
        ("bf16", None, T4, None, A100),
        ("fp16", None, None, None, V100),
        ("fp8", "fp8", V100, A100, L4),
        ("fp8", "fbgemm_fp8", T4, A100, H100),
        ("fp8", "modelopt", T4, A100, H100),
        ("nvfp4", "modelopt", V100, H100, B200),
        ("mxfp4", "mxfp4", T4, H100, B200),
        ("int4_awq", "awq", V100, None, T4),
        ("int4_gptq", "gptq", None, None, V100),
        ("int8", "compressed-tensors", V100, None, T4),
        ("a precision of tomorrow", "new", None, None, V100),
    ],
)
def test_a_gpu_holds_and_computes_in_what_it_can(
    precision: str,
    method: str | None,
    refused: tuple[int, int] | None,
    unpacked: tuple[int, int] | None,
    native: tuple[int, int],
) -> None:
    facts = replace(LLAMA_8B, precision=precision, quantization=method)
    each, asked = profile(precision), EngineOptions()
    if refused:
        refusal = precision_refusal(facts, each, refused, "GPU", asked)
        assert refusal
        assert f"GPU has {refused[0]}.{refused[1]}" in refusal.reason
    for capability in (unpacked, native):
        if capability:
            assert precision_refusal(facts, each, capability, "GPU", asked) is None
            assert unpacks_weights(facts, each, capability) == (capability == unpacked)
    assert precision_refusal(facts, each, (0, 0), "of a saved file", asked) is None


def test_bf16_on_an_old_gpu_runs_as_half_and_the_remedy_says_so() -> None:
    refusal = precision_refusal(LLAMA_8B, profile(), T4, "T4", EngineOptions())
    assert refusal
    assert refusal.remedy == "--dtype half"
    assert precision_refusal(LLAMA_8B, profile(), T4, "T4", EngineOptions(dtype="half")) is None


def test_what_is_quantised_while_loading_still_computes_in_the_checkpoints_type() -> None:
    online = replace(profile("fp8"), online=True)
    refusal = precision_refusal(LLAMA_8B, online, T4, "T4", EngineOptions())
    assert refusal
    assert "bf16 needs" in refusal.reason
    assert precision_refusal(LLAMA_8B, online, T4, "T4", EngineOptions(dtype="half")) is None
    assert "fp8 needs" in str(precision_refusal(LLAMA_8B, online, V100, "V100", EngineOptions(dtype="half")))


def machine(*capabilities: tuple[int, int], mig: str | None = None) -> Inventory:
    gpus = tuple(Gpu(i, "GPU", 80 * GIB, 80 * GIB, each, mig_profile=mig) for i, each in enumerate(capabilities))
    return Inventory(gpus, 0, 0, 0)


ENGINE = Engine("vllm", "0.33.0", Device.CUDA)


def test_the_oldest_gpu_decides() -> None:
    facts = replace(LLAMA_8B, precision="nvfp4", quantization="modelopt")
    found = fit(profile("nvfp4", 2), facts, machine(B200, V100), [ENGINE], Wish())
    assert found.verdict is Verdict.INCOMPATIBLE
    assert "nvfp4 needs compute capability 7.5" in found.reason


def test_a_gpu_that_unpacks_weights_runs_them_and_says_so() -> None:
    facts = replace(LLAMA_8B, precision="nvfp4", quantization="modelopt")
    found = fit(profile("nvfp4"), facts, machine(H100), [ENGINE], Wish())
    assert found.verdict is Verdict.COMPATIBLE
    assert "does not compute in nvfp4" in found.reason


def test_ranks_do_not_share_over_slices() -> None:
    two = fit(profile(tp=2), LLAMA_8B, machine(H100, H100, mig="3g.40gb"), [ENGINE], Wish())
    assert two.reason == "needs 2 GPUs, of MIG instances an engine can use 1"
    assert fit(profile(), LLAMA_8B, machine(H100, mig="3g.40gb"), [ENGINE], Wish()).verdict is Verdict.COMPATIBLE


def test_copies_of_a_model_need_their_own_gpus() -> None:
    wish = Wish(options=EngineOptions(data_parallel=2))
    assert (
        "needs 4 GPUs (2 copies of 2), this machine has 2"
        in fit_named(fits_of(LLAMA_8B, server(count=2), wish), "vllm-bf16-tp2-pp1").reason
    )
    assert fit_named(fits_of(LLAMA_8B, server(count=4), wish), "vllm-bf16-tp2-pp1").verdict is Verdict.COMPATIBLE


@pytest.mark.parametrize(
    ("support", "names"),
    [
        (Support(), {"tp1-pp1", "tp1-pp2", "tp1-pp1-feat_lora", "tp1-pp2-feat_lora"}),
        (Support(pp=False), {"tp1-pp1", "tp1-pp1-feat_lora"}),
        (Support(lora=False), {"tp1-pp1", "tp1-pp2"}),
        (Support(pp=False, lora=False), {"tp1-pp1"}),
    ],
)
def test_profiles_are_made_of_what_the_architecture_supports(support: Support, names: set[str]) -> None:
    facts = replace(LLAMA_8B, precision="int8", attention_heads=7, kv_heads=7)
    made = generate_profiles(facts, ["vllm"], "m", support={"vllm": support})
    assert {each.name.removeprefix("vllm-int8-") for each in made} == names


@pytest.mark.parametrize(
    ("wanted", "support", "said"),
    [
        (profile(pp=2), Support(pp=False), "no pipeline parallelism for LlamaForCausalLM"),
        (profile(lora=True), Support(lora=False), "no LoRA for LlamaForCausalLM"),
        (profile(tp=3), Support(), "32 attention heads do not split over 3 ranks"),
        (profile(pp=64), Support(), "32 layers make no 64 pipeline stages"),
        (profile(), Support(last_version="0.22.0"), "0.22.0 was the last version that did"),
    ],
)
def test_what_was_asked_for_in_vain_has_its_reason(wanted: Profile, support: Support, said: str) -> None:
    engine = replace(ENGINE, support=support)
    found = fit(wanted, LLAMA_8B, server(count=64), [engine], Wish())
    assert found.verdict is Verdict.INCOMPATIBLE
    assert said in found.reason


def test_16_bit_checkpoints_have_fp8_profiles_made_while_loading() -> None:
    fits = fits_of(LLAMA_8B, server(count=2))
    online = fit_named(fits, "vllm-fp8-tp1-pp1")
    assert online.profile.online
    assert online.needed_bytes < fit_named(fits, "vllm-bf16-tp1-pp1").needed_bytes
    assert not any(each.online for each in generate_profiles(replace(LLAMA_8B, precision="int8"), ["vllm"], "m"))


def test_ids_do_not_tell_how_the_precision_is_made() -> None:
    assert replace(profile("fp8"), online=True).id == profile("fp8").id
