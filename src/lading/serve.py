"""Serve a model: the gateway first, then resolve, fetch, start, watch, stop (design steps 3 to 14).

:mod:`lading.service` decides and fetches, :func:`serve` runs it. The gateway answers from before the first request to a
source until after the engine's last process is gone. A signal stops whatever step is under way:
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
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from lading import __version__
from lading.adapters.keeper import AdapterKeeper
from lading.backends.interface import Backend, Endpoint
from lading.calibrate import keep, listening, told
from lading.candidates import Surroundings
from lading.errors import EngineFailed, Stopped
from lading.events import Event, Note, Phase, PhaseChanged, Report, both
from lading.gateway.server import Gateway
from lading.gateway.status import ServiceInfo, ServiceStatus
from lading.hosting.build import build_engine
from lading.model.tuned import TunedModel
from lading.prefetch import reading_ahead
from lading.profiles.calibration import Calibration
from lading.profiles.measurement import Measurement
from lading.recall import Consultation
from lading.service import ServeRequest, ServicePlan, fetch, plan_service
from lading.supervisor.probe import EngineProbe
from lading.supervisor.state import State
from lading.supervisor.supervisor import Outcome, Readiness, Supervisor
from lading.tuned import plan_local_engine, register_local_engines

T = TypeVar("T")
_CLOSE_SECONDS = 2.0
_CANCEL_SECONDS = 5.0


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
