"""Bundles that were damaged or forged: one clear error, or the same models; never wrong bytes under a name."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from lading.bundle.archive import find_volumes
from lading.bundle.head import MOST_BYTES, BundleModel, Head, MalformedBundle
from lading.bundle.layout import HEAD, SUMS, BlobPiece, lay_out, member, member_header
from lading.digest import Digest
from lading.errors import ContentError, DigestMismatch, LadingError, NotEnoughDisk, SizeMismatch
from lading.model.manifest import FileEntry, Manifest
from lading.uri import ModelUri
from tests.bundle.caches import (
    CONTENT,
    ONE,
    SHARED,
    TWO,
    Keys,
    assert_sound,
    cache_at,
    content_of,
    create,
    filled,
    opened,
    take,
)


class Made:
    """A bundle, signed, and the cache that it was made of."""

    def __init__(self, directory: Path) -> None:
        self.cache = filled(directory / "cache")
        self.keys = Keys.made(directory)
        self.path = directory / "b.tar"
        create(self.cache, self.path, sign_key=self.keys.private)
        self.data = self.path.read_bytes()
        self.head, self.layout = opened(self.path)
        self.first_blob = next(piece for piece in self.layout.pieces if isinstance(piece, BlobPiece)).offset


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return Made(tmp_path_factory.mktemp("made"))


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path


def imported_or_refused(data: bytes) -> str:
    """Import what ``data`` is into an empty cache, and hold the cache to its rules; how the import ended."""
    directory = Path(tempfile.mkdtemp(prefix="lading-bundle-"))
    try:
        (directory / "b.tar").write_bytes(data)
        cache = cache_at(directory / "cache")
        try:
            take(directory / "b.tar", cache)
        except LadingError as error:
            assert error.exit_code == 4, error
            ended = error.message
        else:
            assert [content_of(cache, model) for model in CONTENT] == list(CONTENT.values())
            ended = ""
        assert_sound(cache)
        for model, files in CONTENT.items():
            assert content_of(cache, model) in (files, None)
        assert [entry.source for entry in cache.index.entries() if entry.source not in CONTENT] == []
        assert list((directory / "cache").glob("tmp/*")) == []
        return ended
    finally:
        shutil.rmtree(directory)


SLOW = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@SLOW
@given(share=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7), in_front=st.booleans())
def test_any_wrong_bit_is_found_or_does_not_matter(made: Made, share: float, bit: int, in_front: bool) -> None:
    position = int(share * (made.first_blob if in_front else len(made.data)))
    data = bytearray(made.data)
    data[position] ^= 1 << bit
    imported_or_refused(bytes(data))


def test_any_wrong_byte_of_a_blob_or_of_the_head_is_found(made: Made) -> None:
    for piece in made.layout.blobs.values():
        for offset in {piece.offset, piece.offset + piece.size_bytes - 1} if piece.size_bytes else ():
            data = bytearray(made.data)
            data[offset] ^= 0xFF
            assert str(piece.digest) in imported_or_refused(bytes(data))
        data = bytearray(made.data)
        data[piece.offset - 512 + 124] ^= 1
        assert str(piece.digest) in imported_or_refused(bytes(data))
    for position in range(0, len(member(HEAD, made.head.encode())), 37):
        data = bytearray(made.data)
        data[position] ^= 0x01
        assert imported_or_refused(bytes(data)), position


@SLOW
@given(share=st.floats(0, 1), length=st.integers(0, 5000), what=st.binary(max_size=2000))
@example(share=0.0, length=0, what=b"")
@example(share=1.0, length=0, what=b"\0")
def test_anything_cut_out_put_in_or_overwritten_is_found_or_does_not_matter(
    made: Made, share: float, length: int, what: bytes
) -> None:
    start = int(share * len(made.data))
    ended = imported_or_refused(made.data[:start] + what + made.data[start + length :])
    if len(what) != min(length, len(made.data) - start):
        assert ended


@SLOW
@given(share=st.floats(0, 1, exclude_max=True))
def test_a_bundle_that_is_cut_off_is_refused_before_anything_enters_the_cache(made: Made, share: float) -> None:
    directory = Path(tempfile.mkdtemp(prefix="lading-bundle-"))
    try:
        (directory / "b.tar").write_bytes(made.data[: int(share * len(made.data))])
        cache = cache_at(directory / "cache")
        with pytest.raises(ContentError):
            take(directory / "b.tar", cache)
        assert list(cache.store.digests()) == []
        assert list(cache.index.entries()) == []
    finally:
        shutil.rmtree(directory)


def test_swapped_volumes_are_told(made: Made, place: Path) -> None:
    create(made.cache, place / "b.tar", volume_bytes=200_000)
    two, three = place / "b.tar.002", place / "b.tar.003"
    two.rename(place / "x")
    three.rename(two)
    (place / "x").rename(three)
    cache = cache_at(place / "cache")
    with pytest.raises(ContentError, match=r"b\.tar\.00[1-3]"):
        take(place / "b.tar", cache)
    assert_sound(cache)


def test_a_volume_of_another_bundle_is_told(made: Made, place: Path) -> None:
    create(made.cache, place / "b.tar", volume_bytes=200_000)
    (place / "b.tar.003").write_bytes(os.urandom(200_000))
    with pytest.raises(ContentError, match=r"b\.tar\.00[2-4]"):
        take(place / "b.tar", cache_at(place / "cache"))


def model(path: str = "a.bin", data: bytes = b"a" * 3000, size: int | None = None, **more: Any) -> BundleModel:
    entry = FileEntry(
        path,
        len(data) if size is None else size,
        ModelUri.parse("hf://org/x:c0ffee?file=a"),
        Digest.of(data),
        more.get("etag"),
        more.get("version"),
    )
    return BundleModel(Manifest.of(ModelUri.parse("hf://org/x"), more.get("revision", "c0ffee"), [entry]))


HEAD_OF_X = Head.of([model()])


def with_head(change: Callable[[dict[str, Any]], object]) -> bytes:
    """A bundle whose head was changed, its sums in agreement with that."""
    told = json.loads(HEAD_OF_X.encode())
    change(told)
    data = json.dumps(told, indent=1, sort_keys=True).encode() + b"\n"
    sums = f"{Digest.of(data).hex}  {HEAD}\n".encode()
    return member(HEAD, data) + member(SUMS, sums)


def file_of(told: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = told["models"][0]["manifest"]["files"][0]
    return found


LIES: dict[str, Callable[[dict[str, Any]], object]] = {
    "no models": lambda told: told.update(models=[]),
    "models that are none": lambda told: told.update(models=7),
    "a name twice": lambda told: told["models"].append(told["models"][0]),
    "a path that leaves": lambda told: file_of(told).update(path="../../etc/passwd"),
    "an absolute path": lambda told: file_of(told).update(path="/etc/passwd"),
    "a path with a control character": lambda told: file_of(told).update(path="a\x1b[2J"),
    "a path that is not Unicode": lambda told: file_of(told).update(path="\ud800"),
    "a size below zero": lambda told: file_of(told).update(size_bytes=-1),
    "a size as text": lambda told: file_of(told).update(size_bytes="3000"),
    "a size that is a truth": lambda told: file_of(told).update(size_bytes=True),
    "a size beyond all": lambda told: file_of(told).update(size_bytes=1 << 70),
    "no digest": lambda told: file_of(told).pop("digest"),
    "another digest": lambda told: file_of(told).update(digest="md5:" + "0" * 32),
    "a digest that is a path": lambda told: file_of(told).update(digest="sha256:../../../../tmp/x"),
    "an etag that is an object": lambda told: file_of(told).update(etag={}),
    "a revision with a control character": lambda told: told["models"][0]["manifest"].update(revision="\x1b]0;x\x07"),
    "a revision that is a number": lambda told: told["models"][0]["manifest"].update(revision=7),
    "a source that is none": lambda told: told["models"][0]["manifest"].update(source="org/x"),
    "a revision that turns the line around": lambda told: told["models"][0]["manifest"].update(revision="\u202ex"),
    "a format beyond all": lambda told: told.update(format=10**4000),
    "no files": lambda told: told["models"][0]["manifest"].update(files=[]),
    "a field that nobody knows": lambda told: told.update(more=1),
    "a promise for no file": lambda told: told["models"][0].update(promised={"b": "md5:" + "0" * 32}),
    "no format": lambda told: told.pop("format"),
    "a format that is text": lambda told: told.update(format="1"),
    "another format": lambda told: told.update(format=2),
    "promises that are a list": lambda told: told["models"][0].update(promised=[]),
}


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES)
def test_a_head_that_lies_is_refused(lie: Callable[[dict[str, Any]], object], place: Path) -> None:
    (place / "b.tar").write_bytes(with_head(lie) + b"\0" * 8192)
    cache = cache_at(place / "cache")
    with pytest.raises(MalformedBundle) as refused:
        take(place / "b.tar", cache)
    assert refused.value.message.isprintable()
    assert list(cache.index.entries()) == []


@pytest.mark.parametrize(
    "data",
    [
        b"not a tar",
        b"",
        b"\0" * 10240,
        member("bundle.json", b"{}"),
        member("../../etc/passwd", b"x"),
        member(HEAD, b"{}"),
        member(HEAD, b"[" * 100_000),
        member(HEAD, b"{"),
        member(HEAD, b"\xff"),
        member(HEAD, b'{"format": 1' + b"0" * 5000 + b"}"),
        member(HEAD, b'{"format": NaN}'),
        member(HEAD, HEAD_OF_X.encode()),
        member(HEAD, HEAD_OF_X.encode()) + member(SUMS, b""),
        member(HEAD, HEAD_OF_X.encode().replace(b"\n", b"")),
        member(HEAD, HEAD_OF_X.encode() + b" "),
        member_header(HEAD, MOST_BYTES + 1) + bytes(4096),
        member_header(HEAD, 3_000_000),
        member(HEAD, HEAD_OF_X.encode()).replace(b"0000644", b"0000755", 1),
        member(HEAD, HEAD_OF_X.encode()).replace(b"ustar\x0000", b"ustar  \0", 1),
        member_header(HEAD, 100)[:124] + b"\x80" + bytes(7) + b"\xff" * 4 + member_header(HEAD, 100)[136:],
        member("././@PaxHeader", b"28 path=lading-bundle.json\n"),
    ],
    ids=range(21),
)
def test_what_is_no_bundle_is_one_clear_error(data: bytes, place: Path) -> None:
    (place / "b.tar").write_bytes(data)
    with pytest.raises((MalformedBundle, SizeMismatch)):
        take(place / "b.tar", cache_at(place / "cache"))


def test_tar_tricks_in_the_place_of_a_blob_are_refused(place: Path) -> None:
    """A link, a sparse file or a record that changes the size where the blob's own header belongs."""
    layout = lay_out(HEAD_OF_X)
    (piece,) = layout.blobs.values()
    whole = bytearray(b"".join(each.data if not isinstance(each, BlobPiece) else b"a" * 3000 for each in layout.pieces))
    start = piece.offset - 512
    for kind in (b"1", b"2", b"S", b"x", b"g", b"5", b"3"):
        header = bytearray(whole[start : start + 512])
        header[156:157] = kind
        header[148:156] = b" " * 8
        header[148:156] = b"%06o\0 " % sum(header)
        (place / "b.tar").write_bytes(bytes(whole[:start] + header + whole[start + 512 :]))
        cache = cache_at(place / "cache")
        with pytest.raises(MalformedBundle, match="is not where the bundle says"):
            take(place / "b.tar", cache)
        assert list(cache.store.digests()) == []
    (place / "b.tar").write_bytes(bytes(whole))
    take(place / "b.tar", cache_at(place / "cache"))


