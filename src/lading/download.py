"""Bring a model here without serving it: into the cache, and from there into a directory where one is wanted.

:func:`plan_download` decides and changes nothing; :func:`download` carries the plan out. Which files there are does not
depend on this machine: without a GPU or an engine the same ones come. Unless the cache is to do, the source is asked
what the model is now; what is here by digest is not fetched again. With a complete entry in the cache, a source that
cannot be asked is no error.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import Path

from lading.backends.interface import Installation
from lading.cache import upkeep
from lading.cache.disk import share_a_disk
from lading.cache.index import IndexEntry
from lading.cache.root import CacheRoot
from lading.candidates import Candidates, Named, Scope, Surroundings, consider
from lading.digest import Digest
from lading.errors import (
    MachineError,
    NoRunnableProfile,
    UsageError,
)
from lading.events import Event, Note, Phase, PhaseChanged, Report, TransferFinished, both
from lading.hardware.inventory import Inventory
from lading.model.manifest import Manifest
from lading.model_store import Stored, create_store, survey_site
from lading.plan import Globs, Step, TransferPlan, check_disk
from lading.profiles.fit import Fit, Reread, Verdict, Wish
from lading.profiles.naming import DEFAULT, named
from lading.profiles.profile import Profile
from lading.profiles.select import select
from lading.recall import Consultation, Refresh
from lading.resolve import Listing, Machine, Subject, fits_on, profiles_of
from lading.runtime_manifest import keep_runtime_manifest, workspace_of, write_manifest
from lading.store_plan import StoreFile, StorePlan, plan_store
from lading.transfer import TransferOptions, survey, transfer, unless
from lading.uri import ModelUri
from lading.workspace import build_workspace

ENGINES = ("vllm", "sglang", "tensorrt_llm")
"""The engines whose profiles may be named: the machine that will serve need not have the engines of this one."""


class Extent(Enum):
    """Which profiles are meant where none is named."""

    SELECTED = "the one that serving would select"
    LORA = "the default LoRA profile"
    ALL = "all"


class Output(Enum):
    """What is made of the files, besides the cache's entry."""

    CACHE = "nothing more"
    WORKSPACE = "the workspace of links that serving uses"
    STORE = "a directory of real files"


@dataclass(frozen=True, slots=True)
class DownloadRequest:
    """What to bring, after command line and settings were read.

    ``profiles`` are texts that name some; empty: ``extent`` says which. ``directory`` is where a STORE shall be,
    ``manifest_file`` where the manifest of what was brought is written; None for nowhere.
    ``use_cache`` takes a complete model of the cache without asking the source; ``verify_cached`` hashes again what the
    cache has.
    """

    model: Named
    wish: Wish = field(default_factory=Wish)
    profiles: tuple[str, ...] = ()
    extent: Extent = Extent.SELECTED
    output: Output = Output.CACHE
    directory: Path | None = None
    manifest_file: Path | None = None
    use_cache: bool = False
    verify_cached: bool = False
    globs: Globs = field(default_factory=Globs)
    transfer: TransferOptions = field(default_factory=TransferOptions)
    reread: Reread | None = None


@dataclass(frozen=True, slots=True)
class Choice:
    """The profiles that are meant, and why in a sentence."""

    profiles: tuple[Profile, ...]
    reason: str


@dataclass(frozen=True, slots=True)
class Portion:
    """One set of files, for the profiles that use it. ``transfer`` is None for a model that is used where it lies."""

    listing: Listing
    profiles: tuple[Profile, ...]
    transfer: TransferPlan | None


@dataclass(frozen=True, slots=True)
class DownloadPlan:
    """Everything decided, nothing done: what ``--dry-run`` prints.

    A model that is named by its location is one portion, a manifest one for each workspace of the chosen profiles.
    ``cache`` is None for a model that is used where it lies, ``store`` where no STORE is wanted.
    """

    request: DownloadRequest
    choice: Choice
    portions: tuple[Portion, ...]
    cache: CacheRoot | None
    store: StorePlan | None

    @property
    def transfers(self) -> tuple[TransferPlan, ...]:
        """What is to be fetched."""
        return tuple(each.transfer for each in self.portions if each.transfer)

    def check_disks(self) -> None:
        """Raise NotEnoughDisk where the cache's disk, or the store's, cannot take what would be written to it."""
        check_disk(self.transfers)
        if self.store:
            is_one_disk = self.cache is not None and share_a_disk(self.cache.path, self.store.directory)
            needed = sum(each.needed_bytes for each in self.transfers) if is_one_disk else 0
            self.store.check_disk(spoken_for_bytes=needed)


