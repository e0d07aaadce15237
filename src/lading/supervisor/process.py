"""A child process under guard: started in a session of its own, its output read line by line, its tree left empty.

The guard (:mod:`lading.supervisor.guard`) does what only a parent can; this module is its asyncio side.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

_GUARD = Path(__file__).with_name("guard.py")
_LINE_END = re.compile(rb"[\r\n]+")
_READ_BYTES = 1 << 16
_MAX_LINE_BYTES = 1 << 15


class GuardedProcess:
    """A running child. ``on_line`` gets each line that it prints, standard output and error in their order."""

    def __init__(self, process: asyncio.subprocess.Process, on_line: Callable[[str], None]) -> None:
        self._process = process
        self._output = asyncio.create_task(_read_lines(process.stdout, on_line))

    @classmethod
    async def start(
        cls, argv: Sequence[str], environ: Mapping[str, str], on_line: Callable[[str], None]
    ) -> GuardedProcess:
        """Start ``argv``. Call from the main thread: the kernel ends the child when the starting thread ends."""
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-I", "-S", "-B", str(_GUARD), *argv,
            env=environ,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip
        return cls(process, on_line)

    @property
    def pid(self) -> int:
        """The guard's process id, which is also the session's."""
        return self._process.pid

    async def wait(self) -> int:
        """The exit code, 128 + n for signal n, once the child and its descendants are gone and all lines are read."""
        code = await self._process.wait()
        await self._output
        return code if code >= 0 else 128 - code

    def terminate(self) -> None:
        """Ask the child to stop."""
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """Kill the child and all its descendants."""
        self._signal(signal.SIGUSR1)

    def _signal(self, number: signal.Signals) -> None:
        """Send a signal, not by asyncio: that polls first, and so may take the exit code from its own watcher."""
        if self._process.returncode is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)


async def _read_lines(stream: asyncio.StreamReader | None, on_line: Callable[[str], None]) -> None:
    """Call ``on_line`` for each line; carriage returns end lines too, since progress bars use them."""
    if stream is None:
        return
    pending = b""
    while chunk := await stream.read(_READ_BYTES):
        *lines, pending = _LINE_END.split(pending + chunk)
        if len(pending) > _MAX_LINE_BYTES:
            lines, pending = [*lines, pending], b""
        for line in lines:
            _emit(line, on_line)
    _emit(pending, on_line)


def _emit(line: bytes, on_line: Callable[[str], None]) -> None:
    if text := line[:_MAX_LINE_BYTES].decode(errors="replace").rstrip():
        on_line(text)
