"""From a model's name to a chosen profile: list or recall, look inside, generate, fit, select (design steps 1 to 8).

With a complete entry in the cache nothing here opens a socket. What comes back is a value that ``--dry-run`` prints,
``list-model-profiles`` lists and ``serve`` carries out.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from lading.backends.interface import Installation
from lading.backends.members import BACKENDS
from lading.cache.calibrations import Calibrations
from lading.cache.index import IndexEntry
from lading.cache.listing import KeptListing, Reads, load_listing, save_listing
from lading.cache.root import CacheRoot
from lading.errors import EngineNotInstalled, OfflineError, SourceUnreachable, UsageError
from lading.events import Note, Phase, PhaseChanged, Report
from lading.hardware.inventory import Inventory
from lading.inspection import ModelReader, inspect
from lading.model.facts import ModelFacts
from lading.model.manifest import FileEntry, Manifest
from lading.plan import Globs, SkippedFile, choose_files
from lading.profiles.fit import Engine, Fit, Wish, fit
from lading.profiles.generate import generate_profiles
from lading.profiles.profile import Profile
from lading.profiles.rules import Support
from lading.profiles.select import Selection, select
from lading.sources.interface import Source
from lading.units import format_bytes
from lading.uri import ModelUri

DEFAULT_BACKEND = "vllm"


@dataclass(frozen=True, slots=True)
class Machine:
    """Where the model shall run: the hardware and the engines found on it."""

    inventory: Inventory
    installations: tuple[Installation, ...]

    def engine_for(self, backend: str) -> Installation | None:
        """The installation of ``backend`` built for this machine's device, else any of it, else None."""
        found = [each for each in self.installations if each.backend == backend]
        suited = [each for each in found if each.device is self.inventory.device]
        return next(iter(suited or found), None)

    def engines(self, architecture: str) -> list[Engine]:
        """One engine per backend, as fitting sees it for a model of ``architecture``."""
        names = dict.fromkeys(each.backend for each in self.installations)
        found = [self.engine_for(name) for name in names]
        return [_engine(each, architecture) for each in found if each]


@dataclass(frozen=True, slots=True)
class Consultation:
    """How to ask: whether the source is asked although the cache knows, which files to take, and where to report."""

    refresh: bool
    report: Report
    globs: Globs = field(default_factory=Globs)


@dataclass(frozen=True, slots=True)
class Listing:
    """A model, looked at: the files that an engine needs, its facts and how each profile fits.

    ``is_recalled`` says that the manifest came from the cache, without asking the source.
    """

    model: ModelUri
    source: Source
    manifest: Manifest
    skipped: tuple[SkippedFile, ...]
    facts: ModelFacts
    fits: tuple[Fit, ...]
    is_recalled: bool

    @property
    def pinned(self) -> ModelUri:
        """The model at the revision that was listed."""
        return self.manifest.pinned


def list_profiles(
    model: ModelUri, wish: Wish, *, source: Source, cache: CacheRoot | None, machine: Machine, world: Consultation
) -> Listing:
    """The model's profiles and how each fits ``machine``.

    ``cache`` is None for sources that are served in place. Raises what the source and the model's files give rise to.
    """
    if model.file:
        raise UsageError(f"{model} names one file", remedy=f"name the model: {model.model}")
    report = world.report
    report(PhaseChanged(Phase.RESOLVING, str(model)))
    recalled = _recall(model, cache, report) if cache and not world.refresh else None
    kept = load_listing(cache.index.listing_path(model), model) if cache else None
    listed = recalled.listed if recalled else _list(model, source, None if world.refresh else kept, report)
    manifest, skipped = choose_files(listed, world.globs)
    report(Note(_described(manifest, is_recalled=recalled is not None)))
    reads = kept.reads if kept else Reads()
    facts = inspect(manifest.files, ModelReader(source, lambda entry: find_bytes(entry, cache, source), reads=reads))
    if cache and cache.is_writable and reads.is_changed:
        save_listing(cache.index.listing_path(model), KeptListing(listed, reads))
    for note in facts.notes:
        report(Note(f"{facts.architecture}: {note}", "WARNING"))
    report(PhaseChanged(Phase.SELECTING, facts.architecture))
    for remark in machine.inventory.remarks:
        report(Note(remark))
    fits = fits_on(machine, facts, str(manifest.pinned), wish, cache.calibrations if cache else None)
    return Listing(model, source, manifest, skipped, facts, fits, recalled is not None)


