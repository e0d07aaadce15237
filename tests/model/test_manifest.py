"""Manifests: read back as written, sorted, and never a path that leaves the workspace."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lading.digest import Digest
from lading.errors import ContentError, UnsafePath
from lading.model.manifest import FileEntry, Manifest
from lading.uri import ModelUri

MODEL = ModelUri.parse("hf://a/b")


def entry(path: str, size: int = 1, digest: Digest | None = None, etag: str | None = None) -> FileEntry:
    return FileEntry(path, size, MODEL.with_file("x"), digest, etag)


def test_a_manifest_is_written_and_read_back():
    manifest = Manifest.of(MODEL, "c0ffee", [entry("b", 2, Digest.of(b"x"), '"e"'), entry("a b/ü.json", 0)])
    assert Manifest.from_json(manifest.to_json()) == manifest
    assert [each.path for each in manifest.files] == ["a b/ü.json", "b"]
    assert manifest.total_bytes == 2
    assert manifest.find("b") == manifest.files[1]
    assert manifest.find("c") is None


def test_a_version_is_kept_and_absent_where_there_is_none():
    plain = entry("a", etag='"e"')
    versioned = replace(plain, version="3/L4kqtJlcpXroDTDmJ+rmSpXd3dIbrHY")
    assert FileEntry.from_json(versioned.to_json()) == versioned
    assert "version" not in plain.to_json()
    assert FileEntry.from_json(plain.to_json()) == plain


def test_one_path_twice_is_refused():
    with pytest.raises(ContentError, match="two files"):
        Manifest.of(MODEL, None, [entry("a"), entry("a")])


UNSAFE = [
    "",
    "/etc/passwd",
    "..",
    "../x",
    "a/../../x",
    "a//b",
    "./a",
    "a/.",
    "a/",
    "a\\b",
    "a\x00b",
    "a\nb",
    "\x7f",
    "x" * 256,
    "/".join(["y" * 200] * 6),
    "\udce4",
]


@pytest.mark.parametrize("path", UNSAFE, ids=[repr(path)[:30] for path in UNSAFE])
def test_a_path_that_could_leave_the_workspace_is_refused(path):
    with pytest.raises(UnsafePath):
        entry(path)


def test_a_negative_size_is_refused():
    with pytest.raises(ContentError, match="size"):
        entry("a", -1)
