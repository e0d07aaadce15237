"""Models of a cache, written into a bundle: planned as a value, hashed again on the way, continued where a run ended.

What a bundle is follows from its head, so a run that goes on compares and hashes what is there and takes no one's word
for it. A blob whose bytes are not those of its name ends the run. The cache is only read; while blobs are read, a use
says so, and no clean-up takes them.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from lading.bundle.conveyor import Conveyor, Progress, Sink
from lading.bundle.head import BundleModel, Head
from lading.bundle.layout import BlobPiece, Layout, Literal, Volume, contents, cut, lay_out
from lading.bundle.target import Found, Target, survey_target, writing
from lading.cache.disk import Check, machine_errors, never
from lading.cache.root import CacheRoot
from lading.cache.use import announced
from lading.digest import Digest, new_hasher
from lading.errors import DigestMismatch, ModelNotFound, NotEnoughDisk, UsageError
from lading.events import Note, Report, ignore
from lading.plan import MARGIN_BYTES, fetch_command
from lading.units import format_bytes
from lading.uri import ModelUri, Scheme

_NUMBER_LIKE = "0123456789"


@dataclass(frozen=True, slots=True)
class CreatePlan:
    """A decided bundle: what goes in, where every byte of it will be, and what is there already."""

    path: Path
    head: Head
    layout: Layout
    volumes: tuple[Volume, ...]
    found: Found
    is_signed: bool

    @property
    def needed_bytes(self) -> int:
        """Free bytes that the disk must have, a margin included; 0 where nothing is to be written."""
        left = self.layout.total_bytes - self.found.kept_bytes
        return left + MARGIN_BYTES if left else 0

    def check_disk(self) -> None:
        """Raise :class:`NotEnoughDisk` when the disk cannot take what is not there yet."""
        lacking = self.needed_bytes - self.found.free_bytes
        if self.needed_bytes and lacking > 0:
            raise NotEnoughDisk(
                f"the bundle needs {format_bytes(self.needed_bytes)} more in {self.path.parent}, and "
                f"{format_bytes(self.found.free_bytes)} are free",
                remedy=f"free {format_bytes(lacking)} there, or name a file on a larger disk",
            )


@dataclass(frozen=True, slots=True)
class Created:
    """What was done: bytes written, and bytes that were there and are right; in how many seconds."""

    plan: CreatePlan
    written_bytes: int
    kept_bytes: int
    seconds: float


def choose_models(cache: CacheRoot, named: Sequence[ModelUri], report: Report = ignore) -> tuple[BundleModel, ...]:
    """The models with these names, each complete in the cache; without names, all that are complete.

    Raises ModelNotFound where one is not, or none is, with the command that fetches it.
    """
    if not named:
        return _all_models(cache, report)
    return tuple(_complete(cache, uri, report) for uri in dict.fromkeys(named))


def _all_models(cache: CacheRoot, report: Report) -> tuple[BundleModel, ...]:
    entries = list(cache.index.entries(report))
    for entry in entries:
        if not entry.is_complete:
            report(Note(f"{entry.source} is not complete in the cache and is left out", "WARNING"))
    if not any(entry.is_complete for entry in entries):
        raise ModelNotFound(f"{cache.path} has no complete model", remedy="lading download-to-cache --model-uri URI")
    return tuple(BundleModel.of(entry) for entry in entries if entry.is_complete)


def _complete(cache: CacheRoot, uri: ModelUri, report: Report) -> BundleModel:
    if uri.scheme in (Scheme.PATH, Scheme.LOCAL):
        raise UsageError(f"{uri} is a directory, not a model of the cache", remedy="carry the directory as it is")
    entry = cache.index.load(uri, report)
    if entry is None or not entry.is_complete:
        state = "is not complete" if entry else "is not"
        raise ModelNotFound(f"{uri} {state} in {cache.path}", remedy=fetch_command(uri))
    model = BundleModel.of(entry)
    gone = [
        file.path for file in model.manifest.files if file.digest and not cache.store.has(file.digest, file.size_bytes)
    ]
    if gone:
        raise ModelNotFound(
            f"{uri}: {', '.join(gone[:3])} of {len(gone)} missing files in {cache.path}",
            remedy=f"lading download-to-cache --model-uri {uri}",
        )
    return model


def plan_create(
    models: Iterable[BundleModel], path: Path, *, volume_bytes: int | None = None, sign_key: Path | None = None
) -> CreatePlan:
    """What a bundle of ``models`` at ``path`` will be, and what of it is there. Writes nothing.

    Raises UsageError for a path where something else is, a name that reads as a volume's, or a key that is none.
    """
    path = path.absolute()
    tail = path.name.rpartition(".")[2]
    if "." in path.name and len(tail) >= 3 and not tail.strip(_NUMBER_LIKE):
        raise UsageError(f"{path.name} is named like a volume", remedy="name the bundle without .NNN: models.tar")
    head = Head.of(models)
    signature = None
    if sign_key:
        from lading.bundle.signing import sign

        signature = sign(contents(head), sign_key)
    layout = lay_out(head, signature)
    volumes = cut(path, layout.total_bytes, volume_bytes)
    return CreatePlan(path, head, layout, volumes, survey_target(path, volumes), sign_key is not None)


def create_bundle(plan: CreatePlan, cache: CacheRoot, report: Report = ignore, check: Check = never) -> Created:
    """Carry out the plan: on return the bundle is whole, hashed, on the device, under its names.

    ``check`` may raise to end it; what is written so far is kept for the next run. Raises DigestMismatch for a damaged
    blob of the cache, NotEnoughDisk, NotWritable, UsageError for a file that is not part of this bundle, and CacheBusy
    while another process writes it.
    """
    began = time.monotonic()
    with ExitStack() as stack:
        for model in plan.head.models if cache.is_writable else ():
            stack.enter_context(announced(cache.uses_directory, model.source, model.blobs))
        if plan.found.is_complete:
            return _Writer(plan, cache, report, check).run(began)
        stack.enter_context(writing(plan.path))
        plan.check_disk()
        return _Writer(plan, cache, report, check).run(began)


class _Writer:
    """Writes one bundle, piece by piece."""

    def __init__(self, plan: CreatePlan, cache: CacheRoot, report: Report, check: Check) -> None:
        self._plan = plan
        self._cache = cache
        self._report = report
        self._check = check
        self._kept_bytes = 0

    def run(self, began: float) -> Created:
        """All pieces, then the names."""
        total_bytes = self._plan.layout.total_bytes
        with Target(self._plan.path, self._plan.volumes) as self._target, Conveyor() as self._conveyor:
            self._tell = Progress(total_bytes, self._report, self._check)
            for piece in self._plan.layout.pieces:
                if isinstance(piece, Literal):
                    self._put_literal(piece)
                else:
                    self._put_blob(piece)
            if not self._plan.found.is_complete:
                self._target.finish()
            self._tell.end()
        return Created(self._plan, total_bytes - self._kept_bytes, self._kept_bytes, time.monotonic() - began)

    def _put_literal(self, piece: Literal) -> None:
        if self._target.holds(piece.offset, piece.data):
            self._kept_bytes += len(piece.data)
        else:
            self._target.cut(piece.offset)
            self._target.append(piece.data)
        self._target.count(piece.data)
        self._tell(len(piece.data))

    def _put_blob(self, piece: BlobPiece) -> None:
        """What is there of it, hashed, and the rest; all of it anew where that does not make the digest."""
        there = max(0, min(self._target.kept_bytes - piece.offset, piece.size_bytes))
        mark = self._target.mark()
        if there and self._appended(piece, there):
            self._kept_bytes += there
            return
        if there:
            self._report(Note(f"what an earlier run wrote of {piece.digest} is not right: it is written again"))
            self._target.cut(piece.offset)
            self._target.back_to(mark)
        if not self._appended(piece, 0):
            path = self._cache.store.path_of(piece.digest)
            self._target.cut(piece.offset)
            raise DigestMismatch(
                f"the bytes at {path} are no longer those that were fetched",
                remedy="`lading cache verify` removes the damaged file, `lading download-to-cache` fetches it; then "
                "the same command goes on",
            )

    def _appended(self, piece: BlobPiece, there: int) -> bool:
        """Whether the first ``there`` bytes, as the target has them, and the rest, as the cache does, are the blob."""
        hasher = new_hasher("sha256", piece.size_bytes)
        seen: tuple[Sink, ...] = (hasher.update, self._target.count)
        done = self._conveyor.run(self._target.reader(piece.offset), there, seen, self._tell)
        path = self._cache.store.path_of(piece.digest)
        if there < piece.size_bytes:
            with machine_errors(path), path.open("rb", buffering=0) as blob:
                blob.seek(there)
                left = piece.size_bytes - there
                done += self._conveyor.run(blob.readinto, left, (*seen, self._target.append), self._tell)
        return done == piece.size_bytes and Digest("sha256", hasher.hexdigest()) == piece.digest
