"""Which GPUs an engine gets, as a table: CUDA's variables, the container runtime's, MIG, GPUs that cannot be used."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lading.hardware.driver import SWITCH, DriverGpu, MigInstance, with_links
from lading.hardware.inventory import Gpu, HiddenBy, HiddenGpu, Inventory
from lading.hardware.visibility import visible

A, B, C = (DriverGpu(index, "H100", f"GPU-{letter}1{letter}", speed=9) for index, letter in enumerate("abc"))
TWIN = DriverGpu(3, "H100", "GPU-a2", speed=9)
FOUR = (A, B, C, TWIN)


def instance(number: int, uuid: str) -> MigInstance:
    return MigInstance("H100 MIG 1g.10gb", uuid, "1g.10gb", None, number, 0)


MIG = replace(A, instances=(instance(7, "MIG-x1"), instance(8, "MIG-x2"), instance(9, "MIG-y")))


def shown(gpus, environ) -> list[str]:
    return [slot.uuid.partition("-")[2] for slot in visible(gpus, environ).shown]


def by_cuda(text: str | None) -> dict[str, str]:
    return {} if text is None else {"CUDA_VISIBLE_DEVICES": text}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, ["a1a", "b1b", "c1c", "a2"]),
        ("", []),
        (" ", []),
        ("-1", []),
        ("0", ["a1a"]),
        ("2,0", ["c1c", "a1a"]),
        (" 1 , 2", ["b1b", "c1c"]),
        ("0,-1,2", ["a1a"]),
        ("0,9,2", ["a1a"]),
        ("0,,2", ["a1a"]),
        ("1gpu2,+2x", ["b1b", "c1c"]),
        ("1,2,1", []),
        ("all", []),
        ("NoDevFiles", []),
        ("GPU-b1b", ["b1b"]),
        ("GPU-b", ["b1b"]),
        ("GPU-b,GPU-c1", ["b1b", "c1c"]),
        ("GPU-a", []),
        ("GPU-a1,GPU-a2", ["a1a", "a2"]),
        ("GPU-b,GPU-zz,GPU-c", ["b1b"]),
        ("GPU-b,GPU-b1b", []),
        ("GPU-b,1", ["b1b"]),
        ("GPU-b, GPU-c", ["b1b"]),
        ("0,GPU-b", ["a1a"]),
        ("MIG-x1", []),
    ],
)
def test_cuda_visible_devices_is_read_as_cuda_reads_it(text, expected):
    assert shown(FOUR, by_cuda(text)) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, ["x1", "x2", "y"]),
        ("0", ["x1", "x2", "y"]),
        ("1", []),
        ("GPU-a1a", ["x1", "x2", "y"]),
        ("GPU-a", ["x1", "x2", "y"]),
        ("MIG-y", ["y"]),
        ("MIG-x2,MIG-y", ["x2", "y"]),
        ("MIG-x", []),
        ("MIG-x1,MIG-x1", []),
        ("MIG-GPU-a1a/8/0", ["x2"]),
        ("MIG-GPU-a1a/8", ["x2"]),
        ("MIG-", []),
        ("MIG-y,GPU-a", ["y"]),
    ],
)
def test_mig_instances_are_named_by_their_uuid_or_their_gpus(text, expected):
    assert shown((MIG,), by_cuda(text)) == expected


def test_beside_a_mig_instance_no_whole_gpu_is_shown_unless_chosen_alone():
    both = visible((MIG, B), {})
    assert [slot.uuid for slot in both.shown] == ["MIG-x1", "MIG-x2", "MIG-y"]
    assert [(each.index, each.by) for each in both.hidden] == [(1, HiddenBy.MIG)]
    assert shown((MIG, B), by_cuda("1")) == ["b1b"]


@pytest.mark.parametrize(
    ("order", "text", "expected", "is_warned"),
    [
        (None, "0", ["fast"], True),
        ("FASTEST_FIRST", "1,2", ["slow", "slow2"], True),
        ("PCI_BUS_ID", "0", ["slow"], False),
        (None, None, ["fast", "slow", "slow2"], False),
        (None, "GPU-slow,GPU-fast", ["slow", "fast"], False),
        (None, "GPU-fast", ["fast"], False),
    ],
)
def test_numbers_count_in_cudas_order(order, text, expected, is_warned):
    gpus = (
        DriverGpu(0, "L4", "GPU-slow", speed=1),
        DriverGpu(1, "H100", "GPU-fast", speed=9),
        DriverGpu(2, "L4", "GPU-slow2", speed=1),
    )
    environ = by_cuda(text) | ({"CUDA_DEVICE_ORDER": order} if order else {})
    assert shown(gpus, environ) == expected
    assert any("PCI_BUS_ID" in note for note in visible(gpus, environ).notes) is is_warned
    unknown = tuple(replace(gpu, speed=0) for gpu in gpus)
    assert shown(unknown, by_cuda("0")) == ["slow"], "where speeds are unknown, the bus decides"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, ["a1a", "b1b", "c1c", "a2"]),
        ("", ["a1a", "b1b", "c1c", "a2"]),
        ("all", ["a1a", "b1b", "c1c", "a2"]),
        ("void", ["a1a", "b1b", "c1c", "a2"]),
        ("none", []),
        ("1", ["b1b"]),
        ("2,0", ["a1a", "c1c"]),
        ("nvidia.com/gpu=2", ["c1c"]),
        ("GPU-b1b", ["b1b"]),
        ("GPU-b1b,GPU-elsewhere", ["b1b"]),
        ("4,5,6,7", ["a1a", "b1b", "c1c", "a2"]),
        ("0,9", ["a1a"]),
        ("9", ["a1a", "b1b", "c1c", "a2"]),
        ("/var/run/nvidia-container-devices", ["a1a", "b1b", "c1c", "a2"]),
    ],
)
def test_nvidia_visible_devices_is_applied_where_the_container_runtime_did_not(text, expected):
    environ = {} if text is None else {"NVIDIA_VISIBLE_DEVICES": text}
    assert shown(FOUR, environ) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [("0", ["x1", "x2", "y"]), ("0:1", ["x2"]), ("0:0,0:2", ["x1", "y"]), ("MIG-y", ["y"]), ("5:0,5:1,5:2", ["x1", "x2", "y"])],
)  # fmt: skip
def test_nvidia_visible_devices_names_mig_instances_too(text, expected):
    assert shown((MIG,), {"NVIDIA_VISIBLE_DEVICES": text}) == expected


def test_a_value_that_names_nothing_here_is_passed_over_with_a_note():
    (note,) = visible(FOUR, {"NVIDIA_VISIBLE_DEVICES": "GPU-elsewhere"}).notes
    assert "NVIDIA_VISIBLE_DEVICES=GPU-elsewhere names no GPU" in note
    assert visible((), {"NVIDIA_VISIBLE_DEVICES": "0"}).notes == ()


def test_both_variables_leave_what_both_name():
    environ = {"NVIDIA_VISIBLE_DEVICES": "0,1", "CUDA_VISIBLE_DEVICES": "1,2"}
    found = visible(FOUR, environ)
    assert [slot.uuid for slot in found.shown] == ["GPU-b1b"]
    assert [(each.index, each.by) for each in found.hidden] == [
        (0, HiddenBy.CUDA_VISIBLE_DEVICES),
        (2, HiddenBy.NVIDIA_VISIBLE_DEVICES),
        (3, HiddenBy.NVIDIA_VISIBLE_DEVICES),
    ]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("0", "hidden by CUDA_VISIBLE_DEVICES=0"),
        ("-1", "hidden by CUDA_VISIBLE_DEVICES=-1"),
        ("0,7,1", "hidden by CUDA_VISIBLE_DEVICES=0,7,1: it ends at '7', which names no GPU"),
        ("1,1", "hidden by CUDA_VISIBLE_DEVICES=1,1: '1' names a GPU again, and then CUDA shows none"),
    ],
)
def test_what_is_hidden_says_why(text, reason):
    hidden = visible((A, B), by_cuda(text)).hidden
    assert hidden[-1] == HiddenGpu(1, "H100", "GPU-b1b", HiddenBy.CUDA_VISIBLE_DEVICES, reason)


def test_gpus_that_cannot_be_used_are_not_counted_and_say_why():
    gpus = (replace(A, fault="GPU is lost"), replace(B, instances=()), DriverGpu(2, fault="x", is_denied=True), TWIN)
    found = visible(gpus, by_cuda("0"))
    assert [slot.gpu.index for slot in found.shown] == [3]
    assert [each.by for each in found.hidden] == [HiddenBy.FAULT, HiddenBy.MIG, HiddenBy.PERMISSION]
    words = ["does not answer (GPU is lost)", "is in MIG mode and has no instance", "is not for this user or container"]
    assert all(text in each.reason for text, each in zip(words, found.hidden, strict=True))


@pytest.mark.parametrize(
    ("gpus", "by", "expected"),
    [
        ([(1, None), (3, None)], "NVIDIA_VISIBLE_DEVICES", {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": "1,3"}),
        ([(0, "1g.10gb")], "NVIDIA_VISIBLE_DEVICES", {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": "MIG-0"}),
        ([], "NVIDIA_VISIBLE_DEVICES", {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": "-1"}),
        ([(1, None)], "CUDA_VISIBLE_DEVICES", {}),
    ],
)  # fmt: skip
def test_an_engine_is_told_what_only_the_container_runtime_would_have_hidden(gpus, by, expected):
    found = tuple(Gpu(i, "H100", 9, 9, (9, 0), uuid=f"MIG-{i}", mig_profile=profile) for i, profile in gpus)
    hidden = (HiddenGpu(2, "H100", "", HiddenBy(by), ""),)
    assert Inventory(found, 0, 0, 0, hidden=hidden).engine_environ == expected


def joined(*ends: frozenset[str] | None, told: bool | None = None) -> list[frozenset[int] | None]:
    gpus = [DriverGpu(index, bus_id=f"bus{index}", link_ends=each) for index, each in enumerate(ends)]
    return [gpu.links for gpu in with_links(gpus, lambda one, other: told)]


def test_links_are_what_the_driver_says_of_two_gpus_and_else_where_their_ends_are():
    none, switch = frozenset[str](), frozenset({SWITCH})
    assert joined(switch, switch, none) == [{1}, {0}, set()]
    assert joined(frozenset({"bus1"}), frozenset({"bus0"}), frozenset({""})) == [{1}, {0}, set()]
    assert joined(switch, None) == [None, None]
    assert joined(switch, None, told=True) == [{1}, {0}]
    assert joined(switch, switch, told=False) == [set(), set()]
    assert joined(none, None, told=True) == [set(), set()], "a GPU without links has none, whatever else is said"
    lost = with_links([DriverGpu(0, link_ends=switch), DriverGpu(1, fault="lost")], lambda one, other: True)
    assert [gpu.links for gpu in lost] == [set(), None]
