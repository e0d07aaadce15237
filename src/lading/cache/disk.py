"""Files written so that a crash leaves the old ones or the new ones, and the machine's refusals in our words.

Everything the cache writes goes through here: data first, then the name, then the directory. An ``OSError`` becomes
:class:`NotEnoughDisk`, :class:`NotWritable` or :class:`MachineError` by its number, with the path it is about.
Names that begin with :data:`TEMPORARY` are leftovers of a crash; readers skip them, anybody may remove old ones.
"""

from __future__ import annotations

import ctypes
import errno
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lading.errors import MachineError, NotEnoughDisk, NotWritable

TEMPORARY = ".tmp-"
READ_BYTES = 1 << 20

Check = Callable[[], None]
"""Called between the steps of long work; raises to end it."""

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_REFUSED = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
_NOT_OFFERED = frozenset({errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL})


def never() -> None:
    """The check that never ends anything."""


@contextmanager
def machine_errors(path: Path) -> Iterator[None]:
    """Turn an ``OSError`` of the body into the :class:`MachineError` that names ``path``."""
    try:
        yield
    except OSError as error:
        raise machine_error(path, error) from error


def machine_error(path: Path, error: OSError) -> MachineError:
    """What ``error`` means for a user who wanted ``path`` written or read."""
    if error.errno in _FULL:
        return NotEnoughDisk(
            f"no room to write {path}: {os.strerror(error.errno or 0)}",
            remedy="free space there (or raise the quota), or set NIM_CACHE_PATH to a directory on a larger disk",
        )
    if error.errno in _REFUSED:
        return not_writable(path, os.strerror(error.errno or 0))
    return MachineError(f"{path}: {error.strerror or error}")


def not_writable(path: Path, why: str = "it is not writable") -> NotWritable:
    """The error for a path we may not write: who we are, whose the nearest existing directory is, what to do."""
    place = nearest_existing(path)
    found = place.stat()
    uid, gid = os.geteuid(), os.getegid()
    return NotWritable(
        f"cannot write {path}: {why}; {place} belongs to {found.st_uid}:{found.st_gid} with mode "
        f"{found.st_mode & 0o7777:04o}, and this process runs as {uid}:{gid}",
        remedy=f"make it writable for {uid}:{gid} (chown or chmod, in Kubernetes securityContext.fsGroup: {gid}), "
        "or set NIM_CACHE_PATH to a directory that is",
    )


def nearest_existing(path: Path) -> Path:
    """``path`` itself, or the closest directory above it that exists."""
    return next((each for each in (path, *path.parents) if os.access(each, os.F_OK)), Path("/"))


def share_a_disk(one: Path, other: Path) -> bool:
    """Whether two paths lie on one filesystem, or would once they are made."""
    return nearest_existing(one).stat().st_dev == nearest_existing(other).stat().st_dev


def can_write_directory(path: Path) -> bool:
    """Whether this process may create files in the directory ``path``. Writes nothing."""
    effective = os.access in os.supports_effective_ids
    return path.is_dir() and os.access(path, os.W_OK | os.X_OK, effective_ids=effective)


def fresh_path(directory: Path) -> Path:
    """A path in ``directory`` that nobody else uses; the directory is created."""
    directory.mkdir(parents=True, exist_ok=True)
    return directory / f"{TEMPORARY}{os.getpid()}-{secrets.token_hex(6)}"


def write_atomically(path: Path, data: bytes) -> None:
    """Put ``data`` at ``path``: after a crash the file holds the old bytes or the new ones, never a mixture."""
    with machine_errors(path):
        temporary = fresh_path(path.parent)
        try:
            with temporary.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
        sync_directory(path.parent)


def sync_file(path: Path) -> None:
    """Wait until the bytes of ``path`` are on the device."""
    _sync(path, os.O_RDONLY)


def sync_directory(path: Path) -> None:
    """Wait until the names in ``path`` are on the device; filesystems that cannot are taken as they are."""
    try:
        _sync(path, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        if error.errno not in _NOT_OFFERED:
            raise


def _sync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def allocate(descriptor: int, size_bytes: int) -> None:
    """Reserve ``size_bytes`` for an open empty file and set its length; a full disk is an OSError now, not later.

    Calls fallocate(2) itself: ``os.posix_fallocate`` of glibc writes a byte into every block where the filesystem
    cannot reserve (NFS before 4.2, some FUSE), which sends the whole file twice. There only the length is set.
    """
    if size_bytes and not _fallocate(descriptor, size_bytes):
        os.ftruncate(descriptor, size_bytes)


def _fallocate(descriptor: int, size_bytes: int) -> bool:
    libc = ctypes.CDLL(None, use_errno=True)
    call = getattr(libc, "fallocate64", None) or getattr(libc, "fallocate", None)
    if call is None:
        return False
    call.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
    while call(descriptor, 0, 0, size_bytes) != 0:
        number = ctypes.get_errno()
        if number in _NOT_OFFERED:
            return False
        if number != errno.EINTR:
            raise OSError(number, os.strerror(number))
    return True
