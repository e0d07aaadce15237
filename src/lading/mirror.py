"""Copy the verified files of NGC's models into a bucket, under the names that ``NIM_REPOSITORY_OVERRIDE`` asks for.

:func:`survey_mirror` asks the bucket what it has, :func:`plan_mirror` decides, :func:`mirror` does it. Which bucket it
is, and how files came here, is the caller's. Rules kept here:

* what is there with the same bytes, by a digest that the bucket tells, is not sent again;
* a file is in the bucket only after all its bytes were hashed here on their way, and the object was looked at;
* parts that an earlier run sent are kept where the bucket tells their digests, and sent again where it does not;
* the first error ends all; what was sent stays for the next run.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

from lading.cache.disk import READ_BYTES, Check, machine_errors, never
from lading.digest import Digest, new_hasher
from lading.errors import LadingError, UsageError
from lading.events import FileStored, Report, UploadFinished, UploadStarted, ignore
from lading.model.manifest import FileEntry, Manifest
from lading.pipeline import TransferOptions, unless
from lading.sources.override import files_held, flat_name
from lading.sources.upload import Destination, Held
from lading.sources.upload_wire import USUAL_PART_BYTES
from lading.uploading import FileUpload, Uploading
from lading.uri import ModelUri, Scheme

_LONGEST_KEY_BYTES = 1024


class Step(StrEnum):
    """What is done about a file."""

    SKIP = "skip"
    CONTINUE = "continue"
    UPLOAD = "upload"


@dataclass(frozen=True, slots=True)
class MirroredFile:
    """A file to be mirrored. ``entry`` has its ``ngc://`` URI; ``blob`` is where its bytes lie, None: not here yet.

    ``digests`` are those that are known of the bytes, the SHA-256 first; nothing is sent of a file without a blob or a
    SHA-256: it can only be planned.
    """

    entry: FileEntry
    blob: Path | None = None
    digests: tuple[Digest, ...] = ()

    @property
    def name(self) -> str:
        """The object's name below the prefix."""
        return flat_name(self.entry.uri)

    @property
    def sha256(self) -> Digest | None:
        """The SHA-256, where it is known."""
        return next((each for each in self.digests if each.algorithm == "sha256"), None)


@dataclass(frozen=True, slots=True)
class PlannedUpload:
    """A file, what is done about it, and why. ``sent_bytes`` were sent by an earlier run, and are looked at again."""

    file: MirroredFile
    step: Step
    reason: str
    sent_bytes: int = 0


@dataclass(frozen=True, slots=True)
class MirrorPlan:
    """Everything decided, nothing done: what ``--dry-run`` prints."""

    place: ModelUri
    files: tuple[PlannedUpload, ...]

    @property
    def total_bytes(self) -> int:
        """Bytes of all files."""
        return sum(each.file.entry.size_bytes for each in self.files)

    @property
    def present_bytes(self) -> int:
        """Bytes of the files that are there."""
        return sum(each.file.entry.size_bytes for each in self.files if each.step is Step.SKIP)

    @property
    def upload_bytes(self) -> int:
        """Bytes of the files that are not, those in ``sent_bytes`` among them."""
        return self.total_bytes - self.present_bytes

    @property
    def sent_bytes(self) -> int:
        """Bytes that an earlier run sent of files that are not there whole."""
        return sum(each.sent_bytes for each in self.files)


@dataclass(frozen=True, slots=True)
class Mirrored:
    """What was done: the plan as it was carried out, and how many bytes were sent for it."""

    plan: MirrorPlan
    sent_bytes: int


def mirrored_files(manifest: Manifest, places: Mapping[str, Path] | None = None) -> list[MirroredFile]:
    """The files of a manifest with what is promised of them; ``places`` are those of their verified blobs, by path."""
    return [
        MirroredFile(each, (places or {}).get(each.path), (each.digest,) if each.digest else ())
        for each in manifest.files
    ]


def plan_mirror(
    place: ModelUri, files: Sequence[MirroredFile], held: Mapping[str, Held], sent: Mapping[str, int]
) -> MirrorPlan:
    """What is to be done about each file; ``held`` and ``sent`` are what the bucket has, by the objects' names. Pure.

    Raises UsageError for a name that no bucket takes.
    """
    return MirrorPlan(place, tuple(_planned(place, file, held, sent) for file in files))


def _planned(place: ModelUri, file: MirroredFile, held: Mapping[str, Held], sent: Mapping[str, int]) -> PlannedUpload:
    name = file.name
    prefix = place.location.partition("/")[2]
    if len(prefix) + 1 + len(name) > _LONGEST_KEY_BYTES:
        raise UsageError(
            f"{file.entry.uri} makes a name of {len(name)} bytes; buckets take {_LONGEST_KEY_BYTES} with the prefix",
            remedy="use a shorter prefix, or none",
        )
    found = held.get(name)
    if found and found.size_bytes == file.entry.size_bytes:
        shared = [each for each in found.digests if each in file.digests]
        if shared or found.size_bytes == 0:
            how = f"the same {shared[0].algorithm}" if shared else "no byte"
            return PlannedUpload(file, Step.SKIP, f"it is there with {how}")
    reason = _reason(file, found)
    if sent.get(name):
        return PlannedUpload(file, Step.CONTINUE, f"{reason}; an earlier run sent some of it", sent[name])
    return PlannedUpload(file, Step.UPLOAD, reason)


