"""How an engine's last lines become the cause of its end: a :class:`FailureDialect` says what one family prints.

Engines print the root exception first, in the deepest process, and general ones after it; so the first known cause
after the first sign of trouble counts, else the first exception that says something. Wording is a hint, never a state.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from lading.backends.interface import Cause
from lading.events import Phase

_ANSI = re.compile(r"\x1b\[[0-9;]*m")
_EXCEPTION = re.compile(r"\b([A-Za-z_.]*(?:Error|Exception|Failure)): (.+)")
_MAX_TEXT = 400


@dataclass(frozen=True, slots=True)
class KnownCause:
    """A pattern in a line, and what it means; ``{0}`` in message and remedy are the pattern's groups."""

    pattern: re.Pattern[str]
    message: str
    remedy: str | None = None


@dataclass(frozen=True, slots=True)
class FailureDialect:
    """What a family of engines prints when it fails.

    ``prefix`` comes before messages and is cut off, ``harmless`` lines only look like failures, ``trouble`` is the
    first sign of a real one, and exceptions that begin with one of ``generic`` say only that another came before.
    """

    causes: tuple[KnownCause, ...]
    prefix: re.Pattern[str]
    harmless: re.Pattern[str]
    trouble: re.Pattern[str]
    generic: tuple[str, ...]


def cause(pattern: str, message: str, remedy: str | None = None) -> KnownCause:
    """A known cause, by a regular expression for the middle of a line."""
    return KnownCause(re.compile(pattern), message, remedy)


def explain_by(dialect: FailureDialect, lines: Sequence[str]) -> Cause | None:
    """The cause that ``lines`` tell, or None when they do not."""
    stripped = (dialect.prefix.sub("", _ANSI.sub("", line)) for line in lines)
    clean = [line for line in stripped if not dialect.harmless.match(line)]
    start = next((index for index, line in enumerate(clean) if dialect.trouble.search(line)), len(clean))
    for line in clean[start:]:
        for known in dialect.causes:
            if found := known.pattern.search(line):
                groups = [group[:_MAX_TEXT] for group in found.groups("")]
                return Cause(known.message.format(*groups), known.remedy.format(*groups) if known.remedy else None)
    exceptions = (found for line in clean[start:] if (found := _EXCEPTION.search(line)))
    named = (found for found in exceptions if not found[2].startswith(dialect.generic))
    return next((Cause(f"{found[1]}: {found[2][:_MAX_TEXT]}") for found in named), None)


def phase_by(phases: Sequence[tuple[re.Pattern[str], Phase]], line: str) -> Phase | None:
    """The start-up phase whose pattern ``line`` holds, or None. Unknown text means nothing."""
    return next((phase for pattern, phase in phases if pattern.search(line)), None)


SHARED_CAUSES = (
    cause(
        r"model type `([^`]+)` but Transformers does not recognize",
        "this engine's Transformers does not know the model type {0}",
        "use a newer engine",
    ),
    cause(
        r"Couldn't instantiate the backend tokenizer|Can't load tokenizer",
        "the model has no tokenizer that the engine can read",
        "the directory needs tokenizer.json or tokenizer.model; or name one with the engine's flag for it",
    ),
    cause(
        r"NVIDIA driver on your system is too old \(found version (\d+)\)",
        "the machine's NVIDIA driver is older than the CUDA that the engine was built for",
        "update the driver, or use an engine built for an older CUDA",
    ),
    cause(
        r"no kernel image is available for execution on the device",
        "the engine was not built for this GPU",
        "use a build of the engine that names this GPU's compute capability",
    ),
    cause(
        r"No CUDA GPUs are available|No GPU devices found on the node",
        "the engine sees no GPU",
        "give the container GPUs (--gpus all, or a limit of nvidia.com/gpu), and check CUDA_VISIBLE_DEVICES",
    ),
    cause(
        r"[Aa]ddress already in use|EADDRINUSE",
        "the engine's address is taken",
        "stop the process that holds it",
    ),
    cause(
        r"Error while creating shared memory segment|No space left on device",
        "a filesystem the engine writes to is full (often /dev/shm)",
        "give the container more shared memory, for example --shm-size=16g",
    ),
)
"""What Transformers, PyTorch, NCCL and the machine say in every engine's output. They come after an engine's own."""