def test_a_forged_blob_never_gets_the_name_that_it_claims(place: Path) -> None:
    head = Head.of([model(data=b"b" * 3000)])
    layout = lay_out(head)
    whole = b"".join(each.data if not isinstance(each, BlobPiece) else b"a" * 3000 for each in layout.pieces)
    (place / "b.tar").write_bytes(whole)
    cache = cache_at(place / "cache")
    with pytest.raises(DigestMismatch, match="are damaged"):
        take(place / "b.tar", cache)
    assert list(cache.store.digests()) == []
    entry = cache.index.load(ModelUri.parse("hf://org/x"))
    assert entry and not entry.is_complete
    assert list((cache.path / "tmp").iterdir()) == []


def test_a_size_that_no_disk_has_is_refused_before_anything_is_made(place: Path) -> None:
    """A sparse file of some tebibytes costs who sends it nothing."""
    head = Head.of([model(size=1 << 42)])
    layout = lay_out(head)
    with (place / "b.tar").open("wb") as file:
        for piece in layout.pieces:
            if not isinstance(piece, BlobPiece):
                file.seek(piece.offset)
                file.write(piece.data)
    cache = cache_at(place / "cache")
    with pytest.raises(NotEnoughDisk):
        take(place / "b.tar", cache)
    assert list(cache.index.entries()) == []


