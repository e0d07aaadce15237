"""After a launch: what the engine said of its memory is compared with the estimate, told, and kept for the next start.

The engine's lines are listened to until the model answers, then not any more. Nothing here can fail a start: what
cannot be read is not told, and what cannot be kept is said in the log.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from lading.backends.arguments import Flag, last_values, without
from lading.backends.interface import Installation
from lading.backends.startup_figures import figure_reader
from lading.cache.calibrations import Calibrations
from lading.errors import MachineError
from lading.events import EngineOutput, Event, Note, Phase, PhaseChanged, Report
from lading.hardware.inventory import Device, Inventory
from lading.model.facts import ModelFacts
from lading.profiles.calibration import Calibration, CalibrationKey
from lading.profiles.fit import Fit
from lading.profiles.measurement import SERIOUS_SHARE, Measurement, compare, merge, serious, summary
from lading.profiles.memory import kv_pool_bytes
from lading.profiles.profile import Profile

_BATCHED_TOKENS, _SEQUENCES, _KV_DTYPE = "--max-num-batched-tokens", "--max-num-seqs", "--kv-cache-dtype"
_EAGER, _POOL = "--enforce-eager", "--kv-cache-memory-bytes"
_READ = (Flag(_BATCHED_TOKENS), Flag(_SEQUENCES), Flag(_KV_DTYPE))
_HAVE_FIELDS = (
    _BATCHED_TOKENS,
    _SEQUENCES,
    _KV_DTYPE,
    _EAGER,
    "--tensor-parallel-size",
    "--pipeline-parallel-size",
    "--enable-lora",
)
_CHANGE_NOTHING = (
    "--model", "--served-model-name", "--host", "--port", "--uds", "--api-key",
    "--max-model-len", "--gpu-memory-utilization", _POOL,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Asked:
    """The user's flags for an engine: ``tokens`` as they were written, ``flags`` as its backend knows them."""

    flags: tuple[Flag, ...]
    tokens: tuple[str, ...]

    def value(self, name: str) -> str | None:
        """The first value of a flag, None where it was not given; ``true`` or ``false`` of one without values."""
        values = last_values(self.tokens, (*self.flags, *_READ), name)
        return values[0] if values else None

    @property
    def others(self) -> str:
        """A digest of the flags that may change what is needed and have no field in a key; "" for none."""
        left = without(self.tokens, (*self.flags, *_READ), (*_HAVE_FIELDS, *_CHANGE_NOTHING))
        return hashlib.sha256("\0".join(left).encode()).hexdigest() if left else ""


def key_of(
    installation: Installation, profile: Profile, facts: ModelFacts, inventory: Inventory, asked: Asked
) -> CalibrationKey:
    """For what a measurement of this profile on this machine counts; the same before a start as after it."""
    on_cpu = inventory.device is Device.CPU
    return CalibrationKey(
        engine=installation.backend,
        version=installation.version,
        gpu="cpu" if on_cpu else min(inventory.gpus, key=lambda gpu: gpu.total_bytes).name,
        architecture=facts.architecture,
        precision=profile.precision,
        weights_bytes=facts.weights_bytes,
        tp=profile.tp,
        pp=profile.pp,
        lora=profile.lora,
        kv_dtype=asked.value(_KV_DTYPE) or "auto",
        batched_tokens=_number(asked.value(_BATCHED_TOKENS)),
        sequences=_number(asked.value(_SEQUENCES)),
        eager=on_cpu or asked.value(_EAGER) == "true",
        other_flags=asked.others,
    )


def estimated(fit: Fit, inventory: Inventory, asked: Asked) -> Measurement:
    """The estimate of the rank that needs most; with its KV pool where the user did not set one."""
    terms = {term.name: term.size_bytes for term in fit.estimate.terms}
    if asked.value(_POOL) is None:
        on_cpu = inventory.device is Device.CPU
        left = max(0, fit.have_bytes - fit.estimate.fixed_bytes)
        terms["kv_pool"] = kv_pool_bytes(fit.estimate, inventory) if on_cpu else left
    return Measurement.of_terms(terms)


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


def _number(text: str | None) -> int | None:
    return int(text) if text and text.isascii() and text.isdigit() else None
