"""Servers that others wrote, run as they are: found or skipped, started on a free port, stopped by their process id."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from tools import test_programs

_START_SECONDS = 60.0
_SYSTEM_PATHS = "/usr/sbin:/sbin"  # where users other than root do not look


def required(program: str) -> Path:
    """Where the program is; skips the test, with what would install it, where it is not."""
    if program in test_programs.PROGRAMS:
        found, install = test_programs.find(program), "`make test`"
    else:
        path = shutil.which(program, path=f"{os.environ.get('PATH', os.defpath)}:{_SYSTEM_PATHS}")
        found, install = Path(path) if path else None, "`make test` as root, or the system's package manager"
    if found is None:
        pytest.skip(f"{program} is not installed: {install} installs it")
    return found


@contextmanager
def serving(command: Callable[[int], Sequence[str | Path]], directory: Path) -> Iterator[int]:
    """The port of 127.0.0.1 that ``command`` (of that port) listens on; killed at the end.

    It runs in ``directory`` with next to no environment, and what it prints is in ``output.log`` there. Another process
    may take the port before it does: it then ends, and is started again on another one.
    """
    with (directory / "output.log").open("a") as output:
        for tries_left in (2, 1, 0):
            port = _free_port()
            process = subprocess.Popen(
                command(port),
                cwd=directory,
                env={"PATH": os.environ.get("PATH", os.defpath), "HOME": str(directory), "NO_PROXY": "*"},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
            try:
                if _listens(port, process):
                    yield port
                    return
                said = (directory / "output.log").read_text(errors="replace")
                assert tries_left, f"{process.args!r} ends with {process.returncode}:\n{said}"
            finally:
                process.kill()
                process.wait()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def _listens(port: int, process: subprocess.Popen[bytes]) -> bool:
    deadline = time.monotonic() + _START_SECONDS
    while process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except OSError:
            assert time.monotonic() < deadline, f"{process.args!r} does not listen"
            time.sleep(0.02)
        else:
            return True
    return False
