"""The blob store: only verified bytes get in, by rename, once, and changes are noticed."""

from __future__ import annotations

import stat
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from lading.cache.store import BlobStore, FileHasher, Mark
from lading.digest import Digest
from lading.errors import MachineError

DATA = b"weights" * 1000
DIGEST = Digest.of(DATA)


@pytest.fixture
def store(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "blobs", tmp_path / "tmp")


def written(path: Path, data: bytes = DATA) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def test_a_blob_lies_under_its_digest(store: BlobStore) -> None:
    assert store.path_of(DIGEST) == store.directory / "sha256" / DIGEST.hex[:2] / DIGEST.hex


def test_only_sha256_names_blobs(store: BlobStore) -> None:
    with pytest.raises(ValueError, match="named by SHA-256"):
        store.path_of(Digest.of(DATA, "md5"))


def test_a_committed_file_is_moved_in(store: BlobStore, tmp_path: Path) -> None:
    path = written(tmp_path / "partial")
    store.seal(path)
    place = store.commit(path, DIGEST, len(DATA))
    assert place == store.path_of(DIGEST)
    assert place.read_bytes() == DATA
    assert stat.S_IMODE(place.stat().st_mode) == 0o444
    assert not path.exists()
    assert store.has(DIGEST, len(DATA))
    assert store.verify(DIGEST)


def test_committing_twice_keeps_the_first(store: BlobStore, tmp_path: Path) -> None:
    inode = store.commit(written(tmp_path / "one"), DIGEST, len(DATA)).stat().st_ino
    assert store.commit(written(tmp_path / "two"), DIGEST, len(DATA)).stat().st_ino == inode
    assert not (tmp_path / "two").exists()


def test_those_who_commit_one_blob_at_the_same_moment_all_see_the_same_file(store: BlobStore, tmp_path: Path) -> None:
    writers = 8
    for number in range(40):
        data = b"%d" % number
        digest, start = Digest.of(data), threading.Barrier(writers)

        def commit(path: Path, digest: Digest = digest, size: int = len(data), start: Barrier = start) -> Mark | None:
            start.wait()
            store.commit(path, digest, size)
            return store.mark_of(digest)

        with ThreadPoolExecutor(writers) as pool:
            paths = [written(tmp_path / f"{number}-{writer}", data) for writer in range(writers)]
            assert set(pool.map(commit, paths)) == {store.mark_of(digest)}


def test_a_blob_of_another_size_is_replaced(store: BlobStore, tmp_path: Path) -> None:
    written(store.path_of(DIGEST), b"short")
    assert not store.has(DIGEST, len(DATA))
    store.commit(written(tmp_path / "right"), DIGEST, len(DATA))
    assert store.verify(DIGEST)


def test_a_link_or_a_directory_is_no_blob(store: BlobStore, tmp_path: Path) -> None:
    place = store.path_of(DIGEST)
    place.parent.mkdir(parents=True)
    place.symlink_to(written(tmp_path / "elsewhere"))
    assert not store.has(DIGEST, len(DATA))
    place.unlink()
    place.mkdir()
    assert store.mark_of(DIGEST) is None


def test_what_is_no_blob_is_not_listed(store: BlobStore) -> None:
    written(store.path_of(DIGEST))
    written(store.directory / "sha256" / "ab" / ".tmp-1")
    written(store.directory / "sha256" / "00" / DIGEST.hex)
    written(store.directory / "sha256" / "readme")
    assert list(store.digests()) == [DIGEST]


def test_an_empty_store_lists_nothing(store: BlobStore) -> None:
    assert list(store.digests()) == []
    assert not store.has(DIGEST, 0)
    assert not store.verify(DIGEST)
    store.remove(DIGEST)


def test_a_blob_with_its_mark_is_trusted_without_reading_it(store: BlobStore) -> None:
    written(store.path_of(DIGEST), bytes(len(DATA)))
    assert store.holds(DIGEST, len(DATA), store.mark_of(DIGEST))
    assert store.holds(DIGEST, len(DATA), None)
    assert not store.holds(DIGEST, 1, None)


