"""What an engine accepts of a model, whatever the memory: how it splits, and what the GPU can compute in. Pure.

Each rule answers with a reason, or None where it has no objection. They are vLLM's (``model_executor/layers``,
``config`` in 0.33); SGLang's layers are built alike. Where a size is not known, its rule is silent.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import ceil

from lading.model.facts import ModelFacts
from lading.model.weights import VOCABULARY_ROWS
from lading.profiles.constants import capability_floor
from lading.profiles.options import EngineOptions
from lading.profiles.profile import Profile

_GROUPED = ("int4", "int8", "nvfp4", "mxfp4")
_HALF = ("half", "float16")


@dataclass(frozen=True, slots=True)
class Support:
    """What an engine can do with an architecture; None where it is not known.

    ``last_version`` is the last of the engine that ran it, where newer ones do not.
    """

    pp: bool | None = None
    lora: bool | None = None
    last_version: str | None = None


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why something cannot be, and what to do about it."""

    reason: str
    remedy: str | None = None


def split_refusal(facts: ModelFacts, tp: int, *, expert_parallel: bool = False) -> str | None:
    """Why the engine does not split the model over ``tp`` ranks; None where it does."""
    if tp == 1:
        return None
    if not facts.attention_heads:
        return "the config does not tell its attention heads, so it is not split"
    return next(_split_objections(facts, tp, expert_parallel=expert_parallel), None)


def _split_objections(facts: ModelFacts, tp: int, *, expert_parallel: bool) -> Iterator[str]:
    heads, kv_heads = facts.attention_heads or 0, facts.kv_heads or 0
    if heads % tp:
        yield f"{heads} attention heads do not split over {tp} ranks"
    if kv_heads and kv_heads % tp and tp % kv_heads:
        yield f"{kv_heads} KV heads neither split over {tp} ranks nor repeat evenly"
    vocabulary = ceil((facts.vocab_size or 0) / VOCABULARY_ROWS) * VOCABULARY_ROWS
    if vocabulary % tp:
        yield f"a vocabulary of {vocabulary} rows does not split over {tp} ranks"
    yield from _layer_objections(facts, tp, "an MLP", facts.intermediate_size or 0)
    if facts.experts_per_token and not expert_parallel:
        yield from _layer_objections(facts, tp, "an expert", facts.expert_size or 0)
    if facts.head_dim:
        yield from _block_objections(facts, tp, "an attention output", heads * facts.head_dim)


def _layer_objections(facts: ModelFacts, tp: int, what: str, inner: int) -> Iterator[str]:
    if inner % tp:
        yield f"{what} of {inner} does not split over {tp} ranks"
    else:
        yield from _block_objections(facts, tp, what, inner)


def _block_objections(facts: ModelFacts, tp: int, what: str, size: int) -> Iterator[str]:
    """A rank's part of a quantised layer has to be made of whole blocks or groups."""
    group = facts.quantization_group
    is_block = facts.precision == "fp8" and group
    if (is_block or (group and facts.precision.startswith(_GROUPED))) and (size // tp) % group:
        unit = "blocks" if is_block else "groups"
        yield f"{what} of {size} over {tp} ranks is not made of whole {unit} of {group} quantised weights"


def accepted_sizes(facts: ModelFacts, sizes: tuple[int, ...]) -> tuple[int, ...]:
    """Those of the ``sizes`` that the model can be split over."""
    return tuple(tp for tp in sizes if split_refusal(facts, tp) is None)


def shape_refusal(
    facts: ModelFacts, profile: Profile, support: Support, options: EngineOptions, sizes: tuple[int, ...]
) -> Refusal | None:
    """Why the engine does not run the model so split, or with LoRA. ``sizes`` are those to name as a remedy."""
    if reason := split_refusal(facts, profile.tp, expert_parallel=options.expert_parallel):
        accepted = ", ".join(str(tp) for tp in accepted_sizes(facts, sizes))
        return Refusal(reason, f"--tensor-parallel-size of {accepted}")
    if profile.pp > 1 and support.pp is False:
        return Refusal(f"{profile.backend} has no pipeline parallelism for {facts.architecture}", "tensor parallelism")
    if profile.pp > 1 and facts.layers and profile.pp > facts.layers:
        return Refusal(f"{facts.layers} layers make no {profile.pp} pipeline stages")
    if profile.lora and support.lora is False:
        return Refusal(f"{profile.backend} has no LoRA for {facts.architecture}", "run it without LoRA")
    return None


def precision_refusal(
    facts: ModelFacts, profile: Profile, capability: tuple[int, int], gpu_name: str, options: EngineOptions
) -> Refusal | None:
    """Why a GPU cannot hold weights of the profile's precision; None where it can, or is not known.

    What is quantised while loading computes in the checkpoint's own type, so that counts as well.
    """
    if profile.online:
        offline = replace(profile, precision=facts.precision, online=False)
        if refusal := precision_refusal(facts, offline, capability, gpu_name, options):
            return refusal
    floor = capability_floor(_precision_names(facts, profile))
    if floor is None or capability == (0, 0) or _plain(capability) >= floor[0]:
        return None
    needed = f"{profile.precision} needs compute capability {floor[0] / 10:.1f}, {gpu_name} has {_text(capability)}"
    if profile.precision == "bf16":
        return None if options.dtype in _HALF else Refusal(needed, "--dtype half")
    return Refusal(needed)


def unpacks_weights(facts: ModelFacts, profile: Profile, capability: tuple[int, int]) -> bool:
    """Whether the GPU only holds the precision, and computes in 16 bit."""
    floor = capability_floor(_precision_names(facts, profile))
    return floor is not None and capability != (0, 0) and floor[0] <= _plain(capability) < floor[1]


def _precision_names(facts: ModelFacts, profile: Profile) -> tuple[str, ...]:
    if profile.online:
        return (f"online {profile.precision}",)
    method = facts.quantization or ""
    return (f"{method}-{profile.precision}", method, profile.precision)


def _plain(capability: tuple[int, int]) -> int:
    return capability[0] * 10 + capability[1]


def _text(capability: tuple[int, int]) -> str:
    return f"{capability[0]}.{capability[1]}"
