"""Who is using what: one file in ``uses/`` for each running server, touched while it lives, so that clean-ups see it.

A use protects a model's entry, its workspace, and the blobs it names, also where a refresh has meanwhile replaced the
entry. It is alive while its file was touched lately, by the clock of the filesystem, or its process runs on this host.
Files of uses that are not alive are litter. A cache that cannot be written has no uses: whoever cleans it up from
another machine must know who reads it.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lading.cache.disk import machine_errors, write_atomically
from lading.digest import Digest
from lading.errors import LadingError, MachineError
from lading.uri import ModelUri

HEARTBEAT_SECONDS = 10.0
STALE_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Use:
    """One server's use of a model: its workspace, "" before there is one, and the SHA-256 of the files in it."""

    source: ModelUri
    pid: int
    host: str
    workspace: str = ""
    digests: frozenset[Digest] = frozenset()

    def to_json(self) -> dict[str, Any]:
        """The use as JSON values."""
        digests = sorted(str(each) for each in self.digests)
        who = {"source": str(self.source), "pid": self.pid, "host": self.host}
        return who | {"workspace": self.workspace, "digests": digests}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Use:
        """The use that :meth:`to_json` wrote; ValueError, KeyError, TypeError or LadingError for anything else."""
        digests = frozenset(Digest.parse(each) for each in data["digests"])
        return cls(ModelUri.parse(data["source"]), int(data["pid"]), str(data["host"]), data["workspace"], digests)

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


class Announcement:
    """A use of this process while it lasts; :meth:`extend` tells of it what is known later."""

    def __init__(self, path: Path, source: ModelUri, digests: Iterable[Digest] = ()) -> None:
        self._path = path
        self._use = Use(source, os.getpid(), socket.gethostname(), digests=frozenset(digests))
        self._write(self._use)

    def extend(self, workspace: Path, digests: Iterable[Digest]) -> None:
        """The model is served from ``workspace``, which holds these blobs."""
        use = self._use
        self._write(Use(use.source, use.pid, use.host, str(workspace), frozenset(digests)))

    def _write(self, use: Use) -> None:
        self._use = use
        with suppress(MachineError):  # a full disk does not hinder a server
            write_atomically(self._path, json.dumps(use.to_json()).encode() + b"\n")


@contextmanager
def announced(directory: Path, source: ModelUri, digests: Iterable[Digest] = ()) -> Iterator[Announcement]:
    """Say in ``directory`` that ``source`` is in use until the block ends, and with it these blobs."""
    path = directory / f"{secrets.token_hex(8)}.json"
    announcement = Announcement(path, source, digests)
    ended = threading.Event()
    heart = threading.Thread(target=_beat, args=(path, ended), name="lading-use", daemon=True)
    heart.start()
    try:
        yield announcement
    finally:
        ended.set()
        heart.join()
        with suppress(OSError):
            path.unlink()


def live_uses(directory: Path, now: float) -> Iterator[Use]:
    """The uses that are alive; ``now`` is what the filesystem's clock says."""
    for path in sorted(directory.glob("*.json")):
        use = _load(path)
        if use and _is_alive(path, use, now):
            yield use


def drop_dead_uses(directory: Path, now: float) -> None:
    """Delete the files of uses that are not alive."""
    for path in directory.glob("*.json"):
        use = _load(path)
        if use is None or not _is_alive(path, use, now):
            with machine_errors(path):
                path.unlink(missing_ok=True)


def _beat(path: Path, ended: threading.Event) -> None:
    while not ended.wait(HEARTBEAT_SECONDS):
        with suppress(OSError):
            os.utime(path)


def _load(path: Path) -> Use | None:
    try:
        return Use.from_json(json.loads(path.read_bytes()))
    except (OSError, ValueError, KeyError, TypeError, LadingError):
        return None


def _is_alive(path: Path, use: Use, now: float) -> bool:
    try:
        touched_at = path.stat().st_mtime
    except OSError:
        return False
    here = use.host == socket.gethostname() and Path(f"/proc/{use.pid}").exists()
    return here or now - touched_at < STALE_SECONDS
