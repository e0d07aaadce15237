"""What a transfer would do, decided before it does anything: which files, what is here, how many bytes, how much room.

Pure: the caller says what this machine holds (:class:`Holdings`); the plan is a value to print, compare and test.
For every plan, ``present_bytes + adopt_bytes + shared_bytes + fetch_bytes == total_bytes``.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from lading.digest import Digest
from lading.errors import NotEnoughDisk
from lading.model.manifest import FileEntry, Manifest
from lading.units import MIB, format_bytes
from lading.uri import ModelUri, Scheme

MARGIN_BYTES = 32 * MIB  # journals, index, directories, and what a filesystem keeps for itself
SMALL_FILE_BYTES = 8 * MIB


@dataclass(frozen=True, slots=True)
class SkippedFile:
    """A file of the model that is not fetched, and why."""

    entry: FileEntry
    reason: str

    def to_json(self) -> dict[str, Any]:
        """The skipped file as JSON values."""
        return self.entry.to_json() | {"reason": self.reason}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> SkippedFile:
        """The value that :meth:`to_json` wrote; ValueError, KeyError or TypeError for anything else."""
        return cls(FileEntry.from_json(data), str(data["reason"]))


@dataclass(frozen=True, slots=True)
class Weights:
    """Which loadable weights a model has, by folder (``""`` is the top)."""

    safetensors: frozenset[str]
    pickled: frozenset[str]
    hugging_face: frozenset[str]  # safetensors under the names that Hugging Face gives them

    @classmethod
    def of(cls, manifest: Manifest) -> Weights:
        """The weights in ``manifest``."""

        def folders(*patterns: str) -> frozenset[str]:
            return frozenset(_folder(file.path) for file in manifest.files if _matches(_name(file.path), patterns))

        return cls(
            safetensors=folders("*.safetensors"),
            pickled=folders("*.bin", "*.pt", "*.pth"),
            hugging_face=folders("model.safetensors", "model.safetensors.index.json", "model-*-of-*.safetensors"),
        )


@dataclass(frozen=True, slots=True)
class SkipRule:
    """Files to leave out: those whose name or folder matches, in a model for which ``applies`` (weights, folder)."""

    reason: str
    names: tuple[str, ...]
    folders: tuple[str, ...]
    applies: Callable[[Weights, str], bool]

    def covers(self, path: str, weights: Weights) -> bool:
        """Whether the file at ``path`` is left out by this rule."""
        is_meant = _matches(_name(path), self.names) or _top(path) in self.folders
        return is_meant and self.applies(weights, _folder(path))


ALWAYS_KEPT = (
    "*.json",
    "*.txt",
    "*.py",
    "*.jinja",
    "*.model",
    "*.tiktoken",
    "*.yaml",
    "*.yml",
    "*.md",
    "license*",
    "readme*",
    "notice*",
)
"""Names that no rule but the one for hidden files leaves out: configuration, tokenizers, code, templates, licences."""

SKIP_RULES: tuple[SkipRule, ...] = (
    SkipRule(
        reason="PyTorch copy of the safetensors beside it",
        names=("*.bin", "*.pt", "*.pth", "*.ckpt"),
        folders=(),
        applies=lambda weights, folder: folder in weights.safetensors,
    ),
    SkipRule(
        reason="Mistral's own copy of the weights beside it",
        names=("consolidated*.safetensors",),
        folders=(),
        applies=lambda weights, folder: folder in weights.hugging_face,
    ),
    SkipRule(
        reason="copy of the weights in their original or Metal form",
        names=(),
        folders=("original", "metal"),
        applies=lambda weights, _: "" in weights.safetensors,
    ),
    SkipRule(
        reason="GGUF copy of the safetensors",
        names=("*.gguf",),
        folders=(),
        applies=lambda weights, folder: bool(weights.safetensors & {"", folder}),
    ),
    SkipRule(
        reason="copy of the weights for another framework",
        names=("*.msgpack", "*.h5", "*.ot", "*.onnx", "*.onnx_data", "*.tflite", "*.mlmodel"),
        folders=("onnx", "openvino", "coreml"),
        applies=lambda weights, _: "" in weights.safetensors | weights.pickled,
    ),
)
"""Weights in another form than the ones an engine loads. The first rule that covers a file names the reason."""

HIDDEN = "hidden file"
EXCLUDED = "excluded by LADING_EXCLUDE"


@dataclass(frozen=True, slots=True)
class Globs:
    """What the user says of files: patterns for their paths or their names (``*`` matches ``/`` too).

    ``included`` files are fetched whatever speaks against it, ``excluded`` ones left out besides those of the rules.
    """

    included: tuple[str, ...] = ()
    excluded: tuple[str, ...] = ()

    @classmethod
    def parse(cls, included: str, excluded: str) -> Globs:
        """From two lists joined by commas."""
        both = (tuple(part.strip() for part in text.split(",") if part.strip()) for text in (included, excluded))
        return cls(*both)

    def includes(self, path: str) -> bool:
        """Whether the file is to be fetched in any case."""
        return _is_meant(path, self.included)

    def excludes(self, path: str) -> bool:
        """Whether the file is to be left out."""
        return _is_meant(path, self.excluded)


def choose_files(manifest: Manifest, globs: Globs | None = None) -> tuple[Manifest, tuple[SkippedFile, ...]]:
    """The files of a model that an engine may need, as a manifest, and the others with their reasons.

    By the rules nothing is left out for which there is no other: a model with only ``.bin`` weights keeps them. What
    ``globs`` exclude does not count for that.
    """
    globs = globs or Globs()
    excluded = {file.path for file in manifest.files if globs.excludes(file.path) and not globs.includes(file.path)}
    weights = Weights.of(replace(manifest, files=tuple(each for each in manifest.files if each.path not in excluded)))
    reasons = {
        file.path: EXCLUDED if file.path in excluded else _skip_reason(file.path, weights, globs)
        for file in manifest.files
    }
    chosen = [file for file in manifest.files if reasons[file.path] is None]
    skipped = (SkippedFile(file, reason) for file in manifest.files if (reason := reasons[file.path]))
    return Manifest.of(manifest.source, manifest.revision, chosen), tuple(skipped)


def _skip_reason(path: str, weights: Weights, globs: Globs) -> str | None:
    if globs.includes(path):
        return None
    if any(part.startswith(".") for part in path.split("/")):
        return HIDDEN
    if _matches(_name(path), ALWAYS_KEPT):
        return None
    return next((rule.reason for rule in SKIP_RULES if rule.covers(path, weights)), None)


def _folder(path: str) -> str:
    return path.rpartition("/")[0]


def _top(path: str) -> str:
    folder, slash, _ = path.partition("/")
    return folder.lower() if slash else ""


def _name(path: str) -> str:
    return path.rpartition("/")[2].lower()


def _is_meant(path: str, patterns: Iterable[str]) -> bool:
    name = path.rpartition("/")[2]
    return any(fnmatchcase(path, pattern) or fnmatchcase(name, pattern) for pattern in patterns)


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def is_pinned(file: FileEntry) -> bool:
    """Whether the listing names the bytes well enough to know them again: by digest, revision or etag."""
    return bool(file.digest or file.etag or file.uri.revision)


def fetch_command(model: ModelUri, manifest: str = "FILE", profile: str = "ID") -> str:
    """The command that brings a model into the cache; what a manifest lists, by that and by a profile of it."""
    if model.scheme is Scheme.MANIFEST:
        return f"`download-to-cache --manifest-file {shlex.quote(manifest)} --profiles {profile}`"
    return f"`download-to-cache --model-uri {shlex.quote(str(model))}`"


class Step(StrEnum):
    """What happens with a file."""

    PRESENT = "present"  # the store has it
    ADOPT = "adopt"  # another cache of this machine should have it; verified, then linked or copied
    SHARED = "shared"  # the same bytes as another file of the plan
    FETCH = "fetch"  # the source has it


@dataclass(frozen=True, slots=True)
class LocalCopy:
    """A file on this machine that should hold a model file's bytes. On another filesystem it must be copied."""

    path: Path
    same_filesystem: bool = True