def _reason(file: MirroredFile, found: Held | None) -> str:
    if found is None:
        return "it is not there"
    if found.size_bytes != file.entry.size_bytes:
        return f"{found.size_bytes} other bytes are there"
    known = {each.algorithm for each in file.digests}
    if any(each.algorithm in known for each in found.digests):
        return "other bytes are there"
    return "what is there cannot be compared"


def survey_mirror(
    files: Sequence[MirroredFile],
    destination: Destination,
    *,
    part_bytes: int = USUAL_PART_BYTES,
    check: Check = never,
) -> MirrorPlan:
    """The plan as things are now. Asks the bucket, and sends nothing.

    Where it tells another digest than a file is known by, and the file is here, the file is hashed. Raises what the
    destination does, and UsageError for files of other models than NGC's.
    """
    for each in files:
        require_ngc(each.entry.uri)
    held: dict[str, Held] = {}
    for model in dict.fromkeys(each.entry.uri.model for each in files):
        check()
        for entry in files_held(destination.bucket, destination.place, model):
            told = (entry.digest,) if entry.digest else ()
            held[flat_name(model.with_file(entry.path))] = Held(entry.size_bytes, told)
    files = [_comparable(each, held.get(each.name), check) for each in files]
    plan = plan_mirror(destination.place, files, held, {})
    sent = {}
    for planned in plan.files:
        if planned.step is not Step.SKIP and planned.file.entry.size_bytes > part_bytes:
            check()
            uploads = destination.unfinished(planned.file.name)
            sent[planned.file.name] = max((upload.sent_bytes for upload in uploads), default=0)
    return plan_mirror(destination.place, files, held, sent)


def mirror(
    plan: MirrorPlan,
    destination: Destination,
    report: Report = ignore,
    *,
    cancelled: threading.Event,
    options: TransferOptions | None = None,
    part_bytes: int = USUAL_PART_BYTES,
) -> Mirrored:
    """Carry the plan out. Idempotent: a plan that is made afterwards has nothing to do.

    ``options`` say how many connections, how fast and how patient. Raises TransferCancelled soon after ``cancelled`` is
    set, DigestMismatch for a blob that is damaged or an object that was stored wrongly (and is deleted), and what the
    destination does.
    """
    began = time.monotonic()
    report(UploadStarted(len(plan.files), plan.total_bytes, plan.present_bytes))
    for each in plan.files:
        if each.step is Step.SKIP:
            report(FileStored(each.file.entry.path, each.file.entry.size_bytes, reused=True))
    wanted = [_upload_of(each.file) for each in plan.files if each.step is not Step.SKIP]
    sent_bytes = Uploading(wanted, destination, report, options or TransferOptions(), part_bytes).run(unless(cancelled))
    report(UploadFinished(sent_bytes, time.monotonic() - began))
    return Mirrored(plan, sent_bytes)


def _upload_of(file: MirroredFile) -> FileUpload:
    if file.blob is None or file.sha256 is None:
        raise LadingError(f"{file.entry.uri} is not here to be mirrored")
    return FileUpload(file.entry.path, file.name, file.blob, file.entry.size_bytes, file.sha256)


def require_ngc(model: ModelUri) -> None:
    """Raise UsageError for a model that nobody would look for in a mirror."""
    if model.scheme is not Scheme.NGC:
        raise UsageError(
            f"{model.model} is not on NGC: NIM_REPOSITORY_OVERRIDE serves ngc:// models only, so that nobody would "
            "ever look for its files in a mirror",
            remedy="name an ngc:// model; others are served from a bucket as they are (NIM_MODEL_PATH=s3://…)",
        )


def _comparable(file: MirroredFile, found: Held | None, check: Check) -> MirroredFile:
    """The file with a digest that the bucket tells too, where it has to be computed for that."""
    if found is None or file.blob is None or found.size_bytes != file.entry.size_bytes:
        return file
    if not found.digests or {each.algorithm for each in found.digests} & {each.algorithm for each in file.digests}:
        return file
    algorithm = found.digests[0].algorithm
    hasher = new_hasher(algorithm, file.entry.size_bytes)
    with machine_errors(file.blob), file.blob.open("rb", buffering=0) as blob:
        while data := blob.read(READ_BYTES):
            check()
            hasher.update(data)
    return replace(file, digests=(*file.digests, Digest(algorithm, hasher.hexdigest())))