def test_a_blob_with_another_mark_is_read_and_removed_when_wrong(store: BlobStore) -> None:
    place = written(store.path_of(DIGEST))
    old = Mark(len(DATA), 1, 1)
    assert store.holds(DIGEST, len(DATA), old)
    place.write_bytes(bytes(len(DATA)))
    assert not store.holds(DIGEST, len(DATA), old)
    assert not place.exists()


def test_a_check_can_end_the_hashing(store: BlobStore) -> None:
    written(store.path_of(DIGEST))

    def check() -> None:
        raise KeyError

    with pytest.raises(KeyError):
        store.holds(DIGEST, len(DATA), Mark(0, 0, 0), check)
    assert store.has(DIGEST, len(DATA))


def test_a_mark_is_written_and_read_back(store: BlobStore) -> None:
    written(store.path_of(DIGEST))
    mark = store.mark_of(DIGEST)
    assert mark is not None
    assert Mark.from_json(mark.to_json()) == mark


@pytest.mark.parametrize("algorithm", ["sha256", "gitsha1", "md5"])
def test_a_file_is_adopted_by_any_promised_digest(algorithm: str, store: BlobStore, tmp_path: Path) -> None:
    path = written(tmp_path / "other" / "file")
    link = tmp_path / "snapshot"
    link.symlink_to(path)
    assert store.adopt(link, Digest.of(DATA, algorithm), len(DATA)) == DIGEST
    assert store.path_of(DIGEST).samefile(path)
    assert not store.path_of(DIGEST).is_symlink()
    assert not list(store.temporary.iterdir())


@pytest.mark.parametrize("data", [b"short", bytes(len(DATA))])
def test_a_file_with_other_bytes_is_not_adopted(data: bytes, store: BlobStore, tmp_path: Path) -> None:
    assert store.adopt(written(tmp_path / "file", data), DIGEST, len(DATA)) is None
    assert not list(store.digests())
    assert not list(store.temporary.iterdir())


def test_what_is_no_file_is_not_adopted(store: BlobStore, tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for path in (tmp_path / "missing", tmp_path / "loop", tmp_path):
        assert store.adopt(path, DIGEST, path.stat().st_size if path.is_dir() else 1) is None


def test_adopting_what_is_here_changes_nothing(store: BlobStore, tmp_path: Path) -> None:
    place = store.commit(written(tmp_path / "one"), DIGEST, len(DATA))
    inode = place.stat().st_ino
    assert store.adopt(written(tmp_path / "two"), DIGEST, len(DATA)) == DIGEST
    assert place.stat().st_ino == inode


def test_a_store_that_cannot_be_written_is_an_error_that_names_the_place(tmp_path: Path) -> None:
    written(tmp_path / "file")
    store = BlobStore(tmp_path / "file" / "blobs", tmp_path / "file" / "tmp")
    with pytest.raises(MachineError, match="file/tmp"):
        store.adopt(written(tmp_path / "source"), DIGEST, len(DATA))
    with pytest.raises(MachineError, match="file/blobs"):
        store.commit(written(tmp_path / "source"), DIGEST, len(DATA))
    assert (tmp_path / "source").exists()


def test_the_hasher_keeps_both_digests() -> None:
    hasher = FileHasher(len(DATA), Digest.of(DATA, "gitsha1"))
    promises = [hasher.keeps_promise]
    for piece in (memoryview(DATA)[:10], DATA[10:]):
        hasher.update(piece)
        promises.append(hasher.keeps_promise)
    assert promises == [False, False, True]
    assert hasher.sha256 == DIGEST
    assert hasher.found == Digest.of(DATA, "gitsha1")


def test_without_a_promise_there_is_nothing_to_keep() -> None:
    hasher = FileHasher(0, None)
    assert hasher.keeps_promise
    assert hasher.found == Digest.of(b"")


def test_a_blob_that_cannot_be_read_is_an_error_and_not_a_wrong_blob(store: BlobStore) -> None:
    store.path_of(DIGEST).mkdir(parents=True)
    with pytest.raises(MachineError, match=DIGEST.hex):
        store.verify(DIGEST)
