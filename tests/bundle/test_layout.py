"""Where bytes are: the archive against tar itself, sizes of all magnitudes, volumes."""

from __future__ import annotations

import io
import subprocess
import tarfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lading.bundle.layout import (
    MOST_VOLUMES,
    BlobPiece,
    blob_name,
    cut,
    lay_out,
    member_header,
    volume_path,
)
from lading.digest import Digest
from lading.errors import UsageError
from tests.bundle.test_hostile import model

NAME = blob_name(Digest.of(b""))


@given(st.integers(0, 1 << 60))
def test_headers_are_read_by_others_as_they_are_meant(size_bytes: int) -> None:
    header = member_header(NAME, size_bytes)
    assert len(header) % 512 == 0
    with tarfile.open(fileobj=io.BytesIO(header + bytes(1024)), mode="r:", ignore_zeros=False) as archive:
        first = archive.next()
    assert first is not None
    assert (first.name, first.size, first.isreg()) == (NAME, size_bytes, True)


@pytest.mark.parametrize("size_bytes", [(8 << 30) - 1, 8 << 30, 20 << 30], ids=["7", "8", "20"])
def test_blobs_of_eight_gibibytes_and_more_are_listed_by_tar(size_bytes: int, tmp_path: Path) -> None:
    from lading.bundle.head import Head

    layout = lay_out(Head.of([model(size=size_bytes)]))
    path = tmp_path / "b.tar"
    with path.open("wb") as file:
        for piece in layout.pieces:
            if not isinstance(piece, BlobPiece):
                file.seek(piece.offset)
                file.write(piece.data)
    assert path.stat().st_size == layout.total_bytes
    told = subprocess.run(["tar", "tvf", path], capture_output=True, text=True, check=True)
    assert told.stderr == ""
    last = told.stdout.splitlines()[-1].split()
    assert (last[2], last[-1]) == (str(size_bytes), blob_name(next(iter(layout.blobs))))


@settings(deadline=None)
@given(st.integers(1, 10**13), st.integers(65536, 10**12))
def test_volumes_cover_an_archive_without_gaps_and_sort_by_name(total_bytes: int, volume_bytes: int) -> None:
    path = Path("/x/b.tar")
    if -(-total_bytes // volume_bytes) > MOST_VOLUMES:
        with pytest.raises(UsageError, match="in volumes of"):
            cut(path, total_bytes, volume_bytes)
        return
    volumes = cut(path, total_bytes, volume_bytes)
    assert [each.start for each in volumes] == [0, *(each.end for each in volumes[:-1])]
    assert volumes[-1].end == total_bytes
    assert all(each.end - each.start <= volume_bytes for each in volumes)
    names = [each.path.name for each in volumes]
    assert names == sorted(names)
    assert len(set(names)) == len(names)


def test_names_of_volumes() -> None:
    assert volume_path(Path("b.tar"), 7, 12).name == "b.tar.007"
    assert volume_path(Path("b.tar"), 7, 1200).name == "b.tar.0007"