def _engine(installed: Installation, architecture: str) -> Engine:
    backend = BACKENDS.get(installed.backend)
    support = backend.support(installed, architecture) if backend else Support()
    return Engine(installed.backend, installed.version, installed.device, installed.architectures, support)


def fits_on(
    machine: Machine, facts: ModelFacts, key: str, wish: Wish, calibrations: Calibrations | None = None
) -> tuple[Fit, ...]:
    """How each profile of a model, that ``key`` identifies, fits ``machine``; with what was measured at its starts."""
    engines = machine.engines(facts.architecture)
    profiles = profiles_of(machine, facts, key, wish)
    calibrated = calibrations.find if calibrations else lambda _: None
    return tuple(fit(profile, facts, machine.inventory, engines, wish, calibrated) for profile in profiles)


def profiles_of(machine: Machine, facts: ModelFacts, key: str, wish: Wish) -> list[Profile]:
    """The profiles of a model for the engines of ``machine``, and the sizes that were asked for."""
    engines = machine.engines(facts.architecture)
    asked = [(wish.tp or 1, wish.pp or 1)] if wish.tp or wish.pp else []
    backends = [each.backend for each in engines] or [DEFAULT_BACKEND]
    support = {each.backend: each.support for each in engines}
    return generate_profiles(facts, backends, key, extra_sizes=asked, support=support, lora=wish.lora)


def choose(listing: Listing, wish: Wish, machine: Machine, report: Report) -> tuple[Selection, Installation]:
    """The profile to run and the engine that runs it.

    Raises EngineNotInstalled where no engine is, else what :func:`lading.profiles.select.select` raises.
    """
    if not machine.installations:
        raise EngineNotInstalled(
            "no inference engine was found: neither `vllm` on PATH nor Lading's own CPU engine",
            remedy="lading engine install",
        )
    inventory = machine.inventory
    selection = select(listing.fits, wish, gpus=len(inventory.engine_gpus) // max(1, wish.options.data_parallel))
    installation = machine.engine_for(selection.chosen.profile.backend)
    if installation is None:
        raise EngineNotInstalled(f"no {selection.chosen.profile.backend} engine is installed")
    for line in selection.lines:
        report(Note(line))
    if selection.chosen.warning:
        report(Note(selection.chosen.warning, "WARNING"))
    return selection, installation


def find_bytes(entry: FileEntry, cache: CacheRoot | None, source: Source) -> Path | None:
    """Where this machine holds an entry's bytes: the verified blob, else what the source says lies here."""
    if (
        cache
        and entry.digest
        and entry.digest.algorithm == "sha256"
        and cache.store.has(entry.digest, entry.size_bytes)
    ):
        return cache.store.path_of(entry.digest)
    return source.local_copy(entry)


def _list(model: ModelUri, source: Source, kept: KeptListing | None, report: Report) -> Manifest:
    """The model's files; as they were listed last where its source cannot be asked."""
    try:
        return source.list_files(model)
    except (OfflineError, SourceUnreachable) as error:
        if kept is None:
            raise
        report(Note(f"{error.message}; taking {model} as it was listed last", "WARNING"))
        return kept.manifest


def _recall(model: ModelUri, cache: CacheRoot, report: Report) -> IndexEntry | None:
    entry = cache.index.load(model, report)
    return entry if entry and entry.is_complete else None


def _described(manifest: Manifest, *, is_recalled: bool) -> str:
    at = f" at {manifest.revision}" if manifest.revision else ""
    origin = "known from the cache; --refresh asks the source again" if is_recalled else "listed"
    return f"{manifest.source}{at}: {len(manifest.files)} files, {format_bytes(manifest.total_bytes)}, {origin}"
