"""After a launch: what the engine said of its memory is compared with the estimate, told, and kept for the next start.

The engine's lines are listened to until the model answers, then not any more. Nothing here can fail a start: what
cannot be read is not told, and what cannot be kept is said in the log.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from lading.backends.startup_figures import figure_reader
from lading.cache.calibrations import Calibrations
from lading.errors import MachineError
from lading.events import EngineOutput, Event, Note, Phase, PhaseChanged, Report
from lading.profiles.calibration import Calibration
from lading.profiles.measurement import SERIOUS_SHARE, Measurement, compare, merge, serious, summary


def listening(report: Report, backend: str, conclude: Callable[[tuple[Measurement, ...]], None]) -> Report:
    """``report``, which reads the engine's lines besides, and calls ``conclude`` once before it tells that it is ready.

    ``conclude`` gets what each rank told, and is not called where none told anything.
    """
    reader = figure_reader(backend)
    is_starting = True

    def listen(event: Event) -> None:
        nonlocal is_starting
        if is_starting:
            match event:
                case EngineOutput(line):
                    reader.read(line)
                case PhaseChanged(Phase.READY):
                    is_starting = False
                    if ranks := reader.ranks:
                        conclude(ranks)
        report(event)

    return listen


def told(found: Calibration, kept_in: Path | None) -> Iterator[Note]:
    """What the log says of a start's measurement: all in a line, each rank's at DEBUG, and what is seriously off."""
    deviations = compare(merge(found.estimated), merge(found.measured))
    yield Note(f"memory measured by the engine: {summary(deviations)}")
    for rank, measured in enumerate(found.measured):
        expected = found.estimated[rank] if rank < len(found.estimated) else merge(found.estimated)
        for each in compare(expected, measured):
            yield Note(f"rank {rank}: {each}", "DEBUG")
    for each in serious(deviations):
        figures = f"the figures are in {kept_in}" if kept_in else "the line above has the figures"
        yield Note(
            f"the estimate of memory is off by more than {SERIOUS_SHARE:.0%} of the KV pool: {each}, for {found.key}; "
            f"please report it as docs/calibration.md says, {figures}",
            "WARNING",
        )


def keep(found: Calibration, calibrations: Calibrations, report: Report) -> None:
    """Put ``found`` into the cache from a thread of its own, since a slow volume must not hold up the gateway."""

    def save() -> None:
        try:
            calibrations.save(found)
        except MachineError as error:
            report(Note(f"what the engine measured could not be kept: {error.message}", "WARNING"))

    threading.Thread(target=save, name="lading-calibrate", daemon=True).start()
