"""Serve a model: the gateway first, then resolve, fetch, start, watch, stop (design steps 3 to 14).

:func:`plan_service` decides and changes nothing; :func:`serve` carries the plan out. The gateway answers from before
the first request to a source until after the engine's last process is gone. A signal stops whatever step is under way:
before the model answered the exit code is 128 plus the signal's number, after it the engine's own.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import json
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from lading import __version__
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
from lading.calibrate import keep, listening, told
from lading.candidates import Named, Scope, Surroundings, consider
from lading.errors import EngineFailed, Stopped
from lading.events import Event, Note, Phase, PhaseChanged, Report, both
from lading.gateway.access import Access
from lading.gateway.server import Gateway
from lading.gateway.status import ServiceInfo, ServiceStatus
from lading.hosting.build import build_engine
from lading.manifests.write import manifest_yaml
from lading.model.listed import ProfileManifest
from lading.model.tuned import TunedModel
from lading.plan import Globs, TransferPlan, fetch_command
from lading.prefetch import reading_ahead
from lading.profiles.calibration import Calibration, CalibrationKey
from lading.profiles.correction import figures_of
from lading.profiles.fit import Reread, Wish, calibration_key, target_of
from lading.profiles.measurement import Measurement
from lading.profiles.select import Selection
from lading.recall import Consultation, Refresh, bringing
from lading.resolve import Listing, Machine, choose
from lading.runtime_manifest import keep_runtime_manifest, workspace_of
from lading.secret import Secret
from lading.supervisor.probe import EngineProbe
from lading.supervisor.state import State
from lading.supervisor.supervisor import Outcome, Readiness, Supervisor
from lading.transfer import TransferOptions, survey, transfer, unless
from lading.tuned import plan_local_engine, register_local_engines
from lading.uri import ModelUri
from lading.workspace import build_workspace

T = TypeVar("T")
_CLOSE_SECONDS = 2.0
_CANCEL_SECONDS = 5.0


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


async def serve(request: ServeRequest, world: Surroundings) -> int:
    """Serve until a signal or the engine's end; the process's exit code.

    Raises PortInUse before anything else is done, then whatever a step raises; nothing is left running in any case.
    """
    status = ServiceStatus()
    report = both(world.report, status.report)
    gateway = Gateway(request.access, status, version=__version__, report=report)
    port = await gateway.start()
    report(Note(f"listening on {request.access.url(port)}"))
    if gateway.health_port is not None:
        report(Note(f"health and metrics on port {gateway.health_port} too, over plain HTTP"))
    signals = _Signals()
    runtime = Path(tempfile.mkdtemp(prefix="lading-"))
    try:
        if isinstance(request.model, TunedModel):
            await _build(request.model, request, world, report, signals)
        plan = await _in_thread(lambda: plan_service(request, world, report), signals)
        status.describe(_info(plan))
        with plan.in_use() as use:
            directory = await _in_thread(lambda: fetch(plan, report, signals.cancelled, use), signals)
            endpoint = plan.backend.endpoint(plan.installation, runtime)
            gateway.attach_engine(endpoint)
            inviting = _inviting(report, request, port)
            calibrating = listening(inviting, plan.installation.backend, _calibrate(plan, status, report))
            with plan.keeper(endpoint, runtime, report) or nullcontext() as keeper:
                if keeper:
                    await _in_thread(partial(keeper.prepare, signals.cancelled), signals)
                supervisor = _supervisor(plan, directory, endpoint, world.environ, calibrating, keeper)
                signals.pass_on(_stopping(gateway, supervisor, request.drain_seconds, report), supervisor.kill)
                with reading_ahead(directory, plan.prefetch_bytes, report):
                    outcome = await supervisor.run()
            return _exit_code(outcome, plan.backend, signals)
    finally:
        report(PhaseChanged(Phase.STOPPED))
        await gateway.close(_CLOSE_SECONDS)
        shutil.rmtree(runtime, ignore_errors=True)
        signals.close()


async def _build(
    model: TunedModel, request: ServeRequest, world: Surroundings, report: Report, signals: _Signals
) -> None:
    """Build the engine that is wanted and not there."""
    how = Consultation(request.refresh, report, request.globs)
    wanted = await _in_thread(lambda: plan_local_engine(model, request.wish, world, how), signals)
    if wanted:
        report(PhaseChanged(Phase.PREPARING, f"building the engine {model.name}"))
        await build_engine(wanted.plan, wanted.gpu, world.environ, report, signals)
        await _in_thread(lambda: register_local_engines(wanted.cache_path, report), signals)


def _supervisor(
    plan: ServicePlan,
    directory: Path,
    endpoint: Endpoint,
    environ: Mapping[str, str],
    report: Report,
    keeper: AdapterKeeper | None,
) -> Supervisor:
    command = plan.command(directory, endpoint, environ)
    probe = EngineProbe(endpoint, plan.request.served_names[0], plan.request.api_key)

    def is_ready() -> bool:
        return probe.answers() and (keeper is None or keeper.begin())

    readiness = Readiness(
        is_healthy=lambda: asyncio.to_thread(probe.is_healthy), answers=lambda: asyncio.to_thread(is_ready)
    )
    return Supervisor(
        command,
        readiness,
        phase_of=plan.backend.phase_of,
        grace_seconds=plan.request.stop_seconds,
        report=report,
    )


def _stopping(gateway: Gateway, supervisor: Supervisor, seconds: float, report: Report) -> Callable[[], None]:
    """What the first signal does: a model that answers ends its requests first, then the engine is told."""
    tasks: set[asyncio.Task[None]] = set()

    async def drain() -> None:
        under_way = gateway.requests_under_way
        report(PhaseChanged(Phase.STOPPING, f"requests under way: {under_way}" if under_way else ""))
        try:
            await gateway.drain(seconds)
        finally:
            supervisor.stop()

    def stop() -> None:
        if supervisor.state is State.READY:
            tasks.add(asyncio.create_task(drain()))
        else:
            supervisor.stop()

    return stop


def _inviting(report: Report, request: ServeRequest, port: int) -> Report:
    """``report``, which adds a request to try once the model answers."""

    def invite(event: Event) -> None:
        report(event)
        if isinstance(event, PhaseChanged) and event.phase is Phase.READY:
            body = {"model": request.served_names[0], "messages": [{"role": "user", "content": "What is Lading?"}]}
            url = f"{request.access.url(port, 'localhost')}/v1/chat/completions"
            report(Note(f"try: curl {url} -H 'Content-Type: application/json' -d '{json.dumps(body)}'"))

    return invite


def _calibrate(plan: ServicePlan, status: ServiceStatus, report: Report) -> Callable[[tuple[Measurement, ...]], None]:
    """What to do with the memory that the engine measured: show it, compare it, keep it where the cache takes it."""

    def conclude(ranks: tuple[Measurement, ...]) -> None:
        found = Calibration(plan.calibration_key, ranks, plan.estimated, int(time.time()))
        calibrations = plan.cache.calibrations if plan.cache and plan.cache.is_writable else None
        status.describe(replace(status.snapshot().info, measured_memory=ranks))
        for note in told(found, calibrations.path_of(found.key) if calibrations else None):
            report(note)
        if calibrations:
            keep(found, calibrations, report)

    return conclude


def _exit_code(outcome: Outcome, backend: Backend, signals: _Signals) -> int:
    """The engine's own code once the model has answered; before that, or when it ended by itself, an error."""
    if outcome.state is State.STOPPED:
        if not outcome.was_ready and signals.number:
            raise Stopped(signals.number)
        return outcome.exit_code
    if outcome.was_ready and outcome.exit_code:
        return outcome.exit_code
    cause = backend.explain(outcome.tail)
    when = "while it was serving" if outcome.was_ready else "before the model answered"
    message = f"the engine ended {when} (exit code {outcome.exit_code})"
    raise EngineFailed(
        f"{message}: {cause.message}" if cause else message,
        remedy=(cause.remedy if cause else None) or "its output above says more; NIM_LOG_LEVEL=DEBUG shows all of it",
    )


