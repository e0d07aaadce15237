"""The one place that turns events into lines and bars on standard error.

Text lines have NIM's form, ``INFO 2026-03-03 12:00:10.079 serve.py:42] message``; with ``NIM_JSONL_LOGGING`` each line
is one JSON object with NIM's five fields first. Engine lines go through unchanged (in JSON, as ``message`` with
``source`` ``engine``), less what the engine prints of API keys. Progress is a bar on a terminal, otherwise one line
each five seconds or five percent, whichever is later.
"""

from __future__ import annotations

import json
import re
import sys
import threading
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from lading.events import (
    BlobVerified,
    BytesFetched,
    BytesSent,
    EngineOutput,
    Event,
    FilesChecked,
    FileStored,
    Note,
    OthersProgress,
    PhaseChanged,
    RetryScheduled,
    TransferFinished,
    TransferStarted,
    UploadFinished,
    UploadStarted,
)
from lading.settings_readers import LOG_LEVELS
from lading.units import format_bytes, format_seconds

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

_LINE_SECONDS = 5.0
_LINE_SHARE = 0.05
_ENGINE_LEVEL = re.compile(r"^(?:\([^)]*\)\s*)?(DEBUG|INFO|WARNING|ERROR|CRITICAL)\b")
_PROGRESS_BAR = re.compile(r"\d+%(?: Completed)? ?\|")
_API_KEY = re.compile(r"(['\"]?api[_-]key['\"]?\s*[:=]\s*)(\[[^\]]*\]|'[^']*'|\"[^\"]*\"|\S+)", re.IGNORECASE)
_LABELS = {"checked": "checking", "uploaded": "uploading"}
_OWN_FILES = {Path(__file__).name, "events.py", "status.py"}


