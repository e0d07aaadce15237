"""One download of a model at a time, across processes and pods: a lock that says who holds it and that cannot go stale.

It is flock(2) on a file that is never deleted. The kernel (or the NFS server) ends it with its holder, kill -9
included. The file tells waiters who that is; what it says after the holder's end means nothing.

Where a filesystem has no flock (Lustre without ``-o flock``, some FUSE and NFS mounts), a lease file beside it takes
over: it exists while the lock is held and its holder touches it every few seconds. A waiter that sees it untouched for
a minute, by its own clock, takes it away. Its limit: a holder that was suspended for longer comes back to find another
beside it; the bytes stay right (each verifies its own), some are fetched twice.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from lading.cache.disk import TEMPORARY, Check, machine_errors, never
from lading.errors import CacheBusy
from lading.events import Note, Report, ignore
from lading.units import format_seconds

NOTE_SECONDS = 10.0
POLL_SECONDS = 0.2

_BUSY = frozenset({errno.EAGAIN, errno.EACCES})
_NOT_OFFERED = frozenset({errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS})
_EXCLUSIVE = fcntl.LOCK_EX | fcntl.LOCK_NB


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds a lock. ``started_at`` is Unix time by the holder's clock; ``token`` is drawn for each hold."""

    pid: int
    host: str
    started_at: float
    token: str

    @classmethod
    def now(cls) -> Holder:
        """This process, from now on."""
        return cls(os.getpid(), socket.gethostname(), time.time(), secrets.token_hex(8))

    def encode(self) -> bytes:
        """The text that a lock file holds."""
        values = {"pid": self.pid, "host": self.host, "started_at": self.started_at, "token": self.token}
        return json.dumps(values).encode() + b"\n"

    @classmethod
    def decode(cls, text: bytes) -> Holder | None:
        """The holder that ``text`` names, or None where it names none."""
        try:
            data: dict[str, Any] = json.loads(text)
            return cls(int(data["pid"]), str(data["host"]), float(data["started_at"]), str(data["token"]))
        except (ValueError, KeyError, TypeError):
            return None

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}, for {format_seconds(max(0.0, time.time() - self.started_at))}"


@dataclass(frozen=True, slots=True)
class Timing:
    """The clock of a lock, and how often a lease is touched and how long untouched makes it stale."""

    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    heartbeat_seconds: float = 10.0
    stale_seconds: float = 60.0


