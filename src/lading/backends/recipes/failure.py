"""Why a step of an install failed, and what to do about it. Pure.

Failures are told apart by exception type, ``errno`` and free disk, never by what pip's text says; the text is shown.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from lading.backends.recipes import Step
from lading.errors import EngineInstallFailed
from lading.units import MIB

_NO_ROOM_BYTES = 64 * MIB


class Failure(StrEnum):
    """Why a step failed, as far as it can be known."""

    DISK = "disk"
    NETWORK = "network"
    NO_WHEEL = "no wheel"
    DIGEST = "digest"
    NO_VENV = "no venv"
    BROKEN = "broken"
    UNKNOWN = "unknown"


class StepFailed(EngineInstallFailed):
    """A step of an install failed; what was made so far stays and is used by the next run."""

    def __init__(self, failure: Failure, message: str, *, tail: Iterable[str] = (), remedy: str) -> None:
        super().__init__(message + "".join(f"\n    {line}" for line in tail), remedy=remedy)
        self.failure = failure


@dataclass(frozen=True, slots=True)
class PipFailure:
    """How pip failed: the kind, the index hosts that did not answer, and the last lines it printed."""

    kind: Failure
    silent_hosts: tuple[str, ...]
    tail: tuple[str, ...]

    @classmethod
    def of(cls, facts: Mapping[str, Any], free_bytes: int, tail: tuple[str, ...]) -> PipFailure:
        """What the facts that ``run_pip.py`` wrote mean, on a disk with ``free_bytes`` left."""
        classes, hosts = set(facts.get("classes", ())), tuple(facts.get("silent_hosts", ()))
        is_full = facts.get("errno") in (errno.ENOSPC, errno.EDQUOT) or free_bytes < _NO_ROOM_BYTES
        return cls(Failure.DISK if is_full else _kind(classes, hosts), hosts, tail)

    def explain(self, step: Step) -> tuple[str, str]:
        """Reason and remedy of the failed ``step``, for a person."""
        also = step.only_index or step.second_index
        again = "run the same command again: it goes on from here"
        match self.kind:
            case Failure.DISK:
                return "the disk is full", f"free some space and {again}"
            case Failure.NETWORK:
                mirror = "connect to the network, set https_proxy, or point pip at a mirror (PIP_EXTRA_INDEX_URL)"
                return f"no answer from {' and '.join(self.silent_hosts) or 'an index'}", f"{mirror}, and {again}"
            case Failure.NO_WHEEL:
                places = f"the places that pip is configured with{f', or {also}' if also else ''}"
                settings = "PIP_INDEX_URL, PIP_EXTRA_INDEX_URL, PIP_FIND_LINKS; `pip config list` shows yours"
                wanted = f"let pip see an index or folder that has {step.pins.split()[0]}"
                return f"no fitting wheel in {places}", f"{wanted} ({settings})"
            case Failure.DIGEST:
                reason = "a file that was offered is not the one that this recipe pins"
                return reason, "find the index or folder that serves another build under this name: `pip config list`"
            case _:
                return "pip failed", "its last lines are above; NIM_LOG_LEVEL=DEBUG shows all of them"


def _kind(classes: set[str], silent_hosts: tuple[str, ...]) -> Failure:
    if classes & {"HashError", "HashErrors"}:
        return Failure.DIGEST
    if silent_hosts or classes & {"NetworkConnectionError", "RequestException", "HTTPError"}:
        return Failure.NETWORK
    if classes & {"DistributionNotFound", "UnsupportedWheel"}:
        return Failure.NO_WHEEL
    return Failure.UNKNOWN