class EventLog:
    """Writes events to a stream. Safe to call from any thread."""

    def __init__(
        self,
        *,
        level: str = "INFO",
        jsonl: bool = False,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._level = LOG_LEVELS.index(level)
        self._jsonl = jsonl
        self._stream = stream or sys.stderr
        self._clock = clock
        self._lock = threading.RLock()
        self._progress: _Progress | None = None
        self._watched: int | None = None

    def __call__(self, event: Event) -> None:
        """Report ``event``; this is the reporter that the rest of Lading is given."""
        with self._lock:
            match event:
                case Note(text, level):
                    self._write(level, text)
                case PhaseChanged(phase, detail):
                    self._write("INFO", f"{phase}: {detail}" if detail else f"{phase}")
                case EngineOutput(line):
                    self._write(_engine_level(line), _API_KEY.sub(r"\1***", line), source="engine")
                case RetryScheduled(what, reason, delay_seconds):
                    self._write("WARNING", f"{what}: {reason}; again in {format_seconds(delay_seconds)}")
                case BlobVerified(path, size_bytes, reused):
                    how = "already here" if reused else "verified"
                    self._write("DEBUG", f"{path}: {how}, {format_bytes(size_bytes)}")
                case TransferStarted() | BytesFetched() | TransferFinished():
                    self._on_transfer(event)
                case UploadStarted() | BytesSent() | FileStored() | UploadFinished():
                    self._on_upload(event)
                case OthersProgress(total_bytes, present_bytes):
                    self._on_watched(total_bytes, present_bytes, "another process fetched")
                case FilesChecked(total_bytes, done_bytes):
                    self._on_watched(total_bytes, done_bytes, "checked")
                    if done_bytes >= total_bytes:
                        self.close()

    def _on_transfer(self, event: TransferStarted | BytesFetched | TransferFinished) -> None:
        match event:
            case TransferStarted(files, total_bytes, present_bytes):
                self.close()
                self._write(
                    "INFO",
                    f"{files} files, {format_bytes(total_bytes)}: {format_bytes(present_bytes)} are here, "
                    f"{format_bytes(event.fetch_bytes)} to fetch",
                )
                self._progress = self._new_progress(event.fetch_bytes) if event.fetch_bytes else None
            case BytesFetched(_, count) if self._progress:
                self._progress.advance(count)
            case TransferFinished(fetched_bytes, seconds):
                self.close()
                self._write("INFO", _moved(fetched_bytes, "fetched", seconds))

    def _on_upload(self, event: UploadStarted | BytesSent | FileStored | UploadFinished) -> None:
        match event:
            case UploadStarted(files, total_bytes, present_bytes):
                self.close()
                self._write(
                    "INFO",
                    f"{files} files, {format_bytes(total_bytes)}: {format_bytes(present_bytes)} are in the bucket, "
                    f"{format_bytes(event.upload_bytes)} to upload",
                )
                self._progress = self._new_progress(event.upload_bytes, "uploaded") if event.upload_bytes else None
            case BytesSent(_, count) if self._progress:
                self._progress.advance(count)
            case FileStored(path, size_bytes, reused):
                how = "already in the bucket" if reused else "uploaded and looked at"
                self._write("DEBUG", f"{path}: {how}, {format_bytes(size_bytes)}")
            case UploadFinished(sent_bytes, seconds):
                self.close()
                self._write("INFO", _moved(sent_bytes, "uploaded", seconds))

    def _on_watched(self, total_bytes: int, done_bytes: int, verb: str) -> None:
        """Show how far something is that tells where it stands, not what it adds."""
        if self._watched is None:
            self._progress = self._new_progress(max(1, total_bytes - done_bytes), verb)
        elif self._progress:
            self._progress.advance(done_bytes - self._watched)
        self._watched = done_bytes

    def close(self) -> None:
        """End a bar that is still drawn, so that what follows starts on a line of its own."""
        with self._lock:
            if self._progress:
                self._progress.close()
                self._progress = None
            self._watched = None

    def _new_progress(self, total_bytes: int, verb: str = "fetched") -> _Progress:
        if self._stream.isatty() and not self._jsonl:
            return _Bar(total_bytes, self._stream, _LABELS.get(verb, "fetching"))
        return _Lines(total_bytes, self._clock, lambda text: self._write("INFO", f"{verb} {text}"))

    def _write(self, level: str, text: str, source: str = "lading") -> None:
        if LOG_LEVELS.index(level) < self._level:
            return
        now = datetime.now().astimezone()
        file_name, line_number = _caller()
        if self._jsonl:
            record = {
                "level": level,
                "time": now.isoformat(timespec="milliseconds"),
                "file_name": file_name,
                "line_number": line_number,
                "message": text,
                "source": source,
            }
            line = json.dumps(record, ensure_ascii=False)
        elif source == "engine":
            line = text
        else:
            line = f"{level} {now:%Y-%m-%d %H:%M:%S}.{now.microsecond // 1000:03d} {file_name}:{line_number}] {text}"
        self._stream.write(line + "\n")
        self._stream.flush()


def _moved(count: int, verb: str, seconds: float) -> str:
    rate = f" ({format_bytes(count / seconds)}/s)" if count and seconds > 0 else ""
    return f"{format_bytes(count)} {verb} in {format_seconds(seconds)}{rate}"


def _engine_level(line: str) -> str:
    """The level that an engine gave its line; progress bars and lines without one count as DEBUG and INFO."""
    if found := _ENGINE_LEVEL.match(line):
        return found[1]
    return "DEBUG" if _PROGRESS_BAR.search(line) else "INFO"


def _caller() -> tuple[str, int]:
    """File and line of the code that reported: the first frame outside the reporting machinery."""
    frame = sys._getframe(1)
    while frame.f_back and Path(frame.f_code.co_filename).name in _OWN_FILES:
        frame = frame.f_back
    return Path(frame.f_code.co_filename).name, frame.f_lineno


class _Progress:
    """Shows how far a transfer is."""

    def advance(self, count: int) -> None:
        """``count`` more bytes are here."""

    def close(self) -> None:
        """Show nothing more."""


class _Lines(_Progress):
    """One line each five seconds or five percent, whichever is later; percent of what is to fetch."""

    def __init__(self, total_bytes: int, clock: Callable[[], float], write: Callable[[str], None]) -> None:
        self._total_bytes = total_bytes
        self._clock = clock
        self._write = write
        self._done = self._shown = 0
        self._started = self._last = clock()

    def advance(self, count: int) -> None:
        self._done += count
        now = self._clock()
        grown = (self._done - self._shown) / self._total_bytes
        if now - self._last < _LINE_SECONDS or grown < _LINE_SHARE:
            return
        self._shown, self._last = self._done, now
        rate = self._done / (now - self._started)
        left = (self._total_bytes - self._done) / rate if rate > 0 else 0
        share = self._done / self._total_bytes
        self._write(
            f"{format_bytes(self._done)} of {format_bytes(self._total_bytes)} ({share:.0%}), "
            f"{format_bytes(rate)}/s, {format_seconds(left)} left"
        )


class _Bar(_Progress):
    """A bar on a terminal."""

    def __init__(self, total_bytes: int, stream: TextIO, label: str) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

        self._bar: Progress = Progress(
            label,
            BarColumn(None),
            DownloadColumn(binary_units=True),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=Console(file=stream),
            transient=True,
        )
        self._task: TaskID = self._bar.add_task(label, total=total_bytes)
        self._bar.start()

    def advance(self, count: int) -> None:
        self._bar.advance(self._task, count)

    def close(self) -> None:
        self._bar.stop()
