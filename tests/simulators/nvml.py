"""GPUs where there are none: the stand-in of NVIDIA's management library, compiled and put on the loader's path."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

SOURCE = Path(__file__).with_name("nvml.c")


def build(directory: Path) -> dict[str, str] | None:
    """The variables that make a program find the stand-in, or None where there is no C compiler."""
    compiler = shutil.which("cc")
    if compiler is None:
        return None
    library = directory / "libnvidia-ml.so.1"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", str(library), str(SOURCE)], check=True)
    return {"LD_LIBRARY_PATH": str(directory)}