def test_a_bundle_of_countless_volumes_is_refused_at_once(place: Path) -> None:
    """Its first volume is as small as its head, and its blob as large as a head may say."""
    layout = lay_out(Head.of([model(size=1 << 62)]))
    first = layout.pieces[0]
    assert not isinstance(first, BlobPiece)
    (place / "b.tar.001").write_bytes(first.data)
    with pytest.raises(SizeMismatch, match=r"b\.tar\.0+2, .* more not found"):
        take(place / "b.tar", cache_at(place / "cache"))


def test_a_long_lie_is_a_short_error(place: Path) -> None:
    (place / "b.tar").write_bytes(with_head(lambda told: file_of(told).update(etag="\n" * 1_000_000)))
    with pytest.raises(MalformedBundle) as refused:
        take(place / "b.tar", cache_at(place / "cache"))
    assert len(refused.value.message) < 1000


def test_one_digest_has_one_size() -> None:
    one = model("a.bin", b"a")
    two = BundleModel(Manifest.of(ModelUri.parse("hf://org/y"), None, [model("a.bin", b"a", size=2).manifest.files[0]]))
    with pytest.raises(ValueError, match="two sizes"):
        Head.of([one, two])


def test_a_head_that_is_too_long_is_not_written() -> None:
    files = [model(f"{number:0250}", etag="e" * 60_000).manifest.files[0] for number in range(600)]
    head = Head.of([BundleModel(Manifest.of(ModelUri.parse("hf://org/x"), None, files))])
    with pytest.raises(ContentError, match="longer than"):
        head.encode()


def test_the_law_of_heads(made: Made) -> None:
    assert Head.parse(made.head.encode()) == made.head
    assert [each.source for each in made.head.models] == [ONE, TWO]
    assert Digest.of(SHARED) in made.head.blobs


def test_devices_and_pipes_are_no_bundles(place: Path) -> None:
    os.mkfifo(place / "pipe")
    for path in (place / "pipe", Path("/dev/zero")):
        with pytest.raises(LadingError, match="is no file"):
            find_volumes(path)
