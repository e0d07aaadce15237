"""Workspaces: exactly the named files, built aside and renamed, untouched when right, never outside their directory."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lading.errors import ContentError, LadingError, MachineError, UnsafePath
from lading.events import Event, Note
from lading.workspace import COPY, HARD_LINK, SYMBOLIC_LINK, WAYS, Way, build_workspace


@pytest.fixture
def blobs(tmp_path: Path) -> Path:
    path = tmp_path / "blobs"
    path.mkdir()
    for name in ("one", "two", "three"):
        (path / name).write_text(name)
    return path


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "workspaces" / "model"


def tree(root: Path) -> dict[str, str]:
    return {path.relative_to(root).as_posix(): path.read_text() for path in root.rglob("*") if path.is_file()}


def state(root: Path) -> list[tuple[str, int, int]]:
    return [(str(path), path.lstat().st_ino, path.lstat().st_mtime_ns) for path in sorted([root, *root.rglob("*")])]


def test_a_workspace_holds_links_under_the_names_of_the_model(place: Path, blobs: Path) -> None:
    files = [("config.json", blobs / "one"), ("sub/deep/a b.txt", blobs / "two"), ("ü.json", blobs / "one")]
    assert build_workspace(place, files) == place
    assert tree(place) == {"config.json": "one", "sub/deep/a b.txt": "two", "ü.json": "one"}
    assert (place / "config.json").readlink() == blobs / "one"
    assert os.listdir(place.parent) == ["model"]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.name)
def test_one_that_is_right_is_left_untouched(way: Way, place: Path, blobs: Path) -> None:
    files = [("config.json", blobs / "one"), ("sub/b", blobs / "two")]
    build_workspace(place, files, ways=(way,))
    before = state(place.parent)
    build_workspace(place, files, ways=(way,))
    build_workspace(place, files)
    assert state(place.parent) == before


@pytest.mark.parametrize(
    "spoil",
    [
        lambda place: (place / "stale").touch(),
        lambda place: (place / "empty").mkdir(),
        lambda place: (place / "config.json").unlink(),
        lambda place: ((place / "config.json").unlink(), (place / "config.json").symlink_to("/nowhere")),
        lambda place: ((place / "config.json").unlink(), (place / "config.json").mkdir()),
        lambda place: (place / "sub" / "link").symlink_to("/"),
    ],
    ids=["extra file", "extra folder", "missing file", "other target", "folder for a file", "link to a folder"],
)
def test_one_that_is_not_right_is_replaced_as_a_whole(spoil: Callable[..., object], place: Path, blobs: Path) -> None:
    files = [("config.json", blobs / "one"), ("sub/b", blobs / "two")]
    build_workspace(place, files)
    spoil(place)
    build_workspace(place, files)
    assert tree(place) == {"config.json": "one", "sub/b": "two"}
    assert sorted(os.listdir(place)) == ["config.json", "sub"]
    assert os.listdir(place.parent) == ["model"]


@pytest.mark.parametrize("kind", ["file", "link"])
def test_what_is_no_directory_gives_way(kind: str, place: Path, blobs: Path) -> None:
    place.parent.mkdir()
    if kind == "file":
        place.touch()
    else:
        place.symlink_to(blobs)
    build_workspace(place, [("config.json", blobs / "one")])
    assert tree(place) == {"config.json": "one"}
    assert not place.is_symlink()
    assert sorted(os.listdir(blobs)) == ["one", "three", "two"]


def test_another_revision_takes_the_place_of_the_old_one(place: Path, blobs: Path) -> None:
    build_workspace(place, [("a", blobs / "one"), ("old", blobs / "two")])
    build_workspace(place, [("a", blobs / "three"), ("new/er", blobs / "two")])
    assert tree(place) == {"a": "three", "new/er": "two"}


def test_a_model_without_files_is_an_empty_directory(place: Path) -> None:
    assert list(build_workspace(place, []).iterdir()) == []


@pytest.mark.parametrize("path", ["../x", "/x", "a/../../x", "", "a//b", "a\\b", "a\nb", "."])
def test_no_name_leaves_the_directory(path: str, place: Path, blobs: Path) -> None:
    with pytest.raises(UnsafePath):
        build_workspace(place, [(path, blobs / "one")])
    assert not place.parent.exists()


@pytest.mark.parametrize(
    ("files", "kind", "reason"),
    [
        ([("a", "one"), ("a", "two")], ContentError, "two files of a workspace are named a"),
        ([("a", "one"), ("a/b", "two")], ContentError, "a is a file and also the folder of a/b"),
        ([("a", "missing")], MachineError, "its bytes are missing"),
        ([("a", ".")], MachineError, "its bytes are missing"),
    ],
)
def test_files_that_cannot_be_are_refused_and_the_old_workspace_stays(
    files: list[tuple[str, str]], kind: type[LadingError], reason: str, place: Path, blobs: Path
) -> None:
    build_workspace(place, [("config.json", blobs / "one")])
    before = state(place.parent)
    with pytest.raises(kind, match=reason):
        build_workspace(place, [(path, blobs / name) for path, name in files])
    assert state(place.parent) == before


def test_a_relative_target_is_refused(place: Path) -> None:
    with pytest.raises(UnsafePath, match="relative"):
        build_workspace(place, [("a", Path("one"))])


def refused(name: str, number: int = errno.EPERM) -> Way:
    def make(target: Path, place: Path) -> None:
        raise OSError(number, os.strerror(number))

    return Way(name, make, lambda target, place: False)


def test_where_symbolic_links_are_not_possible_hard_links_are_made(place: Path, blobs: Path) -> None:
    events: list[Event] = []
    files = [("a", blobs / "one"), ("b", blobs / "two")]
    build_workspace(place, files, events.append, ways=(refused("symbolic link"), HARD_LINK, COPY))
    assert (place / "a").samefile(blobs / "one")
    assert not (place / "a").is_symlink()
    assert [event.text for event in events if isinstance(event, Note)] == [
        f"a symbolic link is not possible in {os.path.dirname(place)}/{temporary_of(events)}: using a hard link"
    ]


def temporary_of(events: list[Event]) -> str:
    (event,) = events
    assert isinstance(event, Note)
    return event.text.rpartition("/")[2].partition(":")[0]


def test_where_no_links_are_possible_files_are_copied_once(place: Path, blobs: Path) -> None:
    ways = (refused("symbolic link"), refused("hard link", errno.EXDEV), COPY)
    build_workspace(place, [("a", blobs / "one")], ways=ways)
    assert (place / "a").read_text() == "one"
    assert (place / "a").stat().st_ino != (blobs / "one").stat().st_ino
    assert (place / "a").stat().st_mtime_ns == (blobs / "one").stat().st_mtime_ns
    before = state(place)
    build_workspace(place, [("a", blobs / "one")], ways=ways)
    assert state(place) == before


def test_a_link_that_fails_for_another_reason_is_an_error_and_leaves_nothing(place: Path, blobs: Path) -> None:
    with pytest.raises(MachineError):
        build_workspace(place, [("a", blobs / "one")], ways=(refused("symbolic link", errno.EIO), COPY))
    assert os.listdir(place.parent) == []


def test_the_last_way_that_fails_is_an_error(place: Path, blobs: Path) -> None:
    with pytest.raises(LadingError):
        build_workspace(place, [("a", blobs / "one")], ways=(refused("symbolic link"),))


def test_two_builders_of_the_same_workspace_do_not_disturb_each_other(place: Path, blobs: Path) -> None:
    """The second finds the place taken when it renames, sees that it is right, and takes its own away."""

    def make(target: Path, link: Path) -> None:
        if not place.exists():
            build_workspace(place, [("a", blobs / "one")])
        link.symlink_to(target)

    slow = Way("slow link", make, SYMBOLIC_LINK.is_made)
    build_workspace(place, [("a", blobs / "one")], ways=(slow,))
    assert tree(place) == {"a": "one"}
    assert os.listdir(place.parent) == ["model"]


@pytest.fixture
def readonly(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "readonly"
    path.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "tmpfs", path], capture_output=True).returncode:
        pytest.skip("a filesystem cannot be mounted here")
    yield path
    subprocess.run(["umount", "-l", path], check=True)


def test_a_second_start_on_a_read_only_volume_uses_the_workspace(readonly: Path) -> None:
    (readonly / "blob").write_text("one")
    files = [("a", readonly / "blob")]
    build_workspace(readonly / "workspaces" / "model", files)
    subprocess.run(["mount", "-o", "remount,ro", readonly], check=True)
    build_workspace(readonly / "workspaces" / "model", files)
    with pytest.raises(MachineError, match="Read-only"):
        build_workspace(readonly / "workspaces" / "other", files)
