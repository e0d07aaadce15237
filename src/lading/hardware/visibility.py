"""Which of a machine's GPUs an engine gets: CUDA's rules for its variables, and the container runtime's variable. Pure.

``CUDA_VISIBLE_DEVICES`` is read as CUDA reads it: numbers count in the order of ``CUDA_DEVICE_ORDER``; ``GPU-`` and
``MIG-`` begin a UUID or an unambiguous part of one; the first entry that names nothing ends the list; a GPU named twice
empties it, and so does an empty value. CUDA shows no whole GPU beside a MIG instance.

``NVIDIA_VISIBLE_DEVICES`` is an order to the container runtime, which has carried it out before anything here runs: the
GPUs that remain are numbered from 0, so that its numbers mean others inside. It is applied where it was not, outside of
containers and in privileged ones, which shows in the number of GPUs. ``docs/reference/inventory.md`` has it for users.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lading.hardware.driver import DriverGpu, MigInstance
from lading.hardware.inventory import HiddenBy, HiddenGpu

CUDA = HiddenBy.CUDA_VISIBLE_DEVICES
CONTAINER = HiddenBy.NVIDIA_VISIBLE_DEVICES
_ORDER = "CUDA_DEVICE_ORDER"
_NO_INSTANCE = "is in MIG mode and has no instance: `nvidia-smi mig -cgi` makes one, `nvidia-smi -mig 0` ends the mode"
_BESIDE_MIG = "is not used: CUDA shows no whole GPU beside a MIG instance; CUDA_VISIBLE_DEVICES can choose it alone"
_NUMBER = re.compile(r"\s*([+-]?\d+)")  # and what follows is ignored, as strtol does
_PLACE = re.compile(r"(\d+)(?::(\d+))?")


@dataclass(frozen=True, slots=True)
class Slot:
    """What CUDA counts as a device: a whole GPU, or a MIG instance of one."""

    gpu: DriverGpu
    instance: MigInstance | None = None

    @property
    def name(self) -> str:
        """The device's name."""
        return self.instance.name if self.instance else self.gpu.name

    @property
    def uuid(self) -> str:
        """The device's UUID."""
        return self.instance.uuid if self.instance else self.gpu.uuid

    def hidden(self, by: HiddenBy, reason: str) -> HiddenGpu:
        """The device as one that an engine does not get."""
        return HiddenGpu(self.gpu.index, self.name, self.uuid, by, reason)


@dataclass(frozen=True, slots=True)
class Visibility:
    """The devices that an engine gets, in CUDA's order; the others with the reason; what a user should know."""

    shown: tuple[Slot, ...]
    hidden: tuple[HiddenGpu, ...] = ()
    notes: tuple[str, ...] = ()


def visible(gpus: Sequence[DriverGpu], environ: Mapping[str, str]) -> Visibility:
    """Which devices of ``gpus`` an engine started with ``environ`` gets."""
    usable = [gpu for gpu in gpus if gpu.fault is None and gpu.instances != ()]
    slots = [slot for gpu in _ordered(usable, environ.get(_ORDER)) for slot in _slots(gpu)]
    chosen, remark = _chosen(slots, environ.get(CUDA))
    granted, notes = _granted(slots, environ.get(CONTAINER))
    shown = [slot for slot in chosen if slot in granted]
    has_instance = any(slot.instance for slot in shown)
    beside = [slot for slot in shown if has_instance and not slot.instance]
    hidden = [_unusable(gpu) for gpu in gpus if gpu not in usable]
    hidden += [slot.hidden(HiddenBy.MIG, _BESIDE_MIG) for slot in beside]
    for slot in slots:
        if slot not in granted:
            hidden.append(slot.hidden(CONTAINER, f"hidden by {CONTAINER}={environ[CONTAINER]}"))
        elif slot not in chosen:
            hidden.append(slot.hidden(CUDA, f"hidden by {CUDA}={environ[CUDA]}{remark}"))
    return Visibility(
        tuple(slot for slot in shown if slot not in beside),
        tuple(sorted(hidden, key=lambda each: each.index)),
        (*notes, *_order_note(usable, environ)),
    )


def _unusable(gpu: DriverGpu) -> HiddenGpu:
    if gpu.fault is None:
        return Slot(gpu).hidden(HiddenBy.MIG, _NO_INSTANCE)
    if gpu.is_denied:
        return Slot(gpu).hidden(HiddenBy.PERMISSION, "is not for this user or container: its device may not be opened")
    return Slot(gpu).hidden(HiddenBy.FAULT, f"does not answer ({gpu.fault}): `nvidia-smi` tells more")


def _slots(gpu: DriverGpu) -> list[Slot]:
    return [Slot(gpu)] if gpu.instances is None else [Slot(gpu, instance) for instance in gpu.instances]