def _info(plan: ServicePlan) -> ServiceInfo:
    chosen, listing = plan.selection.chosen, plan.listing
    return ServiceInfo(
        served_names=plan.request.served_names,
        source=str(listing.model),
        revision=listing.manifest.revision,
        manifest_yaml=plan.manifest_yaml,
        profile_id=chosen.profile.id,
        profile_name=chosen.profile.name,
        profile_reason=plan.selection.reason,
        backend=plan.installation.backend,
        backend_version=plan.installation.version,
        estimate_bytes=chosen.needed_bytes,
        estimated_memory=plan.estimated,
        repository_override=plan.request.repository_override,
    )


class _Signals:
    """TERM and INT, turned into a request to stop: the step under way is cancelled, a second signal does not wait."""

    def __init__(self) -> None:
        self.number = 0
        self.cancelled = threading.Event()
        self.received = asyncio.Event()
        self._stop: Callable[[], None] = lambda: None
        self._kill: Callable[[], None] = lambda: None
        self._loop = asyncio.get_running_loop()
        for each in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(each, self._on_signal, each)

    def pass_on(self, stop: Callable[[], None], kill: Callable[[], None]) -> None:
        """From now on the first signal calls ``stop``, a later one ``kill``; a signal that came before counts."""
        self._stop, self._kill = stop, kill
        if self.number:
            stop()

    def close(self) -> None:
        """Give the signals back."""
        for each in (signal.SIGTERM, signal.SIGINT):
            self._loop.remove_signal_handler(each)

    def _on_signal(self, number: int) -> None:
        if self.number:
            self._kill()
            return
        self.number = number
        self.cancelled.set()
        self.received.set()
        self._stop()


async def _in_thread(work: Callable[[], T], signals: _Signals) -> T:
    """The result of ``work``, done in a thread of its own so that the gateway answers meanwhile.

    A signal raises Stopped: the work gets :data:`_CANCEL_SECONDS` to notice that it was cancelled, and is then left
    behind in its daemon thread, since a request to a dead host cannot be interrupted.
    """
    outcome: concurrent.futures.Future[T] = concurrent.futures.Future()

    def run() -> None:
        try:
            outcome.set_result(work())
        except BaseException as error:  # noqa: BLE001  # carried to the caller, whatever it is
            outcome.set_exception(error)

    threading.Thread(target=run, name="serve", daemon=True).start()
    future = asyncio.wrap_future(outcome)
    stopped = asyncio.create_task(signals.received.wait())
    either: list[asyncio.Future[Any]] = [future, stopped]
    await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    if signals.number:
        await asyncio.wait([future], timeout=_CANCEL_SECONDS)
        if future.done():
            future.exception()  # looked at, so that asyncio does not complain of it
        raise Stopped(signals.number)
    return await future
