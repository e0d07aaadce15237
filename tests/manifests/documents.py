"""Manifests for tests, as a NIM's image has them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import yaml

from lading.digest import Digest

Tags = Mapping[str, str]
VLLM: Tags = {"llm_engine": "vllm", "precision": "bf16", "tp": "1", "pp": "1", "feat_lora": "false"}


def profile_id(number: int) -> str:
    """The 64 digits that stand for a profile."""
    return f"{number:064x}"


def file_of(uri: str, data: bytes | None = None, algorithm: str = "blake3") -> dict[str, str]:
    """What a manifest says of a file at ``uri``; with the digest of ``data``, where that is given."""
    return {"uri": uri} | ({"checksum": str(Digest.of(data, algorithm))} if data is not None else {})


def version_2(*profiles: tuple[int, Tags, Mapping[str, Mapping[str, str]]]) -> str:
    """A manifest of schema 2.0, of profiles by number, tags and files."""
    listed = [
        {"id": profile_id(number), "tags": dict(tags), "workspace": {"files": {k: dict(v) for k, v in files.items()}}}
        for number, tags, files in profiles
    ]
    return yaml.safe_dump(
        {"schema_version": "2.0.0", "profile_selection_criteria": "default", "profiles": listed}, sort_keys=False
    )


def version_1(*profiles: tuple[int, Tags, Iterable[tuple[str, str, Iterable[str]]]], model: str = "demo/tiny") -> str:
    """A manifest of schema 1.x, of profiles by number, tags and (folder, repository, names)."""
    lines = []
    for number, tags, components in profiles:
        lines += [f"{profile_id(number)}:", f"  model: {model}", "  release: 1.0.3", "  tags:"]
        lines += [f"    {key}: '{value}'" for key, value in tags.items()]
        lines += ["  container_url: nvcr.io/nim/demo/tiny:1.0.3", "  workspace: !workspace", "    components:"]
        for folder, repository, names in components:
            lines += [f"    - dst: '{folder}'", "      src:", f"        repo_id: {repository}", "        files:"]
            lines += [f"        - !name '{name}'" for name in names]
    return "\n".join(lines) + "\n"


def plain(value: Any) -> Any:
    """The values of a node, without its lines."""
    if isinstance(value.value, dict):
        return {key: plain(each) for key, each in value.value.items()}
    if isinstance(value.value, tuple):
        return [plain(each) for each in value.value]
    return value.value
