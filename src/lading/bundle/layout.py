"""Where every byte of a bundle is: a tar archive that follows from its head, and how it is cut into volumes.

Pure. The archive is ``ustar`` of POSIX.1-2001, with one ``pax`` record before a member of 8 GiB and more. All that is
not a blob's bytes is known beforehand, owner, time and padding included; so whoever reads compares, and parses nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lading.bundle.head import Head
from lading.digest import Digest
from lading.errors import UsageError
from lading.units import KIB, format_bytes

HEAD = "lading-bundle.json"
SUMS = "SHA256SUMS"
SIGNATURE = "model.sig"
BLOCK = 512
LEAST_VOLUME_BYTES = 64 * KIB
MOST_VOLUMES = 9999

_MOST_OCTAL = 8**11 - 1  # eleven octal digits, one byte less than 8 GiB
_FILE, _RECORD = b"0", b"x"


def member_header(name: str, size_bytes: int) -> bytes:
    """What precedes a member's bytes: one block, or three where the size needs a record of its own."""
    if size_bytes <= _MOST_OCTAL:
        return _block(name, size_bytes, _FILE)
    record = _record("size", str(size_bytes))
    named = f"PaxHeaders/{name.rpartition('/')[2]}"
    return _block(named, len(record), _RECORD) + _padded(record) + _block(name, 0, _FILE)


def _block(name: str, size_bytes: int, kind: bytes) -> bytes:
    """See POSIX.1-2017, pax, "ustar Interchange Format"."""
    before = name.encode().ljust(100, b"\0") + b"0000644\0" + b"0000000\0" * 2 + b"%011o\0" % size_bytes + b"0" * 11
    after = kind + bytes(100) + b"ustar\0" + b"00" + bytes(64) + b"0000000\0" * 2 + bytes(155 + 12)
    total = sum(before) + sum(after) + 8 * ord(" ")  # the sum itself counts as blanks
    return before + b"\0" + b"%06o\0 " % total + after


def _record(keyword: str, value: str) -> bytes:
    """A record of a pax header: its own length, in decimal, is part of it."""
    rest = len(f" {keyword}={value}\n")
    length = rest + len(str(rest))
    length = rest + len(str(length))
    return f"{length} {keyword}={value}\n".encode()


def padding(size_bytes: int) -> bytes:
    """What follows so many bytes up to the next block."""
    return bytes(-size_bytes % BLOCK)


def _padded(data: bytes) -> bytes:
    return data + padding(len(data))


def member(name: str, data: bytes) -> bytes:
    """A whole member."""
    return member_header(name, len(data)) + _padded(data)


def blob_name(digest: Digest) -> str:
    """The name of a blob's member."""
    return f"blobs/sha256/{digest.hex[:2]}/{digest.hex}"


@dataclass(frozen=True, slots=True)
class Literal:
    """Bytes that are known: headers, padding, head."""

    offset: int
    data: bytes


@dataclass(frozen=True, slots=True)
class BlobPiece:
    """The place of a blob's bytes."""

    offset: int
    digest: Digest
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Layout:
    """A whole archive: its pieces in order, without gaps; how many bytes they are; where the blobs begin."""

    pieces: tuple[Literal | BlobPiece, ...]
    total_bytes: int

    @property
    def blobs(self) -> dict[Digest, BlobPiece]:
        """The place of every blob."""
        return {piece.digest: piece for piece in self.pieces if isinstance(piece, BlobPiece)}


def contents(head: Head) -> dict[str, Digest]:
    """The SHA-256 of every member by its name, in their order; the signature, which covers them, left out."""
    encoded = head.encode()
    return {
        HEAD: Digest.of(encoded),
        SUMS: Digest.of(sums(head)),
        **{blob_name(digest): digest for digest in head.blobs},
    }


def sums(head: Head) -> bytes:
    """What ``sha256sum`` would print of the head and the blobs."""
    members = {HEAD: Digest.of(head.encode()), **{blob_name(digest): digest for digest in head.blobs}}
    return sum_lines({name: digest.hex for name, digest in members.items()})


def sum_lines(sums_by_name: Mapping[str, str]) -> bytes:
    """The lines that ``sha256sum --check`` reads."""
    return "".join(f"{digits}  {name}\n" for name, digits in sums_by_name.items()).encode()


def prelude(head: Head) -> bytes:
    """What every bundle with this head begins with."""
    return member(HEAD, head.encode()) + member(SUMS, sums(head))


def lay_out(head: Head, signature: bytes | None = None) -> Layout:
    """The archive of a head, and of a signature where there is one."""
    pieces: list[Literal | BlobPiece] = []
    offset = 0
    pending = prelude(head) + (member(SIGNATURE, signature) if signature is not None else b"")
    for digest, size_bytes in head.blobs.items():
        pending += member_header(blob_name(digest), size_bytes)
        pieces += [Literal(offset, pending), BlobPiece(offset + len(pending), digest, size_bytes)]
        offset += len(pending) + size_bytes
        pending = padding(size_bytes)
    pending += bytes(2 * BLOCK)
    pieces.append(Literal(offset, pending))
    return Layout(tuple(pieces), offset + len(pending))


@dataclass(frozen=True, slots=True)
class Volume:
    """One file of a bundle, with the bytes of the archive from ``start`` to ``end``."""

    path: Path
    start: int
    end: int

    @property
    def partial_path(self) -> Path:
        """Where it lies until all are whole."""
        return self.path.with_name(f"{self.path.name}.partial")


def cut(path: Path, total_bytes: int, volume_bytes: int | None) -> tuple[Volume, ...]:
    """The files for an archive: ``path`` itself, or ``path`` with ``.001``, ``.002`` … of ``volume_bytes`` each.

    Raises UsageError for volumes that are too small, or too many.
    """
    if volume_bytes is None:
        return (Volume(path, 0, total_bytes),)
    if volume_bytes < LEAST_VOLUME_BYTES:
        raise UsageError(
            f"volumes of {format_bytes(volume_bytes)} are too small",
            remedy=f"at least {format_bytes(LEAST_VOLUME_BYTES)}; 4GB fits on FAT32",
        )
    starts = range(0, total_bytes, volume_bytes)
    if len(starts) > MOST_VOLUMES:
        raise UsageError(
            f"{format_bytes(total_bytes)} in volumes of {format_bytes(volume_bytes)} are {len(starts)} files",
            remedy=f"at most {MOST_VOLUMES}: name a larger --volume-size",
        )
    return tuple(
        Volume(volume_path(path, number, len(starts)), start, min(start + volume_bytes, total_bytes))
        for number, start in enumerate(starts, 1)
    )


def volume_path(path: Path, number: int, count: int) -> Path:
    """The name of a volume among so many: digits enough that names sort as numbers do, three at least."""
    return path.with_name(f"{path.name}.{number:0{max(3, len(str(count)))}}")
