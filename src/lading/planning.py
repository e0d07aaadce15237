"""Which GPUs could serve a model: every GPU of the catalogue in the usual numbers, each judged as a machine of its own.

The model is looked at once; what follows is pure. On each machine a profile that uses all of its GPUs is taken, tensor
parallel before pipeline stages, with the longest sequence that it serves and how many of those it holds at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from lading.hardware.catalogue import CataloguedGpu, described
from lading.model.facts import ModelFacts
from lading.profiles.fit import Engine, Fit, Verdict, Wish, fit
from lading.profiles.profile import Profile

COUNTS = (1, 2, 4, 8)


@dataclass(frozen=True, slots=True)
class Offer:
    """One machine of the catalogue, and the best fit on it. ``max_model_len`` is 0 where the model does not fit."""

    gpu: CataloguedGpu
    count: int
    fit: Fit
    max_model_len: int
    concurrency: float

    @property
    def serves(self) -> bool:
        """Whether the model can be served there, if with a shorter length than its own."""
        return self.max_model_len > 0


def plan_machines(
    facts: ModelFacts,
    profiles: Sequence[Profile],
    engines: Sequence[Engine],
    wish: Wish,
    gpus: Iterable[CataloguedGpu],
) -> tuple[Offer, ...]:
    """An offer for each of ``gpus`` in each of :data:`COUNTS`, in order; counts that no profile uses are left out."""
    wanted = [each for each in profiles if _is_wanted(each, wish)]
    return tuple(
        offer
        for gpu in gpus
        for count in COUNTS
        for offer in _offers(facts, [each for each in wanted if _uses(each, wish) == count], engines, wish, gpu, count)
    )


def _is_wanted(profile: Profile, wish: Wish) -> bool:
    is_asked = (wish.tp or profile.tp, wish.pp or profile.pp) == (profile.tp, profile.pp)
    return is_asked and profile.lora == wish.lora and not profile.online


def _uses(profile: Profile, wish: Wish) -> int:
    return profile.ranks * wish.options.data_parallel


def _offers(
    facts: ModelFacts,
    profiles: Sequence[Profile],
    engines: Sequence[Engine],
    wish: Wish,
    gpu: CataloguedGpu,
    count: int,
) -> Iterator[Offer]:
    inventory = described(f"{count}x{gpu.name}")
    there = [replace(each, device=inventory.device) for each in engines]
    fits = [fit(each, facts, inventory, there, wish) for each in profiles]
    if fits:
        best = min(fits, key=lambda each: (list(Verdict).index(each.verdict), each.profile.pp))
        yield _offer(gpu, count, best)


def _offer(gpu: CataloguedGpu, count: int, best: Fit) -> Offer:
    match best.verdict:
        case Verdict.COMPATIBLE:
            length = best.suggested_max_model_len or best.estimate.max_model_len
        case Verdict.LOW_MEMORY:
            length = best.suggested_max_model_len or 0
        case Verdict.INCOMPATIBLE:
            length = 0
    rank = replace(best.estimate.binding, max_model_len=length)
    return Offer(gpu, count, best, length, rank.concurrency if length else 0.0)
