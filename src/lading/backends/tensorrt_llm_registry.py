"""Which model classes, and which flags, a TensorRT-LLM installation has: read from its source without importing it.

The files of ``tensorrt_llm/_torch/models`` register their classes with a decorator that names the architecture. Flags
are those that ``tensorrt_llm/commands/serve.py`` names; they differ between builds of one version.
"""

from __future__ import annotations

import re
from pathlib import Path

MODELS = Path("tensorrt_llm", "_torch", "models")
COMMAND = Path("tensorrt_llm", "commands", "serve.py")
_REGISTERED = re.compile(r"""^@register_auto_model\(\s*["'](\w+)["']""", re.MULTILINE)
_FLAG = re.compile(r"""["'](--[a-z][\w-]*)["']""")


def architectures(source: Path) -> frozenset[str]:
    """The architectures that the TensorRT-LLM in ``source`` runs with PyTorch; empty when none can be read."""
    paths = sorted((source / MODELS).glob("modeling_*.py"))
    return frozenset(name for path in paths for name in _REGISTERED.findall(_text(path)))


def flags(source: Path) -> frozenset[str]:
    """The flags that ``trtllm-serve`` names; empty when they cannot be read."""
    return frozenset(_FLAG.findall(_text(source / COMMAND)))


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return ""
