"""Which model classes a vLLM installation runs, read from its source without importing it (that takes ten seconds).

vLLM keeps them in ``vllm/model_executor/models/registry.py``: module-level dictionaries named ``_*_MODELS`` from the
architecture in a model's ``config.json`` to its code. Two of that name list what it no longer runs itself. A class that
is not listed, but that the installed Transformers has as a text model, vLLM tries to run through Transformers.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

REGISTRY = Path("vllm", "model_executor", "models", "registry.py")
TRANSFORMERS_AUTO = Path("transformers", "models", "auto", "modeling_auto.py")
_FALLBACK = "TransformersForCausalLM"
_TEXT_MODELS = re.compile(
    r"^MODEL_FOR_(?:CAUSAL_LM|IMAGE_TEXT_TO_TEXT)_MAPPING_NAMES = OrderedDict\($(.*?)^\)$", re.MULTILINE | re.DOTALL
)
_CLASS = re.compile(r"""\("[^"]+", "(\w+)"\)""")
_NOT_RUN = frozenset({"_PREVIOUSLY_SUPPORTED_MODELS", "_OOT_SUPPORTED_MODELS"})


def architectures(site_packages: Path) -> frozenset[str]:
    """The architectures that the vLLM in ``site_packages`` runs; empty when its registry cannot be read.

    Where it can fall back to Transformers, the text models of the Transformers beside it are among them.
    """
    try:
        module = ast.parse((site_packages / REGISTRY).read_text(encoding="utf-8"))
    except (OSError, SyntaxError, ValueError):
        return frozenset()
    own = frozenset(_names(module))
    return own | text_models_of_transformers(site_packages) if _FALLBACK in own else own


def class_of(site_packages: Path, architecture: str) -> tuple[str, str] | None:
    """The module (below the registry's folder) and class that run ``architecture``; None where that cannot be read."""
    try:
        module = ast.parse((site_packages / REGISTRY).read_text(encoding="utf-8"))
    except (OSError, SyntaxError, ValueError):
        return None
    for statement in module.body:
        for key, value in _table_items(statement):
            if isinstance(key, ast.Constant) and key.value == architecture and isinstance(value, ast.Tuple):
                names = [each.value for each in value.elts if isinstance(each, ast.Constant)]
                if len(names) == 2 and all(isinstance(each, str) for each in names):  # module, class
                    return str(names[0]), str(names[1])
    return None


def text_models_of_transformers(site_packages: Path) -> frozenset[str]:
    """The text models of the Transformers in ``site_packages``; empty when they cannot be read."""
    try:
        source = (site_packages / TRANSFORMERS_AUTO).read_text(encoding="utf-8")
    except (OSError, ValueError):
        return frozenset()
    return frozenset(name for table in _TEXT_MODELS.findall(source) for name in _CLASS.findall(table))


def _names(module: ast.Module) -> Iterator[str]:
    for statement in module.body:
        for key, _ in _table_items(statement):
            if isinstance(key, ast.Constant) and isinstance(key.value, str):
                yield key.value


def _table_items(statement: ast.stmt) -> list[tuple[ast.expr | None, ast.expr]]:
    """The items of a module-level dictionary of models; a merged dictionary (``**other``) has None for a key."""
    match statement:
        case ast.Assign(targets=[ast.Name(id=name)], value=ast.Dict(keys=keys, values=values)):
            pass
        case ast.AnnAssign(target=ast.Name(id=name), value=ast.Dict(keys=keys, values=values)):
            pass
        case _:
            return []
    is_models = name.startswith("_") and name.endswith("_MODELS") and name not in _NOT_RUN
    return list(zip(keys, values, strict=True)) if is_models else []
