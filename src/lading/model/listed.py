"""What a NIM manifest lists: profiles with their tags, and for each the files of its workspace, wherever they are.

Pure values; :mod:`lading.manifests` reads them. One profile may mix repositories. Profiles that list the same files
share a *workspace*, which is named by what it lists: ``manifest://`` and the SHA-256 of that. So the cache knows it
again, whichever manifest says it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from lading.digest import Digest
from lading.uri import ModelUri, Scheme


@dataclass(frozen=True, slots=True)
class ListedFile:
    """One file of a workspace: its place, where its bytes are, and what they have to hash to, None where untold.

    Without ``?file=`` in ``uri``, all files of that model below ``path``, a folder; "" is the top.
    """

    path: str
    uri: ModelUri
    digest: Digest | None = None


@dataclass(frozen=True, slots=True)
class ListedProfile:
    """A profile as a manifest lists it. ``id`` is opaque; ``tags`` are as written; ``model`` is its name, "" untold."""

    id: str
    tags: Mapping[str, str] = field(hash=False)
    files: tuple[ListedFile, ...] = field(hash=False)
    model: str = ""

    @property
    def workspace(self) -> ModelUri:
        """The name of what is listed: equal for equal files, from equal places, with equal digests."""
        listed = sorted([each.path, str(each.uri), str(each.digest or "")] for each in self.files)
        return ModelUri(Scheme.MANIFEST, hashlib.sha256(json.dumps(listed).encode()).hexdigest())


@dataclass(frozen=True, slots=True)
class ProfileManifest:
    """A manifest, read. ``origin`` is the file that it was read from, ``text`` what stands in it."""

    origin: str
    text: str
    profiles: tuple[ListedProfile, ...]

    @property
    def workspaces(self) -> dict[ModelUri, tuple[ListedProfile, ...]]:
        """The profiles by the workspace that they use, both in the manifest's order."""
        found: dict[ModelUri, tuple[ListedProfile, ...]] = {}
        for each in self.profiles:
            name = each.workspace
            found[name] = (*found.get(name, ()), each)
        return found

    def __str__(self) -> str:
        return self.origin
