"""TensorRT-LLM's builder: found on PATH without starting it, and the two commands of a build.

``trtllm-build`` makes an engine of a checkpoint of TensorRT-LLM. That is made of a Hugging Face directory by the model
classes that come with it, through :mod:`lading.hosting.convert_checkpoint`, as its examples' ``convert_checkpoint.py``
do. Releases up to 1.2 have both. Later ones have neither: their PyTorch backend loads checkpoints as they are.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from lading.backends.distributions import Distribution, find_distribution
from lading.errors import EngineNotInstalled
from lading.hosting.build_config import BuildConfig, Program

_CONVERTER = Path(__file__).with_name("convert_checkpoint.py")
_CLASSES = Path("tensorrt_llm", "models", "automodel.py")
_LAST = "1.2"
_OTHERWISE = (
    f"use an image with TensorRT-LLM {_LAST} or older to build an engine\n"
    "or serve the checkpoint itself: `lading serve DIR` (to quantise it first, use NVIDIA's ModelOpt)"
)


@dataclass(frozen=True, slots=True)
class Step:
    """One command of a build, and what it does in a few words."""

    title: str
    argv: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Builder:
    """An installation of TensorRT-LLM that can build: its program, and the interpreter that has its classes."""

    version: str
    program: Path
    python: Path

    def convert(self, model: Path, checkpoint: Path, config: BuildConfig) -> Step:
        """Hugging Face directory to checkpoint."""
        argv = (self.python, _CONVERTER, "--model_dir", model, "--output_dir", checkpoint)
        return Step("converting the checkpoint", (*map(str, argv), *config.tokens(Program.CONVERT)))

    def build(self, checkpoint: Path, engine: Path, config: BuildConfig) -> Step:
        """Checkpoint to engine."""
        argv = (self.program, "--checkpoint_dir", checkpoint, "--output_dir", engine)
        return Step("building the engine", (*map(str, argv), *config.tokens(Program.BUILD)))


def find_builder(search_path: str) -> Builder:
    """The builder on ``search_path``; raises EngineNotInstalled, which says what there is instead. Starts nothing."""
    program = shutil.which("trtllm-build", path=search_path)
    if program is None:
        raise _missing(search_path)
    found = find_distribution(Path(program), "tensorrt_llm", ("tensorrt_llm",))
    if found is None or not (found.source / _CLASSES).is_file():
        version = f"TensorRT-LLM {found.version}" if found else "the TensorRT-LLM"
        raise EngineNotInstalled(
            f"{version} of {program} has no model classes for its builder ({_CLASSES})", remedy=_OTHERWISE
        )
    return Builder(found.version, Path(program), _interpreter(Path(program), search_path))


def _missing(search_path: str) -> EngineNotInstalled:
    here = _served(search_path)
    if here is None:
        return EngineNotInstalled("building an engine needs TensorRT-LLM, which is not installed", remedy=_OTHERWISE)
    return EngineNotInstalled(
        f"TensorRT-LLM {here.version} has no trtllm-build: the builder was removed after {_LAST}", remedy=_OTHERWISE
    )


def _served(search_path: str) -> Distribution | None:
    script = shutil.which("trtllm-serve", path=search_path)
    return find_distribution(Path(script), "tensorrt_llm", ("tensorrt_llm",)) if script else None


def _interpreter(program: Path, search_path: str) -> Path:
    """The Python that runs a console script: what its first line names, else the one beside it."""
    with program.open("rb") as file:
        words = file.readline(4096).decode(errors="replace").removeprefix("#!").split()
    named = words[1:] if words and words[0].endswith("/env") else words
    if named and "python" in Path(named[0]).name and (found := shutil.which(named[0], path=search_path)):
        return Path(found)
    return next((each for each in (program.with_name("python3"), program.with_name("python")) if each.is_file()),
                Path("python3"))  # fmt: skip