def _ordered(gpus: Sequence[DriverGpu], order: str | None) -> Sequence[DriverGpu]:
    """By bus, as NVML has them, where that is asked; else the fastest first, as far as all speeds are known."""
    if order == "PCI_BUS_ID" or not all(gpu.speed for gpu in gpus):
        return gpus
    return sorted(gpus, key=lambda gpu: -gpu.speed)


def _order_note(gpus: Sequence[DriverGpu], environ: Mapping[str, str]) -> list[str]:
    """A warning where a number may mean another GPU to CUDA than to nvidia-smi."""
    counts = re.match(r"\s*\d", environ.get(CUDA, ""))
    if not counts or environ.get(_ORDER) == "PCI_BUS_ID" or len({gpu.name for gpu in gpus}) < 2:
        return []
    return [f"{CUDA} counts from the fastest GPU; with {_ORDER}=PCI_BUS_ID it counts as nvidia-smi does"]


def _chosen(slots: Sequence[Slot], text: str | None) -> tuple[list[Slot], str]:
    """What ``CUDA_VISIBLE_DEVICES`` leaves, in its order, and a remark on where it ended early."""
    if text is None:
        return list(slots), ""
    chosen: list[Slot] = []
    for entry in text.split(",") if text.strip() else []:
        named = _named(slots, entry, text)
        if not named:
            stop = "" if entry.strip() == "-1" else f": it ends at {entry!r}, which names no GPU"
            return chosen, stop
        if any(slot in chosen for slot in named):
            return [], f": {entry!r} names a GPU again, and then CUDA shows none"
        chosen += named
    return chosen, ""


def _named(slots: Sequence[Slot], entry: str, text: str) -> list[Slot]:
    """The devices that an entry names. All entries are of the kind that the whole text begins with."""
    for kind in ("GPU-", "MIG-"):
        if text.startswith(kind):
            return _by_name(slots, entry) if entry.startswith(kind) else []
    number = _NUMBER.match(entry)
    gpus = list(dict.fromkeys(slot.gpu for slot in slots))
    if not number or not 0 <= int(number[1]) < len(gpus):
        return []
    return _slots(gpus[int(number[1])])


def _by_name(slots: Sequence[Slot], name: str) -> list[Slot]:
    """The one GPU, with its instances, or the one instance that a UUID or the beginning of one names; none for two."""
    exact = [slot for slot in slots if name in _names(slot)]
    begun = [slot for slot in slots if any(each.startswith(name) for each in _names(slot))]
    is_one = len({slot.gpu.index for slot in begun}) == 1 if name.startswith("GPU-") else len(begun) == 1
    return exact or (begun if is_one else [])


def _names(slot: Slot) -> list[str]:
    """UUIDs that name a device; instances have an older form too, by the ids of their parts."""
    if not slot.instance:
        return [slot.gpu.uuid]
    older = f"MIG-{slot.gpu.uuid}/{slot.instance.gpu_instance}/{slot.instance.compute_instance}"
    return [slot.gpu.uuid, slot.uuid, older]


def _granted(slots: Sequence[Slot], text: str | None) -> tuple[Sequence[Slot], list[str]]:
    """What ``NVIDIA_VISIBLE_DEVICES`` leaves of what is here.

    ``void`` hides nothing: runtimes set it beside the GPUs that they inject by other means (CDI).
    """
    entries = [each.strip().rpartition("=")[2] for each in (text or "").split(",") if each.strip()]
    if not entries or entries == ["void"] or "all" in entries:
        return slots, []
    if entries == ["none"]:
        return [], []
    if _is_carried_out(slots, entries):
        return slots, []
    granted = [slot for slot in slots if any(slot in _placed(slots, entry) for entry in entries)]
    if not granted and slots:
        return slots, [f"{CONTAINER}={text} names no GPU of this machine and is passed over"]
    return granted, []


def _is_carried_out(slots: Sequence[Slot], entries: Sequence[str]) -> bool:
    """Whether there are no more devices here than numbers were given: the others have been taken away."""
    places = [found for entry in set(entries) if (found := _PLACE.fullmatch(entry))]
    if len(places) < len(set(entries)):
        return False
    here = len(slots) if any(place[2] for place in places) else len({slot.gpu.index for slot in slots})
    return here <= len(places)


def _placed(slots: Sequence[Slot], entry: str) -> list[Slot]:
    """The devices that ``1``, ``1:0`` (a MIG instance) or a UUID names, numbered as NVML does."""
    place = _PLACE.fullmatch(entry)
    if not place:
        return _by_name(slots, entry) if entry.startswith(("GPU-", "MIG-")) else []
    gpu = [slot for slot in slots if slot.gpu.index == int(place[1])]
    return gpu if place[2] is None else gpu[int(place[2]) : int(place[2]) + 1]
