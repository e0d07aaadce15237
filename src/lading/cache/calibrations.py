"""What engines measured at their starts here: ``calibrations/<SHA-256 of the key>.json``, one file for each key.

A file that cannot be read, is of another schema or of another key than its name says is as good as none. They are
hints: losing one costs nothing but an estimate's last percent, so nobody locks them and the last writer wins.
"""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from lading.cache.disk import write_atomically
from lading.profiles.calibration import Calibration, CalibrationKey

SCHEMA = 1
_MOST_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Calibrations:
    """The measurements in one cache."""

    directory: Path

    def find(self, key: CalibrationKey) -> Calibration | None:
        """What the last start with this key measured, or None. Reads one small file; never raises."""
        return _read(self.path_of(key))

    def save(self, calibration: Calibration) -> Path:
        """Keep ``calibration`` in the place of what its key had before; the file. Raises MachineError."""
        path = self.path_of(calibration.key)
        text = json.dumps({"schema": SCHEMA, **calibration.to_json()}, indent=1)
        write_atomically(path, text.encode() + b"\n")
        return path

    def path_of(self, key: CalibrationKey) -> Path:
        """Where the measurement of a key lies."""
        return self.directory / f"{key.digest}.json"


def _read(path: Path) -> Calibration | None:
    with suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
        if path.stat().st_size > _MOST_BYTES:
            return None
        data = json.loads(path.read_bytes())
        found = Calibration.from_json(data)
        if data["schema"] == SCHEMA and f"{found.key.digest}.json" == path.name:
            return found
    return None
