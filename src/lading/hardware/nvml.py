"""Read what the NVIDIA driver tells of this machine's GPUs, through NVML.

Rules: what a driver does not tell is "unknown", not an error; a GPU that does not answer is a fault of its own
beside those that do; no driver, or one without GPUs, is a note. A driver that is there and fails is a MachineError.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from lading.errors import MachineError
from lading.hardware.driver import SWITCH, DriverGpu, DriverMemory, DriverReport, MigInstance, with_links

T = TypeVar("T")
_WSL_LIBRARY = Path("/usr/lib/wsl/lib/libnvidia-ml.so.1")
_NO_LIBRARY = "no NVIDIA driver was found (libnvidia-ml.so.1); a container gets it with --gpus all"
_NO_LIBRARY_ON_PATH = f"the NVIDIA driver is not on the loader's path: add {_WSL_LIBRARY.parent} to LD_LIBRARY_PATH"
_NOT_LOADED = "the NVIDIA driver is installed and not loaded: `nvidia-smi` tells more, `modprobe nvidia` loads it"
_NOT_PERMITTED = "this user may not ask the NVIDIA driver; the devices /dev/nvidia* must be readable and writable"
_NO_GPUS = "the NVIDIA driver is loaded and shows no GPU"


def read_driver() -> DriverReport:
    """What the driver tells. Raises MachineError when it is there and does not answer, or none of its GPUs does."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError_LibraryNotFound:
        return DriverReport(note=_NO_LIBRARY_ON_PATH if _WSL_LIBRARY.exists() else _NO_LIBRARY)
    except pynvml.NVMLError_DriverNotLoaded:
        return DriverReport(note=_NOT_LOADED)
    except pynvml.NVMLError_NoPermission:
        return DriverReport(note=_NOT_PERMITTED)
    except pynvml.NVMLError as error:
        raise _unanswered(error) from error
    try:
        return _report()
    except pynvml.NVMLError as error:
        raise _unanswered(error) from error
    finally:
        pynvml.nvmlShutdown()


def _unanswered(error: Exception) -> MachineError:
    import pynvml

    if isinstance(error, pynvml.NVMLError_LibRmVersionMismatch):
        return MachineError(
            "the NVIDIA driver's library and its kernel module are of different versions",
            remedy="restart the machine, or load the module anew; `nvidia-smi` should work before Lading can",
        )
    if isinstance(error, pynvml.NVMLError_FunctionNotFound):
        version = _known(pynvml.nvmlSystemGetDriverVersion, None)
        return MachineError(
            f"the NVIDIA driver{f' {version}' if version else ''} is too old: it lacks functions that Lading asks",
            remedy="install a newer driver; `nvidia-smi` shows which one is here",
        )
    return MachineError(
        f"the NVIDIA driver does not answer: {error}", remedy="`nvidia-smi` should work before Lading can"
    )


def _report() -> DriverReport:
    import pynvml

    gpus = [_gpu(index) for index in range(pynvml.nvmlDeviceGetCount())]
    faults = [f"GPU {gpu.index}: {gpu.fault}" for gpu in gpus if gpu.fault and not gpu.is_denied]
    if faults and all(gpu.fault for gpu in gpus):
        raise MachineError(
            f"no GPU answers ({'; '.join(faults)})", remedy="`nvidia-smi` tells more; a restart may bring them back"
        )
    return DriverReport(
        gpus=with_links(gpus, _has_peer_access),
        driver_version=_known(pynvml.nvmlSystemGetDriverVersion, None),
        cuda_version=_cuda_version(),
        note=None if gpus else _NO_GPUS,
    )


def _cuda_version() -> str | None:
    import pynvml

    number = _known(pynvml.nvmlSystemGetCudaDriverVersion_v2, 0)
    return f"{number // 1000}.{number % 1000 // 10}" if number else None


def _gpu(index: int) -> DriverGpu:
    """One GPU, or its fault. A function that the driver lacks is no fault of the GPU's."""
    import pynvml

    try:
        return _facts(index, pynvml.nvmlDeviceGetHandleByIndex(index))
    except pynvml.NVMLError_FunctionNotFound:
        raise
    except pynvml.NVMLError as error:
        return DriverGpu(index, fault=str(error), is_denied=isinstance(error, pynvml.NVMLError_NoPermission))


def _facts(index: int, handle: Any) -> DriverGpu:
    import pynvml

    name = str(pynvml.nvmlDeviceGetName(handle))
    instances = _instances(handle, name)
    major, minor = pynvml.nvmlDeviceGetCudaComputeCapability(handle)
    pci = pynvml.nvmlDeviceGetPciInfo(handle)
    cores = _known(lambda: pynvml.nvmlDeviceGetNumGpuCores(handle), 0)
    clock = _known(lambda: pynvml.nvmlDeviceGetMaxClockInfo(handle, pynvml.NVML_CLOCK_SM), 0)
    return DriverGpu(
        index=index,
        name=name,
        uuid=str(_known(lambda: pynvml.nvmlDeviceGetUUID(handle), "")),
        pci_id=f"{pci.pciDeviceId >> 16:04x}:{pci.pciDeviceId & 0xFFFF:04x}",
        bus_id=_bus_id(pci),
        compute_capability=(int(major), int(minor)),
        memory=_memory(handle) if instances is None else None,
        speed=int(cores) * int(clock),
        instances=instances,
        link_ends=_link_ends(handle),
    )


