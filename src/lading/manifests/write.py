"""The runtime manifest as NIM writes it: schema 2.0, YAML, served at ``/v1/manifest``.

Each profile lists every file of its workspace with the URI of its bytes; ``checksum`` is the digest where it is known.
"""

from __future__ import annotations

from collections.abc import Iterable

from lading.model.manifest import FileEntry
from lading.profiles.profile import Profile

SCHEMA_VERSION = "2.0.0"


def runtime_manifest_yaml(profiles: Iterable[Profile], files: Iterable[FileEntry]) -> str:
    """The manifest of a model whose profiles all use the same ``files``."""
    import yaml

    workspace = {"files": {entry.path: _file(entry) for entry in files}}
    document = {
        "schema_version": SCHEMA_VERSION,
        "profile_selection_criteria": "default",
        "profiles": [{"id": each.id, "tags": each.tags, "workspace": workspace} for each in profiles],
    }
    return yaml.dump(document, Dumper=_plain_dumper(), sort_keys=False, allow_unicode=True)


def _file(entry: FileEntry) -> dict[str, str]:
    return {"uri": str(entry.uri)} | ({"checksum": str(entry.digest)} if entry.digest else {})


def _plain_dumper() -> type:
    """A safe dumper without anchors: the profiles share one workspace, and NIM's readers expect it spelt out."""
    import yaml

    class Plain(yaml.SafeDumper):
        def ignore_aliases(self, data: object) -> bool:  # noqa: ARG002  # the signature is PyYAML's
            return True

    return Plain
