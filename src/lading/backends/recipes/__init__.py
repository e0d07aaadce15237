"""What an engine environment is made of: recipes, kept as data beside this file.

A recipe is a TOML file and the requirements files it names. It says which wheels make up one version of an engine, each
pinned by version and digest, in which steps pip installs them, how big they are, and which machines can run the result.
Several recipes may make the same engine from different origins; :func:`not_offered` says whether an index has the
wheel that a recipe wants. A recipe's digest covers exactly what may be installed, so that two environments of one
digest hold the same wheels; it names the directory. All here is pure but :func:`load_recipes` and :meth:`Host.probe`.
"""

from __future__ import annotations

import os
import platform
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from lading.digest import Digest

RECIPES = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Step:
    """One call of pip: the requirements it installs, without following their dependencies.

    ``second_index`` is asked when the places that pip is configured with do not have them; ``only_index`` is asked
    instead of pip's default index. Sizes are measured, for Python 3.11 on x86_64.
    """

    title: str
    requirements: str
    download_bytes: int
    disk_bytes: int
    second_index: str | None = None
    only_index: str | None = None

    @property
    def pins(self) -> str:
        """The requirements without comments: what may be installed, and nothing else."""
        lines = (line.strip() for line in self.requirements.splitlines())
        return "\n".join(line for line in lines if line and not line.startswith("#"))

    @property
    def is_hashed(self) -> bool:
        """Whether a digest is known before the first download."""
        return "--hash=" in self.pins


@dataclass(frozen=True, slots=True)
class Recipe:
    """One version of an engine, as wheels, and the machines that can run it.

    ``distribution`` is the wheel that is the engine; ``absent`` are distributions it asks for that are left out on
    purpose. ``python_from`` is the oldest Python, ``python_below`` the first that is too new. ``libraries`` are shared
    libraries that the system must have, with the Debian package of each.
    """

    name: str
    version: str
    origin: str
    distribution: str
    python_from: tuple[int, ...]
    python_below: tuple[int, ...]
    machines: tuple[str, ...]
    glibc: tuple[int, ...]
    cpu_flags: Mapping[str, tuple[str, ...]]
    libraries: Mapping[str, str]
    absent: tuple[str, ...]
    imports: tuple[str, ...]
    steps: tuple[Step, ...]

    @property
    def digest(self) -> Digest:
        """The identity of what may be installed: name, version and every pin."""
        return Digest.of("\n".join((self.name, self.version, *(step.pins for step in self.steps))).encode())

    @property
    def directory_name(self) -> str:
        """``<name>-<version>-<8 hex of the digest>``."""
        return f"{self.name}-{self.version}-{self.digest.hex[:8]}"

    @property
    def index(self) -> str | None:
        """The page of the index that must offer the engine's wheel for this recipe to be of use, if there is one."""
        only_index = self.steps[0].only_index
        return only_index and f"{only_index}/{self.distribution}/"

    @property
    def merit(self) -> str:
        """Why one would choose this recipe."""
        return "preferred" if self.index else "every wheel is pinned by digest"


@dataclass(frozen=True, slots=True)
class Host:
    """The facts of this machine that decide whether a recipe's wheels run on it. No glibc (macOS, Alpine) is None.

    ``absent_libraries`` are those that were asked for when probing and cannot be loaded.
    """

    system: str
    machine: str
    python: tuple[int, ...]
    glibc: tuple[int, ...] | None
    cpu_flags: frozenset[str]
    absent_libraries: frozenset[str] = frozenset()

    @classmethod
    def probe(cls, libraries: Iterable[str] = ()) -> Host:
        """This machine, and the Python that runs us; of ``libraries``, which cannot be loaded."""
        absent = frozenset(name for name in libraries if not _is_loadable(name))
        return cls(platform.system(), platform.machine(), sys.version_info[:2], _glibc(), _cpu_flags(), absent)


@dataclass(frozen=True, slots=True)
class Obstacle:
    """Why a recipe cannot be used, and what to do about it."""

    reason: str
    remedy: str


