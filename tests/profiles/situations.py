"""Models, machines and engines that the tests of this folder share."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from lading.hardware.inventory import Device, Gpu, Inventory
from lading.model.attention import Kind, KvLayout
from lading.model.facts import ModelFacts
from lading.model.towers import VisionFacts
from lading.profiles.fit import Engine, Fit, Wish, fit
from lading.profiles.generate import generate_profiles
from lading.profiles.options import EngineOptions
from lading.profiles.profile import Profile
from lading.profiles.terms import RankEstimate, Target
from lading.units import GIB, MIB

LLAMA_8B = ModelFacts(
    architecture="LlamaForCausalLM", model_type="llama", precision="bf16", quantization=None,
    weights_bytes=16_060_556_376, parameters=8_030_000_000, max_model_len=131_072, layers=32, hidden_size=4096,
    attention_heads=32, kv_heads=8, head_dim=128, vocab_size=128_256, intermediate_size=14_336,
    has_remote_code=False, kv=KvLayout({Kind.FULL: 32}, 0, 8, 256, 2),
)  # fmt: skip
TINY = replace(
    LLAMA_8B,
    weights_bytes=7 * MIB,
    max_model_len=2048,
    layers=4,
    kv_heads=2,
    head_dim=64,
    attention_heads=4,
    hidden_size=256,
    vocab_size=2000,
    kv=KvLayout({Kind.FULL: 4}, 0, 2, 128, 2),
)
H100, L40S, A100 = "NVIDIA H100 80GB HBM3", "NVIDIA L40S", "NVIDIA A100-SXM4-80GB"
H100_BYTES = int(79.19 * GIB)
CPU_VLLM = Engine("vllm", "0.32.0", Device.CPU, frozenset({"LlamaForCausalLM", "Qwen3ForCausalLM"}))
GPU_VLLM = Engine("vllm", "0.33.0", Device.CUDA)


def shape(
    hidden: int, inner: int, vocabulary: int, *, layers: int = 32, experts: int = 0, precision: str = "bf16"
) -> ModelFacts:
    """A model of which only the sizes of its layers are known."""
    return ModelFacts(
        architecture="X", model_type="x", precision=precision, quantization=None, weights_bytes=0, parameters=0,
        max_model_len=None, layers=layers, hidden_size=hidden, attention_heads=None, kv_heads=None, head_dim=None,
        vocab_size=vocabulary, intermediate_size=inner, has_remote_code=False, experts_per_token=experts,
        expert_size=inner,
    )  # fmt: skip


def vision(hidden: int, inner: int, patches: int, tokens: int) -> VisionFacts:
    """A tower for images that become so many tokens."""
    return VisionFacts(24, hidden, inner, 16, 14, 0, patches, tokens, is_bounded=False)


def laptop(ram_bytes: int = 24 * GIB, available: int | None = None) -> Inventory:
    """A machine without a GPU."""
    return Inventory(
        gpus=(), ram_bytes=ram_bytes, ram_available_bytes=ram_bytes if available is None else available, cpu_count=2
    )


def server(*totals: int, count: int = 1, free_bytes: int | None = None) -> Inventory:
    """A machine of ``count`` H100, or of GPUs with these ``totals``."""
    sizes = totals or (H100_BYTES,) * count
    gpus = tuple(
        Gpu(i, H100, total, total if free_bytes is None else free_bytes, (9, 0), "2330:10de")
        for i, total in enumerate(sizes)
    )
    return Inventory(gpus=gpus, ram_bytes=512 * GIB, ram_available_bytes=512 * GIB, cpu_count=64)


def target(version: str = "0.33.0", gpu: str = H100, total_bytes: int = H100_BYTES, **options: Any) -> Target:
    """One GPU with vLLM, and what was asked of it."""
    asked = EngineOptions(**options)
    return Target(Device.CUDA, total_bytes, "vllm", version, gpu, (9, 0), options=asked)


def profile(name: str = "bf16", tp: int = 1, pp: int = 1, *, lora: bool = False) -> Profile:
    """A profile of vLLM."""
    return Profile("vllm", name, tp, pp, lora, "m")


def term(rank: RankEstimate, name: str) -> int:
    """Bytes of a rank's term."""
    return rank.bytes_of(name)


def fits_of(
    facts: ModelFacts, machine: Inventory, wish: Wish = Wish(), engines: tuple[Engine, ...] | None = None
) -> list[Fit]:
    """How all profiles of a model fit a machine."""
    engines = engines if engines is not None else ((CPU_VLLM,) if machine.device is Device.CPU else (GPU_VLLM,))
    asked = [(wish.tp or 1, wish.pp or 1)] if wish.tp or wish.pp else []
    profiles = generate_profiles(facts, ["vllm"], "hf://a/b:c", extra_sizes=asked)
    return [fit(each, facts, machine, engines, wish) for each in profiles]


def fit_named(fits: list[Fit], name: str) -> Fit:
    """The fit of the profile of that name."""
    return next(each for each in fits if each.profile.name == name)
