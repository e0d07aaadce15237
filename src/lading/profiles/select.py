"""Which profile to run, and why not the others.

Unset: the compatible profile that uses the fewest devices, of those the first engine's. ``default``: the first engine
that runs the model at all, then the fewest devices. An id, an id's first eight digits or more, or a name: exactly that
one, even when the estimate says that memory is short, never when it cannot run. Parallel sizes given as flags win over
the profile's. LoRA profiles only when LoRA is asked for; weights quantised while loading only by name. Of a manifest's
profiles, those listed for this GPU come first, and so does an engine that was built here under a name of the user's,
and of equal size those of the better precision, then of lower latency.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lading.errors import NoRunnableProfile
from lading.profiles.fit import Fit, Verdict, Wish
from lading.profiles.naming import DEFAULT, named

_PRECISIONS = ("mxfp4", "fp8", "int8", "fp16", "bf16", "int8wo", "nvfp4", "int4_awq")  # NIM's order, best first
_TUNINGS = ("latency", "", "throughput")
_RUNNABLE = (Verdict.COMPATIBLE,)
_RUNNABLE_BY_NAME = (Verdict.COMPATIBLE, Verdict.LOW_MEMORY)


@dataclass(frozen=True, slots=True)
class Selection:
    """The fit to run, why it was chosen, and each other one with why it was not.

    ``idle`` says in a sentence which GPUs stay unused and what would use them; None where none do.
    """

    chosen: Fit
    reason: str
    others: tuple[tuple[Fit, str], ...]
    idle: str | None = None

    @property
    def lines(self) -> tuple[str, ...]:
        """The whole selection in sentences: what was chosen and why, what was not, what stays unused."""
        profile = self.chosen.profile
        chosen = f"chosen: {profile.name} ({profile.id}), because: {self.reason}"
        others = (f"not chosen: {each.profile.name}, because: {why}" for each, why in self.others)
        return (chosen, *others, *((self.idle,) if self.idle else ()))


def select(fits: Sequence[Fit], wish: Wish, *, gpus: int = 0) -> Selection:
    """The profile to run, on a machine with so many ``gpus``.

    Raises UsageError for a profile name that no fit has, NoRunnableProfile when none that may be chosen runs here; both
    carry the remedy.
    """
    asked = named(fits, wish.profile) if wish.profile and wish.profile.strip().lower() != DEFAULT else None
    candidates = [each for each in fits if _is_candidate(each, wish, asked)]
    runnable = [each for each in candidates if each.verdict in (_RUNNABLE_BY_NAME if asked else _RUNNABLE)]
    if not runnable:
        raise _none_runs(candidates or list(fits), wish, gpus)
    backends = list(dict.fromkeys(each.profile.backend for each in fits))
    chosen = min(runnable, key=lambda each: _preference(each, backends, wish))
    others = tuple((each, _why_not(each, chosen, wish)) for each in fits if each is not chosen)
    return Selection(chosen, _why(chosen, wish, asked), others, _idle(fits, chosen, gpus))


def _is_candidate(each: Fit, wish: Wish, asked: Fit | None) -> bool:
    profile = each.profile
    if asked is None:
        sizes = (wish.tp or profile.tp, wish.pp or profile.pp)
        return (profile.tp, profile.pp) == sizes and profile.lora == wish.lora and not profile.online
    wanted = asked.profile
    if not (wish.tp or wish.pp or (wish.lora and not wanted.lora)):
        return profile == wanted
    sizes = (wish.tp or wanted.tp, wish.pp or wanted.pp)
    kind = (wanted.backend, wanted.precision, wanted.lora or wish.lora)
    return (profile.tp, profile.pp) == sizes and (profile.backend, profile.precision, profile.lora) == kind


def _preference(each: Fit, backends: list[str], wish: Wish) -> tuple[int, ...]:
    profile, rank = each.profile, backends.index(each.profile.backend)
    is_general, listed = (
        not (profile.gpu or profile.custom_name),
        (_place(profile.precision, _PRECISIONS), _place(profile.tuning, _TUNINGS)),
    )
    if wish.profile and wish.profile.strip().lower() == DEFAULT:
        return is_general, rank, profile.ranks, profile.pp, *listed
    return is_general, profile.ranks, profile.pp, rank, *listed


def _place(name: str, order: Sequence[str]) -> int:
    return order.index(name) if name in order else len(order)


def _why(chosen: Fit, wish: Wish, asked: Fit | None) -> str:
    if asked and asked.profile == chosen.profile:
        return f"asked for by name; {chosen.reason}"
    if wish.tp or wish.pp:
        return f"parallel sizes were given as flags; {chosen.reason}"
    if asked:
        return f"LoRA was asked for beside {asked.profile.name}; {chosen.reason}"
    devices = "device" if chosen.profile.ranks == 1 else "devices"
    return f"fits on the fewest devices ({chosen.profile.ranks} {devices}); {chosen.reason}"


def _why_not(each: Fit, chosen: Fit, wish: Wish) -> str:
    profile = each.profile
    if each.verdict is not Verdict.COMPATIBLE:
        return f"{each.reason}; {each.remedy}" if each.remedy else each.reason
    if profile.lora and not chosen.profile.lora:
        return "runs, but LoRA was not asked for"
    if wish.lora and not profile.lora:
        return "runs, but without LoRA, which was asked for"
    if profile.online and not chosen.profile.online:
        return "runs, but is quantised while loading, which is only done when asked for by name"
    if wish.profile and wish.profile.strip().lower() != DEFAULT:
        return "runs, but another was asked for"
    if wish.tp or wish.pp:
        return "runs, but other parallel sizes were given as flags"
    if profile.ranks == chosen.profile.ranks:
        return "runs on as many devices, but as pipeline stages" if profile.pp > 1 else "runs, but comes later in order"
    fewer = chosen.profile.ranks
    return f"runs, but takes {profile.ranks} devices where {fewer} {'does' if fewer == 1 else 'do'}"


def _idle(fits: Sequence[Fit], chosen: Fit, gpus: int) -> str | None:
    """Which GPUs stay unused, and the flag that uses the most of them with the same engine and precision."""
    profile = chosen.profile
    unused = gpus - profile.ranks
    if unused <= 0:
        return None
    kind = (profile.backend, profile.precision, profile.lora, profile.online)
    wider = [
        each.profile
        for each in fits
        if each.is_runnable
        and profile.ranks < each.profile.ranks <= gpus
        and (each.profile.backend, each.profile.precision, each.profile.lora, each.profile.online) == kind
    ]
    what = f"{unused} of {gpus} GPUs {'stays' if unused == 1 else 'stay'} idle"
    if not wider:
        return f"{what}: no profile uses more"
    best = max(wider, key=lambda each: (each.ranks, -each.pp))
    stages = f" --pipeline-parallel-size {best.pp}" if best.pp > 1 else ""
    return f"{what}: --tensor-parallel-size {best.tp}{stages} would use {best.ranks}"


def _none_runs(candidates: Sequence[Fit], wish: Wish, gpus: int) -> NoRunnableProfile:
    """The fault, with the reason of the profile that comes nearest: it lacks the fewest GPUs, then needs the least."""

    def distance(each: Fit) -> tuple[int, int, int]:
        return list(Verdict).index(each.verdict), max(0, each.profile.ranks - max(1, gpus)), each.needed_bytes

    nearest = min(candidates, key=distance, default=None)
    if nearest is None:
        return NoRunnableProfile("this model has no profiles")
    what = f"profile {nearest.profile}" if wish.profile or wish.tp or wish.pp else "no profile of this model"
    verb = "does not run" if what.startswith("profile") else "runs"
    lead = "" if what.startswith("profile") else f"; the nearest is {nearest.profile}"
    return NoRunnableProfile(f"{what} {verb} on this machine{lead}: {nearest.reason}", remedy=nearest.remedy)
