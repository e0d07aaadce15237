"""Whether a cache is valid: ``docs/spec/cache-layout.md``, held against what lies on the disk. Reads every byte.

It knows the page and not the code: nothing of ``lading.cache`` is used here, so that both cannot be wrong alike.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

KEY = "[0-9a-f]{64}"
ENTRY = re.compile(rf"index/({KEY})(\.next)?\.json")
LISTING = re.compile(rf"index/({KEY})\.listing\.json")
BLOB = re.compile(r"blobs/sha256/([0-9a-f]{2})/(\1[0-9a-f]{62})")
JOURNAL = re.compile(rf"partial/({KEY})/({KEY})\.part\.json")
PLACES = (
    re.compile(r"lading-cache\.json"),
    BLOB,
    ENTRY,
    LISTING,
    re.compile(rf"partial/{KEY}/{KEY}\.part"),
    JOURNAL,
    re.compile(rf"locks/({KEY}|gc)\.lock(\.lease)?"),
    re.compile(r"uses/[0-9a-f]+\.json"),
    re.compile(rf"calibrations/{KEY}\.json"),
    re.compile(rf"manifests/{KEY}/{KEY}\.yaml"),
    re.compile(r"nim_runtime_manifest\.yaml"),
    re.compile(r"workspaces/[^/]+/.+"),
)
FIELDS = {"schema", "source", "is_complete", "created_at", "manifest", "promised", "marks", "skipped"}


def faults_of(cache: Path, files: Mapping[str, bytes]) -> list[str]:
    """What is wrong in a cache that nobody uses right now; ``files`` are the true bytes by path, of all its models."""
    found = {path.relative_to(cache).as_posix(): path for path in _files_below(cache)}
    kept = {name: path for name, path in found.items() if not _is_leftover(name)}
    faults = [f"{name} is of no kind that the page names" for name in kept if not _is_known(name)]
    if "lading-cache.json" not in kept and kept:
        faults.append("there are files and no lading-cache.json")
    for name, path in kept.items():
        if name == "lading-cache.json" and json.loads(path.read_bytes()) != {"layout": 1}:
            faults.append(f"{name} is {path.read_bytes()!r}")
        if match := BLOB.fullmatch(name):
            faults += _faults_of_blob(path, match[2])
        if match := ENTRY.fullmatch(name):
            faults += _faults_of_entry(cache, name, path, match[1], is_next=bool(match[2]))
        if match := LISTING.fullmatch(name):
            faults += _faults_of_listing(name, path, match[1])
        if match := JOURNAL.fullmatch(name):
            faults += _faults_of_journal(
                cache, name, path, {_key(each): data for each, data in files.items()}[match[2]]
            )
        if name.startswith("workspaces/") and not path.is_file():
            faults.append(f"{name} leads nowhere")
    return faults


def assert_valid(cache: Path, files: Mapping[str, bytes]) -> None:
    """The cache is as the page says."""
    faults = faults_of(cache, files)
    if faults:
        raise AssertionError("\n".join([f"{cache} is not valid:", *faults]))


def assert_complete(cache: Path, model: str, files: Mapping[str, bytes], *, nothing_waits: bool = True) -> None:
    """The cache is valid and has all of ``model``, whose files these are, and no unfinished ones.

    ``nothing_waits``: nor a listing that is not complete yet.
    """
    assert_valid(cache, files)
    entry = json.loads((cache / "index" / f"{_key(model)}.json").read_bytes())
    assert entry["is_complete"]
    listed = {each["path"]: each["digest"] for each in entry["manifest"]["files"]}
    assert listed == {path: f"sha256:{hashlib.sha256(data).hexdigest()}" for path, data in files.items()}
    assert not nothing_waits or not (cache / "index" / f"{_key(model)}.next.json").exists()
    left = sorted(path.name for path in (cache / "partial" / _key(model)).glob("*"))
    if left:
        raise AssertionError(f"{left} are left in {cache}/partial")


def kept_bytes(cache: Path, files: Mapping[str, bytes]) -> int:
    """How much of ``files`` need not be fetched again: in blobs that an entry names, or vouched for by a journal.

    A blob that arrived in the last second, of a file whose source promises no SHA-256, is named by nobody yet.
    """
    named = "".join(path.read_text() for path in (cache / "index").glob(f"{'[0-9a-f]' * 64}*.json"))
    total = 0
    for path, data in files.items():
        digest = hashlib.sha256(data).hexdigest()
        part = next(cache.glob(f"partial/*/{_key(path)}.part"), None)
        journal = part.with_name(part.name + ".json") if part else None
        if digest in named and (cache / "blobs/sha256" / digest[:2] / digest).exists():
            total += len(data)
        elif journal and journal.exists():
            total += sum(end - start for start, end in json.loads(journal.read_bytes())["done"])
    return total


def _key(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _files_below(directory: Path) -> Iterator[Path]:
    for root, _, names in os.walk(directory):
        for name in names:
            yield Path(root, name)


def _is_leftover(name: str) -> bool:
    return any(part.startswith(".tmp-") for part in name.split("/"))


def _is_known(name: str) -> bool:
    return any(place.fullmatch(name) for place in PLACES)


def _faults_of_blob(path: Path, digest: str) -> list[str]:
    found = path.lstat()
    faults = []
    if not stat.S_ISREG(found.st_mode) or stat.S_IMODE(found.st_mode) != 0o444:
        faults.append(f"blob {digest} has mode {found.st_mode:o}")
    if hashlib.sha256(path.read_bytes()).hexdigest() != digest:
        faults.append(f"blob {digest} has other bytes")
    return faults


def _faults_of_listing(name: str, path: Path, key: str) -> list[str]:
    listing: dict[str, Any] = json.loads(path.read_bytes())
    if listing.keys() != {"schema", "manifest", "reads"} or listing["schema"] != 1:
        return [f"{name} has fields {sorted(listing)}, schema {listing.get('schema')}"]
    named = {each["path"] for each in listing["manifest"]["files"]}
    strays = {each["path"] for each in listing["reads"]} - named
    faults = [f"{name} has read {path}, which it does not list" for path in sorted(strays)]
    return faults + ([f"{name} is another model's"] if _key(listing["manifest"]["source"]) != key else [])


def _faults_of_entry(cache: Path, name: str, path: Path, key: str, *, is_next: bool) -> list[str]:
    entry: dict[str, Any] = json.loads(path.read_bytes())
    paths = {each["path"]: each for each in entry["manifest"]["files"]}
    faults = []
    if entry.keys() != FIELDS or entry["schema"] != 1:
        faults.append(f"{name} has fields {sorted(entry)}, schema {entry.get('schema')}")
    if _key(entry["source"]) != key:
        faults.append(f"{name} speaks of {entry['source']}")
    if is_next and entry["is_complete"]:
        faults.append(f"{name} is complete and waits")
    if entry["is_complete"] and paths.keys() != entry["marks"].keys():
        faults.append(f"{name} is complete without marks of {sorted(paths.keys() - entry['marks'].keys())}")
    for each, mark in entry["marks"].items():
        algorithm, _, digest = paths[each]["digest"].partition(":")
        blob = cache / "blobs/sha256" / digest[:2] / digest
        if algorithm != "sha256" or not blob.exists():
            faults.append(f"{name} marks {each}, whose blob {digest} is missing")
            continue
        seen = blob.lstat()
        if mark != {"size_bytes": seen.st_size, "mtime_ns": seen.st_mtime_ns, "inode": seen.st_ino}:
            faults.append(f"{name} has another mark of {each} than its blob")
        if seen.st_size != paths[each]["size_bytes"]:
            faults.append(f"{name} lists another size of {each} than its blob has")
    return faults


def _faults_of_journal(cache: Path, name: str, path: Path, data: bytes) -> list[str]:
    """A journal claims no byte that is not there. One whose file went into the store a moment ago claims nothing."""
    journal = json.loads(path.read_bytes())
    part = path.with_suffix("")
    if not part.exists():
        digest = hashlib.sha256(data).hexdigest()
        is_in_store = (cache / "blobs/sha256" / digest[:2] / digest).exists()
        return [] if is_in_store else [f"{name} speaks of a file that is nowhere"]
    if journal["schema"] != 1 or not journal["size_bytes"] == part.stat().st_size == len(data):
        return [f"{name} has schema {journal['schema']}, size {journal['size_bytes']}; {part.stat().st_size} on disk"]
    found = part.read_bytes()
    wrong = [each for each in journal["done"] if found[slice(*each)] != data[slice(*each)]]
    return [f"{name} claims {wrong}, which has other bytes"] if wrong else []
