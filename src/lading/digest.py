"""The identity of bytes: ``sha256:<hex>`` and the other digests that sources publish.

The store names blobs by SHA-256 only. A source may promise another digest (a git blob id, an MD5, …); it is verified
while the bytes stream past and the SHA-256 computed beside it becomes the file's identity from then on.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import Any, Protocol, cast

from lading.errors import UsageError

_HEX_LENGTHS = {"sha256": 64, "blake3": 64, "gitsha1": 40, "md5": 32, "crc32c": 8}
_HEX = re.compile(r"[0-9a-f]+")


class Hasher(Protocol):
    """What :mod:`hashlib` objects offer."""

    def update(self, data: bytes | bytearray | memoryview, /) -> None:
        """Add bytes."""

    def hexdigest(self) -> str:
        """Lowercase hexadecimal digest of the bytes so far."""


@dataclass(frozen=True, slots=True, order=True)
class Digest:
    """Identity of a file's bytes, written ``sha256:<64 lowercase hex>``.

    ``gitsha1`` is git's blob id: SHA-1 over ``blob <size>``, a zero byte, and the file's bytes. ``crc32c`` is the sum
    of RFC 9260, appendix A, most significant byte first: it finds damage, not forgery.
    Law: ``str(Digest.parse(text)) == text`` for every accepted text.
    """

    algorithm: str
    hex: str

    def __post_init__(self) -> None:
        if _HEX_LENGTHS.get(self.algorithm) != len(self.hex) or not _HEX.fullmatch(self.hex):
            raise ValueError(f"not a digest: {self.algorithm}:{self.hex}")

    @classmethod
    def parse(cls, text: str) -> Digest:
        """The digest written as ``<algorithm>:<hex>``; ValueError for anything else."""
        algorithm, _, hex_digits = text.partition(":")
        return cls(algorithm, hex_digits)

    @classmethod
    def of(cls, data: bytes, algorithm: str = "sha256") -> Digest:
        """The digest of ``data``."""
        hasher = new_hasher(algorithm, len(data))
        hasher.update(data)
        return cls(algorithm, hasher.hexdigest())

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.hex}"


def new_hasher(algorithm: str, size_bytes: int) -> Hasher:
    """A fresh hasher for a file of ``size_bytes``; ValueError for an unknown algorithm.

    Raises UsageError for ``crc32c`` where google-crc32c is not installed.
    """
    match algorithm:
        case "sha256":
            return hashlib.sha256()
        case "blake3":
            import blake3

            return cast("Hasher", blake3.blake3())  # whose update returns itself
        case "md5":
            return hashlib.md5(usedforsecurity=False)
        case "gitsha1":
            git = hashlib.sha1(usedforsecurity=False)
            git.update(b"blob %d\0" % size_bytes)
            return git
        case "crc32c":
            return _Crc32c()
        case _:
            raise ValueError(f"unknown digest algorithm: {algorithm}")


class _Crc32c:
    def __init__(self) -> None:
        try:
            import google_crc32c
        except ImportError as error:
            raise UsageError(
                "the only digest that this source tells is a CRC32C, and google-crc32c is not installed to check it",
                remedy='pip install "lading[gcs]"',
            ) from error
        library: Any = google_crc32c  # which has no types
        self._checksum = library.Checksum()

    def update(self, data: bytes | bytearray | memoryview, /) -> None:
        self._checksum.update(bytes(data))  # its C code takes nothing that can be written to

    def hexdigest(self) -> str:
        digest: bytes = self._checksum.digest()
        return digest.hex()
