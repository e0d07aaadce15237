"""The port that every source implements: list a model's files, serve their bytes by range.

A new source is one file beside this one, one line in the mapping of :mod:`lading.sources`, one test file. Credentials,
endpoints and wire quirks stay inside the member; what leaves it is this protocol and the errors of
:mod:`lading.errors`, two of them refined here because the transfer acts on them. What members do alike is below them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Protocol

from lading.errors import FileNotFoundAtSource, SourceProtocolError, SourceUnreachable, UsageError
from lading.model.manifest import FileEntry, Manifest
from lading.secret import Secret
from lading.uri import ModelUri

LARGEST_FILE_BYTES = 1 << 62

LIST_AGAIN = "list the model's files again (--refresh)"  # what to do about a file that is no longer as it was listed


class PassingFault(SourceUnreachable):
    """A fault that another try may not meet: a broken connection, a time-out, HTTP 408, 429 or 5xx.

    ``retry_after_seconds`` is how long the server asked to be left alone, None where it did not say; ``status`` is the
    HTTP status, None where no answer came.
    """

    def __init__(
        self,
        message: str,
        *,
        remedy: str | None = None,
        retry_after_seconds: float | None = None,
        status: int | None = None,
    ) -> None:
        super().__init__(message, remedy=remedy)
        self.retry_after_seconds = retry_after_seconds
        self.status = status


class RangeIgnored(SourceProtocolError):
    """The server answered a range that does not start at 0 with the whole file: it can only be read from the start."""


@dataclass(frozen=True, slots=True)
class Access:
    """Where a source asks about a model, and as whom. ``credential`` names it without its value; None: as nobody."""

    endpoint: str
    credential: str | None


class RangeReader(Protocol):
    """The bytes of one range, in order. Used by one thread at a time."""

    def readinto(self, buffer: memoryview, /) -> int:
        """Fill the start of ``buffer`` (bytes, writable) with the next bytes and return how many: 1 or more.

        That may be fewer than fit, so that progress shows on slow lines. 0 only after the range's last byte, or for an
        empty buffer. Raises PassingFault when the connection breaks or ends early, so that the caller may ask again
        from where it stands.
        """


class Source(Protocol):
    """A place that lists a model's files and serves their bytes. Safe to use from several threads."""

    @property
    def in_place(self) -> bool:
        """True where files are served from where they lie: they are linked into a workspace, never copied or hashed."""

    def access(self, model: ModelUri) -> Access:
        """Where and as whom the model is asked for. Looks for credentials, which may ask a metadata service.

        Raises UsageError or Unauthorized for credentials that cannot be used.
        """

    def list_files(self, model: ModelUri) -> Manifest:
        """All files of the model, pinned: reading them later gives these bytes or an error, never newer ones.

        With ``?file=`` in the URI, that file alone. Tries again by itself after passing faults. Raises a SourceError
        that tells apart: no such model, no such revision, no such file, bad credentials, gated, rate-limited,
        unreachable, offline; a ContentError when a listed name or file cannot be used.
        """

    def open_range(self, file: FileEntry, start: int, end: int) -> AbstractContextManager[RangeReader]:
        """The bytes ``start`` (included) to ``end`` (excluded) of a file of a manifest of this source.

        ``0 <= start <= end <= file.size_bytes``, else ValueError. Entering asks once and does not retry. Raises
        PassingFault where asking again may help, RangeIgnored where only ``start=0`` can be served, another
        SourceError where neither helps, and a ContentError (SizeMismatch where sizes tell) when the source now holds
        other bytes than were listed. Leaving early is allowed.
        """

    def local_copy(self, file: FileEntry) -> Path | None:
        """A path on this machine that should hold the whole file already, or None. The caller verifies the bytes."""


PathOf = Callable[[str], str | None]
"""The path in the manifest of an object, by its name below a prefix; None for one that is no file of the model."""


class Bucket(Source, Protocol):
    """A source whose files are objects below a prefix, under names that need not be paths."""

    def list_objects(self, place: ModelUri, start: str, path_of: PathOf) -> Manifest:
        """The objects at ``place`` whose names start with ``start``: as :meth:`list_files`, but possibly none.

        An entry's ``uri`` names the object; its ``path`` is what ``path_of`` says.
        """


def itself(name: str) -> str:
    """The name as the path: how a prefix holds a model."""
    return name


def only_file(manifest: Manifest, path: str | None) -> Manifest:
    """The manifest cut down to the file that ``?file=`` names; the manifest itself for None.

    Raises FileNotFoundAtSource, with the nearest names, when there is no such file.
    """
    if path is None:
        return manifest
    entry = manifest.find(path)
    if entry:
        return Manifest.of(manifest.source, manifest.revision, [entry])
    near = nearest(path, [each.path for each in manifest.files])
    raise FileNotFoundAtSource(
        f"{manifest.source.model} has no file {path!r}",
        remedy=f"did you mean {' or '.join(near)}?" if near else "leave ?file= out to take the whole model",
    )


def usable_token(token: Secret | None, setting: str) -> Secret | None:
    """The token of ``setting`` without the white space around it that files and prompts leave; None for an empty one.

    Raises UsageError for one that no header can carry.
    """
    text = token.reveal().strip() if token else ""
    if not (text.isascii() and text.isprintable()) or " " in text:
        raise UsageError(f"{setting} holds characters that no token has", remedy=f"set {setting} to the token alone")
    return Secret(text, token.name) if token and text else None


def nearest(name: str, names: Sequence[str], most: int = 3) -> list[str]:
    """Those of ``names`` that a person who wrote ``name`` may have meant, best first."""
    same_base = [each for each in names if each.rpartition("/")[2] == name.rpartition("/")[2]]
    alike = get_close_matches(name, names, n=most)
    return list(dict.fromkeys(same_base + alike))[:most]


def is_empty_range(file: FileEntry, start: int, end: int) -> bool:
    """Whether the range holds no byte, which no server can be asked for; ValueError when it leaves the file."""
    if not 0 <= start <= end <= file.size_bytes:
        raise ValueError(f"{file.path}: no bytes {start} to {end} in {file.size_bytes}")
    return start == end
