"""What happened, as values. Inner code reports events; one place turns them into bars, log lines and metrics.

A reporter is any callable that takes an event. It is called from worker threads, must return quickly and must not
raise. The default is :func:`ignore`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum


class Phase(StrEnum):
    """Where a start-up stands, in order. ``STOPPED`` ends it from anywhere."""

    RESOLVING = "resolving"
    SELECTING = "selecting"
    DOWNLOADING = "downloading"
    PREPARING = "preparing"
    STARTING = "starting"
    LOADING = "loading"
    WARMING = "warming"
    READY = "ready"
    STOPPING = "stopping"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class PhaseChanged:
    """A start-up moved to ``phase``; ``detail`` is one short sentence for a person."""

    phase: Phase
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Note:
    """A sentence for the log. ``level`` is a :mod:`logging` level name."""

    text: str
    level: str = "INFO"


@dataclass(frozen=True, slots=True)
class TransferStarted:
    """A transfer is about to move ``fetch_bytes``; ``present_bytes`` of ``total_bytes`` are here already."""

    files: int
    total_bytes: int
    present_bytes: int

    @property
    def fetch_bytes(self) -> int:
        """Bytes still to fetch."""
        return self.total_bytes - self.present_bytes


@dataclass(frozen=True, slots=True)
class BytesFetched:
    """``count`` more bytes of ``path`` are on disk. Negative when bytes were thrown away to be fetched again."""

    path: str
    count: int


@dataclass(frozen=True, slots=True)
class BlobVerified:
    """All bytes of ``path`` are here and have the promised digest."""

    path: str
    size_bytes: int
    reused: bool = False


@dataclass(frozen=True, slots=True)
class RetryScheduled:
    """A request failed for a passing reason and will be made again after ``delay_seconds``."""

    what: str
    reason: str
    delay_seconds: float


@dataclass(frozen=True, slots=True)
class TransferFinished:
    """All files are here. ``fetched_bytes`` moved in ``seconds``."""

    fetched_bytes: int
    seconds: float


@dataclass(frozen=True, slots=True)
class UploadStarted:
    """Files are about to be copied to a bucket; ``present_bytes`` of ``total_bytes`` are there already."""

    files: int
    total_bytes: int
    present_bytes: int

    @property
    def upload_bytes(self) -> int:
        """Bytes still to be there."""
        return self.total_bytes - self.present_bytes


@dataclass(frozen=True, slots=True)
class BytesSent:
    """``count`` more bytes of ``path`` were sent, or found sent. Negative when they have to be sent again."""

    path: str
    count: int


@dataclass(frozen=True, slots=True)
class FileStored:
    """All bytes of ``path`` are in the bucket, and were looked at there; ``reused``: before anything was sent."""

    path: str
    size_bytes: int
    reused: bool = False


@dataclass(frozen=True, slots=True)
class UploadFinished:
    """All files are in the bucket. ``sent_bytes`` moved in ``seconds``."""

    sent_bytes: int
    seconds: float


@dataclass(frozen=True, slots=True)
class OthersProgress:
    """Another process fetches the model that is waited for here: ``present_bytes`` of ``total_bytes`` are there."""

    total_bytes: int
    present_bytes: int


@dataclass(frozen=True, slots=True)
class FilesChecked:
    """A model store or a bundle is being made or read: ``done_bytes`` of ``total_bytes`` were hashed, and copied."""

    total_bytes: int
    done_bytes: int


@dataclass(frozen=True, slots=True)
class AdaptersChanged:
    """Which LoRA adapters are loaded now, and how many were found that are not."""

    loaded: tuple[str, ...]
    skipped: int


@dataclass(frozen=True, slots=True)
class EngineOutput:
    """One line that the engine printed."""

    line: str


Event = (
    PhaseChanged
    | Note
    | TransferStarted
    | BytesFetched
    | BlobVerified
    | RetryScheduled
    | TransferFinished
    | UploadStarted
    | BytesSent
    | FileStored
    | UploadFinished
    | OthersProgress
    | FilesChecked
    | AdaptersChanged
    | EngineOutput
)
Report = Callable[[Event], None]


def ignore(event: Event) -> None:
    """The reporter that does nothing."""


def both(first: Report, second: Report) -> Report:
    """A reporter that tells two others."""

    def report(event: Event) -> None:
        first(event)
        second(event)

    return report
