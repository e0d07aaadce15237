"""From a model's name to a chosen profile: list or recall, look inside, generate, fit, select (design steps 1 to 8).

With a complete entry in the cache nothing here opens a socket. What comes back is a value that ``--dry-run`` prints,
``list-model-profiles`` lists and ``serve`` carries out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from lading.asked import Ask, Asked, asked_of
from lading.backends.interface import Installation
from lading.backends.members import BACKENDS
from lading.cache.calibrations import Calibrations
from lading.cache.listing import KeptListing, save_listing
from lading.cache.root import CacheRoot
from lading.errors import EngineNotInstalled, LadingError, MalformedModel, UsageError
from lading.events import Note, Phase, PhaseChanged, Report
from lading.hardware.inventory import Inventory
from lading.inspection import ModelReader, inspect
from lading.model.facts import ModelFacts
from lading.model.listed import ListedProfile
from lading.model.manifest import Manifest
from lading.plan import SkippedFile, choose_files
from lading.profiles.fit import Engine, Fit, Wish, fit, unfit
from lading.profiles.generate import generate_profiles
from lading.profiles.listed import listed_profile, listed_profiles
from lading.profiles.profile import Profile
from lading.profiles.rules import Support
from lading.profiles.select import Selection, select
from lading.recall import Consultation, Found, find_bytes, find_files
from lading.sources.interface import Source
from lading.units import format_bytes
from lading.uri import ModelUri

DEFAULT_BACKEND = "vllm"


@dataclass(frozen=True, slots=True)
class Machine:
    """Where the model shall run: the hardware and the engines found on it."""

    inventory: Inventory
    installations: tuple[Installation, ...]

    @property
    def family(self) -> str:
        """The engine family that flags are written for: the first engine's, the default one where there is none."""
        return self.installations[0].backend if self.installations else DEFAULT_BACKEND

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
class Subject:
    """What is looked at as one model: a location, or a workspace with the profiles that a manifest lists for it."""

    model: ModelUri
    listed: tuple[ListedProfile, ...] = ()


@dataclass(frozen=True, slots=True)
class Listing:
    """A model, looked at: the files that an engine needs, its facts and how each profile fits.

    ``is_recalled`` says that the manifest came from the cache, without asking the source; ``asked`` what is asked of
    the engine, by the user and by the model.
    """

    model: ModelUri
    source: Source
    manifest: Manifest
    skipped: tuple[SkippedFile, ...]
    facts: ModelFacts
    fits: tuple[Fit, ...]
    is_recalled: bool
    asked: Asked

    @property
    def pinned(self) -> ModelUri:
        """The model at the revision that was listed."""
        return self.manifest.pinned


def list_profiles(
    subject: Subject, wish: Wish, *, source: Source, cache: CacheRoot | None, machine: Machine, world: Consultation
) -> Listing:
    """The subject's profiles and how each fits ``machine``.

    ``cache`` is None for sources that are served in place. Raises what the source and the model's files give rise to.
    """
    model, report = subject.model, world.report
    if model.file:
        raise UsageError(f"{model} names one file", remedy=f"name the model: {model.model}")
    report(PhaseChanged(Phase.RESOLVING, str(model)))
    found = find_files(model, source, cache, world)
    manifest, skipped = (found.manifest, ()) if subject.listed else choose_files(found.manifest, world.globs)
    report(Note(_described(manifest, is_recalled=found.is_recalled)))
    reader = ModelReader(source, lambda entry: find_bytes(entry, cache, source), reads=found.reads)
    asked = asked_of(Asked(wish, world.reread), manifest, subject.listed, reader, Ask(machine.family, report))
    try:
        facts = _look_inside(manifest, found, reader, cache)
    except MalformedModel as error:
        if not subject.listed:
            raise
        return _unreadable(subject, source, found, asked, error)
    for note in facts.notes:
        report(Note(f"{facts.architecture}: {note}", "WARNING"))
    report(PhaseChanged(Phase.SELECTING, facts.architecture))
    profiles = profiles_of(machine, facts, Subject(manifest.pinned, subject.listed), asked.of_model)
    fits = fits_on(machine, facts, profiles, asked.of_profile, cache.calibrations if cache else None)
    return Listing(model, source, manifest, skipped, facts, fits, found.is_recalled, asked)


