"""Real filesystems that are small, or that fail: mounted for one test, unmounted whatever it does. They need root."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def small_disk(path: Path, size: str) -> Iterator[Path]:
    """A filesystem in memory with ``size`` (of mount's syntax), at ``path``; skips where none may be mounted."""
    with mounted(path, "-t", "tmpfs", "-o", f"size={size}", "tmpfs"):
        yield path


@contextmanager
def mounted(path: Path, *arguments: str | Path) -> Iterator[None]:
    """``mount`` with these arguments, at ``path``; skips where that is not allowed."""
    path.mkdir(exist_ok=True)
    if os.geteuid() != 0 or not shutil.which("mount"):
        pytest.skip("only root can mount a filesystem")
    done = subprocess.run(["mount", *arguments, path], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"nothing can be mounted here: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", path], check=True)


def remount(path: Path, how: str) -> None:
    """Make the filesystem ``ro`` or ``rw``."""
    subprocess.run(["mount", "-o", f"remount,{how}", path], check=True)


@contextmanager
def failing_disk(path: Path, image: Path) -> Iterator[Path]:
    """An ext4 filesystem at ``path`` that the kernel makes read-only at its first error; yields what causes one.

    Writing to the file that is yielded is an error of the filesystem, as a bad sector in its metadata would be.
    """
    program = shutil.which("mkfs.ext4", path=f"{os.environ.get('PATH', '')}:/sbin:/usr/sbin")
    if program is None or os.geteuid() != 0:
        pytest.skip("an ext4 filesystem needs mkfs.ext4 and root")
    with image.open("wb") as file:
        file.truncate(64 << 20)
    subprocess.run([program, "-q", "-F", image], check=True)
    with mounted(path, "-o", "loop,errors=remount-ro", image):
        found = os.major(path.stat().st_dev), os.minor(path.stat().st_dev)
        device = Path(f"/sys/dev/block/{found[0]}:{found[1]}").resolve().name
        trigger = Path(f"/sys/fs/ext4/{device}/trigger_fs_error")
        if not trigger.exists():
            pytest.skip("this kernel cannot be told to fail an ext4 filesystem")
        yield trigger