def _known(ask: Callable[[], T], otherwise: T) -> T:
    """The answer to what need not be known; ``otherwise`` where there is none."""
    import pynvml

    try:
        return ask()
    except pynvml.NVMLError:
        return otherwise


def _memory(handle: Any) -> DriverMemory | None:
    """Figures with the driver's own share where it tells that (drivers since 510); None where there are none at all."""
    import pynvml

    told = _known(lambda: pynvml.nvmlDeviceGetMemoryInfo(handle, pynvml.nvmlMemory_v2), None)
    if told is None:
        try:
            told = pynvml.nvmlDeviceGetMemoryInfo(handle)
        except pynvml.NVMLError_NotSupported:
            return None
    reserved = int(getattr(told, "reserved", 0))
    return DriverMemory(int(told.total), int(told.free), reserved) if told.total else None


def _instances(handle: Any, name: str) -> tuple[MigInstance, ...] | None:
    """The MIG instances of a GPU, as the driver numbers them; None outside MIG mode."""
    import pynvml

    off = pynvml.NVML_DEVICE_MIG_DISABLE
    mode, _ = _known(lambda: pynvml.nvmlDeviceGetMigMode(handle), [off, off])
    if mode == off:
        return None
    found = []
    for number in range(_known(lambda: pynvml.nvmlDeviceGetMaxMigDeviceCount(handle), 0)):
        try:
            found.append(_instance(pynvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, number), handle, name))
        except pynvml.NVMLError_NotFound:
            continue
    return tuple(found)


def _instance(handle: Any, parent: Any, parent_name: str) -> MigInstance:
    import pynvml

    attributes = _known(lambda: pynvml.nvmlDeviceGetAttributes(handle), None)
    name = str(_known(lambda: pynvml.nvmlDeviceGetName(handle), parent_name))
    memory = _memory(handle)
    if memory is None and attributes:
        memory = DriverMemory(attributes.memorySizeMB << 20, attributes.memorySizeMB << 20)
    profile = name.partition(" MIG ")[2]
    if not profile and attributes:
        whole = _known(partial(_memory, parent), None)
        profile = _profile(attributes, whole.total_bytes if whole else 0)
    return MigInstance(
        name=name if " MIG " in name else f"{parent_name} MIG {profile}".rstrip(),
        uuid=str(pynvml.nvmlDeviceGetUUID(handle)),
        profile=profile,
        memory=memory,
        gpu_instance=int(_known(lambda: pynvml.nvmlDeviceGetGpuInstanceId(handle), 0)),
        compute_instance=int(_known(lambda: pynvml.nvmlDeviceGetComputeInstanceId(handle), 0)),
    )


def _profile(attributes: Any, whole_bytes: int) -> str:
    """``1g.10gb``, ``1c.3g.40gb``: the name by its slices and its share of the memory, which comes in eighths."""
    slices, computing = attributes.gpuInstanceSliceCount, attributes.computeInstanceSliceCount
    size_bytes = attributes.memorySizeMB << 20
    if whole_bytes:
        size_bytes = -(-8 * size_bytes // whole_bytes) * whole_bytes // 8
    part = f"{computing}c." if computing < slices else ""
    return f"{part}{slices}g.{round(size_bytes / (1 << 30))}gb"


def _link_ends(handle: Any) -> frozenset[str] | None:
    """What the NVLinks that are up lead to: bus ids of GPUs, SWITCH, ``""`` for what is not told; None for unknown."""
    import pynvml

    try:
        up = [link for link in range(pynvml.NVML_NVLINK_MAX_LINKS) if _is_up(handle, link)]
        return frozenset(_known(partial(_link_end, handle, link), "") for link in up)
    except (pynvml.NVMLError_NotSupported, pynvml.NVMLError_InvalidArgument):
        return frozenset()
    except pynvml.NVMLError:
        return None


def _is_up(handle: Any, link: int) -> bool:
    """The state of a link. Links beyond the last are not supported; the first is not, where the GPU has none at all."""
    import pynvml

    try:
        return bool(pynvml.nvmlDeviceGetNvLinkState(handle, link) == pynvml.NVML_FEATURE_ENABLED)
    except (pynvml.NVMLError_NotSupported, pynvml.NVMLError_InvalidArgument):
        if link == 0:
            raise
        return False


def _link_end(handle: Any, link: int) -> str:
    import pynvml

    kind = _known(lambda: pynvml.nvmlDeviceGetNvLinkRemoteDeviceType(handle, link), pynvml.NVML_NVLINK_DEVICE_TYPE_GPU)
    if kind == pynvml.NVML_NVLINK_DEVICE_TYPE_SWITCH:
        return SWITCH
    return _bus_id(pynvml.nvmlDeviceGetNvLinkRemotePciInfo(handle, link))


def _bus_id(pci: Any) -> str:
    return str(pci.busId).upper()


def _has_peer_access(one: int, other: int) -> bool | None:
    """Whether peer access over NVLink works between two GPUs, which is what engines ask; None where nobody knows."""
    import pynvml

    try:
        handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in (one, other)]
        status = pynvml.nvmlDeviceGetP2PStatus(*handles, pynvml.NVML_P2P_CAPS_INDEX_NVLINK)
    except pynvml.NVMLError:
        return None
    return bool(status == pynvml.NVML_P2P_STATUS_OK)
