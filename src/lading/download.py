"""Bring a model here without serving it: into the cache, and from there into a directory where one is wanted.

:func:`plan_download` decides and changes nothing; :func:`download` carries the plan out. Which files there are does not
depend on this machine: without a GPU or an engine the same ones come. Unless the cache is to do, the source is asked
what the model is now; what is here by digest is not fetched again. With a complete entry in the cache, a source that
cannot be asked is no error.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING

from lading.backends.interface import Installation
from lading.cache import upkeep
from lading.cache.disk import share_a_disk
from lading.cache.index import IndexEntry
from lading.cache.root import CacheRoot
from lading.digest import Digest
from lading.errors import (
    MachineError,
    NoRunnableProfile,
    OfflineError,
    SourceUnreachable,
    UsageError,
)
from lading.events import Event, Note, Phase, PhaseChanged, Report, TransferFinished, both
from lading.hardware.inventory import Inventory
from lading.model.manifest import Manifest
from lading.model_store import Stored, create_store, survey_site
from lading.plan import Globs, Step, TransferPlan
from lading.profiles.fit import Fit, Verdict, Wish
from lading.profiles.naming import DEFAULT, named
from lading.profiles.profile import Profile
from lading.profiles.select import select
from lading.resolve import Consultation, Listing, Machine, fits_on, list_profiles
from lading.sources.interface import Source
from lading.store_plan import StoreFile, StorePlan, plan_store
from lading.transfer import TransferOptions, survey, transfer, unless
from lading.uri import ModelUri
from lading.workspace import build_workspace

if TYPE_CHECKING:
    from lading.serve import Surroundings

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

    ``profiles`` are texts that name some; empty: ``extent`` says which. ``directory`` is where a STORE shall be.
    ``use_cache`` takes a complete model of the cache without asking the source; ``verify_cached`` hashes again what the
    cache has.
    """

    model: ModelUri
    wish: Wish = field(default_factory=Wish)
    profiles: tuple[str, ...] = ()
    extent: Extent = Extent.SELECTED
    output: Output = Output.CACHE
    directory: Path | None = None
    use_cache: bool = False
    verify_cached: bool = False
    globs: Globs = field(default_factory=Globs)
    transfer: TransferOptions = field(default_factory=TransferOptions)


@dataclass(frozen=True, slots=True)
class Choice:
    """The profiles that are meant, and why in a sentence."""

    profiles: tuple[Profile, ...]
    reason: str


@dataclass(frozen=True, slots=True)
class DownloadPlan:
    """Everything decided, nothing done: what ``--dry-run`` prints.

    ``cache`` and ``transfer`` are None for a model that is used where it lies; ``store`` where no STORE is wanted.
    """

    request: DownloadRequest
    listing: Listing
    choice: Choice
    cache: CacheRoot | None
    transfer: TransferPlan | None
    store: StorePlan | None

    def check_disks(self) -> None:
        """Raise NotEnoughDisk where the cache's disk, or the store's, cannot take what would be written to it."""
        if self.transfer:
            self.transfer.check_disk()
        if self.store:
            is_one_disk = self.cache is not None and share_a_disk(self.cache.path, self.store.directory)
            needed = self.transfer.needed_bytes if self.transfer and is_one_disk else 0
            self.store.check_disk(spoken_for_bytes=needed)


@dataclass(frozen=True, slots=True)
class Downloaded:
    """What was done: the files with their digests, what was fetched, where the model can be used from.

    ``directory`` is None where only the cache has it; ``stored`` where no STORE was made.
    """

    plan: DownloadPlan
    manifest: Manifest
    fetched_bytes: int
    directory: Path | None
    stored: Stored | None

    @property
    def moved_bytes(self) -> int:
        """Bytes that were fetched or written as copies."""
        return self.fetched_bytes + (self.stored.copied_bytes if self.stored else 0)


def plan_download(request: DownloadRequest, world: Surroundings) -> DownloadPlan:
    """Decide what to bring. Asks the source, or reads the cache; writes nothing but the cache's layout and listing."""
    source = world.source_for(request.model, world.report)
    cache = None if source.in_place else world.open_cache()
    listing, choice = _Enquiry(request, source, cache, _machine(world), world.report).answer()
    world.report(Note(f"{', '.join(each.name for each in choice.profiles)}: {choice.reason}"))
    planned = survey(listing.manifest, source, cache, skipped=listing.skipped) if cache else None
    plan = DownloadPlan(request, listing, choice, cache, planned, None)
    return replace(plan, store=_planned_store(plan, _files(plan, planned))) if request.output is Output.STORE else plan


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
    source: Source
    cache: CacheRoot | None
    machine: Machine
    report: Report

    def answer(self) -> tuple[Listing, Choice]:
        """As the source has the model now; as the cache has it where that is to do, has to, or has what is named."""
        listing = self._listed()
        try:
            return listing, self._chosen(listing)
        except UnknownProfile as error:
            entry = self._kept()
            if entry is None or entry.pinned == listing.pinned:
                raise
            older = self._ask(refresh=False)  # ids are of one revision
            choice = self._chosen(older)
            self.report(Note(f"{error.message} as it is now; taking it as the cache has it", "WARNING"))
            return older, choice

    def _listed(self) -> Listing:
        try:
            return self._ask(refresh=not self.request.use_cache)
        except (OfflineError, SourceUnreachable) as error:
            model, entry = self.request.model, self._kept()
            if entry is None:
                error.remedy = "\n".join(filter(None, (error.remedy, _FETCH.format(model=model))))
            if entry is None or self.request.use_cache:
                raise
            kept = f"the cache has {model} complete, at {entry.manifest.revision}"
            self.report(Note(f"{error.message}; {kept}", "WARNING"))
            return self._ask(refresh=False)

    def _kept(self) -> IndexEntry | None:
        entry = self.cache.index.load(self.request.model) if self.cache else None
        return entry if entry and entry.is_complete else None

    def _ask(self, *, refresh: bool) -> Listing:
        request = self.request
        consultation = Consultation(refresh, self.report, request.globs)
        wish = replace(request.wish, lora=request.wish.lora or request.extent is Extent.LORA)
        return list_profiles(
            request.model, wish, source=self.source, cache=self.cache, machine=self.machine, world=consultation
        )

    def _chosen(self, listing: Listing) -> Choice:
        elsewhere = _profiles_elsewhere(listing, self.machine, self.request.wish)
        return choose_profiles(self.request, listing.fits, elsewhere)


