"""What serving a model needs, decided and fetched: the request, the plan that ``--dry-run`` prints, the files.

:func:`plan_service` decides and changes nothing but the cache's layout and listing; :func:`fetch` carries out the
plan's transfer. :mod:`lading.serve` runs what comes of it.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from lading.adapters.engine import EngineAdapters
from lading.adapters.keeper import AdapterKeeper, Base
from lading.adapters.places import Library
from lading.adapters.planned import AdapterPlan, plan_adapters
from lading.adapters.request import LoraRequest
from lading.adapters.room import with_room
from lading.backends.interface import Argument, Backend, Command, Endpoint, Installation, Launch
from lading.backends.json_arguments import merge_objects
from lading.backends.members import BACKENDS
from lading.cache import upkeep
from lading.cache.root import CacheRoot
from lading.cache.use import Announcement, announced
from lading.candidates import Named, Scope, Surroundings, consider
from lading.events import Phase, PhaseChanged, Report
from lading.gateway.access import Access
from lading.manifests.write import manifest_yaml
from lading.model.listed import ProfileManifest
from lading.plan import Globs, TransferPlan, fetch_command
from lading.profiles.calibration import CalibrationKey
from lading.profiles.correction import figures_of
from lading.profiles.fit import Reread, Wish, calibration_key, target_of
from lading.profiles.measurement import Measurement
from lading.profiles.select import Selection
from lading.recall import Consultation, Refresh, bringing
from lading.resolve import Listing, Machine, choose
from lading.runtime_manifest import keep_runtime_manifest, workspace_of
from lading.secret import Secret
from lading.transfer import TransferOptions, survey, transfer, unless
from lading.uri import ModelUri
from lading.workspace import build_workspace


@dataclass(frozen=True, slots=True)
class ServeRequest:
    """What to serve and how, after command line and settings were read."""

    model: Named
    served_names: tuple[str, ...]
    wish: Wish
    user_arguments: tuple[Argument, ...]
    access: Access
    drain_seconds: float
    stop_seconds: float
    refresh: Refresh = Refresh.NEVER
    globs: Globs = field(default_factory=Globs)
    transfer: TransferOptions = field(default_factory=TransferOptions)
    reread: Reread | None = None
    api_key: Secret | None = None
    repository_override: str = ""
    verify_checksums: bool = False
    may_download: bool = True
    prefetch: bool = True
    lora: LoraRequest = field(default_factory=LoraRequest)


@dataclass(frozen=True, slots=True)
class ServicePlan:
    """Everything decided, nothing done: what ``--dry-run`` prints."""

    request: ServeRequest
    listing: Listing
    selection: Selection
    installation: Installation
    machine: Machine
    cache: CacheRoot | None
    transfer: TransferPlan | None
    adapters: AdapterPlan

    @property
    def directory(self) -> Path:
        """What the engine is given: the workspace, or the model's own directory where it is served in place."""
        if self.cache is None:
            return Path(self.listing.model.location)
        return self.cache.workspace_for(self.listing.pinned)

    @property
    def backend(self) -> Backend:
        """The engine family that the chosen profile names."""
        return BACKENDS[self.selection.chosen.profile.backend]

    @property
    def fetch_command(self) -> str:
        """What brings the files of the chosen profile into a cache."""
        return fetch_command(self.listing.model, str(self.request.model), self.selection.chosen.profile.id)

    @property
    def prefetch_bytes(self) -> int:
        """How much of the weights to read ahead: no more than leaves half of the free memory to others."""
        return self.machine.inventory.ram_available_bytes // 2 if self.request.prefetch else 0

    @contextmanager
    def in_use(self) -> Iterator[Announcement | None]:
        """While the model is served from the cache, say so in it; None where nothing can be said."""
        if self.cache is None or not self.cache.is_writable:
            yield None
            return
        self.cache.index.touch(self.listing.model)
        with announced(self.cache.uses_directory, self.listing.model) as use:
            yield use
        self.cache.index.touch(self.listing.model)

    @property
    def wish(self) -> Wish:
        """What is wished of the chosen profile, the flags that the model brings along counted."""
        return self.listing.asked.of_profile(self.selection.chosen.profile)

    @property
    def arguments(self) -> tuple[Argument, ...]:
        """The engine's flags: the model's own, over those the user's; JSON objects merge."""
        own = self.listing.asked.arguments_of(self.selection.chosen.profile)
        return (
            merge_objects((*own, *self.request.user_arguments), self.backend.flags)
            if own
            else self.request.user_arguments
        )

    @property
    def estimated(self) -> tuple[Measurement, ...]:
        """The memory of each of the chosen profile's ranks, as the engine will tell it."""
        return tuple(figures_of(rank) for rank in self.selection.chosen.estimate.ranks)

    @property
    def manifest_yaml(self) -> str:
        """What the manifest says that was named; else the model's own, as :mod:`lading.manifests.write` makes it."""
        if isinstance(self.request.model, ProfileManifest):
            return self.request.model.text
        return manifest_yaml([workspace_of(self.listing, self.listing.manifest)])

    @property
    def calibration_key(self) -> CalibrationKey:
        """For what a measurement of this start counts."""
        profile, options = self.selection.chosen.profile, self.wish.options
        target = target_of(self.machine.inventory, self.installation.version, profile, options)
        return calibration_key(profile, self.listing.facts, target)

    def command(self, directory: Path, endpoint: Endpoint, environ: Mapping[str, str]) -> Command:
        """The engine's command for a workspace at ``directory``."""
        launch = Launch(
            installation=self.installation,
            fit=self.selection.chosen,
            inventory=self.machine.inventory,
            directory=directory,
            served_names=self.request.served_names,
            user_arguments=self.arguments,
            endpoint=endpoint,
            gpu_share=self.wish.options.gpu_share,
            lora=self.adapters.room,
        )
        return self.backend.command(launch, environ)

    def keeper(self, endpoint: Endpoint, runtime: Path, report: Report) -> AdapterKeeper | None:
        """Who keeps the LoRA adapters of the engine at ``endpoint``; None where there are none to keep."""
        request, api = self.request, self.backend.lora_api
        engine = EngineAdapters(endpoint, api, request.lora.api_seconds, request.api_key) if api else None
        rank = request.wish.options.max_lora_rank or 0
        base = Base(engine, self.listing.facts, request.served_names, rank) if engine else None
        return self.adapters.keeper(base, runtime, report)


