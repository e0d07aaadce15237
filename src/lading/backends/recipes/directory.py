"""What an environment's directory says about itself: the receipt of a complete one, the marker of an unfinished one.

Only directories with one of the two are ours to change or remove. The receipt is written last and at once; a removal
renames first, so that no name that anybody looks for ever means something half.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lading.errors import MachineError, NotEnoughDisk, NotWritable

RECEIPT = "lading-engine.json"
MARKER = "lading-engine.partial.json"
SCRATCH = ".scratch"
_SCHEMA = 1
_REMOVING = ".removing-"


@dataclass(frozen=True, slots=True)
class Receipt:
    """What a complete environment is. ``interpreter`` is the Python behind its ``bin/python``, links resolved."""

    name: str
    version: str
    origin: str
    recipe: str
    interpreter: str
    size_bytes: int
    seconds: float
    created: str


def read_receipt(path: Path) -> Receipt | None:
    """The receipt of a complete environment at ``path``; None when there is none, or its interpreter is another now."""
    table = read_json(path / RECEIPT)
    if path.is_symlink() or table.pop("schema", None) != _SCHEMA:
        return None
    try:
        receipt = Receipt(**table)
    except TypeError:
        return None
    return receipt if interpreter_of(path) == receipt.interpreter else None


def write_receipt(path: Path, receipt: Receipt) -> None:
    """Make the environment at ``path`` count as complete."""
    fields = {name: getattr(receipt, name) for name in Receipt.__slots__}
    write_json(path / RECEIPT, {"schema": _SCHEMA, **fields})
    (path / MARKER).unlink()


def mark_unfinished(path: Path, name: str, recipe: str) -> None:
    """Make ``path`` a directory of ours that is being made; a receipt that no longer holds goes."""
    path.mkdir(exist_ok=True)
    write_json(path / MARKER, {"schema": _SCHEMA, "name": name, "recipe": recipe})
    (path / RECEIPT).unlink(missing_ok=True)


def is_ours(path: Path) -> bool:
    """Whether we made this directory."""
    return path.is_dir() and not path.is_symlink() and ((path / RECEIPT).is_file() or (path / MARKER).is_file())


def interpreter_of(path: Path) -> str | None:
    """The Python that an environment's ``bin/python`` leads to; None when it leads nowhere."""
    python = path / "bin" / "python"
    return str(python.resolve()) if python.exists() else None


def remove(path: Path) -> int:
    """Remove a directory that is ours. The bytes freed."""
    doomed = path.with_name(f"{_REMOVING}{path.name}")
    path.rename(doomed)
    return _delete(doomed)


def leftovers(root: Path) -> list[Path]:
    """What a removal that was killed left behind."""
    return [path for path in root.glob(f"{_REMOVING}*") if path.is_dir() and not path.is_symlink()]


def remove_leftovers(root: Path) -> int:
    """Remove what a removal that was killed left behind. The bytes freed."""
    return sum(map(_delete, leftovers(root)))


def remove_unfinished(root: Path, name: str) -> int:
    """Remove directories in which an environment of engine ``name`` was begun and given up. The bytes freed."""
    begun = (path for path in root.iterdir() if is_ours(path) and not (path / RECEIPT).exists())
    return sum(remove(path) for path in begun if read_json(path / MARKER).get("name") == name)


def _delete(path: Path) -> int:
    size_bytes = size_of(path)
    shutil.rmtree(path)
    return size_bytes


def size_of(directory: Path) -> int:
    """The bytes that a directory tree occupies on disk; 0 when it is not there."""
    total = 0
    for parent, _, names in os.walk(directory):
        for name in (".", *names):
            try:
                total += os.lstat(os.path.join(parent, name)).st_blocks * 512  # noqa: PTH118 (40 000 files)
            except FileNotFoundError:
                continue  # somebody is at work in it
    return total


def free_bytes(path: Path) -> int:
    """What the disk that ``path`` lies on, or would lie on, has left."""
    existing = next(each for each in (path, *path.parents) if each.exists())
    return shutil.disk_usage(existing).free


def write_json(path: Path, table: Mapping[str, Any]) -> None:
    """Replace ``path`` at once: readers see the old table or the new one."""
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("w", encoding="utf-8") as file:
        json.dump(table, file, indent=2, sort_keys=True)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def read_json(path: Path) -> dict[str, Any]:
    """The table in ``path``; empty when there is none."""
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return table if isinstance(table, dict) else {}


@contextmanager
def machine_errors(path: Path) -> Iterator[None]:
    """Turn an ``OSError`` of the body into the :class:`MachineError` that names ``path``."""
    try:
        yield
    except OSError as error:
        elsewhere = "set LADING_DATA_PATH to another directory"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise NotEnoughDisk(f"{path}: {error.strerror}", remedy=f"free some space, or {elsewhere}") from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise NotWritable(f"{error.filename or path}: {error.strerror}", remedy=elsewhere) from error
        raise MachineError(f"{error.filename or path}: {error.strerror or error}", remedy=elsewhere) from error
