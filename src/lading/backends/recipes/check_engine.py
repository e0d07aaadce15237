"""Does an engine environment hold what its engine asks for, and does the engine load? Started by its own interpreter.

::

    python check_engine.py RESULT_FILE DISTRIBUTION ABSENT,… MODULE,…

The last thing an install does: it costs one import of vLLM (seconds). RESULT_FILE holds ``missing`` (requirements of
DISTRIBUTION that are not met, but for the ABSENT ones), ``version`` (what vLLM will think it is), ``device`` (the
platform it chose) and ``kernels`` (how many operators its compiled library brought).
"""

import importlib
import json
import sys
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from packaging.requirements import Requirement


def main(argv: list[str]) -> int:
    """Write the result; an engine that cannot be imported ends with its traceback and no result."""
    result_file, distribution, absent, modules = argv
    result: dict[str, Any] = {"missing": _missing(distribution, absent.split(","))}
    for module in filter(None, modules.split(",")):
        importlib.import_module(module)
    platform = importlib.import_module("vllm.platforms").current_platform
    platform.import_kernels()
    operators = importlib.import_module("torch")._C._dispatch_get_all_op_names()
    result["version"] = metadata.version("vllm")
    result["device"] = platform.device_type
    result["kernels"] = sum(name.startswith("_C") for name in operators)
    Path(result_file).write_text(json.dumps(result), encoding="utf-8")
    return 0


def _missing(distribution: str, absent: list[str]) -> list[str]:
    from packaging.requirements import Requirement  # not pip's copy: setuptools cannot be imported after pip
    from packaging.utils import canonicalize_name

    left_out = {canonicalize_name(name) for name in absent}
    missing = []
    for text in metadata.requires(distribution) or ():
        requirement = Requirement(text)
        asked = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        if asked and canonicalize_name(requirement.name) not in left_out and not _is_met(requirement):
            missing.append(text)
    return missing


def _is_met(requirement: "Requirement") -> bool:
    try:
        version = metadata.version(requirement.name)
    except metadata.PackageNotFoundError:
        return False
    return requirement.specifier.contains(version, prereleases=True)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