def plan_service(request: ServeRequest, world: Surroundings, report: Report) -> ServicePlan:
    """Decide what to run and what to fetch. Reads the source or the cache; writes nothing but the cache's layout."""
    machine = world.machine()
    adapters, wish = _plan_adapters(request, machine, world, report)
    request = replace(request, wish=wish)
    how = Consultation(request.refresh, report, request.globs, _rereading(request, adapters))
    scope = Scope((request.wish.profile,) if request.wish.profile else ())
    found = consider(request.model, request.wish, machine=machine, world=world, how=how, scope=scope)
    selection, installation = choose(found.fits, found.wish or request.wish, machine, report)
    listing, cache = found.listing_of(selection.chosen.profile), found.cache
    planned = survey(listing.manifest, listing.source, cache, skipped=listing.skipped) if cache else None
    return ServicePlan(request, listing, selection, installation, machine, cache, planned, adapters)


def _rereading(request: ServeRequest, adapters: AdapterPlan) -> Reread | None:
    """Reads the wish anew, with the room for adapters that there is in the first one too."""
    reread, room = request.reread, adapters.room
    return reread if reread is None or room is None else lambda tokens: with_room(reread(tokens), room)


def _plan_adapters(
    request: ServeRequest, machine: Machine, world: Surroundings, report: Report
) -> tuple[AdapterPlan, Wish]:
    library = Library(world.source_for, world.open_cache, report, request.refresh, request.transfer)
    model = request.model if isinstance(request.model, ModelUri) else None
    api = next((BACKENDS[each.backend].lora_api for each in machine.installations), None)
    return plan_adapters(request.lora, request.wish, library, model=model, api=api)


def fetch(plan: ServicePlan, report: Report, cancelled: threading.Event, use: Announcement | None = None) -> Path:
    """Carry out the plan's transfer and return the model's directory. Idempotent; resumes what an earlier run left.

    ``use`` is told what is served from then on.
    """
    listing, cache = plan.listing, plan.cache
    if cache is None or plan.transfer is None:
        return plan.directory
    report(PhaseChanged(Phase.DOWNLOADING, str(listing.pinned)))
    if plan.request.verify_checksums:
        upkeep.check_again(cache, listing.model, report, unless(cancelled))
    options = replace(plan.request.transfer, may_fetch=plan.request.may_download)
    with bringing(plan.fetch_command):
        verified = transfer(plan.transfer, listing.source, cache, report, cancelled=cancelled, options=options)
    engine = f"{plan.installation.backend} {plan.installation.version}"
    keep_runtime_manifest(cache, listing, verified, [engine], report)
    report(PhaseChanged(Phase.PREPARING, "linking the workspace"))
    directory = build_workspace(plan.directory, cache.store.places_of(verified).items(), report)
    if use:
        use.extend(directory, [entry.digest for entry in verified.files if entry.digest])
    return directory
