"""How fast a transfer goes: as many connections as make it faster, and no more bytes per second than allowed."""

from __future__ import annotations

import threading
from collections.abc import Callable

_WINDOW_SECONDS = 1.0
_GAIN = 1.1  # one more connection has to bring that much
_REST_WINDOWS = 20  # how long a number that was not worth more is kept before more are tried again
_BURST_SECONDS = 0.25


class Climb:
    """How many connections to use, from ``first`` to ``most``: one more while the last one brought a tenth more."""

    def __init__(self, first: int, most: int) -> None:
        self.connections = min(first, most)
        self._most = most
        self._best = 0.0
        self._tried = False
        self._rest = 0
        self._window: tuple[float, int] | None = None

    def observe(self, fetched_bytes: int, now: float) -> int:
        """So many bytes had arrived by ``now``; how many connections to use from here on."""
        if self._window is None:
            self._window = now, fetched_bytes
        began, before = self._window
        if now - began >= _WINDOW_SECONDS:
            self._window = now, fetched_bytes
            self._judge((fetched_bytes - before) / (now - began))
        return self.connections

    def _judge(self, rate: float) -> None:
        if self._tried and rate < self._best * _GAIN:
            self.connections -= 1
            self._tried, self._rest = False, _REST_WINDOWS
            return
        self._best = rate
        self._rest -= 1
        self._tried = self._rest <= 0 and rate > 0 and self.connections < self._most
        self.connections += self._tried


class Throttle:
    """At most ``bytes_per_second``, shared by threads; None for no limit."""

    def __init__(self, bytes_per_second: int | None, clock: Callable[[], float]) -> None:
        self._rate = bytes_per_second
        self._clock = clock
        self._lock = threading.Lock()
        self._free_at = float("-inf")

    @property
    def longest_read(self) -> int | None:
        """How many bytes to read at once, so that the rate is even; None for any number."""
        return max(1, int(self._rate * _BURST_SECONDS)) if self._rate else None

    def delay_seconds(self, count: int) -> float:
        """How long to wait now that ``count`` more bytes were read."""
        if self._rate is None:
            return 0.0
        with self._lock:
            now = self._clock()
            self._free_at = max(self._free_at, now) + count / self._rate
            return self._free_at - now
