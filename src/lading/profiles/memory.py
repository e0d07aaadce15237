"""How much memory each rank of a profile needs in a situation: named terms in bytes, nothing hidden. Pure.

Weights are exact (safetensors headers), and so is the KV cache in the engine's own block arithmetic
(:mod:`lading.model.attention`), a bound where that says so. What an engine holds beside them, and how it divides a GPU,
is its own: each has its accounting in a file of this folder, chosen here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from lading.hardware.inventory import Device
from lading.model.facts import ModelFacts
from lading.profiles.correction import figures_of, mismatches
from lading.profiles.cpu_memory import estimate_cpu
from lading.profiles.options import LONGEST_THAT_FITS
from lading.profiles.profile import Profile
from lading.profiles.sglang_memory import estimate_sglang
from lading.profiles.tensorrt_llm_memory import estimate_tensorrt_llm
from lading.profiles.terms import Estimate, RankEstimate, Target
from lading.profiles.vllm_memory import estimate_vllm

FALLBACK_LENGTH = 4096  # where neither the config nor the user names a length

_ACCOUNTING: dict[str, Callable[[ModelFacts, Profile, Target, int], Estimate]] = {
    "vllm": estimate_vllm,
    "sglang": estimate_sglang,
    "tensorrt_llm": estimate_tensorrt_llm,
}

__all__ = ["FALLBACK_LENGTH", "Estimate", "RankEstimate", "Target", "estimate"]


def estimate(facts: ModelFacts, profile: Profile, target: Target) -> Estimate:
    """The memory that each rank of ``profile`` needs in the situation of ``target``.

    On the CPU all ranks share one memory, so the one figure is the machine's.
    """
    length = _length(facts, target)
    account = estimate_cpu if target.device is Device.CPU else _ACCOUNTING[target.engine]
    found = account(facts, profile, target, length)
    rank = found.binding
    told = mismatches(target.measured.of_rank(rank.rank), figures_of(rank)) if target.measured else ()
    return replace(found, notes=(*found.notes, *_uncounted(facts, profile, target), *told))


def _uncounted(facts: ModelFacts, profile: Profile, target: Target) -> Iterator[str]:
    """What is asked of the engine and not in the figures, or counted for more than it is."""
    options = target.options
    if options.speculation and options.speculation.draft_model:
        yield "the draft model's own memory is not counted"
    if options.speculation and options.speculation.own_layers and not facts.weights:
        yield "the drafting layers' own memory is not counted: the weights' headers cannot be read"
    if profile.lora and facts.experts_per_token:
        yield "adapters of experts are not counted, those of all other layers are"
    if options.data_parallel > 1 and facts.experts_per_token:
        yield "experts are counted whole for each copy; an engine that shares them over its copies holds less"


def _length(facts: ModelFacts, target: Target) -> int:
    asked = target.options.max_model_len
    if asked is None or asked == LONGEST_THAT_FITS:
        return facts.max_model_len or FALLBACK_LENGTH
    return asked
