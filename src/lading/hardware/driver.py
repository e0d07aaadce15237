"""What the NVIDIA driver tells of a machine's GPUs, as values; :mod:`lading.hardware.nvml` reads them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

SWITCH = "switch"


@dataclass(frozen=True, slots=True)
class DriverMemory:
    """Bytes of a GPU or MIG instance. ``reserved_bytes`` is what the driver keeps, 0 where it does not say."""

    total_bytes: int
    free_bytes: int
    reserved_bytes: int = 0


@dataclass(frozen=True, slots=True)
class MigInstance:
    """A part of a GPU in MIG mode: to CUDA, a device. ``gpu_instance`` and ``compute_instance`` are ids."""

    name: str
    uuid: str
    profile: str
    memory: DriverMemory | None
    gpu_instance: int
    compute_instance: int


@dataclass(frozen=True, slots=True)
class DriverGpu:
    """A GPU in the machine.

    ``memory`` is None where the driver has no figure: the GPU shares the machine's RAM. ``speed`` only compares GPUs, 0
    for unknown. ``instances`` is None outside MIG mode. ``link_ends`` is what its NVLinks lead to: bus ids of GPUs,
    :data:`SWITCH`, ``""`` for something else; ``links`` the indices of the GPUs that they reach; None for unknown.
    ``fault`` is why the GPU cannot be used, else None; then all but the index may be missing. ``is_denied``: the fault
    is that this process may not use it.
    """

    index: int
    name: str = ""
    uuid: str = ""
    pci_id: str = ""
    bus_id: str = ""
    compute_capability: tuple[int, int] = (0, 0)
    memory: DriverMemory | None = None
    speed: int = 0
    instances: tuple[MigInstance, ...] | None = None
    link_ends: frozenset[str] | None = None
    links: frozenset[int] | None = None
    fault: str | None = None
    is_denied: bool = False


@dataclass(frozen=True, slots=True)
class DriverReport:
    """All that the driver tells, GPUs by index; ``note`` says why there are none where that is no error."""

    gpus: tuple[DriverGpu, ...] = ()
    driver_version: str | None = None
    cuda_version: str | None = None
    note: str | None = None


def with_links(gpus: Iterable[DriverGpu], ask: Callable[[int, int], bool | None]) -> tuple[DriverGpu, ...]:
    """The GPUs with their links. ``ask`` tells of two, by index, whether NVLink joins them; None: the ends decide."""
    every = tuple(gpus)

    def links(gpu: DriverGpu) -> frozenset[int] | None:
        others = [other for other in every if other.index != gpu.index and not other.fault]
        joined = {other.index: _is_joined(gpu, other, ask) for other in others}
        return None if None in joined.values() else frozenset(index for index, is_joined in joined.items() if is_joined)

    return tuple(gpu if gpu.fault else replace(gpu, links=links(gpu)) for gpu in every)


def _is_joined(one: DriverGpu, other: DriverGpu, ask: Callable[[int, int], bool | None]) -> bool | None:
    if one.link_ends == frozenset() or other.link_ends == frozenset():
        return False
    told = ask(one.index, other.index)
    if told is not None or one.link_ends is None or other.link_ends is None:
        return told
    return other.bus_id in one.link_ends or SWITCH in one.link_ends & other.link_ends