class Lock:
    """An exclusive lock named by a path: ``with Lock(path).acquire(60, report): ...``.

    For one thread; two Lock objects of one process exclude each other too. Not to be held across a fork without exec.
    """

    def __init__(
        self,
        path: Path,
        *,
        held_for: str = "another download of this model",
        flock: Callable[[int, int], None] = fcntl.flock,
        timing: Timing | None = None,
    ) -> None:
        self.path = path
        self._held_for = held_for
        self._flock = flock
        self._timing = timing or Timing()
        self._lease = _Lease(path.with_name(path.name + ".lease"), self._timing)
        self._descriptor: int | None = None
        self._has_flock = True

    def acquire(self, wait_seconds: float, report: Report = ignore, check: Check = never) -> Lock:
        """Hold the lock, after waiting up to ``wait_seconds`` for whoever holds it.

        While waiting, a Note every ten seconds says who that is, and ``check`` may raise to give up. Raises CacheBusy
        when the wait is over, NotWritable where the lock file cannot be made.
        """
        clock = self._timing.clock
        began = next_note = clock()
        while not self._try():
            check()
            now = clock()
            if now - began >= wait_seconds:
                raise self._busy(now - began)
            if now >= next_note:
                report(Note(f"waiting for {self._held_for} ({self._describe()})"))
                next_note = now + NOTE_SECONDS
            self._timing.sleep(min(POLL_SECONDS, max(0.0, wait_seconds - (now - began))))
        return self

    def release(self) -> None:
        """Let go; does nothing where nothing is held."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            with suppress(OSError):
                os.ftruncate(descriptor, 0)
            os.close(descriptor)
        self._lease.release()

    def require_held(self) -> None:
        """Raise CacheBusy where the lease that was ours is another's: this process was suspended for too long.

        Asks the heart, which looks before every beat; without a lease it does nothing. A flock cannot be lost.
        """
        if self._lease.lost.is_set():
            raise CacheBusy(
                f"{self.path} is held by {self._describe()} now: this process was suspended for too long",
                remedy="run the same command again: it takes what that process fetched",
            )

    def __enter__(self) -> Lock:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def holder(self) -> Holder | None:
        """Who holds the lock, as far as its file tells. Only meaningful to somebody who was just refused it."""
        path = self.path if self._has_flock else self._lease.path
        try:
            return Holder.decode(path.read_bytes())
        except OSError:
            return None

    def _describe(self) -> str:
        holder = self.holder()
        return str(holder) if holder else "another process"

    def _busy(self, waited_seconds: float) -> CacheBusy:
        return CacheBusy(
            f"{self.path} has been held by {self._describe()}; waited {format_seconds(waited_seconds)}",
            remedy=f"wait until {self._held_for} ends, or stop that process; the lock ends with it",
        )

    def _try(self) -> bool:
        if self._has_flock:
            try:
                return self._try_flock()
            except _NoFlock:
                self._has_flock = False
        return self._lease.try_take()

    def _try_flock(self) -> bool:
        with machine_errors(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            try:
                is_ours = self._lock(descriptor) and self._is_current(descriptor)
            except BaseException:
                os.close(descriptor)
                raise
        if not is_ours:
            os.close(descriptor)
            return False
        with suppress(OSError):  # a full disk does not hinder a lock
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, Holder.now().encode(), 0)
        self._descriptor = descriptor
        return True

    def _lock(self, descriptor: int) -> bool:
        try:
            self._flock(descriptor, _EXCLUSIVE)
        except OSError as error:
            if error.errno in _BUSY:
                return False
            if error.errno in _NOT_OFFERED:
                raise _NoFlock from error
            raise
        return True

    def _is_current(self, descriptor: int) -> bool:
        """Whether the path still names the file that was locked (a clean-up may have replaced it meanwhile)."""
        try:
            return os.path.samestat(os.fstat(descriptor), self.path.stat())
        except FileNotFoundError:
            return False


class _NoFlock(Exception):
    """The filesystem does not offer flock."""


class _Lease:
    """A file that exists while the lock is held and is touched while its holder lives."""

    def __init__(self, path: Path, timing: Timing) -> None:
        self.path = path
        self._timing = timing
        self._mine: bytes | None = None
        self._seen: tuple[bytes, int] | None = None
        self._seen_at = 0.0
        self._released = threading.Event()
        self.lost = threading.Event()
        self._heart: threading.Thread | None = None

    def try_take(self) -> bool:
        """Whether the lease is ours now. A stale one is taken away; the next call can succeed."""
        with machine_errors(self.path):
            descriptor = self._create()
        if descriptor is None:
            self._watch()
            return False
        self._mine = Holder.now().encode()
        with machine_errors(self.path), os.fdopen(descriptor, "wb") as file:
            file.write(self._mine)
        self._released.clear()
        self.lost.clear()
        self._heart = threading.Thread(target=self._beat, name="lading-lease", daemon=True)
        self._heart.start()
        return True

    def release(self) -> None:
        """Let go; does nothing where nothing is held."""
        mine, self._mine = self._mine, None
        if mine is None or self._heart is None:
            return
        self._released.set()
        self._heart.join()
        self.lost.clear()
        with suppress(OSError):
            if self.path.read_bytes() == mine:
                self.path.unlink()

    def _create(self) -> int | None:
        try:
            return os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        except FileExistsError:
            return None

    def _beat(self) -> None:
        mine = self._mine
        while not self._released.wait(self._timing.heartbeat_seconds):
            with suppress(OSError):
                if self._text() != mine:
                    self.lost.set()  # and not touched: its new holder has a heart of its own
                    return
                os.utime(self.path)

    def _text(self) -> bytes | None:
        try:
            return self.path.read_bytes()
        except FileNotFoundError:
            return None

    def _watch(self) -> None:
        """Remember how the lease looks; take it away once it has looked so for too long."""
        seen = self._look()
        now = self._timing.clock()
        if seen != self._seen:
            self._seen, self._seen_at = seen, now
        elif seen is not None and now - self._seen_at >= self._timing.stale_seconds:
            self._take_away(seen)

    def _look(self) -> tuple[bytes, int] | None:
        try:
            return self.path.read_bytes(), self.path.stat().st_mtime_ns
        except OSError:
            return None

    def _take_away(self, stale: tuple[bytes, int]) -> None:
        aside = self.path.with_name(f"{TEMPORARY}{secrets.token_hex(6)}")
        with suppress(OSError):
            self.path.rename(aside)
            if aside.read_bytes() != stale[0]:
                aside.rename(self.path)  # somebody was quicker: this one is alive
            else:
                aside.unlink()
