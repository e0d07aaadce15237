"""The index: read back as written, never a crash, and a refresh that fails takes nothing away."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lading.cache.index import Index, IndexEntry, model_key
from lading.cache.store import Mark
from lading.digest import Digest
from lading.events import Event, Note
from lading.model.manifest import FileEntry, Manifest
from lading.plan import SkippedFile
from lading.uri import ModelUri

MODEL = ModelUri.parse("hf://demo/tiny")
MARK = Mark(2, 3, 4)


def file(path: str, digest: Digest | None = None, *, etag: str | None = None, size_bytes: int = 2) -> FileEntry:
    return FileEntry(path, size_bytes, MODEL.with_revision("c0ffee").with_file(path), digest, etag)


SHA = Digest.of(b"{}")
GIT = Digest.of(b"{}", "gitsha1")
COMPLETE = IndexEntry(
    manifest=Manifest.of(MODEL, "c0ffee", [file("config.json", SHA), file("ü b.txt", SHA, etag='"e"')]),
    is_complete=True,
    created_at=1.5,
    promised={"config.json": GIT},
    marks={"config.json": MARK, "ü b.txt": MARK},
    skipped=(SkippedFile(file("pytorch_model.bin", SHA), "a copy"),),
)
LISTED = IndexEntry(Manifest.of(MODEL, "beef", [file("config.json", GIT)]), is_complete=False, created_at=2)


@pytest.fixture
def index(tmp_path: Path) -> Index:
    return Index(tmp_path / "index")


def only_file(index: Index) -> Path:
    (path,) = index.directory.iterdir()
    return path


def test_an_entry_is_written_and_read_back(index: Index) -> None:
    index.save(COMPLETE)
    loaded = index.load(MODEL)
    assert loaded is not None
    assert loaded == COMPLETE
    assert loaded.last_used_at > 0
    assert loaded.source == MODEL
    assert loaded.total_bytes == 4
    assert list(index.entries()) == [COMPLETE]


def test_the_file_is_named_by_the_uri_as_the_user_wrote_it(index: Index) -> None:
    index.save(COMPLETE)
    assert only_file(index).name == hashlib.sha256(b"hf://demo/tiny").hexdigest() + ".json"
    assert len({model_key(ModelUri.parse(f"hf://demo/tiny{end}")) for end in ("", ":main", "?file=a")}) == 3


PATHS = st.text(
    st.characters(codec="utf-8", exclude_characters="/\\", exclude_categories=["C"]), min_size=1, max_size=9
)


@given(st.dictionaries(PATHS.filter(lambda path: path not in (".", "..")), st.integers(0, 1 << 50), max_size=5))
def test_every_entry_is_read_back(sizes: dict[str, int]) -> None:
    files = [file(path, Digest.of(path.encode()), size_bytes=size) for path, size in sizes.items()]
    entry = IndexEntry(
        Manifest.of(MODEL, None, files), is_complete=True, created_at=7, marks=dict.fromkeys(sizes, MARK)
    )
    assert IndexEntry.from_json(json.loads(json.dumps(entry.to_json()))) == entry


def test_nothing_is_known_of_a_model_never_seen(index: Index) -> None:
    assert index.load(MODEL) is None
    assert list(index.entries()) == []
    index.touch(MODEL)


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", '{"schema": 1}', '{"schema": 2}', '"text"', b"\xff\xfe".decode("latin-1")],
)
def test_an_entry_that_cannot_be_read_is_none_and_a_note(text: str, index: Index) -> None:
    index.save(COMPLETE)
    only_file(index).write_text(text)
    events: list[Event] = []
    assert index.load(MODEL, events.append) is None
    assert list(index.entries(events.append)) == []
    assert len([event for event in events if isinstance(event, Note) and "ignored" in event.text]) == 2


@pytest.mark.parametrize(
    "spoil",
    [
        lambda data: data | {"manifest": data["manifest"] | {"files": [{"path": "../x", "size_bytes": 1, "uri": "/"}]}},
        lambda data: data | {"marks": {}},
        lambda data: data | {"marks": {"config.json": {}}},
        lambda data: data | {"promised": {"config.json": "sha256:x"}},
        lambda data: data | {"promised": []},
    ],
    ids=["unsafe path", "complete without marks", "empty mark", "bad digest", "list for a table"],
)
def test_an_entry_that_contradicts_itself_is_ignored(spoil: Callable[..., object], index: Index) -> None:
    index.save(COMPLETE)
    path = only_file(index)
    path.write_text(json.dumps(spoil(json.loads(path.read_text()))))
    assert index.load(MODEL) is None


def test_a_mark_without_a_sha256_is_refused() -> None:
    with pytest.raises(ValueError, match="without its SHA-256"):
        replace(LISTED, marks={"config.json": MARK})


def test_an_entry_under_another_name_is_ignored(index: Index) -> None:
    index.save(COMPLETE)
    other = ModelUri.parse("hf://demo/other")
    only_file(index).rename(index.directory / f"{model_key(other)}.json")
    events: list[Event] = []
    assert index.load(other, events.append) is None
    assert "another model" in events[0].text  # type: ignore[union-attr]


def test_strays_are_not_entries(index: Index) -> None:
    index.save(COMPLETE)
    for name in ("readme.json", ".tmp-1.json", f"{'0' * 64}.bak"):
        (index.directory / name).write_text("{}")
    events: list[Event] = []
    assert list(index.entries(events.append)) == [COMPLETE]
    assert events == []


def test_an_incomplete_entry_is_kept_where_there_is_no_better(index: Index) -> None:
    index.save(LISTED)
    assert index.load(MODEL) == LISTED
    assert index.load_next(MODEL) is None
    index.save(COMPLETE)
    assert index.load(MODEL) == COMPLETE


def test_an_incomplete_entry_waits_beside_a_complete_one(index: Index) -> None:
    index.save(COMPLETE)
    index.save(LISTED)
    assert index.load(MODEL) == COMPLETE
    assert index.load_next(MODEL) == LISTED
    assert list(index.entries()) == [COMPLETE]
    newer = replace(COMPLETE, created_at=3)
    index.save(newer)
    assert index.load(MODEL) == newer
    assert index.load_next(MODEL) is None


def last_used_at(index: Index) -> float:
    entry = index.load(MODEL)
    assert entry is not None
    return entry.last_used_at


def test_touching_changes_the_time_of_use_alone(index: Index) -> None:
    index.save(COMPLETE)
    os.utime(only_file(index), (1, 1))
    before = only_file(index).read_bytes()
    assert last_used_at(index) == 1
    index.touch(MODEL)
    assert last_used_at(index) > 1
    assert only_file(index).read_bytes() == before


@pytest.mark.parametrize(
    ("wanted", "is_verified"),
    [
        (file("config.json", GIT), True),
        (file("config.json", SHA), True),
        (file("config.json", Digest.of(b"[]")), False),
        (file("config.json", GIT, size_bytes=3), False),
        (file("config.json"), True),
        (file("config.json", etag="new"), False),
        (file("ü b.txt", etag='"e"'), True),
        (file("other.json", SHA), False),
        (FileEntry("config.json", 2, MODEL.with_file("config.json")), False),
    ],
    ids=[
        "promised digest",
        "own digest",
        "other digest",
        "other size",
        "same pinned name",
        "other etag",
        "same etag",
        "other path",
        "nothing names the bytes",
    ],
)
def test_a_file_is_known_again_only_when_its_bytes_must_be_the_same(wanted: FileEntry, is_verified: bool) -> None:
    known = COMPLETE.verified(Manifest.of(MODEL, None, [wanted]))
    assert known == ({wanted.path: (SHA, MARK)} if is_verified else {})


def test_files_without_a_mark_were_not_verified() -> None:
    assert LISTED.verified(LISTED.manifest) == {}
