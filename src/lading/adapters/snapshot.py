"""An adapter's files as the engine gets them: a directory of its own for each version, which nothing changes any more.

Engines read an adapter again whenever it was pushed out of their memory, so what they were given has to stay as it was
checked. Blobs of the cache are linked; files that anybody may write are copied, and the copy is what is checked. Each
version has its own path, which also keeps engines from taking what they cached of another version for it.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import zipfile
from dataclasses import dataclass
from pathlib import Path

from lading.adapters.adapter import Adapter
from lading.adapters.places import mark_of
from lading.cache.disk import machine_errors
from lading.errors import MachineError, MalformedModel
from lading.inspection.headers import read_tensors
from lading.inspection.reader import ModelReader
from lading.model.lora import ADAPTER_CONFIG, ADAPTER_WEIGHTS, AdapterConfig
from lading.model.manifest import FileEntry
from lading.model.safetensors import Tensor
from lading.sources.local import LocalSource
from lading.uri import ModelUri
from lading.workspace import build_workspace

_CHUNK_BYTES = 1 << 20
_MAX_CONFIG_BYTES = 1 << 20


class StillMoving(MachineError):
    """The files changed while they were copied: they are still being written."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One version of an adapter, checked for being whole. ``tensors`` are None for a pickle."""

    directory: Path
    digest: str
    config: AdapterConfig
    tensors: tuple[Tensor, ...] | None


def take(adapter: Adapter, room: Path) -> Snapshot:
    """The adapter's files as they are now, in a directory of their own below ``room``.

    Raises MalformedModel, whose message is a reason, for an adapter that is not whole; StillMoving; MachineError for
    files that cannot be read and for a full disk. Then nothing is left in ``room``.
    """
    if adapter.problem:
        raise MalformedModel(adapter.problem)
    names = dict(adapter.files)
    if ADAPTER_CONFIG not in names:
        raise MalformedModel(f"{ADAPTER_CONFIG} is missing")
    if not any(each in names for each in ADAPTER_WEIGHTS):
        raise MalformedModel(f"{ADAPTER_WEIGHTS[0]} is missing")
    directory, digest = _link(adapter, room) if adapter.is_final else _copy(adapter, room)
    try:
        return Snapshot(directory, digest, _config(directory), _tensors(directory))
    except BaseException:
        discard(directory)
        raise


def discard(directory: Path) -> None:
    """Delete a snapshot."""
    shutil.rmtree(directory, ignore_errors=True)


def _link(adapter: Adapter, room: Path) -> tuple[Path, str]:
    return build_workspace(room / _named(adapter.name, adapter.mark), adapter.files), adapter.mark


def _copy(adapter: Adapter, room: Path) -> tuple[Path, str]:
    copying = room / _named(adapter.name, "copying")
    discard(copying)
    whole = hashlib.sha256()
    try:
        with machine_errors(copying):
            copying.mkdir(parents=True)
        for name, path in adapter.files:
            whole.update(f"{name}\0{_copy_file(path, copying / name)}\0".encode())
        if _mark_now(adapter) != adapter.mark:
            raise StillMoving(f"{adapter.origin} changed while it was read")
        directory = room / _named(adapter.name, whole.hexdigest())
        if directory.exists():
            return directory, whole.hexdigest()
        with machine_errors(directory):
            copying.rename(directory)
        return directory, whole.hexdigest()
    finally:
        discard(copying)


def _mark_now(adapter: Adapter) -> str | None:
    try:
        return mark_of(adapter.files)
    except OSError:
        return None


def _copy_file(path: Path, target: Path) -> str:
    """Copy one file; the SHA-256 of what was written."""
    digest = hashlib.sha256()
    try:
        source = path.open("rb")
    except FileNotFoundError:
        raise StillMoving(f"{path} is gone") from None
    except OSError as error:
        raise MachineError(f"{path.name} cannot be read: {error.strerror}") from error
    with source, machine_errors(target), target.open("wb") as copy:
        while chunk := source.read(_CHUNK_BYTES):
            digest.update(chunk)
            copy.write(chunk)
    return digest.hexdigest()


def _named(name: str, digest: str) -> str:
    return f"{re.sub(r'[^A-Za-z0-9._-]', '_', name)[:100]}-{digest[:16]}"


def _config(directory: Path) -> AdapterConfig:
    path = directory / ADAPTER_CONFIG
    with machine_errors(path), path.open("rb") as file:
        return AdapterConfig.parse(file.read(_MAX_CONFIG_BYTES))


def _tensors(directory: Path) -> tuple[Tensor, ...] | None:
    """What the header of the safetensors file says, which finds one that is cut short; None for a whole pickle."""
    weights = next(directory / each for each in ADAPTER_WEIGHTS if (directory / each).exists())
    if weights.suffix == ".safetensors":
        uri = ModelUri.parse(str(directory)).with_file(weights.name)
        entry = FileEntry(weights.name, weights.stat().st_size, uri)
        return read_tensors(entry, ModelReader(LocalSource(), lambda _: weights))
    if not zipfile.is_zipfile(weights):
        raise MalformedModel(f"{weights.name} is cut short, or too old to be checked; save it as safetensors")
    return None
