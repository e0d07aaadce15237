"""How a profile meets a machine: a verdict, the reason in a sentence, and the remedy where there is one.

Nothing is filtered away: every profile gets its :class:`Fit`, and listings, errors and JSON all read the same fields.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from enum import StrEnum

from lading.hardware.inventory import Device, Inventory
from lading.model.facts import ModelFacts
from lading.profiles.built import built_refusal
from lading.profiles.calibration import ON_CPU, Calibration, CalibrationKey
from lading.profiles.generate import TENSOR_PARALLEL_SIZES
from lading.profiles.listed import is_made_for
from lading.profiles.memory import estimate
from lading.profiles.options import LONGEST_THAT_FITS, EngineOptions
from lading.profiles.profile import Profile
from lading.profiles.rules import Refusal, Support, precision_refusal, shape_refusal, unpacks_weights
from lading.profiles.terms import Estimate, KvNeed, RankEstimate, Target
from lading.units import format_bytes

LENGTH_STEP = 256  # NIM rounds its suggestion down to this
FLOOR_LENGTH = 2048  # shorter than this is not worth suggesting
MARGIN = 0.01
"""Of the pool, and a tenth of it of the budget: kept free when a length is suggested, since both are estimates."""


_MINDING_LENGTH = ("vllm", "sglang")
LENGTH_FLAGS = {"vllm": "--max-model-len", "sglang": "--context-length", "tensorrt_llm": "--max_seq_len"}
"""How each engine is asked for a length; the first two end their start where the model was made for less."""


class Verdict(StrEnum):
    """The groups that listings print, best first."""

    COMPATIBLE = "compatible"
    LOW_MEMORY = "low_memory"
    INCOMPATIBLE = "incompatible"


@dataclass(frozen=True, slots=True)
class Wish:
    """What a user asked for; None where nothing was said. ``options`` are those that change the engine's memory."""

    profile: str | None = None
    tp: int | None = None
    pp: int | None = None
    lora: bool = False
    any_architecture: bool = False  # the engine was told how to run what it does not list
    any_length: bool = False  # the engine was told to stretch the model's own length, or not to mind it
    options: EngineOptions = field(default_factory=EngineOptions)


Reread = Callable[[Sequence[str]], Wish]
"""Makes a wish of flags that count less than all that the user asked for, and of that."""


@dataclass(frozen=True, slots=True)
class Engine:
    """What fitting needs to know of an engine: which classes it runs (empty: unknown), on what, and how this model."""

    backend: str
    version: str
    device: Device
    architectures: frozenset[str] = frozenset()
    support: Support = field(default_factory=Support)


@dataclass(frozen=True, slots=True)
class Fit:
    """A profile on a machine.

    ``needed_bytes`` and ``have_bytes`` are per GPU, or of the machine's RAM on the CPU. ``suggested_max_model_len`` is
    the longest length that fits, set for LOW_MEMORY where shortening helps, and ``suggested_bytes`` what is needed
    then. ``warning`` says what may go wrong though the verdict stands.
    """

    profile: Profile
    verdict: Verdict
    estimate: Estimate
    have_bytes: int
    reason: str
    remedy: str | None = None
    suggested_max_model_len: int | None = None
    suggested_bytes: int | None = None
    warning: str | None = None

    @property
    def needed_bytes(self) -> int:
        """What the estimate adds up to."""
        return self.estimate.needed_bytes

    @property
    def is_runnable(self) -> bool:
        """True for COMPATIBLE."""
        return self.verdict is Verdict.COMPATIBLE


def fit(
    profile: Profile,
    facts: ModelFacts,
    inventory: Inventory,
    engines: Iterable[Engine],
    wish: Wish,
    calibrated: Callable[[CalibrationKey], Calibration | None] = lambda _: None,
) -> Fit:
    """How ``profile`` meets the machine; ``calibrated`` tells what the last start of the same measured. Pure."""
    engine = next((each for each in engines if each.backend == profile.backend), None)
    target = target_of(inventory, engine.version if engine else "", profile, wish.options)
    if engine:
        target = replace(target, measured=calibrated(calibration_key(profile, facts, target)))
    needs = estimate(facts, profile, target)
    if refusal := _refusal(profile, facts, inventory, engine, wish):
        return Fit(profile, Verdict.INCOMPATIBLE, needs, needs.budget_bytes, refusal.reason, refusal.remedy)
    return _held_to_model(_by_memory(profile, facts, needs, inventory, wish), facts, wish)


def unfit(profile: Profile, reason: str, remedy: str | None = None) -> Fit:
    """The fit of a profile that was not looked at, or whose files do not tell what it needs."""
    nothing = RankEstimate(0, (), KvNeed(None), max_model_len=0, kv_pool_bytes=0, kv_pool_tokens=0)
    return Fit(profile, Verdict.INCOMPATIBLE, Estimate((nothing,), 0), 0, reason, remedy)