@dataclass(frozen=True, slots=True)
class Brought:
    """One portion, here: its files with their digests, what was fetched, where it can be used from.

    ``directory`` is None where only the cache has it.
    """

    portion: Portion
    manifest: Manifest
    fetched_bytes: int
    directory: Path | None


@dataclass(frozen=True, slots=True)
class Downloaded:
    """What was done. ``stored`` is None where no STORE was made."""

    plan: DownloadPlan
    brought: tuple[Brought, ...]
    stored: Stored | None

    @property
    def fetched_bytes(self) -> int:
        """Bytes that were fetched."""
        return sum(each.fetched_bytes for each in self.brought)

    @property
    def moved_bytes(self) -> int:
        """Bytes that were fetched or written as copies."""
        return self.fetched_bytes + (self.stored.copied_bytes if self.stored else 0)


def plan_download(request: DownloadRequest, world: Surroundings) -> DownloadPlan:
    """Decide what to bring. Asks the source, or reads the cache; writes nothing but the cache's layout and listing."""
    found, choice = _Enquiry(request, world, _machine(world)).answer()
    world.report(Note(f"{', '.join(each.name for each in choice.profiles)}: {choice.reason}"))
    portions = tuple(_portions(found, choice))
    if len(portions) > 1 and request.output is not Output.CACHE:
        raise UsageError(
            f"{len(portions)} profiles with files of their own were asked for, and a directory holds one",
            remedy="name one profile with --profile; `lading list-model-profiles` shows them",
        )
    plan = DownloadPlan(request, choice, portions, found.cache, None)
    if request.output is not Output.STORE:
        return plan
    return replace(plan, store=_planned_store(plan, _files(portions[0])))


def _portions(found: Candidates, choice: Choice) -> Iterator[Portion]:
    by_model: dict[ModelUri, list[Profile]] = {}
    for profile in choice.profiles:
        by_model.setdefault(found.listing_of(profile).model, []).append(profile)
    for model, profiles in by_model.items():
        listing, cache = found.listings[model], found.cache
        planned = survey(listing.manifest, listing.source, cache, skipped=listing.skipped) if cache else None
        yield Portion(listing, tuple(profiles), planned)


def _machine(world: Surroundings) -> Machine:
    """This machine; as one without GPUs and engines where its driver fails: files do not depend on it."""
    try:
        return world.machine()
    except MachineError as error:
        world.report(Note(f"{error.message}; profiles are chosen as if there were no GPU", "WARNING"))
        return Machine(Inventory((), 0, 0, 1), ())


@dataclass(frozen=True, slots=True)
class _Enquiry:
    """What a model is, and which of its profiles are meant: asked of the source, or of the cache."""

    request: DownloadRequest
    world: Surroundings
    machine: Machine

    def answer(self) -> tuple[Candidates, Choice]:
        """As the source has the model now; as the cache has it where that is to do, has to, or has what is named."""
        found = self._ask(Refresh.NEVER if self.request.use_cache else Refresh.ALWAYS)
        try:
            return found, self._chosen(found)
        except UnknownProfile as error:
            entry = self._kept(found.cache)
            if entry is None or entry.pinned == found.listings[entry.source].pinned:
                raise
            older = self._ask(Refresh.NEVER)  # ids are of one revision
            choice = self._chosen(older)
            self.world.report(Note(f"{error.message} as it is now; taking it as the cache has it", "WARNING"))
            return older, choice

    def _kept(self, cache: CacheRoot | None) -> IndexEntry | None:
        model = self.request.model
        entry = cache.index.load(model) if cache and isinstance(model, ModelUri) else None
        return entry if entry and entry.is_complete else None

    def _ask(self, refresh: Refresh) -> Candidates:
        request = self.request
        how = Consultation(refresh, self.world.report, request.globs, request.reread)
        wish = replace(request.wish, lora=request.wish.lora or request.extent is Extent.LORA)
        asked = request.profiles or ((wish.profile,) if wish.profile and request.extent is Extent.SELECTED else ())
        scope = Scope(asked, everything=request.extent is Extent.ALL)
        return consider(request.model, wish, machine=self.machine, world=self.world, how=how, scope=scope)

    def _chosen(self, found: Candidates) -> Choice:
        if self.request.extent is Extent.ALL and found.faults:
            raise next(iter(found.faults.values()))
        seen = {each.profile.id for listing in found.listings.values() for each in listing.fits}
        here = [each for each in found.fits if each.profile.id in seen]
        others = [each for each in found.fits if each.profile.id not in seen]
        if isinstance(self.request.model, ModelUri):
            others += _profiles_elsewhere(next(iter(found.listings.values())), self.machine, self.request.wish)
        return choose_profiles(self.request, here, others)


