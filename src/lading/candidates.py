"""All that may be served where one model was named, or a manifest that lists several sets of files.

A model named by its location is one :class:`~lading.resolve.Listing`. A manifest is one for each workspace that its
profiles use; those that nobody could run or that were not asked for are not looked at. What cannot be looked at is no
reason to stop: its profiles are told with the reason, and the others are chosen from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache as remembered

from lading.cache.root import CacheRoot
from lading.errors import LadingError, UsageError
from lading.events import Note, Report
from lading.model.listed import ListedProfile, ProfileManifest
from lading.model.tuned import TunedModel
from lading.plan import fetch_command
from lading.profiles.fit import Fit, Wish, unfit
from lading.profiles.listed import engine_of, listed_profile
from lading.profiles.naming import DEFAULT, named
from lading.profiles.profile import Profile
from lading.recall import Consultation, bringing
from lading.resolve import Listing, Machine, Subject, list_profiles
from lading.sources.deferred import deferred
from lading.sources.interface import Source
from lading.sources.listed import ListedSource
from lading.uri import ModelUri

Named = ModelUri | ProfileManifest | TunedModel
"""What a user names: a model by its location, a manifest, or a checkpoint of which an engine is kept."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What use cases need of the world. Each is asked for once, when its turn comes."""

    source_for: Callable[[ModelUri, Report], Source]
    open_cache: Callable[[], CacheRoot]
    machine: Callable[[], Machine]
    environ: Mapping[str, str]
    report: Report


@dataclass(frozen=True, slots=True)
class Candidates:
    """The fits of all profiles, in order, and what was looked at for them; ``cache`` is None where files are in place.

    ``faults`` tell, by model, what kept one from being looked at.
    """

    named: Named
    fits: tuple[Fit, ...]
    listings: Mapping[ModelUri, Listing]
    cache: CacheRoot | None
    faults: Mapping[ModelUri, LadingError]

    @property
    def wish(self) -> Wish | None:
        """What is wished of whichever profile is taken: with the model's own flags, where it is one model."""
        return next(iter(self.listings.values())).asked.of_model if len(self.listings) == 1 else None

    def listing_of(self, profile: Profile) -> Listing:
        """What the profile's files are. Raises the fault that kept them from being looked at."""
        if profile.listed is None and len(self.listings) == 1:
            return next(iter(self.listings.values()))
        model = ModelUri.parse(profile.model_key)
        if model in self.faults:
            raise self.faults[model]
        return self.listings[model]


@dataclass(frozen=True, slots=True)
class Scope:
    """Which profiles of a manifest are looked at: those named, or all of this machine's engines, or ``everything``.

    ``unseen``: where none can be looked at, they are told with the reason; nothing will be chosen from them.
    """

    names: tuple[str, ...] = ()
    everything: bool = False
    unseen: bool = False


def consider(
    what: Named, wish: Wish, *, machine: Machine, world: Surroundings, how: Consultation, scope: Scope
) -> Candidates:
    """Look at what was named.

    Raises what looking gives rise to; for a manifest, the first fault where all fail, unless ``scope`` takes that.
    """
    for remark in machine.inventory.remarks:
        how.report(Note(remark))
    if isinstance(what, ModelUri):
        source = deferred(what, lambda: world.source_for(what, how.report))
        cache = None if source.in_place else world.open_cache()
        with bringing(fetch_command(what)):
            listing = list_profiles(Subject(what), wish, source=source, cache=cache, machine=machine, world=how)
        return Candidates(what, listing.fits, {what: listing}, cache, {})
    if isinstance(what, TunedModel):
        return _tuned(what, wish, machine, world, how)
    cache = world.open_cache()
    connect = remembered(lambda place: world.source_for(place, how.report))
    wanted = set(_wanted(what, machine, scope))
    listings: dict[ModelUri, Listing] = {}
    faults: dict[ModelUri, LadingError] = {}
    for model, listed in what.workspaces.items():
        if model in wanted:
            try:
                with bringing(fetch_command(model, str(what), _asked_id(listed, scope))):
                    listings[model] = list_profiles(
                        Subject(model, listed),
                        wish,
                        source=ListedSource(listed[0].files, connect),
                        cache=cache,
                        machine=machine,
                        world=how,
                    )
            except LadingError as error:
                faults[model] = error
                how.report(Note(f"{len(listed)} profiles of {what} cannot be looked at: {error.message}", "WARNING"))
    if not listings and not scope.unseen:
        raise next(iter(faults.values()))
    return Candidates(what, _in_order(what, listings, faults), listings, cache, faults)


def _asked_id(listed: Sequence[ListedProfile], scope: Scope) -> str:
    """The id of the profile that was named, else of the first: their files are the same."""
    return next((each.id for each in listed if each.id in scope.names), listed[0].id)


def _tuned(what: TunedModel, wish: Wish, machine: Machine, world: Surroundings, how: Consultation) -> Candidates:
    """The engine that was built of the checkpoint, where there is one, before the checkpoint itself."""
    listings: dict[ModelUri, Listing] = {}
    faults: dict[ModelUri, LadingError] = {}
    engine = what.engine_below(world.open_cache().path)
    for model in (*([ModelUri.parse(str(engine))] if engine.is_dir() else []), what.checkpoint):
        source = world.source_for(model, how.report)
        try:
            listings[model] = list_profiles(Subject(model), wish, source=source, cache=None, machine=machine, world=how)
        except LadingError as error:
            if model == what.checkpoint:
                raise
            faults[model] = error
            how.report(Note(f"the engine in {engine} cannot be used: {error.message}", "WARNING"))
    fits = tuple(each for listing in listings.values() for each in listing.fits)
    return Candidates(what, fits, listings, None, faults)


def _wanted(manifest: ProfileManifest, machine: Machine, scope: Scope) -> Iterable[ModelUri]:
    """The workspaces to look at. A name that only a look can tell the meaning of is no reason to leave any out."""
    if scope.everything:
        return manifest.workspaces
    unseen = [unfit(listed_profile(each), "") for each in manifest.profiles]
    asked: list[ModelUri] = []
    for name in scope.names if all(each.strip().lower() != DEFAULT for each in scope.names) else ():
        with suppress(UsageError):
            asked.append(ModelUri.parse(named(unseen, name).profile.model_key))
    if asked and len(asked) == len(scope.names):
        return asked
    if len(scope.names) > 1:
        return manifest.workspaces
    engines = {each.backend for each in machine.installations}
    runnable = [each.workspace for each in manifest.profiles if engine_of(each) in engines]
    return runnable or manifest.workspaces


def _in_order(
    manifest: ProfileManifest, listings: Mapping[ModelUri, Listing], faults: Mapping[ModelUri, LadingError]
) -> tuple[Fit, ...]:
    """The fits of the listed profiles in the manifest's order, then those of sizes that were asked for besides."""
    found = {each.profile.id: each for listing in listings.values() for each in listing.fits}
    listed = [found[each.id] if each.id in found else _unseen(each, faults) for each in manifest.profiles]
    ids = {each.id for each in manifest.profiles}
    return (*listed, *(each for each in found.values() if each.profile.id not in ids))


def _unseen(listed: ListedProfile, faults: Mapping[ModelUri, LadingError]) -> Fit:
    profile = listed_profile(listed)
    if error := faults.get(listed.workspace):
        return unfit(profile, f"its files cannot be looked at: {error.message}", error.remedy)
    engine = profile.backend or "engine that its tags name"
    return unfit(profile, f"not looked at: no {engine} is installed, or others were asked for by name")
