"""How far a transfer is: bytes, rate over a short window, time left. Plain arithmetic; the caller brings the time.

A meter is not thread-safe; :class:`lading.gateway.status.ServiceStatus` holds its lock around it.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

WINDOW_SECONDS = 10.0
_RESOLUTION_SECONDS = 0.25


@dataclass(frozen=True, slots=True)
class DownloadProgress:
    """A transfer at one moment.

    ``fetched_bytes`` are the net bytes of this transfer (bytes thrown away are subtracted); ``eta_seconds`` is None
    while nothing moves.
    """

    total_bytes: int
    present_bytes: int
    fetched_bytes: int
    bytes_per_second: float
    eta_seconds: float | None

    @property
    def percent(self) -> float:
        """Share of all bytes that is here, 0 to 100; an empty transfer is complete."""
        if self.total_bytes <= 0:
            return 100.0
        return min(100.0, max(0.0, 100.0 * (self.present_bytes + self.fetched_bytes) / self.total_bytes))


class TransferMeter:
    """Counts one transfer. The rate is that of the last :data:`WINDOW_SECONDS`, and 0 once the transfer is finished."""

    def __init__(self, total_bytes: int, present_bytes: int, now: float) -> None:
        self._total_bytes = total_bytes
        self._present_bytes = present_bytes
        self._fetched_bytes = 0
        self._finished = False
        self._samples = deque([(now, 0)])

    def add(self, count: int, now: float) -> None:
        """``count`` more bytes are here; negative when bytes were thrown away."""
        self._fetched_bytes += count
        if now - self._samples[-1][0] >= _RESOLUTION_SECONDS:
            self._samples.append((now, self._fetched_bytes))
        self._forget(now)

    def finish(self) -> None:
        """All bytes are here."""
        self._fetched_bytes = self._total_bytes - self._present_bytes
        self._finished = True

    def progress(self, now: float) -> DownloadProgress:
        """The transfer as it stands at ``now``."""
        rate = self._rate(now)
        left = max(0, self._total_bytes - self._present_bytes - self._fetched_bytes)
        eta = 0.0 if left == 0 else left / rate if rate > 0 else None
        return DownloadProgress(self._total_bytes, self._present_bytes, self._fetched_bytes, rate, eta)

    def _rate(self, now: float) -> float:
        self._forget(now)
        began, at_begin = self._samples[0]
        # The oldest sample stands for the window's edge: between it and the next one nothing was counted.
        elapsed = now - max(began, now - WINDOW_SECONDS)
        if self._finished or elapsed <= 0:
            return 0.0
        return max(0.0, (self._fetched_bytes - at_begin) / elapsed)

    def _forget(self, now: float) -> None:
        while len(self._samples) > 1 and self._samples[1][0] <= now - WINDOW_SECONDS:
            self._samples.popleft()
