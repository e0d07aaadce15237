"""Which engine of those found here is spoken to: the one asked for, else the first that suits the machine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lading.backends.interface import Backend, Installation
from lading.backends.members import BACKENDS
from lading.errors import EngineNotInstalled
from lading.hardware.inventory import Device

DEFAULT_FAMILY = next(iter(BACKENDS))


@dataclass(frozen=True, slots=True)
class SpokenEngine:
    """The engine that flags are written for. ``version`` is empty where none is installed: the newest counts."""

    backend: Backend
    version: str = ""

    @classmethod
    def of(cls, installations: Sequence[Installation]) -> SpokenEngine:
        """The engine of these installations, which are of one family; of the default family where there are none."""
        if not installations:
            return cls(BACKENDS[DEFAULT_FAMILY])
        return cls(BACKENDS[installations[0].backend], installations[0].version)


def of_one_family(
    found: Sequence[Installation], asked: str | None, device: Callable[[], Device]
) -> tuple[Installation, ...]:
    """The installations of the engine to use; none where the one that is ``asked`` for is not here.

    Unasked, the first in order of preference that is built for this machine's ``device``, else the first. The device
    is asked for only where there is a choice.
    """
    families = list(dict.fromkeys(each.backend for each in found))
    if asked is None and len(families) > 1:
        here = device()
        asked = next((each.backend for each in found if each.device is here), families[0])
    return tuple(each for each in found if asked in (None, each.backend))


def require_asked(found: Sequence[Installation], asked: str | None) -> None:
    """Raises EngineNotInstalled where an engine is asked for that is not among those ``found``."""
    if asked is None or any(each.backend == asked for each in found):
        return
    here = ", ".join(f"{each.backend} {each.version}" for each in found) or "no engine"
    choices = " or ".join(dict.fromkeys(each.backend for each in found))
    raise EngineNotInstalled(
        f"LADING_BACKEND={asked}: {asked} is not installed; found here: {here}",
        remedy=f"put its program on PATH, or set LADING_BACKEND to {choices}" if found else "put its program on PATH",
    )