def calibration_key(profile: Profile, facts: ModelFacts, target: Target) -> CalibrationKey:
    """For what a measurement of this profile in this situation counts."""
    gpu = ON_CPU if target.device is Device.CPU else target.gpu_name
    return CalibrationKey.of(target.engine, target.engine_version, gpu, facts, profile, target.options)


def target_of(inventory: Inventory, version: str, profile: Profile, options: EngineOptions) -> Target:
    """The situation: the smallest GPU, since all ranks need the same; the RAM where there is none."""
    if inventory.device is Device.CPU:
        return Target(
            Device.CPU,
            inventory.ram_bytes,
            profile.backend,
            version,
            free_bytes=inventory.ram_available_bytes,
            options=options,
        )
    smallest = min(inventory.engine_gpus, key=lambda gpu: gpu.total_bytes)
    return Target(
        device=Device.CUDA,
        total_bytes=smallest.total_bytes,
        engine=profile.backend,
        engine_version=version,
        gpu_name=smallest.name,
        compute_capability=smallest.compute_capability,
        is_linked=smallest.is_linked,
        is_unified=smallest.is_unified,
        options=options,
    )


def _refusal(
    profile: Profile, facts: ModelFacts, inventory: Inventory, engine: Engine | None, wish: Wish
) -> Refusal | None:
    """Why the profile cannot run whatever the memory, or None."""
    if engine is None:
        return _without_engine(profile, facts)
    if facts.built:
        return (
            _wrong_device(inventory, engine)
            or _made_for_another(profile, inventory)
            or built_refusal(facts.built, profile, engine.version, inventory.engine_gpus)
            or _too_long(facts, wish)
            or _unfit_devices(profile, facts, inventory, wish)
        )
    return (
        _unknown_architecture(facts, engine, wish)
        or _wrong_device(inventory, engine)
        or _made_for_another(profile, inventory)
        or shape_refusal(facts, profile, engine.support, wish.options, TENSOR_PARALLEL_SIZES)
        or _unfit_devices(profile, facts, inventory, wish)
    )


def _without_engine(profile: Profile, facts: ModelFacts) -> Refusal:
    if facts.built:
        return Refusal(
            "a built engine runs with TensorRT-LLM alone, which is not installed, or not the engine in use",
            "put trtllm-serve on PATH; where other engines are too, set LADING_BACKEND=tensorrt_llm",
        )
    return Refusal(f"no {profile.backend} engine is installed", "lading engine install")


def _too_long(facts: ModelFacts, wish: Wish) -> Refusal | None:
    asked, longest = wish.options.max_model_len or 0, facts.max_model_len
    if not longest or asked <= longest:
        return None
    return Refusal(f"{asked} tokens were asked for, and the engine was built for {longest}", f"--max_seq_len={longest}")


def _unknown_architecture(facts: ModelFacts, engine: Engine, wish: Wish) -> Refusal | None:
    if wish.any_architecture:
        return None
    name = f"{engine.backend} {engine.version}"
    if last := engine.support.last_version:
        return Refusal(
            f"{name} no longer runs {facts.architecture!r} models, {last} was the last version that did",
            f"use {engine.backend} {last}, or --model-impl transformers",
        )
    if not engine.architectures or facts.architecture in engine.architectures:
        return None
    near = get_close_matches(facts.architecture, engine.architectures, n=3, cutoff=0.7)
    return Refusal(
        f"{name} does not run {facts.architecture or facts.model_type!r} models",
        f"its nearest names are {', '.join(near)}" if near else "a newer version of the engine may",
    )


def _wrong_device(inventory: Inventory, engine: Engine) -> Refusal | None:
    if engine.device is inventory.device:
        return None
    machine = "has GPUs" if inventory.device is Device.CUDA else "has no GPU"
    return Refusal(f"{engine.backend} {engine.version} is the build for {engine.device}, and this machine {machine}")


def _made_for_another(profile: Profile, inventory: Inventory) -> Refusal | None:
    if is_made_for(profile, inventory.engine_gpus):
        return None
    here = ", ".join(dict.fromkeys(gpu.name for gpu in inventory.engine_gpus)) or "no GPU"
    wanted = profile.tags.get("gpu") or profile.tags.get("gpu_device")
    return Refusal(f"the manifest lists it for {wanted}, this machine has {here}")


def _unfit_devices(profile: Profile, facts: ModelFacts, inventory: Inventory, wish: Wish) -> Refusal | None:
    if inventory.device is Device.CPU:
        if profile.online:
            return Refusal(f"weights are made {profile.precision} while loading on GPUs only")
        asked = (wish.tp or 1) * (wish.pp or 1)
        return None if profile.ranks in (1, asked) else Refusal(f"needs {profile.ranks} GPUs, this machine has none")
    copies, usable = wish.options.data_parallel, inventory.engine_gpus
    needed = copies * profile.ranks
    if needed > len(usable):
        of = f" ({copies} copies of {profile.ranks})" if copies > 1 else ""
        have = "this machine has" if usable == inventory.gpus else "of MIG instances an engine can use"
        return Refusal(f"needs {needed} GPUs{of}, {have} {len(usable)}")
    oldest = min(usable, key=lambda gpu: gpu.compute_capability)
    return precision_refusal(facts, profile, oldest.compute_capability, oldest.name, wish.options)


