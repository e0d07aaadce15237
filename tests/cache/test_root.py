"""Opening a cache: which directory it is, what is refused, and that looking at one writes nothing."""

from __future__ import annotations

import errno
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from lading.cache.index import IndexEntry
from lading.cache.root import CacheRoot, Probe, open_cache
from lading.digest import Digest
from lading.errors import MachineError, NotWritable
from lading.events import Event, Note
from lading.model.manifest import FileEntry, Manifest
from lading.uri import ModelUri
from tests.cache.places import NOBODY, as_nobody, shared_directory

MODEL = ModelUri.parse("hf://demo/tiny")


@pytest.fixture
def shared() -> Iterator[Path]:
    with shared_directory() as path:
        yield path


@pytest.fixture
def events() -> list[Event]:
    return []


def notes(events: list[Event]) -> str:
    return "\n".join(event.text for event in events if isinstance(event, Note))


def test_a_directory_that_is_missing_is_made_and_gets_its_layout(tmp_path: Path, events: list[Event]) -> None:
    path = tmp_path / "a" / "b"
    cache = open_cache(path, default=tmp_path / "default", fallback=tmp_path / "fallback", report=events.append)
    assert cache == CacheRoot(path, is_writable=True)
    assert json.loads((path / "lading-cache.json").read_text()) == {"layout": 1}
    assert os.listdir(path) == ["lading-cache.json"]
    assert events == []


def test_opening_again_writes_nothing(tmp_path: Path) -> None:
    open_cache(tmp_path, default=tmp_path, fallback=tmp_path)
    before = (tmp_path / "lading-cache.json").stat(), tmp_path.stat()
    open_cache(tmp_path, default=tmp_path, fallback=tmp_path)
    assert ((tmp_path / "lading-cache.json").stat().st_mtime_ns, tmp_path.stat().st_mtime_ns) == (
        before[0].st_mtime_ns,
        before[1].st_mtime_ns,
    )


def test_unset_is_the_default_where_that_can_be_written(tmp_path: Path, events: list[Event]) -> None:
    cache = open_cache(None, default=tmp_path / "default", fallback=tmp_path / "fallback", report=events.append)
    assert cache.path == tmp_path / "default"
    assert not (tmp_path / "fallback").exists()
    assert events == []


def test_unset_is_the_users_cache_where_the_default_cannot_be_written(shared: Path, events: list[Event]) -> None:
    (shared / "opt").mkdir(mode=0o555)
    (shared / "home").mkdir()
    (shared / "home").chmod(0o777)
    with as_nobody():
        cache = open_cache(
            None, default=shared / "opt" / ".cache", fallback=shared / "home" / "lading", report=events.append
        )
    assert cache == CacheRoot(shared / "home" / "lading", is_writable=True)
    assert f"caching in {shared}/home/lading" in notes(events)
    assert "NIM_CACHE_PATH" in notes(events)


def test_a_given_path_that_cannot_be_written_is_refused_with_all_that_is_needed_to_repair_it(shared: Path) -> None:
    (shared / "cache").mkdir()
    (shared / "cache").chmod(0o755)
    uid = NOBODY if os.geteuid() == 0 else os.geteuid()
    if os.geteuid() != 0:
        (shared / "cache").chmod(0o555)
    with as_nobody(), pytest.raises(NotWritable) as raised:
        open_cache(shared / "cache" / "sub", default=shared, fallback=shared)
    mode = "0755" if os.geteuid() == 0 else "0555"
    assert f"{shared}/cache/sub" in str(raised.value)
    assert f"{shared}/cache belongs to {os.getuid()}:{os.getgid()} with mode {mode}" in str(raised.value)
    assert f"runs as {uid}:" in str(raised.value)
    assert "NIM_CACHE_PATH" in str(raised.value.remedy)
    assert raised.value.exit_code == 6


