"""Models that lie in a directory of this machine, or of a volume mounted into it: served from where they are.

Links are followed, so that a snapshot of a Hugging Face cache is a model directory like any other. Hidden files and
directories (``.git``, ``.cache``) are no part of a model, nor is the ``lost+found`` at the root of a volume. Nothing
is hashed: an entry's etag is its size and the time of its last change, checked again when bytes are read.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path

from lading.errors import ContentError, FileNotFoundAtSource, MachineError, MalformedModel, ModelNotFound, SizeMismatch
from lading.model.manifest import FileEntry, Manifest
from lading.sources.interface import LIST_AGAIN, Access, RangeReader, is_empty_range, only_file
from lading.sources.member import About, Context
from lading.uri import ModelUri

MOST_FILES = 200_000

_DEEPEST = 64
_Identity = tuple[int, int]


ABOUT = About(
    title="A directory of this machine, or of a volume mounted into it",
    credentials=("none: this user's permission to read",),
    endpoint="the directory itself",
    pinned_by="the size and the time of change of each file",
    checksum="none: files are served from where they lie",
    resume="nothing is transferred",
    tested_against="the file system",
    notes=("`local://` is how manifests write it; symbolic links are followed, so a hub's snapshot is a model",),
)


def connect(context: Context) -> LocalSource:  # noqa: ARG001  # a member's signature
    """This machine's directories."""
    return LocalSource()


class LocalSource:
    """Directories of this machine. Holds nothing."""

    in_place = True

    def access(self, model: ModelUri) -> Access:
        """The directory, which needs no credential."""
        return Access(model.location, None)

    def list_files(self, model: ModelUri) -> Manifest:
        """All files below the directory, or the one the URI names.

        Raises ModelNotFound where there is no directory or nothing in it, MalformedModel for a link that leads
        nowhere, MachineError for what this user may not read.
        """
        root = Path(model.location)
        _check_directory(root)
        files: list[FileEntry] = []
        for path, status in _walk(root, ()):
            files.append(_entry(model, root, path, status))
            if len(files) > MOST_FILES:
                raise MalformedModel(
                    f"{root} holds more than {MOST_FILES} files", remedy="name the model's own directory"
                )
        if not files:
            raise ModelNotFound(f"{root} is empty", remedy="check the path, and that its volume is mounted")
        return only_file(Manifest.of(model, None, files), model.file)

    @contextmanager
    def open_range(self, file: FileEntry, start: int, end: int) -> Iterator[RangeReader]:
        """The bytes of one range, read from the file; a ContentError when it changed since it was listed."""
        is_empty_range(file, start, end)
        path = _path(file)
        try:
            opened = path.open("rb", buffering=0)
        except FileNotFoundError as error:
            raise FileNotFoundAtSource(f"{path} is gone", remedy=LIST_AGAIN) from error
        except OSError as error:
            raise _unreadable(path, error) from error
        with opened as data:
            _check_unchanged(path, file, os.fstat(data.fileno()))
            data.seek(start)
            yield _FileRange(data, path, end - start)

    def local_copy(self, file: FileEntry) -> Path | None:
        """The file itself, links followed; None where it is gone."""
        try:
            return Path(os.path.realpath(_path(file), strict=True))
        except OSError:
            return None


class _FileRange:
    def __init__(self, data: FileIO, path: Path, size_bytes: int) -> None:
        self._data = data
        self._path = path
        self._left = size_bytes

    def readinto(self, buffer: memoryview, /) -> int:
        buffer = buffer[: self._left]
        if not buffer:
            return 0
        try:
            filled = self._data.readinto(buffer)
        except OSError as error:
            raise _unreadable(self._path, error) from error
        if not filled:
            raise SizeMismatch(f"{self._path} became shorter while it was read")
        self._left -= filled
        return filled


def _walk(directory: Path, above: tuple[_Identity, ...]) -> Iterator[tuple[Path, os.stat_result]]:
    """The regular files below ``directory``, links followed; a link back to a directory on the way is not."""
    try:
        status = directory.stat()
        paths = sorted(directory.iterdir())
    except OSError as error:
        raise _unreadable(directory, error) from error
    here = (status.st_dev, status.st_ino)
    if here in above:
        return
    if len(above) > _DEEPEST:
        raise MalformedModel(f"{directory} is nested too deep", remedy="name the model's own directory")
    for path in paths:
        if path.name.startswith(".") or path.name == "lost+found":
            continue
        found = _status(path)
        if stat.S_ISDIR(found.st_mode):
            yield from _walk(path, (*above, here))
        elif stat.S_ISREG(found.st_mode):
            yield path, found


def _status(path: Path) -> os.stat_result:
    try:
        return path.stat()
    except OSError as error:
        if path.is_symlink() and not isinstance(error, PermissionError):
            raise MalformedModel(
                f"{path} is a link to {path.readlink()}, which leads nowhere",
                remedy="copy the model again with its links resolved (cp -rL), or restore what the link points to",
            ) from error
        raise _unreadable(path, error) from error


def _entry(model: ModelUri, root: Path, path: Path, status: os.stat_result) -> FileEntry:
    if not os.access(path, os.R_OK):
        raise _unreadable(path, PermissionError())
    name = path.relative_to(root).as_posix()
    return FileEntry(name, status.st_size, model.with_file(name), etag=_etag(status))


def _etag(status: os.stat_result) -> str:
    return f"{status.st_mtime_ns}-{status.st_size}"


def _path(file: FileEntry) -> Path:
    return Path(file.uri.location, file.uri.file or file.path)


def _check_directory(root: Path) -> None:
    try:
        status = root.stat()
    except FileNotFoundError as error:
        remedy = "check the path, and that its volume is mounted into this container or machine"
        raise ModelNotFound(f"there is no directory {root}", remedy=remedy) from error
    except OSError as error:
        raise _unreadable(root, error) from error
    if not stat.S_ISDIR(status.st_mode):
        raise ModelNotFound(f"{root} is no directory", remedy=f"name the model's directory: {root.parent}")


def _check_unchanged(path: Path, file: FileEntry, status: os.stat_result) -> None:
    if status.st_size != file.size_bytes:
        raise SizeMismatch(f"{path} has {status.st_size} bytes, {file.size_bytes} were listed", remedy=LIST_AGAIN)
    if file.etag is not None and file.etag != _etag(status):
        raise ContentError(f"{path} changed after it was listed", remedy=LIST_AGAIN)


def _unreadable(path: Path, error: OSError) -> MachineError:
    if isinstance(error, PermissionError):
        return MachineError(
            f"{path} may not be read by user {os.geteuid()}",
            remedy=f"make it readable (chmod -R a+rX), or run as user {_owner(path)}",
        )
    return MachineError(f"{path} cannot be read: {error.strerror or type(error).__name__}")


def _owner(path: Path) -> str:
    try:
        return str(path.stat().st_uid)
    except OSError:
        return "its owner"
