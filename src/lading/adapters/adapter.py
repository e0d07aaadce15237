"""An adapter as it was seen, and what to do about what is seen: pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Adapter:
    """One adapter, at one look.

    ``files`` are names that engines know, with the absolute paths of their bytes. ``mark`` changes when the bytes may
    have; ``is_final`` says that those at the paths never will. ``origin`` is where it is, for people. ``problem`` is
    why it cannot be taken, where one look is enough to tell; else "".
    """

    name: str
    origin: str
    files: tuple[tuple[str, Path], ...]
    mark: str
    is_final: bool = False
    problem: str = ""


class Step(IntEnum):
    """What to do about an adapter, in the order of doing it: room is made first."""

    UNLOAD = 0
    REPLACE = 1
    LOAD = 2


@dataclass(frozen=True, slots=True)
class Change:
    """One step for one adapter."""

    step: Step
    name: str


def changes(
    now: Mapping[str, str], loaded: Mapping[str, str], refused: Mapping[str, str], moving: Collection[str]
) -> tuple[Change, ...]:
    """What makes ``loaded`` like ``now``, both marks by name.

    Adapters ``refused`` at the same mark stay as they are, and so do those that are ``moving``: still being written.
    """
    found = [Change(Step.UNLOAD, name) for name in loaded if name not in now]
    for name, mark in now.items():
        if name in moving or refused.get(name) == mark or loaded.get(name) == mark:
            continue
        found.append(Change(Step.REPLACE if name in loaded else Step.LOAD, name))
    return tuple(sorted(found, key=lambda each: (each.step, each.name)))