class UnknownProfile(UsageError):
    """A text names no profile of the model, or several."""


def choose_profiles(request: DownloadRequest, here: Sequence[Fit], elsewhere: Sequence[Fit]) -> Choice:
    """The profiles that are meant. ``here`` are those of this machine's engines, ``elsewhere`` those of all others.

    Pure. Where none of a model's runs here the nearest is meant: what it needs is the same. Raises UnknownProfile for a
    name that no profile has.
    """
    if request.extent is Extent.ALL:
        return Choice(tuple(each.profile for each in here), "all profiles were asked for")
    wish = replace(request.wish, lora=request.wish.lora or request.extent is Extent.LORA)
    if request.profiles:
        found = [_meant(name, here, elsewhere, wish) for name in request.profiles]
        return Choice(tuple({each.id: each for each in found}.values()), "asked for by name")
    if wish.profile and request.extent is Extent.SELECTED:
        return _of_settings(wish.profile, here, elsewhere, wish)
    return _selected(here, replace(wish, profile=None))


def _of_settings(name: str, here: Sequence[Fit], elsewhere: Sequence[Fit], wish: Wish) -> Choice:
    """What serving would make of the settings; where it would refuse, the profile that they name."""
    try:
        selection = select(here, wish)
    except (NoRunnableProfile, UsageError):
        return Choice((_meant(name, here, elsewhere, wish),), "asked for by name")
    return Choice((selection.chosen.profile,), selection.reason)


def _meant(name: str, here: Sequence[Fit], elsewhere: Sequence[Fit], wish: Wish) -> Profile:
    if name.strip().lower() == DEFAULT:
        return _selected(here, replace(wish, profile=DEFAULT)).profiles[0]
    known = {each.profile.id for each in here}
    try:
        return named([*here, *(each for each in elsewhere if each.profile.id not in known)], name).profile
    except UsageError as error:
        raise UnknownProfile(f"{name!r} does not name one profile of this model", remedy=error.remedy) from None


def _selected(fits: Sequence[Fit], wish: Wish) -> Choice:
    try:
        selection = select(fits, wish)
    except NoRunnableProfile:
        alike = [each for each in fits if each.profile.lora == wish.lora and not each.profile.online] or list(fits)
        nearest = min(alike, key=lambda each: (list(Verdict).index(each.verdict), each.profile.ranks), default=None)
        if nearest is None:
            raise
        return Choice((nearest.profile,), "none runs on this machine; its files are those of every profile")
    return Choice((selection.chosen.profile,), selection.reason)


def download(plan: DownloadPlan, report: Report, cancelled: threading.Event) -> Downloaded:
    """Carry out the plan. Idempotent: what is here is not moved again; an earlier run that ended is continued.

    Raises TransferCancelled soon after ``cancelled`` is set, and what its steps raise.
    """
    check = unless(cancelled)
    if plan.cache and plan.request.verify_cached:
        for each in plan.portions:
            upkeep.check_again(plan.cache, each.listing.model, report, check)
    plan.check_disks()
    brought = tuple(_bring(plan, each, report, cancelled) for each in plan.portions)
    if plan.request.manifest_file:
        made = [workspace_of(each.portion.listing, each.manifest) for each in brought]
        write_manifest(plan.request.manifest_file, made)
        report(Note(f"wrote {plan.request.manifest_file}"))
    if plan.request.output is not Output.STORE:
        return Downloaded(plan, brought, None)
    only = brought[0]
    files = [StoreFile(each.path, each.size_bytes, each.digest) for each in only.manifest.files]
    store = _planned_store(plan, files)
    report(PhaseChanged(Phase.PREPARING, str(store.directory)))
    stored = create_store(store, _origins(plan, only.portion, only.manifest), report, check=check)
    return Downloaded(replace(plan, store=store), (replace(only, directory=store.directory),), stored)


