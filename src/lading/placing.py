"""One file, put into another directory as a real file: with shared blocks where the disk has them, a link, or a copy.

Whatever the way, the bytes are read and hashed, so what is in place was verified there, or while it was written. A file
appears under its name when it is whole and on the device. Which ways a disk should offer is told from the mounts,
without writing; one that it then refuses is the caller's to replace by the next.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from lading.cache.disk import READ_BYTES, allocate, fresh_path, nearest_existing, share_a_disk, sync_directory
from lading.cache.store import hash_file
from lading.digest import Digest, new_hasher

Tell = Callable[[int], None]
"""Told how many more bytes were read; may raise to end the work."""

_FICLONE = 0x40049409  # linux/fs.h
_REFLINKING = frozenset({"bcachefs", "btrfs", "ocfs2", "xfs", "zfs"})
_MOUNTS = Path("/proc/self/mountinfo")
_ESCAPED = re.compile(r"\\([0-7]{3})")
WAY_REFUSED = frozenset(
    {
        *(errno.EPERM, errno.EACCES, errno.EXDEV, errno.EMLINK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP),
        *(errno.EINVAL, errno.ENOTTY, errno.EBADF, errno.ETXTBSY),
    }
)
"""What a system says where a way is not offered for these two places, and a copy may be."""


class Way(StrEnum):
    """How a file gets there, the ones that take no room first."""

    REFLINK = "reflink"  # a file of its own that shares blocks until one of the two is written to
    HARD_LINK = "hard link"
    COPY = "copy"


@dataclass(frozen=True, slots=True)
class Mount:
    """A mounted filesystem; both empty where the system does not tell."""

    point: str = ""
    kind: str = ""


def ways_between(origin: Path, target: Path, *, may_link: bool = True) -> tuple[Way, ...]:
    """The ways that should work from ``origin`` to ``target``, cheapest first, a copy last. Writes nothing.

    ``may_link`` False leaves hard links out: for originals that somebody may write to.
    """
    places = [nearest_existing(origin), nearest_existing(target)]
    here, there = (mount_of(each) for each in places)
    is_one_disk = share_a_disk(*places)
    found = []
    if is_one_disk and here.kind in _REFLINKING:
        found.append(Way.REFLINK)
    if may_link and is_one_disk and here.point == there.point:  # two mounts of one disk refuse links between them
        found.append(Way.HARD_LINK)
    return (*found, Way.COPY)


def mount_of(path: Path) -> Mount:
    """The mount that ``path`` lies in."""
    try:
        lines = _MOUNTS.read_text(errors="surrogateescape").splitlines()
    except OSError:
        return Mount()
    found = [_parse_mount(line) for line in lines]
    real = os.path.realpath(path)
    above = [each for each in found if real == each.point or real.startswith(each.point.rstrip("/") + "/")]
    return max(reversed(above), key=lambda each: len(each.point), default=Mount())  # of equals the latest is on top


def is_mount_point(path: Path) -> bool:
    """Whether a filesystem, or a directory of one, is mounted at ``path``; such a name cannot be renamed over."""
    return path.is_mount() or mount_of(path).point == os.path.realpath(path)


def _parse_mount(line: str) -> Mount:
    """See proc_pid_mountinfo(5): the fifth field is the mount point, the first behind the dash the type."""
    fields = line.split(" ")
    dash = fields.index("-") if "-" in fields else len(fields)
    point = _ESCAPED.sub(lambda match: chr(int(match[1], 8)), fields[4]) if len(fields) > 4 else ""
    return Mount(point, fields[dash + 1] if len(fields) > dash + 1 else "")


def put(origin: Path, place: Path, way: Way, tell: Tell, expected: Digest | None) -> Digest | None:
    """Make ``place`` a file with the bytes of ``origin``: their SHA-256; None where they are not the ``expected`` ones.

    Then nothing is left behind, nor after an error. Raises OSError as the system does.
    """
    place.parent.mkdir(parents=True, exist_ok=True)
    temporary = fresh_path(place.parent)
    try:
        found = _make(origin, temporary, way, tell)
        if expected and found != expected:
            return None
        temporary.replace(place)
        sync_directory(place.parent)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
    return found


def sha256_of(path: Path, tell: Tell) -> Digest:
    """The SHA-256 of a file's bytes, all read."""
    return hash_file(path, None, tell).sha256


def _make(origin: Path, temporary: Path, way: Way, tell: Tell) -> Digest:
    match way:
        case Way.HARD_LINK:
            temporary.hardlink_to(origin)
            return sha256_of(temporary, tell)
        case Way.REFLINK:
            with origin.open("rb") as source, temporary.open("xb") as copy:
                fcntl.ioctl(copy.fileno(), _FICLONE, source.fileno())
                os.fsync(copy.fileno())
            _keep_time(origin, temporary)
            return sha256_of(temporary, tell)
        case Way.COPY:
            return _copy(origin, temporary, tell)


def _copy(origin: Path, temporary: Path, tell: Tell) -> Digest:
    with origin.open("rb", buffering=0) as source, temporary.open("xb", buffering=0) as copy:
        size_bytes = os.fstat(source.fileno()).st_size
        allocate(copy.fileno(), size_bytes)
        hasher = new_hasher("sha256", size_bytes)
        while data := source.read(READ_BYTES):
            hasher.update(data)
            _write(copy.fileno(), data)
            tell(len(data))
        os.fsync(copy.fileno())
    _keep_time(origin, temporary)
    return Digest("sha256", hasher.hexdigest())


def _write(descriptor: int, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(descriptor, left) :]


def _keep_time(origin: Path, copy: Path) -> None:
    """Give the copy the time of the original, so that packing it again gives the same archive."""
    found = origin.stat()
    with suppress(OSError):  # a disk without such times
        os.utime(copy, ns=(found.st_atime_ns, found.st_mtime_ns))
