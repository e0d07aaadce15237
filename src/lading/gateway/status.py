"""What is known about a service while it starts, serves and stops, folded from events.

Events come from worker threads, questions from the gateway's loop; one lock lies between. The phase is the only state:
"ready" is derived from it and stored nowhere else. Seconds are monotonic.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from lading.events import (
    AdaptersChanged,
    BytesFetched,
    Event,
    OthersProgress,
    Phase,
    PhaseChanged,
    RetryScheduled,
    TransferFinished,
    TransferStarted,
)
from lading.gateway.progress import DownloadProgress, TransferMeter
from lading.profiles.measurement import Measurement


@dataclass(frozen=True, slots=True)
class ServiceInfo:
    """What is served, as far as it is resolved. None means "not known yet"; the names are empty until then.

    ``source`` is the model's URI as text, ``revision`` the commit or version it was pinned to, ``manifest_yaml`` the
    runtime manifest as it lies on disk, ``profile_reason`` why this profile was chosen. ``estimated_memory`` and
    ``measured_memory`` are by rank; one that stands alone is the largest of all ranks.
    """

    served_names: tuple[str, ...] = ()
    source: str | None = None
    revision: str | None = None
    manifest_yaml: str | None = None
    profile_id: str | None = None
    profile_name: str | None = None
    profile_reason: str | None = None
    backend: str | None = None
    backend_version: str | None = None
    estimate_bytes: int | None = None
    repository_override: str = ""
    estimated_memory: tuple[Measurement, ...] = ()
    measured_memory: tuple[Measurement, ...] = ()


@dataclass(frozen=True, slots=True)
class StatusSnapshot:
    """The service at one moment.

    ``phase_seconds`` holds every phase entered so far, the current one up to now. ``downloaded_bytes`` and
    ``retries`` only grow (bytes thrown away stay counted); ``download`` is the latest transfer, None before the first.
    ``adapters`` are the LoRA adapters, None where there are none to load.
    """

    phase: Phase
    detail: str
    seconds_in_phase: float
    phase_seconds: Mapping[Phase, float]
    download: DownloadProgress | None
    downloaded_bytes: int
    cache_hit_bytes: int
    retries: int
    info: ServiceInfo
    adapters: AdaptersChanged | None = None

    @property
    def ready(self) -> bool:
        """Whether the model answers."""
        return self.phase is Phase.READY


class ServiceStatus:
    """Folds events into a :class:`StatusSnapshot`. Every method may be called from any thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._phase = Phase.RESOLVING
        self._detail = ""
        self._since = clock()
        self._seconds: dict[Phase, float] = {}
        self._meter: TransferMeter | None = None
        self._watched: int | None = None  # bytes that another process had fetched when it was last looked at
        self._downloaded_bytes = 0
        self._cache_hit_bytes = 0
        self._retries = 0
        self._info = ServiceInfo()
        self._adapters: AdaptersChanged | None = None

    @property
    def ready(self) -> bool:
        """Whether the model answers, now."""
        return self._phase is Phase.READY

    def describe(self, info: ServiceInfo) -> None:
        """Replace what is known about the served model."""
        with self._lock:
            self._info = info

    def report(self, event: Event) -> None:
        """Fold one event in; a :data:`lading.events.Report`. Events without a bearing on the status are ignored."""
        with self._lock:
            self._fold(event, self._clock())

    def snapshot(self) -> StatusSnapshot:
        """The service as it stands."""
        with self._lock:
            now = self._clock()
            in_phase = now - self._since
            return StatusSnapshot(
                phase=self._phase,
                detail=self._detail,
                seconds_in_phase=in_phase,
                phase_seconds=self._seconds | {self._phase: self._seconds.get(self._phase, 0.0) + in_phase},
                download=self._meter.progress(now) if self._meter else None,
                downloaded_bytes=self._downloaded_bytes,
                cache_hit_bytes=self._cache_hit_bytes,
                retries=self._retries,
                info=self._info,
                adapters=self._adapters,
            )

    def _fold(self, event: Event, now: float) -> None:
        match event:
            case BytesFetched(count=count):
                self._downloaded_bytes += max(0, count)
                if self._meter:
                    self._meter.add(count, now)
            case PhaseChanged(phase=phase, detail=detail):
                self._enter(phase, now)
                self._detail = detail
            case TransferStarted(total_bytes=total_bytes, present_bytes=present_bytes):
                self._meter = TransferMeter(total_bytes, present_bytes, now)
                self._cache_hit_bytes += present_bytes
                self._watched = None
            case OthersProgress(total_bytes=total_bytes, present_bytes=present_bytes):
                if self._watched is None:
                    self._meter = TransferMeter(total_bytes, present_bytes, now)
                elif self._meter:
                    self._meter.add(present_bytes - self._watched, now)
                self._watched = present_bytes
            case TransferFinished() if self._meter:
                self._meter.finish()
            case RetryScheduled():
                self._retries += 1
            case AdaptersChanged():
                self._adapters = event
            case _:
                pass

    def _enter(self, phase: Phase, now: float) -> None:
        if phase is self._phase:
            return
        self._seconds[self._phase] = self._seconds.get(self._phase, 0.0) + now - self._since
        self._phase, self._since = phase, now
