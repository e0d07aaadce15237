"""What a request for adapters comes to, decided before the engine starts: where to look, what room to keep."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lading.adapters.keeper import AdapterKeeper, Base
from lading.adapters.places import Library, Place, place_of
from lading.adapters.request import LoraRequest
from lading.adapters.room import room_for, with_room
from lading.backends.interface import LoraApi, LoraRoom
from lading.errors import LadingError, MalformedModel, UsageError
from lading.events import Note, Report
from lading.model.lora import AdapterConfig
from lading.profiles.fit import Wish
from lading.uri import ModelUri


@dataclass(frozen=True, slots=True)
class AdapterPlan:
    """Where adapters are looked for and the room that is kept for them; None: the engine serves none."""

    asked: LoraRequest
    places: tuple[Place, ...] = ()
    room: LoraRoom | None = None

    def keeper(self, base: Base | None, runtime: Path, report: Report) -> AdapterKeeper | None:
        """Who keeps the adapters on ``base``, None for an engine that takes none while it runs.

        What it is given lies below ``runtime``. None where there is nothing to keep.
        """
        if not self.places:
            return None
        if base is None:
            report(Note("this engine takes no LoRA adapters while it runs: NIM_PEFT_SOURCE is not read", "WARNING"))
            return None
        interval = self.asked.refresh_seconds
        return AdapterKeeper(self.places, base, runtime / "adapters", report, refresh_seconds=interval)


def plan_adapters(
    asked: LoraRequest, wish: Wish, library: Library, *, model: ModelUri | None, api: LoraApi | None
) -> tuple[AdapterPlan, Wish]:
    """The plan, and the wish with the memory that it takes. Fetches no weights.

    ``model`` is what is served, where it is one repository; ``api`` is that of the engine. Raises what looking at a
    place gives rise to, unless it is watched and may get well.
    """
    if not (asked.sources or wish.lora):
        return AdapterPlan(asked), wish
    if model in [each.uri for each in asked.sources]:
        raise UsageError(
            f"NIM_PEFT_SOURCE names {model}, which is the model itself", remedy="name where the LoRA adapters are"
        )
    is_watched = asked.refresh_seconds is not None
    places = tuple(place_of(each, library, is_watched=is_watched) for each in asked.sources)
    ranks = [rank for place in places for rank in _ranks(place, library.report, must=not is_watched)]
    room = room_for(ranks, asked, wish, api.host_slots if api else None)
    return AdapterPlan(asked, places, room), with_room(wish, room)


def _ranks(place: Place, report: Report, *, must: bool) -> list[int]:
    """The ranks of the adapters there; what cannot be read is told when it is to be loaded."""
    ranks = []
    try:
        for text in place.configs():
            try:
                ranks.append(AdapterConfig.parse(text).rank)
            except MalformedModel:
                continue
    except LadingError as error:
        if must:
            raise
        report(Note(f"the LoRA adapters are not sized: {error.message}", "WARNING"))
    return ranks