def _bring(plan: DownloadPlan, portion: Portion, report: Report, cancelled: threading.Event) -> Brought:
    """Fetch what is not here of one portion, and lay out its workspace where one is wanted."""
    listing, cache = portion.listing, plan.cache
    if cache is None or portion.transfer is None:
        in_place = Path(listing.model.location) if plan.request.output is Output.WORKSPACE else None
        return Brought(portion, listing.manifest, 0, in_place)
    report(PhaseChanged(Phase.DOWNLOADING, str(listing.pinned)))
    tally, options = _Tally(), plan.request.transfer
    reports = both(report, tally)
    manifest = transfer(portion.transfer, listing.source, cache, reports, cancelled=cancelled, options=options)
    cache.index.touch(listing.model)
    keep_runtime_manifest(cache, listing, manifest, sorted({each.profile.backend for each in listing.fits}), report)
    directory = None
    if plan.request.output is Output.WORKSPACE:
        origins = cache.store.places_of(manifest)
        directory = build_workspace(cache.workspace_for(listing.pinned), origins.items(), report)
    return Brought(portion, manifest, tally.fetched_bytes, directory)


def _profiles_elsewhere(listing: Listing, machine: Machine, wish: Wish) -> tuple[Fit, ...]:
    """The profiles of the model on machines with other engines than this one's; LoRA ones too."""
    device = machine.inventory.device
    assumed = tuple(Installation(name, "of any version", device, (), {}, frozenset(), "assumed") for name in ENGINES)
    elsewhere, asked = Machine(machine.inventory, assumed), replace(wish, lora=True)
    profiles = profiles_of(elsewhere, listing.facts, Subject(listing.pinned), asked)
    return fits_on(elsewhere, listing.facts, profiles, lambda _: asked)


def _files(portion: Portion) -> list[StoreFile]:
    """The files that the store shall have, with the digests that are known before the transfer."""
    planned = portion.transfer
    known = {each.entry.path: each.digest for each in planned.of_step(Step.PRESENT)} if planned else {}

    def digest_of(path: str, promised: Digest | None) -> Digest | None:
        return known.get(path) or (promised if promised and promised.algorithm == "sha256" else None)

    entries = portion.listing.manifest.files
    return [StoreFile(each.path, each.size_bytes, digest_of(each.path, each.digest)) for each in entries]


def _planned_store(plan: DownloadPlan, files: Sequence[StoreFile]) -> StorePlan:
    directory = plan.request.directory
    if directory is None:
        raise UsageError("no directory was named for the model store", remedy="name it with --model-store DIR")
    model = plan.portions[0].listing.model
    origin = plan.cache.store.directory if plan.cache else Path(model.location)
    site = survey_site(directory, origin, may_link=plan.cache is not None)
    held = plan.cache.path if plan.cache else origin
    if site.directory.is_relative_to(held.resolve()):
        raise UsageError(f"{site.directory} lies in {held}", remedy="name a directory elsewhere")
    return plan_store(files, site)


def _origins(plan: DownloadPlan, portion: Portion, manifest: Manifest) -> dict[str, Path]:
    """Where the bytes of each file are, by its path."""
    if plan.cache:
        return plan.cache.store.places_of(manifest)
    listing = portion.listing
    found = {each.path: listing.source.local_copy(each) for each in manifest.files}
    if gone := [path for path, place in found.items() if place is None]:
        raise MachineError(f"{listing.model} has {gone[0]} no longer", remedy="run the command again")
    return {path: place for path, place in found.items() if place}


class _Tally:
    """How much a transfer fetched."""

    fetched_bytes = 0

    def __call__(self, event: Event) -> None:
        if isinstance(event, TransferFinished):
            self.fetched_bytes += event.fetched_bytes