def _look_inside(manifest: Manifest, found: Found, reader: ModelReader, cache: CacheRoot | None) -> ModelFacts:
    """The model's facts, from what was read before where that is kept; what is read now is kept where it can be."""
    model, reads = found.manifest.source, found.reads
    facts = inspect(manifest.files, reader)
    if cache and cache.is_writable and reads.is_changed:
        save_listing(cache.index.listing_path(model), KeptListing(found.manifest, reads))
    return facts


def _unreadable(subject: Subject, source: Source, found: Found, asked: Asked, error: LadingError) -> Listing:
    """A workspace that can be fetched, though its files do not tell what it needs: an engine compiled for one GPU."""
    facts = ModelFacts.unknown(found.manifest.total_bytes)
    fits = tuple(unfit(listed_profile(each), error.message, error.remedy) for each in subject.listed)
    return Listing(subject.model, source, found.manifest, (), facts, fits, found.is_recalled, asked)


def _engine(installed: Installation, architecture: str) -> Engine:
    backend = BACKENDS.get(installed.backend)
    support = backend.support(installed, architecture) if backend else Support()
    return Engine(installed.backend, installed.version, installed.device, installed.architectures, support)


def fits_on(
    machine: Machine,
    facts: ModelFacts,
    profiles: Iterable[Profile],
    wish_of: Callable[[Profile], Wish],
    calibrations: Calibrations | None = None,
) -> tuple[Fit, ...]:
    """How each of a model's profiles fits ``machine``, with what is wished of it and was measured at its starts."""
    engines = machine.engines(facts.architecture)
    calibrated = calibrations.find if calibrations else lambda _: None
    return tuple(fit(each, facts, machine.inventory, engines, wish_of(each), calibrated) for each in profiles)


def profiles_of(machine: Machine, facts: ModelFacts, subject: Subject, wish: Wish) -> list[Profile]:
    """The profiles that are listed for the subject, or that follow from it; and the sizes that were asked for.

    ``subject`` names the model at the revision that ``facts`` are of.
    """
    if subject.listed:
        return listed_profiles(subject.listed, facts, asked=(wish.tp, wish.pp), lora=wish.lora)
    engines = machine.engines(facts.architecture)
    asked = [(wish.tp or 1, wish.pp or 1)] if wish.tp or wish.pp else []
    backends = [each.backend for each in engines] or [DEFAULT_BACKEND]
    support = {each.backend: each.support for each in engines}
    key = str(subject.model)
    return generate_profiles(facts, backends, key, extra_sizes=asked, support=support, lora=wish.lora)


def choose(fits: Sequence[Fit], wish: Wish, machine: Machine, report: Report) -> tuple[Selection, Installation]:
    """The profile to run and the engine that runs it.

    Raises EngineNotInstalled where no engine is, else what :func:`lading.profiles.select.select` raises.
    """
    if not machine.installations:
        raise EngineNotInstalled(
            "no inference engine was found: neither vLLM, SGLang nor TensorRT-LLM on PATH, nor Lading's own CPU engine",
            remedy="lading engine install",
        )
    inventory = machine.inventory
    selection = select(fits, wish, gpus=len(inventory.engine_gpus) // max(1, wish.options.data_parallel))
    installation = machine.engine_for(selection.chosen.profile.backend)
    if installation is None:
        raise EngineNotInstalled(f"no {selection.chosen.profile.backend} engine is installed")
    for line in selection.lines:
        report(Note(line))
    if selection.chosen.warning:
        report(Note(selection.chosen.warning, "WARNING"))
    return selection, installation


def _described(manifest: Manifest, *, is_recalled: bool) -> str:
    at = f" at {manifest.revision}" if manifest.revision else ""
    origin = "known from the cache; --refresh asks the source again" if is_recalled else "listed"
    return f"{manifest.source}{at}: {len(manifest.files)} files, {format_bytes(manifest.total_bytes)}, {origin}"
