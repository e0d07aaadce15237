"""The engine's guard: a small process between Lading and the engine that leaves nothing behind.

Run as a script by its path, never imported, so it uses the standard library alone: ``guard.py PROGRAM ARGUMENT…``.
It starts the program as its only child and ends with the program's exit code (128 + n for signal n) once the program
*and every process that descends from it* is gone:

- TERM and INT are passed to the program alone, which may then stop in its own time.
- USR1 kills the program and all its descendants at once.
- When Lading dies, even by KILL, the kernel sends TERM here (``PR_SET_PDEATHSIG``); a grace later, all is killed.
- Descendants that leave their process group or session are re-parented here (``PR_SET_CHILD_SUBREAPER``), so they are
  found and killed as well.
- When this process is killed, the kernel kills the program (``PR_SET_PDEATHSIG`` again).
"""

import ctypes
import os
import signal
import sys
import time
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_ORPHAN_GRACE_SECONDS = 10
_COMMAND_NOT_STARTED = 127
_libc = ctypes.CDLL(None, use_errno=True)


def main(argv: list[str]) -> int:
    """Start ``argv``, wait for it and its descendants, and return its exit code."""
    parent = os.getppid()
    _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    watched = {signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGCHLD, signal.SIGALRM}
    signal.pthread_sigmask(signal.SIG_BLOCK, watched)
    child = _start(argv)
    if os.getppid() != parent:  # Lading died before the kernel knew that we want to hear of it
        os.kill(os.getpid(), signal.SIGTERM)
    return _watch(child, parent, watched)


def _start(argv: list[str]) -> int:
    child = os.fork()
    if child:
        return child
    try:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        os.setpgid(0, 0)
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # Python ignores it, and an ignored signal survives exec
        signal.pthread_sigmask(signal.SIG_UNBLOCK, signal.valid_signals())
        os.execvp(argv[0], argv)  # noqa: S606  # no shell is the point
    except OSError as error:
        sys.stderr.write(f"{argv[0]}: {error.strerror}\n")
    finally:
        os._exit(_COMMAND_NOT_STARTED)


def _watch(child: int, parent: int, watched: set[signal.Signals]) -> int:
    """Handle signals until the program has ended, then kill what it left and return its exit code."""
    while True:
        received = signal.sigwait(watched)
        if received is signal.SIGCHLD:
            code = _reap(child)
            if code is not None:
                _kill_descendants()
                return code
        elif received in (signal.SIGUSR1, signal.SIGALRM):
            os.kill(child, signal.SIGKILL)
            _kill_descendants(but=child)
        else:
            os.kill(child, received)
            if os.getppid() != parent:
                signal.alarm(_ORPHAN_GRACE_SECONDS)


def _reap(child: int) -> int | None:
    """Collect every ended process; the exit code of ``child`` if it is among them."""
    code = None
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return code
        if pid == 0:
            return code
        if pid == child:
            raw = os.waitstatus_to_exitcode(status)
            code = raw if raw >= 0 else 128 - raw


def _kill_descendants(but: int | None = None) -> None:
    """Kill and collect all descendants, those that appear meanwhile included."""
    while victims := _descendants(os.getpid()) - {but}:
        for pid in victims:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        for pid in victims:
            try:
                os.waitpid(pid, 0)
            except ChildProcessError:
                time.sleep(0.01)  # a grandchild: re-parented here when its parent goes, and found in the next round


def _descendants(root: int) -> set[int]:
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if fields[0] != "Z" or int(fields[1]) == root:
                children.setdefault(int(fields[1]), []).append(int(entry.name))
    found: set[int] = set()
    waiting = [root]
    while waiting:
        for pid in children.get(waiting.pop(), []):
            found.add(pid)
            waiting.append(pid)
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
