"""Writing to the disk: atomic, tidy after a failure, and errors in our words."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lading.cache.disk import (
    allocate,
    fresh_path,
    machine_error,
    machine_errors,
    nearest_existing,
    sync_directory,
    write_atomically,
)
from lading.errors import MachineError, NotEnoughDisk, NotWritable


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.ENOSPC, NotEnoughDisk),
        (errno.EDQUOT, NotEnoughDisk),
        (errno.EFBIG, NotEnoughDisk),
        (errno.EACCES, NotWritable),
        (errno.EPERM, NotWritable),
        (errno.EROFS, NotWritable),
        (errno.EIO, MachineError),
    ],
)
def test_a_refusal_becomes_the_error_that_names_the_path(number: int, kind: type[MachineError], tmp_path: Path) -> None:
    error = machine_error(tmp_path / "x", OSError(number, os.strerror(number)))
    assert type(error) is kind
    assert str(tmp_path / "x") in str(error)
    assert os.strerror(number) in str(error)
    assert kind is MachineError or "NIM_CACHE_PATH" in str(error.remedy)


def test_an_error_without_a_number_keeps_its_text(tmp_path: Path) -> None:
    assert "odd" in str(machine_error(tmp_path, OSError("odd")))


def test_a_file_is_replaced_and_nothing_else_stays(tmp_path: Path) -> None:
    path = tmp_path / "a" / "file"
    write_atomically(path, b"old")
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new"
    assert os.listdir(path.parent) == ["file"]


def test_a_failed_write_leaves_the_old_file_and_no_rubbish(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.mkdir()
    with pytest.raises(MachineError):
        write_atomically(path, b"new")
    assert os.listdir(tmp_path) == ["file"]


def test_a_full_device_is_noticed(tmp_path: Path) -> None:
    limited = (
        "import resource, sys; from pathlib import Path; from lading.cache.disk import write_atomically\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "from lading.errors import NotEnoughDisk\n"
        "try: write_atomically(Path(sys.argv[1]), bytes(5000))\n"
        "except NotEnoughDisk: print('full')"
    )
    done = subprocess.run([sys.executable, "-c", limited, tmp_path / "x"], capture_output=True, text=True, check=True)
    assert done.stdout == "full\n"
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("size_bytes", [0, 1, 100_000])
def test_room_is_reserved_and_the_length_set(size_bytes: int, tmp_path: Path) -> None:
    with (tmp_path / "x").open("w+b") as file:
        allocate(file.fileno(), size_bytes)
        assert os.fstat(file.fileno()).st_size == size_bytes


def test_room_that_is_not_there_is_an_error_at_once(tmp_path: Path) -> None:
    with (
        (tmp_path / "x").open("w+b") as file,
        pytest.raises(NotEnoughDisk),
        machine_errors(tmp_path),
    ):
        allocate(file.fileno(), 1 << 55)


def test_the_nearest_directory_is_found(tmp_path: Path) -> None:
    assert nearest_existing(tmp_path / "a" / "b") == tmp_path
    assert nearest_existing(tmp_path) == tmp_path


def test_a_directory_that_is_missing_cannot_be_synced(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        sync_directory(tmp_path / "missing")


def test_fresh_paths_begin_with_the_sign_of_leftovers(tmp_path: Path) -> None:
    assert fresh_path(tmp_path / "new").name.startswith(".tmp-")
    assert (tmp_path / "new").is_dir()