def test_an_existing_cache_that_can_only_be_read_is_used(shared: Path, events: list[Event]) -> None:
    path = shared / "cache"
    open_cache(path, default=path, fallback=path)
    path.chmod(0o555)
    with as_nobody():
        cache = open_cache(path, default=path, fallback=path, report=events.append)
        assert cache == CacheRoot(path, is_writable=False)
        with pytest.raises(NotWritable):
            cache.require_writable()
        with pytest.raises(NotWritable):
            cache.index.save(IndexEntry(Manifest.of(MODEL, None, []), is_complete=True, created_at=0))
        assert cache.free_bytes() > 0
    assert "none can be fetched into it" in notes(events)
    path.chmod(0o755)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"layout": 2}', "has cache layout 2; this version of Lading knows 1"),
        ('{"layout": 0}', "does not name a cache layout"),
        ('{"layout": "1"}', "does not name a cache layout"),
        ("[]", "does not name a cache layout"),
        ("", "does not name a cache layout"),
    ],
)
def test_another_layout_is_refused_and_left_as_it_is(text: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "lading-cache.json").write_text(text)
    with pytest.raises(MachineError, match=reason):
        open_cache(tmp_path, default=tmp_path, fallback=tmp_path)
    assert (tmp_path / "lading-cache.json").read_text() == text


def test_a_file_in_place_of_the_cache_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(MachineError, match="is not a directory"):
        open_cache(tmp_path / "file", default=tmp_path, fallback=tmp_path)


def test_temporary_paths_are_never_the_same(tmp_path: Path) -> None:
    cache = open_cache(tmp_path, default=tmp_path, fallback=tmp_path)
    paths = {cache.tmp_path() for _ in range(100)}
    assert len(paths) == 100
    assert {path.parent for path in paths} == {tmp_path / "tmp"}


def put(cache: CacheRoot, data: bytes) -> Digest:
    path = cache.tmp_path()
    path.write_bytes(data)
    digest = Digest.of(data)
    cache.store.commit(path, digest, len(data))
    return digest


def test_files_are_missing_when_their_blob_is_gone_or_changed(tmp_path: Path) -> None:
    cache = open_cache(tmp_path, default=tmp_path, fallback=tmp_path)
    contents = {"gone": b"1", "changed": b"2", "touched": b"3", "same": b"4"}
    digests = {path: put(cache, data) for path, data in contents.items()}
    files = [FileEntry(path, 1, MODEL.with_file(path), digest) for path, digest in digests.items()]
    marks = {path: mark for path, digest in digests.items() if (mark := cache.store.mark_of(digest))}
    entry = IndexEntry(Manifest.of(MODEL, None, files), is_complete=True, created_at=0, marks=marks)
    assert cache.missing_files(entry) == ()

    cache.store.remove(digests["gone"])
    for path, data in (("changed", b"x"), ("touched", b"3")):
        cache.store.path_of(digests[path]).write_bytes(data)
        os.utime(cache.store.path_of(digests[path]), ns=(1, 1))
    assert {file.path for file in cache.missing_files(entry)} == {"gone", "changed"}
    assert set(cache.store.digests()) == {digests["touched"], digests["same"]}


def test_a_listed_file_that_was_never_verified_is_missing(tmp_path: Path) -> None:
    cache = open_cache(tmp_path, default=tmp_path, fallback=tmp_path)
    digest = put(cache, b"x")
    file = FileEntry("a", 1, MODEL.with_file("a"), digest)
    entry = IndexEntry(Manifest.of(MODEL, None, [file]), is_complete=False, created_at=0)
    assert cache.missing_files(entry) == (file,)


def test_a_volume_that_does_not_answer_is_one_clear_error(tmp_path):
    never_answers = threading.Event()
    probe = Probe(0.05, lambda path: never_answers.wait(30))
    with pytest.raises(MachineError, match=f"the volume of {tmp_path} did not answer within 0.1 s") as caught:
        open_cache(tmp_path, default=tmp_path, fallback=tmp_path, probe=probe)
    never_answers.set()
    assert "NIM_CACHE_PROBE_TIMEOUT" in caught.value.remedy
    assert list(tmp_path.iterdir()) == []


def test_a_volume_that_answers_with_an_error_is_there(tmp_path):
    def refuse(path):
        raise OSError(errno.ESTALE, "stale")

    assert open_cache(tmp_path, default=tmp_path, fallback=tmp_path, probe=Probe(30, refuse)).is_writable
