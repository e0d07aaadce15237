"""An existing Hugging Face cache, read and never written: which files of a model lie on this machine already.

The layout is huggingface_hub's. Below ``models--{org}--{name}``, ``refs/{revision}`` holds a commit id and
``snapshots/{commit}/{path}`` links to ``blobs/{name}``, where the name is the SHA-256 of a file in LFS (64 digits) or
git's blob id of any other (40 digits). Copies made without links hold plain files, whose digests nobody knows. Rules:

* only regular files inside the cache's root, links followed; never a ``*.incomplete`` one;
* anything broken (a dangling link, an unusable name, no permission) means "not here", never an error.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from lading.digest import Digest
from lading.errors import ContentError
from lading.model.manifest import FileEntry, Manifest, check_path
from lading.sources.snapshot import files_below, lack, real_file
from lading.uri import ModelUri

COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")

_ALGORITHMS = {64: "sha256", 40: "gitsha1"}


def cache_roots(hub_cache: Path | None, hf_home: Path | None, home: Path | None) -> tuple[Path, ...]:
    """Where the cache may be, best first, given ``HF_HUB_CACHE``, ``HF_HOME`` and the home directory.

    ``HF_HOME`` itself is one of the places: some operators set it to the ``hub`` folder.
    """
    if hub_cache:
        return (hub_cache,)
    if hf_home:
        return (hf_home / "hub", hf_home)
    return (home / ".cache" / "huggingface" / "hub",) if home else ()


@dataclass(frozen=True, slots=True)
class HuggingFaceCache:
    """The cache below ``root``, which need not exist. Every answer is read afresh."""

    root: Path

    def folder(self, repo: str) -> Path:
        """Where the cache keeps the model ``repo`` (``org/name``), if it does."""
        return self.root / f"models--{repo.replace('/', '--')}"

    def find(self, repo: str, commit: str, path: str) -> Path | None:
        """The real path of one file of a snapshot, or None."""
        try:
            check_path(path)
        except ContentError:
            return None
        return self._real_file(self.folder(repo) / "snapshots" / commit / path) if COMMIT.fullmatch(commit) else None

    def find_blob(self, repo: str, digest: Digest) -> Path | None:
        """The real path of a file of any snapshot of ``repo`` by what its bytes should be, or None."""
        return self._real_file(self.folder(repo) / "blobs" / digest.hex)

    def list_snapshot(self, model: ModelUri) -> Manifest | None:
        """What the cache holds of ``model`` at its revision, ``?file=`` aside; None when nothing, or it is broken.

        That may be less than the model has: see :meth:`lack`. A branch is what it was when it was last fetched.
        """
        commit = self._commit(model.location, model.effective_revision or "")
        if commit is None:
            return None
        pinned = model.model.with_revision(commit)
        snapshot = self.folder(model.location) / "snapshots" / commit
        try:
            entries = [self._entry(pinned, snapshot, path) for path in files_below(snapshot)]
            return Manifest.of(model, commit, entries) if entries else None
        except (ContentError, OSError):
            return None

    def lack(self, manifest: Manifest) -> str | None:
        """What a snapshot obviously lacks to be a whole model, as a clause; None when nothing shows."""
        return lack(manifest, lambda path: self.find(manifest.source.location, manifest.revision or "", path))

    def _commit(self, repo: str, revision: str) -> str | None:
        if COMMIT.fullmatch(revision):
            return revision
        ref = self._real_file(self.folder(repo) / "refs" / revision)
        try:
            text = ref.read_text(encoding="ascii").strip() if ref else ""
        except (OSError, ValueError):
            return None
        return text if COMMIT.fullmatch(text) else None

    def _entry(self, pinned: ModelUri, snapshot: Path, path: Path) -> FileEntry:
        real = self._real_file(path)
        if real is None:
            raise ContentError(f"{path} is broken")
        name = path.relative_to(snapshot).as_posix()
        digest = _digest_named(real.name) if path.is_symlink() else None
        etag = f'"{digest.hex}"' if digest else None
        return FileEntry(name, real.stat().st_size, pinned.with_file(name), digest, etag)

    def _real_file(self, path: Path) -> Path | None:
        return real_file(path, self.root)


def _digest_named(name: str) -> Digest | None:
    try:
        return Digest(_ALGORITHMS.get(len(name), ""), name)
    except ValueError:
        return None
