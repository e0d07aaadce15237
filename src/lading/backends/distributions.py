"""Installed Python distributions, found through the programs on PATH and read without running anything.

An engine's environment is where its console script, or the interpreter that has its packages, belongs to. Editable
installs, as engines' own images have them, keep the source elsewhere: their ``.pth`` or finder file names the place.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

_PLACES = ("lib/python3*/site-packages", "lib/python3*/dist-packages", "local/lib/python3*/dist-packages")


@dataclass(frozen=True, slots=True)
class Distribution:
    """An installed distribution: ``source`` is the directory that holds its package's folder."""

    name: str
    version: str
    source: Path


def find_distribution(program: Path, package: str, names: Sequence[str]) -> Distribution | None:
    """The distribution of one of ``names``, as metadata folders spell them, in the environment of ``program``.

    ``package`` is the folder that it brings. None where there is no such folder; a folder without metadata has the
    version ``unknown``.
    """
    for packages in _packages_of(program):
        name, version = _metadata(packages, names)
        source = packages if (packages / package).is_dir() else _editable_source(packages, package) if name else None
        if source:
            return Distribution(name or names[0], version, source)
    return None


def _packages_of(program: Path) -> Iterator[Path]:
    roots = dict.fromkeys((program.parent.parent, program.resolve().parent.parent))
    return (packages for root in roots for place in _PLACES for packages in sorted(root.glob(place)))


def _metadata(packages: Path, names: Sequence[str]) -> tuple[str, str]:
    for metadata in sorted(packages.glob("*.dist-info")):
        name, _, version = metadata.name.removesuffix(".dist-info").partition("-")
        if name in names:
            return name, version
    return "", "unknown"


def _editable_source(packages: Path, package: str) -> Path | None:
    """Where an editable install keeps ``package``: setuptools writes a path, or a finder with a mapping."""
    for file in sorted(packages.glob("__editable__*.pth")):
        for line in _text(file).splitlines():
            if line.startswith("/") and Path(line.strip(), package).is_dir():
                return Path(line.strip())
    for file in sorted(packages.glob("__editable__*_finder.py")):
        for found in re.findall(rf"""['"]{package}['"]: ['"]([^'"]+)['"]""", _text(file)):
            if Path(found).is_dir():
                return Path(found).parent
    return None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return ""
