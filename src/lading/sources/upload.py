"""The port of destinations: buckets that verified files are copied into, in one request or in parts.

Credentials, addresses and wire quirks stay inside the members (``s3_upload.py``, ``gcs_upload.py``), as with sources.
Rules that all keep:

* calls ask once: PassingFault says that asking again may help, and the caller does the waiting;
* all bytes go with checksums that the server verifies before it keeps them;
* an object is stored with its SHA-256 as metadata ``sha256``, which sources read as the object's digest;
* which uploads in parts are unfinished, and what they hold, is asked of the server: nothing is kept here.
"""

from __future__ import annotations

import hashlib
from base64 import b64encode
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from mmap import mmap
from typing import Protocol

from lading.digest import Digest
from lading.errors import SourceError, SourceProtocolError, UsageError
from lading.sources.interface import Bucket
from lading.uri import InvalidModelUri, ModelUri, Scheme

SLICE_BYTES = 256 << 10
_REGISTRIES = (Scheme.HF, Scheme.MODELSCOPE, Scheme.NGC)


class UploadGone(SourceError):
    """An upload in parts is there no longer: somebody, perhaps another mirror, completed it or gave it up."""


class PartsNotSupported(SourceProtocolError):
    """The server takes objects in one request only."""


@dataclass(frozen=True, slots=True)
class Held:
    """An object as a destination has it; ``digests`` are what it tells of the bytes, best first."""

    size_bytes: int
    digests: tuple[Digest, ...] = ()


def _unwatched(count: int) -> None:
    """Who watches a body that is too short to be watched."""


class Body:
    """Bytes to be sent, with their checksums. ``watch`` is told how many go out next; it may wait, or raise."""

    def __init__(self, data: bytes | mmap, watch: Callable[[int], None] = _unwatched) -> None:
        self._data = data
        self._watch = watch

    @property
    def size_bytes(self) -> int:
        """How many bytes they are."""
        return len(self._data)

    @cached_property
    def md5(self) -> Digest:
        """Their MD5."""
        return Digest("md5", hashlib.md5(self._data, usedforsecurity=False).hexdigest())

    @cached_property
    def sha256(self) -> Digest:
        """Their SHA-256."""
        return Digest("sha256", hashlib.sha256(self._data).hexdigest())

    @property
    def content_md5(self) -> str:
        """The MD5 as headers have it."""
        return b64encode(bytes.fromhex(self.md5.hex)).decode()

    def slices(self) -> Iterator[memoryview]:
        """The bytes, in pieces small enough to show progress and to stop between."""
        view = memoryview(self._data)
        for start in range(0, len(view), SLICE_BYTES):
            piece = view[start : start + SLICE_BYTES]
            self._watch(len(piece))
            yield piece


@dataclass(frozen=True, slots=True)
class Part:
    """A part that a destination has. ``digests`` are those of its bytes that the destination tells."""

    number: int
    size_bytes: int
    etag: str
    digests: tuple[Digest, ...] = ()


@dataclass(frozen=True, slots=True)
class Upload:
    """An upload in parts that is not completed, with what it has."""

    name: str
    id: str
    parts: tuple[Part, ...] = ()

    @property
    def sent_bytes(self) -> int:
        """Bytes of its parts."""
        return sum(each.size_bytes for each in self.parts)


class Destination(Protocol):
    """A bucket, or a prefix of one, that objects are put into by their names. Safe to use from several threads.

    Every call asks once. It may raise PassingFault, Unauthorized, ModelNotFound for a missing bucket, and the other
    errors of sources.
    """

    @property
    def place(self) -> ModelUri:
        """The bucket and prefix."""

    @property
    def bucket(self) -> Bucket:
        """The same as a source, for what it holds."""

    @property
    def whole_digest(self) -> str | None:
        """The algorithm in which it tells what it made of parts; None where it tells nothing of its own."""

    def put(self, name: str, sha256: Digest, body: Body) -> None:
        """Store an object in one request, in place of one of that name."""

    def look_at(self, name: str) -> Held | None:
        """The object as it is stored now; None where there is none."""

    def remove(self, name: str) -> None:
        """Delete an object, if it is there."""

    def unfinished(self, name: str) -> Sequence[Upload]:
        """The uploads in parts of this object that can be continued here."""

    def begin(self, name: str, sha256: Digest) -> Upload:
        """A new upload in parts. Raises PartsNotSupported."""

    def send_part(self, upload: Upload, number: int, body: Body) -> Part:
        """Store a part, in place of one of that number. Raises UploadGone."""

    def complete(self, upload: Upload, parts: Sequence[Part]) -> None:
        """Make the object of these parts, in order. Raises UploadGone, also where an earlier try succeeded."""

    def abandon(self, upload: Upload) -> None:
        """Give an upload up; its parts are deleted."""


def bucket_location(scheme: Scheme, text: str) -> ModelUri:
    """The bucket, with its prefix, that ``bucket[/prefix]`` or a URI of the scheme names.

    Raises UsageError for another kind of place.
    """
    example = f"name it as bucket, bucket/prefix or {scheme}://bucket/prefix"
    try:
        place = ModelUri.parse(text if "://" in text or text.startswith("/") else f"{scheme}://{text}")
    except InvalidModelUri as error:
        raise UsageError(f"{text!r} is not the name of a bucket: {error.message}", remedy=example) from error
    if place.scheme in _REGISTRIES:
        raise UsageError(f"model registries are not valid destinations: {text}", remedy=example)
    if place.scheme is not scheme or place.file:
        raise UsageError(f"{text} is no {scheme}:// bucket", remedy=example)
    return place
