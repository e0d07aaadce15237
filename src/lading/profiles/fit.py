"""How a profile meets a machine: a verdict, the reason in a sentence, and the remedy where there is one.

Nothing is filtered away: every profile gets its :class:`Fit`, and listings, errors and JSON all read the same fields.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from enum import StrEnum

from lading.hardware.inventory import Device, Inventory
from lading.model.facts import ModelFacts
from lading.profiles.memory import FALLBACK_LENGTH, Estimate, Target, estimate
from lading.profiles.overhead import constants_for
from lading.profiles.profile import Profile
from lading.units import format_bytes

RAM_UTILIZATION = 0.95
LENGTH_STEP = 256  # NIM rounds its suggestion down to this
FLOOR_LENGTH = 2048  # shorter than this is not worth suggesting


class Verdict(StrEnum):
    """The groups that listings print, best first."""

    COMPATIBLE = "compatible"
    LOW_MEMORY = "low_memory"
    INCOMPATIBLE = "incompatible"


@dataclass(frozen=True, slots=True)
class Wish:
    """What a user asked for; None where nothing was said."""

    profile: str | None = None
    tp: int | None = None
    pp: int | None = None
    lora: bool = False
    max_model_len: int | None = None
    gpu_utilization: float | None = None
    any_architecture: bool = False  # the engine was told how to run what it does not list


@dataclass(frozen=True, slots=True)
class Engine:
    """What fitting needs to know of an installed engine: which classes it runs (empty: unknown), and on what."""

    backend: str
    version: str
    device: Device
    architectures: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Fit:
    """A profile on a machine.

    ``needed_bytes`` and ``have_bytes`` are per GPU, or of the machine's RAM on the CPU. ``suggested_max_model_len`` is
    the longest length that fits, set for LOW_MEMORY where shortening helps.
    """

    profile: Profile
    verdict: Verdict
    estimate: Estimate
    have_bytes: int
    reason: str
    remedy: str | None = None
    suggested_max_model_len: int | None = None

    @property
    def needed_bytes(self) -> int:
        """What the estimate adds up to."""
        return self.estimate.needed_bytes

    @property
    def is_runnable(self) -> bool:
        """True for COMPATIBLE."""
        return self.verdict is Verdict.COMPATIBLE


def fit(profile: Profile, facts: ModelFacts, inventory: Inventory, engines: Iterable[Engine], wish: Wish) -> Fit:
    """How ``profile`` meets the machine. Pure."""
    device = inventory.device
    engine = next((each for each in engines if each.backend == profile.backend), None)
    target = _target(inventory, engine)
    needs = estimate(facts, profile, target, wish.max_model_len)
    default = constants_for(target.engine_version).utilization
    have = int(target.total_bytes * (RAM_UTILIZATION if device is Device.CPU else wish.gpu_utilization or default))
    if refusal := _refusal(profile, facts, inventory, engine, wish):
        return Fit(profile, Verdict.INCOMPATIBLE, needs, have, *refusal)
    return _by_memory(profile, facts, needs, have, device)


def _target(inventory: Inventory, engine: Engine | None) -> Target:
    """The smallest GPU, since all ranks need the same; the RAM where there is none."""
    version = engine.version if engine else ""
    if inventory.device is Device.CPU:
        return Target(Device.CPU, inventory.ram_bytes, engine_version=version)
    smallest = min(inventory.engine_gpus, key=lambda gpu: gpu.total_bytes)
    return Target(Device.CUDA, smallest.total_bytes, smallest.name, version)


def _refusal(
    profile: Profile, facts: ModelFacts, inventory: Inventory, engine: Engine | None, wish: Wish
) -> tuple[str, str | None] | None:
    """Why the profile cannot run whatever the memory, with the remedy, or None."""
    if engine is None:
        return f"no {profile.backend} engine is installed", "lading engine install"
    if not wish.any_architecture and engine.architectures and facts.architecture not in engine.architectures:
        near = get_close_matches(facts.architecture, engine.architectures, n=3, cutoff=0.7)
        return (
            f"{engine.backend} {engine.version} does not run {facts.architecture or facts.model_type!r} models",
            f"its nearest names are {', '.join(near)}" if near else "a newer version of the engine may",
        )
    if engine.device is not inventory.device:
        machine = "has GPUs" if inventory.device is Device.CUDA else "has no GPU"
        return f"{engine.backend} {engine.version} is the build for {engine.device}, and this machine {machine}", None
    return _too_few_devices(profile, inventory, wish)


def _too_few_devices(profile: Profile, inventory: Inventory, wish: Wish) -> tuple[str, str | None] | None:
    if inventory.device is Device.CPU:
        asked = (wish.tp or 1) * (wish.pp or 1)
        if profile.ranks in (1, asked):
            return None
        return f"needs {profile.ranks} GPUs, this machine has none", None
    usable = len(inventory.engine_gpus)
    if profile.ranks > usable:
        have = "this machine has" if usable == len(inventory.gpus) else "of MIG instances an engine can use"
        return f"needs {profile.ranks} GPUs, {have} {usable}", None
    return None


def _by_memory(profile: Profile, facts: ModelFacts, needs: Estimate, have: int, device: Device) -> Fit:
    place = "RAM" if device is Device.CPU else "each GPU"
    figures = f"needs {format_bytes(needs.needed_bytes)} of {format_bytes(have)} of {place}"
    if needs.needed_bytes <= have:
        return Fit(profile, Verdict.COMPATIBLE, needs, have, f"{figures} at {needs.max_model_len} tokens")
    longest = longest_length(needs, have)
    floor = min(FLOOR_LENGTH, facts.max_model_len or FALLBACK_LENGTH)
    if longest >= floor:
        shorter = needs.fixed_bytes + needs.kv.bytes_at(longest)
        return Fit(
            profile,
            Verdict.LOW_MEMORY,
            needs,
            have,
            f"{figures}: the KV cache of {needs.max_model_len} tokens takes {format_bytes(needs.kv_bytes)}",
            f"--max-model-len={longest} fits in {format_bytes(shorter)}",
            longest,
        )
    return Fit(profile, Verdict.INCOMPATIBLE, needs, have, f"{figures} even with a short context", None)


def longest_length(needs: Estimate, have_bytes: int) -> int:
    """The longest sequence whose cache fits beside the rest, with a step to spare, in whole steps; 0 for none."""
    room = have_bytes - needs.fixed_bytes
    if room <= 0 or not needs.kv.bytes_at(1):
        return 0
    steps = range(1, needs.max_model_len // LENGTH_STEP + 1)
    return bisect_right(steps, room, key=lambda step: needs.kv.bytes_at((step + 1) * LENGTH_STEP)) * LENGTH_STEP
