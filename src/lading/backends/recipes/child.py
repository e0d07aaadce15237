"""One child process at a time, heard line by line, stopped when we are.

A child runs in a process group of its own, so that a stop reaches what it started, and keeps the install's lock open:
should Lading be killed, the lock stays with the child until that has ended, and no second writer can begin.
"""

from __future__ import annotations

import os
import queue
import re
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from lading.errors import Stopped
from lading.events import Note, Report
from lading.units import format_seconds

_TAIL_LINES = 12
_LINE_LENGTH = 300
_POLL_SECONDS = 0.1
_HEARTBEAT_SECONDS = 15.0
_TERM_SECONDS = 5.0
_DRAIN_SECONDS = 2.0
_USER_INFORMATION = re.compile(r"(?<=://)[^/@\s]+@")


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a child ended, and the last lines it printed, without secrets."""

    returncode: int
    tail: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Children:
    """What the children of one install have in common. ``lock`` is the descriptor that they keep open."""

    environ: Mapping[str, str]
    report: Report
    cancelled: threading.Event
    lock: int

    def run(self, title: str, argv: Sequence[str | Path], environ: Mapping[str, str] | None = None) -> Outcome:
        """Run ``argv`` to its end. Lines are DEBUG notes; long silence is answered by a note about ``title``.

        Raises Stopped, after the child's group is gone, when the install was cancelled.
        """
        if self.cancelled.is_set():
            raise Stopped(signal.SIGTERM)
        process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=dict(self.environ if environ is None else environ),
            text=True,
            errors="replace",
            start_new_session=True,
            pass_fds=(self.lock,),
        )
        try:
            return self._follow(title, process)
        finally:
            _stop(process)

    def _follow(self, title: str, process: subprocess.Popen[str]) -> Outcome:
        lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        threading.Thread(target=_read, args=(process.stdout, lines), daemon=True).start()
        tail: deque[str] = deque(maxlen=_TAIL_LINES)
        started = reported = time.monotonic()
        ended: float | None = None
        is_open = True
        while ended is None or (is_open and time.monotonic() < ended + _DRAIN_SECONDS):
            if self.cancelled.is_set():
                raise Stopped(signal.SIGTERM)
            if time.monotonic() - reported > _HEARTBEAT_SECONDS:
                reported = time.monotonic()
                elapsed = format_seconds(reported - started)
                self.report(Note(f"{title}: {elapsed} so far; {tail[-1] if tail else 'no output yet'}"))
            try:
                line = lines.get(timeout=_POLL_SECONDS)
            except queue.Empty:
                line = ""
            if line is None:
                is_open = False
            elif line:
                tail.append(redacted(line))
                self.report(Note(tail[-1], level="DEBUG"))
            elif ended is None and process.poll() is not None:
                ended = time.monotonic()  # a grandchild may still hold the pipe: read on, but not for ever
        return Outcome(process.wait(), tuple(tail))


def redacted(line: str) -> str:
    """``line`` for a log: no user name or password in URLs, not longer than a few hundred characters."""
    shown = _USER_INFORMATION.sub("***@", line.rstrip())
    return shown if len(shown) <= _LINE_LENGTH else f"{shown[:_LINE_LENGTH]}…"


def _read(stream: IO[str], lines: queue.SimpleQueue[str | None]) -> None:
    """Every line of ``stream``, line ends and all, so that none is empty; None at its end."""
    with stream:
        for line in stream:
            lines.put(line)
    lines.put(None)


def _stop(process: subprocess.Popen[str]) -> None:
    """TERM, time to clean up, KILL: to the whole group. Nothing happens to a group that has ended."""
    if process.poll() is None:
        _signal(process.pid, signal.SIGTERM)
        try:
            process.wait(_TERM_SECONDS)
        except subprocess.TimeoutExpired:
            _signal(process.pid, signal.SIGKILL)
            process.wait()


def _signal(group: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):  # it ended in between
        os.killpg(group, number)