def obstacle(recipe: Recipe, host: Host) -> Obstacle | None:
    """What keeps ``recipe`` from running on ``host``, or None."""
    wheels = f"the wheels of {recipe.name} {recipe.version}"
    elsewhere = "put an engine of your own on PATH, or use the container image"
    if host.system != "Linux" or host.machine not in recipe.machines:
        machines = " and ".join(recipe.machines)
        return Obstacle(f"{wheels} are for Linux on {machines}, this is {host.system} on {host.machine}", elsewhere)
    if not recipe.python_from <= host.python < recipe.python_below:
        wanted = f"from {_dotted(recipe.python_from)} and below {_dotted(recipe.python_below)}"
        reason = f"{wheels} need Python {wanted}, Lading runs on {_dotted(host.python)}"
        return Obstacle(reason, "install Lading with such a Python, as in: pipx install --python python3.12 lading")
    if host.glibc is None or host.glibc < recipe.glibc:
        found = f"this system has {_dotted(host.glibc)}" if host.glibc else "this system has another C library"
        return Obstacle(f"{wheels} need glibc {_dotted(recipe.glibc)} or newer, {found}", elsewhere)
    missing = [flag for flag in recipe.cpu_flags.get(host.machine, ()) if flag not in host.cpu_flags]
    if missing and host.cpu_flags:
        return Obstacle(f"{wheels} need a CPU with {', '.join(missing)}, which this one does not have", elsewhere)
    if lacking := sorted(host.absent_libraries & recipe.libraries.keys()):
        packages = " ".join(recipe.libraries[name] for name in lacking)
        reason = f"{wheels} need {', '.join(lacking)}, which this system does not have"
        return Obstacle(
            reason, f"install it: apt-get install {packages} (Debian, Ubuntu), or what your system calls it"
        )
    return None


def not_offered(recipe: Recipe, page: str, host: Host) -> str | None:
    """Why a package page of an index (PEP 503) has no wheel of ``recipe`` for ``host``; None when it has one."""
    names = [unquote(href).rsplit("/", 1)[-1].partition("#")[0] for href in re.findall(r'href="([^"]+)"', page)]
    prefix, suffix = f"{recipe.distribution}-{recipe.version}+cpu-", f"_{host.machine}.whl"
    ours = [name for name in names if name.startswith(prefix) and name.endswith(suffix)]
    if not ours:
        return f"its index has no CPU wheel of {recipe.version} for {host.machine}"
    needed = [(2, int(minor)) for name in ours for minor in re.findall(r"manylinux_2_(\d+)_", name)]
    if needed and host.glibc is not None and host.glibc < min(needed):
        return f"its wheel needs glibc {_dotted(min(needed))}, this system has {_dotted(host.glibc)}"
    return None


def load_recipes(directory: Path = RECIPES) -> tuple[Recipe, ...]:
    """The recipes of a directory, preferred ones first; ValueError, KeyError or TypeError for one not well formed."""
    recipes = [_load(path) for path in sorted(directory.glob("*.toml"))]
    return tuple(sorted(recipes, key=lambda recipe: (recipe.name, recipe.index is None)))


def _load(path: Path) -> Recipe:
    import tomllib

    table = tomllib.loads(path.read_text(encoding="utf-8"))
    oldest, too_new = table["python"]
    return Recipe(
        name=table["name"],
        version=table["version"],
        origin=table["origin"],
        distribution=table["distribution"],
        python_from=_numbers(oldest),
        python_below=_numbers(too_new),
        machines=tuple(table["machines"]),
        glibc=_numbers(table["glibc"]),
        cpu_flags={machine: tuple(flags) for machine, flags in table.get("cpu_flags", {}).items()},
        libraries=dict(table.get("libraries", {})),
        absent=tuple(table.get("absent", ())),
        imports=tuple(table.get("imports", ())),
        steps=tuple(_step(path.parent, each) for each in table["steps"]),
    )


def _step(directory: Path, table: Mapping[str, Any]) -> Step:
    requirements = (directory / table["requirements"]).read_text(encoding="utf-8")
    return Step(**{**table, "requirements": requirements})


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split("."))


def _dotted(numbers: tuple[int, ...]) -> str:
    return ".".join(map(str, numbers))


def _is_loadable(library: str) -> bool:
    import ctypes

    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def _glibc() -> tuple[int, ...] | None:
    try:
        name, _, version = (os.confstr("CS_GNU_LIBC_VERSION") or "").partition(" ")
    except (ValueError, OSError, AttributeError):
        return None
    return _numbers(version) if name == "glibc" else None


def _cpu_flags() -> frozenset[str]:
    """The CPU's features as Linux names them; empty where they cannot be read."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return frozenset()
    features = (line.partition(":")[2] for line in lines if line.startswith(("flags", "Features")))
    return frozenset(next(features, "").split())