_FETCH = "or, where there is a network: `download-to-cache --model-uri {model}`, and bring that cache here"


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
        upkeep.check_again(plan.cache, plan.listing.model, report, check)
    plan.check_disks()
    manifest, fetched_bytes = _fetched(plan, report, cancelled)
    if plan.request.output is not Output.STORE:
        return Downloaded(plan, manifest, fetched_bytes, _workspace(plan, manifest, report), None)
    store = _planned_store(plan, [StoreFile(each.path, each.size_bytes, each.digest) for each in manifest.files])
    report(PhaseChanged(Phase.PREPARING, str(store.directory)))
    stored = create_store(store, _origins(plan, manifest), report, check=check)
    return Downloaded(replace(plan, store=store), manifest, fetched_bytes, store.directory, stored)


def _fetched(plan: DownloadPlan, report: Report, cancelled: threading.Event) -> tuple[Manifest, int]:
    """The model's files, all here now, and how many bytes of them were fetched."""
    listing, cache = plan.listing, plan.cache
    if cache is None or plan.transfer is None:
        return listing.manifest, 0
    report(PhaseChanged(Phase.DOWNLOADING, str(listing.pinned)))
    tally, options = _Tally(), plan.request.transfer
    manifest = transfer(plan.transfer, listing.source, cache, both(report, tally), cancelled=cancelled, options=options)
    cache.index.touch(listing.model)
    return manifest, tally.fetched_bytes


def _profiles_elsewhere(listing: Listing, machine: Machine, wish: Wish) -> tuple[Fit, ...]:
    """The profiles of the model on machines with other engines than this one's; LoRA ones too."""
    device = machine.inventory.device
    assumed = tuple(Installation(name, "of any version", device, (), {}, frozenset(), "assumed") for name in ENGINES)
    asked = replace(wish, lora=True)
    return fits_on(Machine(machine.inventory, assumed), listing.facts, str(listing.pinned), asked)


def _workspace(plan: DownloadPlan, manifest: Manifest, report: Report) -> Path | None:
    if plan.request.output is Output.CACHE:
        return None
    if plan.cache is None:
        return Path(plan.listing.model.location)
    origins = _origins(plan, manifest)
    return build_workspace(plan.cache.workspace_for(plan.listing.pinned), origins.items(), report)


def _files(plan: DownloadPlan, planned: TransferPlan | None) -> list[StoreFile]:
    """The files that the store shall have, with the digests that are known before the transfer."""
    known = {each.entry.path: each.digest for each in planned.of_step(Step.PRESENT)} if planned else {}

    def digest_of(path: str, promised: Digest | None) -> Digest | None:
        return known.get(path) or (promised if promised and promised.algorithm == "sha256" else None)

    entries = plan.listing.manifest.files
    return [StoreFile(each.path, each.size_bytes, digest_of(each.path, each.digest)) for each in entries]


def _planned_store(plan: DownloadPlan, files: Sequence[StoreFile]) -> StorePlan:
    directory = plan.request.directory
    if directory is None:
        raise UsageError("no directory was named for the model store", remedy="name it with --model-store DIR")
    origin = plan.cache.store.directory if plan.cache else Path(plan.listing.model.location)
    site = survey_site(directory, origin, may_link=plan.cache is not None)
    held = plan.cache.path if plan.cache else origin
    if site.directory.is_relative_to(held.resolve()):
        raise UsageError(f"{site.directory} lies in {held}", remedy="name a directory elsewhere")
    return plan_store(files, site)


def _origins(plan: DownloadPlan, manifest: Manifest) -> dict[str, Path]:
    """Where the bytes of each file are, by its path."""
    if plan.cache:
        return plan.cache.store.places_of(manifest)
    found = {each.path: plan.listing.source.local_copy(each) for each in manifest.files}
    if gone := [path for path, place in found.items() if place is None]:
        raise MachineError(f"{plan.listing.model} has {gone[0]} no longer", remedy="run the command again")
    return {path: place for path, place in found.items() if place}


class _Tally:
    """How much a transfer fetched."""

    fetched_bytes = 0

    def __call__(self, event: Event) -> None:
        if isinstance(event, TransferFinished):
            self.fetched_bytes += event.fetched_bytes
