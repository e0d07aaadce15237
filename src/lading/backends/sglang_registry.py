"""Which model classes an SGLang installation runs, read from its source without importing it.

Every file of ``sglang/srt/models`` that brings some ends in ``EntryClass = X``, or a list of classes; there is no table
of them all. Where its class for Transformers is among them, SGLang tries what it does not list through Transformers.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from lading.backends.vllm_registry import text_models_of_transformers

MODELS = Path("sglang", "srt", "models")
_ENTRY = re.compile(r"^EntryClass\b", re.MULTILINE)
_FALLBACK = "TransformersForCausalLM"


def architectures(source: Path) -> frozenset[str]:
    """The architectures that the SGLang in ``source`` runs; empty when none can be read."""
    own = frozenset(name for path in sorted((source / MODELS).glob("*.py")) for name in _entries(path))
    return own | text_models_of_transformers(source) if _FALLBACK in own else own


def _entries(path: Path) -> Iterator[str]:
    """The class names that a file ends with; only that end is parsed, since the files are long."""
    try:
        text = path.read_text(encoding="utf-8")
        found = _ENTRY.search(text)
        module = ast.parse(text[found.start() :]) if found else ast.Module([], [])
    except (OSError, SyntaxError, ValueError):
        return
    for statement in module.body:
        if isinstance(statement, ast.Assign | ast.AnnAssign) and statement.value:
            yield from (node.id for node in ast.walk(statement.value) if isinstance(node, ast.Name))
