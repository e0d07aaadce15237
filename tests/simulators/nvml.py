"""GPUs where there are none: a stand-in of NVIDIA's management library, compiled for the machine that a test describes
and put on the loader's path."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lading.units import MIB

SOURCE = Path(__file__).with_name("nvml.c")
SWITCH = -2
_NO_LINK, _LINKS = -1, 18

NOT_SUPPORTED, NO_PERMISSION, GPU_IS_LOST = 3, 4, 15


@dataclass(frozen=True, slots=True)
class Instance:
    """A MIG instance. ``megabytes`` is the size among its attributes; ``name`` may lack the profile, as old drivers do."""

    name: str
    uuid: str
    total_bytes: int
    used_bytes: int = 0
    reserved_bytes: int = 0
    megabytes: int = 0
    slices: int = 1
    computing: int = 1
    gpu_instance: int = 1
    compute_instance: int = 0
    memory_fault: int = 0


@dataclass(frozen=True, slots=True)
class StandInGpu:
    """A GPU. ``links`` are the indices of the GPUs at their other ends, or SWITCH; ``instances`` None: MIG mode is off."""

    name: str = "NVIDIA H100 80GB HBM3"
    uuid: str = "GPU-00000000-0000-0000-0000-000000000000"
    total_bytes: int = 81559 * MIB
    used_bytes: int = 0
    reserved_bytes: int = 551 * MIB
    compute_capability: tuple[int, int] = (9, 0)
    pci_number: int = 0x233010DE
    cores: int = 16896
    clock: int = 1980
    links: tuple[int, ...] = ()
    instances: tuple[Instance, ...] | None = None
    fault: int = 0
    memory_fault: int = 0


H100 = StandInGpu(uuid="GPU-aaaaaaaa-0000-1111-2222-333333333333", used_bytes=800 * MIB, links=(SWITCH,) * _LINKS)
TWO_H100 = (H100, replace(H100, uuid="GPU-bbbbbbbb-0000-1111-2222-333333333333", used_bytes=40780 * MIB))


def build(
    directory: Path,
    gpus: Sequence[StandInGpu] = TWO_H100,
    *,
    driver: str = "580.65.06",
    cuda: int = 13000,
    without: Sequence[str] = (),
) -> dict[str, str] | None:
    """The variables that make a program find the stand-in, or None where there is no C compiler.

    ``without`` names functions that the library lacks, as an old driver's does.
    """
    compiler = shutil.which("cc")
    if compiler is None:
        return None
    (directory / "nvml_machine.h").write_text(_machine(gpus, driver, cuda))
    library = directory / "libnvidia-ml.so.1"
    absent = [f"-D{name}=absent_{name}" for name in without]
    command = [compiler, "-shared", "-fPIC", "-Wall", "-Werror", f"-I{directory}", *absent]
    subprocess.run([*command, "-o", str(library), str(SOURCE)], check=True)
    return {"LD_LIBRARY_PATH": str(directory)}


def _machine(gpus: Sequence[StandInGpu], driver: str, cuda: int) -> str:
    instances = [instance for gpu in gpus for instance in gpu.instances or ()]
    rows, first = [], 0
    for index, gpu in enumerate(gpus):
        rows.append(_gpu_row(gpu, index, first))
        first += len(gpu.instances or ())
    return "\n".join(
        [
            f"#define DRIVER {json.dumps(driver)}",
            f"#define CUDA {cuda}",
            f"#define GPU_COUNT {len(gpus)}",
            f"static const gpu_t GPUS[] = {{ {', '.join(rows) or '{0}'} }};",
            f"static const instance_t INSTANCES[] = {{ {', '.join(map(_instance_row, instances)) or '{0}'} }};\n",
        ]
    )


def _gpu_row(gpu: StandInGpu, index: int, first: int) -> str:
    links = [*gpu.links, *[_NO_LINK] * (_LINKS - len(gpu.links))]
    texts = (json.dumps(each) for each in (gpu.name, gpu.uuid, f"00000000:{index + 1:02x}:00.0"))
    numbers = (
        *(gpu.total_bytes, gpu.used_bytes, gpu.reserved_bytes, *gpu.compute_capability),
        *(gpu.pci_number, gpu.cores, gpu.clock, gpu.fault, gpu.memory_fault),
        *(int(gpu.instances is not None), first, len(gpu.instances or ())),
    )
    return f"{{ {', '.join([*texts, *map(str, numbers)])}, {{ {', '.join(map(str, links))} }} }}"


def _instance_row(each: Instance) -> str:
    texts = (json.dumps(text) for text in (each.name, each.uuid))
    numbers = (
        *(each.total_bytes, each.used_bytes, each.reserved_bytes, each.megabytes or each.total_bytes // MIB),
        *(each.slices, each.computing, each.gpu_instance, each.compute_instance, each.memory_fault),
    )
    return f"{{ {', '.join([*texts, *map(str, numbers)])} }}"