@dataclass(frozen=True, slots=True)
class Partial:
    """What an earlier transfer left of a file: bytes that can be continued, and room that they take already."""

    done_bytes: int = 0
    allocated_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Holdings:
    """What this machine has of a model's files, by path: blobs in the store, local copies, partial files."""

    present: Mapping[str, Digest] = field(default_factory=dict)
    local: Mapping[str, LocalCopy] = field(default_factory=dict)
    partial: Mapping[str, Partial] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PlannedFile:
    """One file and its step. ``digest`` is the blob's where present; ``shared_with`` names the file it equals."""

    entry: FileEntry
    step: Step
    digest: Digest | None = None
    local: LocalCopy | None = None
    partial: Partial = Partial()
    shared_with: str | None = None


@dataclass(frozen=True, slots=True)
class TransferPlan:
    """A decided transfer: the step of every chosen file, in the order in which they are worked on."""

    manifest: Manifest
    files: tuple[PlannedFile, ...]
    skipped: tuple[SkippedFile, ...]
    free_bytes: int
    cache_path: Path

    def of_step(self, step: Step) -> tuple[PlannedFile, ...]:
        """The files with this step."""
        return tuple(each for each in self.files if each.step is step)

    @property
    def is_satisfied(self) -> bool:
        """Whether the store holds every file already."""
        return not self.of_step(Step.FETCH) and not self.of_step(Step.ADOPT)

    @property
    def total_bytes(self) -> int:
        """Bytes of all chosen files."""
        return self.manifest.total_bytes

    @property
    def present_bytes(self) -> int:
        """Bytes of the files that the store holds."""
        return self._bytes(Step.PRESENT)

    @property
    def adopt_bytes(self) -> int:
        """Bytes of the files that other caches of this machine should hold."""
        return self._bytes(Step.ADOPT)

    @property
    def shared_bytes(self) -> int:
        """Bytes of the files that equal another one of the plan."""
        return self._bytes(Step.SHARED)

    @property
    def fetch_bytes(self) -> int:
        """Bytes of the files to fetch, with what an earlier transfer left of them."""
        return self._bytes(Step.FETCH)

    @property
    def resumed_bytes(self) -> int:
        """Bytes of :attr:`fetch_bytes` that an earlier transfer left."""
        return sum(each.partial.done_bytes for each in self.of_step(Step.FETCH))

    @property
    def needed_bytes(self) -> int:
        """Free bytes that the cache's filesystem must have, a margin included; 0 when nothing is written."""
        return needed_bytes([self])

    def check_disk(self) -> None:
        """Raise :class:`NotEnoughDisk` when the cache's filesystem cannot take what would be written."""
        check_disk([self])

    def _bytes(self, step: Step) -> int:
        return sum(each.entry.size_bytes for each in self.of_step(step))


