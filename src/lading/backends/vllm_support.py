"""What vLLM can do with an architecture, pipeline stages and LoRA: asked of an installation's source, else of a table.

vLLM's model classes say it by their bases (``SupportsPP``, ``SupportsLoRA``). Those of an installation are read without
importing it: the class's file is found through the registry, and its bases are followed as far as they can be read. The
table ``vllm_architectures.json`` was read in the same way from one release.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from lading.backends.vllm_registry import class_of
from lading.profiles.constants import version_key
from lading.profiles.rules import Support

MODELS = Path("vllm", "model_executor", "models")
_PIPELINE, _LORA = "SupportsPP", "SupportsLoRA"
_DEEPEST = 8


def support_of(architecture: str, version: str, site_packages: Path | None) -> Support:
    """What a vLLM of ``version`` can do with ``architecture``; its own source wins over the table where readable."""
    known = _tabulated(architecture, version)
    found = class_of(site_packages, architecture) if site_packages else None
    if site_packages is None or found is None:
        return known
    bases = set(_bases(site_packages / MODELS, *found, depth=0))
    return Support(_PIPELINE in bases, _LORA in bases) if bases else known


def known_architectures(version: str) -> frozenset[str]:
    """All that the table says vLLM runs or ran, by itself or through Transformers; empty for versions newer than it."""
    table = _table()
    if version_key(version) > version_key(table["version"]):
        return frozenset()
    names = ("with_both", "without_pp", "without_lora", "left", "by_transformers")
    return frozenset(name for group in names for name in table[group])


def _tabulated(architecture: str, version: str) -> Support:
    table = _table()
    last = table["left"].get(architecture)
    if last and version_key(version) > version_key(last):
        return Support(last_version=last)
    names = (table["with_both"], table["without_pp"], table["without_lora"])
    if not any(architecture in each for each in names):
        return Support()
    return Support(architecture not in names[1], architecture not in names[2])


def _bases(models: Path, module: str, name: str, *, depth: int) -> Iterator[str]:
    """The names of all bases of a class, those of classes in other files of the folder included."""
    tree = _parsed(models / f"{module}.py")
    if tree is None or depth > _DEEPEST:
        return
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    imported = {
        alias.asname or alias.name: (node.module or "", alias.name)
        for node in tree.body
        if isinstance(node, ast.ImportFrom) and node.level == 1
        for alias in node.names
    }
    for base in classes[name].bases if name in classes else ():
        text = base.id if isinstance(base, ast.Name) else ""
        yield text
        if text in classes and text != name:
            yield from _bases(models, module, text, depth=depth + 1)
        elif text in imported and text not in (_PIPELINE, _LORA):
            yield from _bases(models, *imported[text], depth=depth + 1)


def _parsed(path: Path) -> ast.Module | None:
    try:
        return ast.parse(path.read_text(encoding="utf-8"))
    except (OSError, SyntaxError, ValueError):
        return None


@cache
def _table() -> dict[str, Any]:
    data: dict[str, Any] = json.loads((files("lading.backends") / "vllm_architectures.json").read_text())
    return data
