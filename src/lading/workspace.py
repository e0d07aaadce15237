"""A plain model directory for one run: every file of the model under its own name, a link to bytes that lie elsewhere.

A workspace is a view; deleting one loses nothing. It is built beside its place and renamed into it, so nobody sees half
of one. One that is right already is left untouched, so a second start writes nothing. Replacing an old one takes two
renames; between them the name is absent for an instant, and a crash there leaves it absent, to be built again.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from lading.cache.disk import fresh_path, machine_error, machine_errors
from lading.errors import ContentError, MachineError, UnsafePath
from lading.events import Note, Report, ignore
from lading.model.manifest import check_path


@dataclass(frozen=True, slots=True)
class Way:
    """How a file gets into a workspace. ``make(target, place)`` may raise OSError; ``is_made`` never does."""

    name: str
    make: Callable[[Path, Path], None]
    is_made: Callable[[Path, Path], bool]


def _symbolic_link(target: Path, place: Path) -> None:
    place.symlink_to(target)


def _is_symbolic_link(target: Path, place: Path) -> bool:
    return place.is_symlink() and place.readlink() == target


def _hard_link(target: Path, place: Path) -> None:
    place.hardlink_to(target.resolve(strict=True))


def _is_hard_link(target: Path, place: Path) -> bool:
    return not place.is_symlink() and place.samefile(target)


def _copy(target: Path, place: Path) -> None:
    shutil.copyfile(target, place)
    found = target.stat()
    os.utime(place, ns=(found.st_atime_ns, found.st_mtime_ns))


def _is_copy(target: Path, place: Path) -> bool:
    mine, other = place.lstat(), target.stat()
    is_alike = (mine.st_size, mine.st_mtime_ns) == (other.st_size, other.st_mtime_ns)
    return not place.is_symlink() and is_alike and not place.samefile(target)


SYMBOLIC_LINK = Way("symbolic link", _symbolic_link, _is_symbolic_link)
HARD_LINK = Way("hard link", _hard_link, _is_hard_link)
COPY = Way("copy", _copy, _is_copy)
WAYS = (SYMBOLIC_LINK, HARD_LINK, COPY)

_LINK_REFUSED = frozenset(
    {errno.EPERM, errno.EACCES, errno.EXDEV, errno.EMLINK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL}
)
_TAKEN = frozenset({errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR})


def build_workspace(
    directory: Path,
    files: Iterable[tuple[str, Path]],
    report: Report = ignore,
    *,
    ways: tuple[Way, ...] = WAYS,
) -> Path:
    """``directory``, holding exactly ``files``: pairs of a path below it and the absolute path of the bytes.

    Whatever else was there is gone. ``ways`` are tried in order until one works here; a Note says when it is not the
    first. Raises UnsafePath for a name
    that would leave the directory, ContentError for names that exclude each other, MachineError where bytes are missing
    or the directory cannot be written; then the old workspace is as it was.
    """
    wanted = _checked(files)
    if _is_built(directory, wanted, ways):
        return directory
    with machine_errors(directory):
        temporary = fresh_path(directory.parent)
    try:
        _fill(temporary, wanted, report, list(ways))
        _put(temporary, directory, lambda: _is_built(directory, wanted, ways))
    finally:
        _delete(temporary)
    return directory


def _checked(files: Iterable[tuple[str, Path]]) -> dict[str, Path]:
    wanted: dict[str, Path] = {}
    for path, target in files:
        check_path(path)
        if path in wanted:
            raise ContentError(f"two files of a workspace are named {path}")
        if not target.is_absolute():
            raise UnsafePath(f"{path}: its bytes are at a relative path, {target}")
        if not _is_file(target):
            raise MachineError(f"{path}: its bytes are missing at {target}", remedy="fetch the model again")
        wanted[path] = target
    for path in wanted:
        if clash := next((above for above in _folders(path) if above in wanted), None):
            raise ContentError(f"{clash} is a file and also the folder of {path}")
    return wanted


def _is_file(path: Path) -> bool:
    with machine_errors(path):
        return path.is_file()


def _folders(path: str) -> list[str]:
    parts = path.split("/")
    return ["/".join(parts[:count]) for count in range(1, len(parts))]


def _is_built(directory: Path, wanted: Mapping[str, Path], ways: tuple[Way, ...]) -> bool:
    """Whether the directory holds exactly the wanted files, each made in one of the ways."""
    if directory.is_symlink() or not directory.is_dir():
        return False
    found: dict[str, Path] = {}
    folders: set[str] = set()
    for root, names, leaves in os.walk(directory):
        for name in (*names, *leaves):
            place = Path(root, name)
            path = place.relative_to(directory).as_posix()
            if place.is_dir() and not place.is_symlink():
                folders.add(path)
            else:
                found[path] = place
    if found.keys() != wanted.keys() or folders != {above for path in wanted for above in _folders(path)}:
        return False
    return all(any(_is_made(way, wanted[path], place) for way in ways) for path, place in found.items())


def _is_made(way: Way, target: Path, place: Path) -> bool:
    with suppress(OSError):
        return way.is_made(target, place)
    return False


def _fill(directory: Path, wanted: Mapping[str, Path], report: Report, ways: list[Way]) -> None:
    with machine_errors(directory):
        directory.mkdir()
        for path in wanted:
            (directory / path).parent.mkdir(parents=True, exist_ok=True)
    for path, target in wanted.items():
        _make(directory / path, target, report, ways)


def _make(place: Path, target: Path, report: Report, ways: list[Way]) -> None:
    """Make one file in the first way that works; ways that do not are dropped for the files after it."""
    while True:
        try:
            ways[0].make(target, place)
        except OSError as error:
            if len(ways) == 1 or error.errno not in _LINK_REFUSED:
                raise machine_error(place, error) from error
            report(Note(f"a {ways[0].name} is not possible in {place.parent}: using a {ways[1].name}"))
            del ways[0]
        else:
            return


def _put(temporary: Path, directory: Path, is_built: Callable[[], bool]) -> None:
    """Rename the new workspace into its place; an old one is moved aside before and deleted afterwards."""
    aside: list[Path] = []
    try:
        with machine_errors(directory):
            while not _rename(temporary, directory):
                if is_built():
                    return  # another process built the same meanwhile
                aside.append(fresh_path(directory.parent))
                with suppress(FileNotFoundError):
                    directory.rename(aside[-1])
    finally:
        for path in aside:
            _delete(path)


def _rename(temporary: Path, directory: Path) -> bool:
    try:
        temporary.rename(directory)
    except OSError as error:
        if error.errno in _TAKEN:
            return False
        raise
    return True


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
        return
    with suppress(OSError):
        path.unlink(missing_ok=True)
