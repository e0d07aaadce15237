"""An existing ModelScope cache, read and never written: which files of a model lie on this machine already.

Two layouts, after the SDK's releases. Since 1.38 ``models/{org}--{name}/snapshots/{revision}/{path}``, where the
revision is the text that was asked for, so that ``master`` is what it was when it was last fetched. Before,
``models/{org}/{name}/{path}`` with ``.`` in the name written ``___``, below the root or its ``hub`` folder, and the
revision in ``.mv``. No name tells what bytes a file has: digests are computed here. Anything broken means "not here",
never an error.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lading.digest import Digest
from lading.errors import ContentError
from lading.model.manifest import FileEntry, Manifest
from lading.sources.snapshot import files_below, lack, real_file
from lading.units import MIB
from lading.uri import DEFAULT_REVISIONS, ModelUri, Scheme

_VERSION_FILE = ".mv"
_VERIFIED_BYTES = 16 * MIB
_UNFINISHED = (".incomplete", ".parallel_tmp")


def cache_roots(cache: Path | None, home: Path | None) -> tuple[Path, ...]:
    """Where the cache may be, given ``MODELSCOPE_CACHE`` and the home directory."""
    if cache:
        return (cache,)
    return (home / ".cache" / "modelscope",) if home else ()


@dataclass(frozen=True, slots=True)
class ModelScopeCache:
    """The cache below ``root``, which need not exist. Every answer is read afresh."""

    root: Path

    def folder(self, model: ModelUri) -> Path:
        """Where the cache keeps the model at its revision, if it does."""
        return self._snapshots(model) / (model.effective_revision or "")

    def list_snapshot(self, model: ModelUri) -> Manifest | str:
        """What the cache holds of ``model`` at its revision, each file read for its digest; else what it lacks.

        The lack is a clause. With ``?file=``, that file has to be there; without, nothing of a whole model may
        obviously be missing.
        """
        why = "it is not there"
        for folder in self._states(model):
            paths = {path.relative_to(folder).as_posix(): path for path in files_below(folder) if _is_of_model(path)}
            if model.file and model.file not in paths:
                why = f"{model.file} is missing"
                continue
            try:
                entries = [
                    self._entry(model, name, path) for name, path in paths.items() if name == (model.file or name)
                ]
                manifest = Manifest.of(model, None, entries)
            except (ContentError, OSError):
                why = "it cannot be read"
                continue
            missing = None if model.file else lack(manifest, paths.get)
            if missing is None:
                return manifest
            why = missing if entries else why
        return why

    def find(self, file: FileEntry) -> Path | None:
        """A file of any revision that may hold the bytes of ``file``, by its name and size.

        A small one is compared with the digest: models keep the size of their config when they change it.
        """
        model, path = file.uri.model, file.uri.file or file.path
        folders = [*_folders_in(self._snapshots(model)), *self._old_folders(model)]
        for folder in folders if file.digest else ():
            found = real_file(folder / path, self.root)
            if not found or found.stat().st_size != file.size_bytes:
                continue
            if file.size_bytes > _VERIFIED_BYTES or _digest_of(found) == file.digest:
                return found
        return None

    def _states(self, model: ModelUri) -> Iterator[Path]:
        """The directories that hold the model at its revision."""
        yield self.folder(model)
        for folder in self._old_folders(model):
            if _old_revision(folder) == model.effective_revision:
                yield folder

    def _snapshots(self, model: ModelUri) -> Path:
        return self.root / "models" / model.location.replace("/", "--") / "snapshots"

    def _old_folders(self, model: ModelUri) -> list[Path]:
        org, _, name = model.location.partition("/")
        below = Path("models", org, name.replace(".", "___"))
        return [self.root / below, self.root / "hub" / below]

    def _entry(self, model: ModelUri, name: str, path: Path) -> FileEntry:
        real = real_file(path, self.root)
        if real is None:
            raise ContentError(f"{path} is broken")
        return FileEntry(name, real.stat().st_size, model.with_file(name), _digest_of(real))


def _is_of_model(path: Path) -> bool:
    """Whether a file is one of the model's, not one that the SDK keeps beside them."""
    return not path.name.startswith(".") and path.suffix not in _UNFINISHED and "._____temp" not in path.parts


def _old_revision(folder: Path) -> str:
    try:
        text = (folder / _VERSION_FILE).read_text(encoding="utf-8")
    except (OSError, ValueError):
        return DEFAULT_REVISIONS[Scheme.MODELSCOPE]
    return text.partition(",")[0].removeprefix("Revision:").strip()


def _folders_in(directory: Path) -> list[Path]:
    try:
        return sorted(path for path in directory.iterdir() if path.is_dir())
    except OSError:
        return []


def _digest_of(path: Path) -> Digest:
    with path.open("rb") as file:
        return Digest("sha256", hashlib.file_digest(file, "sha256").hexdigest())