def check_disk(plans: Sequence[TransferPlan]) -> None:
    """Raise :class:`NotEnoughDisk` when the cache's filesystem cannot take what the plans together would write."""
    needed, free = needed_bytes(plans), min((each.free_bytes for each in plans), default=0)
    if needed <= free:
        return
    names = ", ".join(str(each.manifest.source) for each in plans)
    place = plans[0].cache_path
    raise NotEnoughDisk(
        f"{names} needs {format_bytes(needed)} more in {place}, where {format_bytes(free)} are free",
        remedy=f"free {format_bytes(needed - free)} there, or set NIM_CACHE_PATH to a directory on a larger disk",
    )


def needed_bytes(plans: Iterable[TransferPlan]) -> int:
    """Free bytes that the cache's filesystem must have for all the plans; a file that several name counts once."""
    wanted: dict[object, int] = {}
    for file in (file for plan in plans for file in plan.files):
        entry, step = file.entry, file.step
        identity = entry.digest or (entry.uri, entry.etag)
        if step is Step.FETCH:
            wanted[identity] = entry.size_bytes - file.partial.allocated_bytes
        elif step is Step.ADOPT and _needs_copy(file):
            wanted[identity] = entry.size_bytes
    total = sum(wanted.values())
    return total + MARGIN_BYTES if total else 0


def _needs_copy(file: PlannedFile) -> bool:
    return file.local is not None and not file.local.same_filesystem


def plan_transfer(
    chosen: Manifest,
    holdings: Holdings,
    *,
    free_bytes: int,
    cache_path: Path,
    skipped: tuple[SkippedFile, ...] = (),
) -> TransferPlan:
    """The plan for ``chosen`` on a machine that has ``holdings``.

    Small files come first, each kind in the order of its paths: config.json is here in the first second, a refusal
    shows at once, and the large files at the end keep every connection busy with ranges until the last byte. Files with
    equal digests are worked on once.
    """
    ordered = sorted(chosen.files, key=lambda file: (file.size_bytes > SMALL_FILE_BYTES, file.path))
    firsts: dict[tuple[Digest, int], str] = {}
    for file in sorted(ordered, key=lambda file: file.path not in holdings.present):
        for digest in (file.digest, holdings.present.get(file.path)):
            if digest:
                firsts.setdefault((digest, file.size_bytes), file.path)
    files = tuple(_planned(file, holdings, firsts) for file in ordered)
    return TransferPlan(chosen, files, skipped, free_bytes, cache_path)


def _planned(file: FileEntry, holdings: Holdings, firsts: Mapping[tuple[Digest, int], str]) -> PlannedFile:
    if digest := holdings.present.get(file.path):
        return PlannedFile(file, Step.PRESENT, digest=digest)
    first = firsts.get((file.digest, file.size_bytes), file.path) if file.digest else file.path
    if first != file.path:
        return PlannedFile(file, Step.SHARED, shared_with=first)
    if local := holdings.local.get(file.path):
        return PlannedFile(file, Step.ADOPT, local=local)
    return PlannedFile(file, Step.FETCH, partial=holdings.partial.get(file.path, Partial()))