def _by_memory(profile: Profile, facts: ModelFacts, needs: Estimate, inventory: Inventory, wish: Wish) -> Fit:
    have, rank = needs.budget_bytes, needs.binding
    place = "RAM" if inventory.device is Device.CPU else "each GPU"
    figures = f"needs {format_bytes(needs.needed_bytes)} of {format_bytes(have)} of {place}"
    warning = _warning(needs, inventory)
    if (total := min((gpu.total_bytes for gpu in inventory.gpus), default=0)) and have > total:
        return Fit(profile, Verdict.INCOMPATIBLE, needs, have, f"takes {format_bytes(have)} of {format_bytes(total)}")
    if needs.hazard and rank.kv_pool_bytes >= rank.kv_bytes_per_request:
        hazard = needs.hazard
        return Fit(profile, Verdict.LOW_MEMORY, needs, have, hazard.reason, hazard.remedy, warning=warning)
    if rank.kv_pool_bytes >= rank.kv_bytes_per_request:
        reason = f"{figures} at {needs.max_model_len} tokens{_unpacking(profile, facts, inventory)}"
        return Fit(profile, Verdict.COMPATIBLE, needs, have, reason, warning=warning)
    longest = longest_length(rank, needs.budget_bytes)
    least = min(FLOOR_LENGTH, needs.max_model_len)
    if longest < least:
        short = format_bytes(rank.fixed_bytes + rank.kv.bytes_at(least))
        reason = f"needs {short} of {format_bytes(have)} of {place} even for no more than {least} tokens"
        return Fit(profile, Verdict.INCOMPATIBLE, needs, have, reason)
    shorter = rank.fixed_bytes + rank.kv.bytes_at(longest)
    if wish.options.max_model_len == LONGEST_THAT_FITS:
        reason = f"the engine takes the longest that fits, {longest} tokens or a little more"
        return Fit(profile, Verdict.COMPATIBLE, needs, have, reason, None, longest, shorter, warning)
    return Fit(
        profile=profile,
        verdict=Verdict.LOW_MEMORY,
        estimate=needs,
        have_bytes=have,
        reason=f"{figures}: the KV cache of {needs.max_model_len} tokens takes {format_bytes(needs.kv_bytes)}",
        remedy=f"{LENGTH_FLAGS[profile.backend]}={longest} fits in {format_bytes(shorter)}",
        suggested_max_model_len=longest,
        suggested_bytes=shorter,
        warning=warning,
    )


def _held_to_model(found: Fit, facts: ModelFacts, wish: Wish) -> Fit:
    """The fit, or why it is none: more tokens than the model was made for, which ends the start of these engines."""
    asked, longest, backend = wish.options.max_model_len, facts.max_model_len, found.profile.backend
    if backend not in _MINDING_LENGTH or wish.any_length or not asked or not longest or asked <= longest:
        return found
    if found.verdict is Verdict.INCOMPATIBLE or (found.suggested_max_model_len or asked) <= longest:
        return found
    rank = found.estimate.binding
    return replace(
        found,
        verdict=Verdict.INCOMPATIBLE,
        reason=f"{asked} tokens were asked for, and the model takes {longest}",
        remedy=f"{LENGTH_FLAGS[backend]}={longest}",
        suggested_max_model_len=longest,
        suggested_bytes=rank.fixed_bytes + rank.kv.bytes_at(longest),
    )


def _unpacking(profile: Profile, facts: ModelFacts, inventory: Inventory) -> str:
    oldest = min((gpu.compute_capability for gpu in inventory.gpus), default=(0, 0))
    if not unpacks_weights(facts, profile, oldest):
        return ""
    return f"; the GPU does not compute in {profile.precision}: kernels unpack the weights, at some cost in speed"


def _warning(needs: Estimate, inventory: Inventory) -> str | None:
    """What other processes hold now is no reason to refuse: they may be gone when the engine starts."""
    short = [gpu for gpu in inventory.gpus if gpu.free_bytes < needs.budget_bytes < gpu.total_bytes]
    if not short:
        return None
    least = min(short, key=lambda gpu: gpu.free_bytes)
    return (
        f"GPU {least.index} has {format_bytes(least.free_bytes)} free now, less than the"
        f" {format_bytes(needs.budget_bytes)} that the engine takes: other processes hold the rest"
    )


def longest_length(rank: RankEstimate, budget_bytes: int) -> int:
    """The longest sequence whose cache fits in the rank's pool with the margin to spare, in whole steps; 0 for none."""
    room = rank.kv_pool_bytes - int(rank.kv_pool_bytes * MARGIN + budget_bytes * MARGIN / 10)
    if room <= 0 or not rank.kv.bytes_at(1):
        return 0
    steps = range(1, rank.max_model_len // LENGTH_STEP + 1)
    return bisect_right(steps, room, key=lambda step: rank.kv.bytes_at(step * LENGTH_STEP)) * LENGTH_STEP
