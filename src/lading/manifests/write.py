"""Manifests as NIM writes them: schema 2.0, as YAML or JSON.

Each profile lists every file of its workspace with the URI of its bytes; ``checksum`` is the digest where it is known.
What is written here, :mod:`lading.manifests.read` reads.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from lading.model.manifest import FileEntry
from lading.profiles.profile import Profile

SCHEMA_VERSION = "2.0.0"
Workspace = tuple[Sequence[Profile], Iterable[FileEntry]]
"""Profiles, and the files that all of them use."""


def manifest_yaml(workspaces: Iterable[Workspace]) -> str:
    """The manifest as YAML."""
    import yaml

    return yaml.dump(_document(workspaces), Dumper=_plain_dumper(), sort_keys=False, allow_unicode=True)


def manifest_json(workspaces: Iterable[Workspace]) -> str:
    """The manifest as JSON."""
    return json.dumps(_document(workspaces), indent=2) + "\n"


def _document(workspaces: Iterable[Workspace]) -> dict[str, Any]:
    profiles = []
    for using, files in workspaces:
        workspace = {"files": {entry.path: _file(entry) for entry in files}}
        profiles += [{"id": each.id, **_model(each), "tags": each.tags, "workspace": workspace} for each in using]
    return {"schema_version": SCHEMA_VERSION, "profile_selection_criteria": "default", "profiles": profiles}


def _model(profile: Profile) -> dict[str, str]:
    return {"model": profile.custom_name} if profile.custom_name else {}


def _file(entry: FileEntry) -> dict[str, str]:
    return {"uri": str(entry.uri)} | ({"checksum": str(entry.digest)} if entry.digest else {})


def _plain_dumper() -> type:
    """A safe dumper without anchors: the profiles share one workspace, and NIM's readers expect it spelt out."""
    import yaml

    class Plain(yaml.SafeDumper):
        def ignore_aliases(self, data: object) -> bool:  # noqa: ARG002  # the signature is PyYAML's
            return True

    return Plain
