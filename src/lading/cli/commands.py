"""The commands: each wires what it needs from settings and command line and calls one use case."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shlex
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from lading.backends.environment import EngineEnvironments
from lading.backends.interface import Argument, Installation
from lading.backends.json_arguments import merge_objects
from lading.backends.members import BACKENDS
from lading.cli.engine_choice import SpokenEngine, of_one_family, require_asked
from lading.cli.gateway_settings import access_of
from lading.cli.named import model_named, served_names, what_is_served
from lading.cli.own_flags import OwnFlag
from lading.cli.portable_knobs import knob_arguments
from lading.cli.serve_arguments import ServeArguments
from lading.cli.transfer_settings import transfer_options
from lading.errors import UsageError
from lading.events import Note, Report
from lading.model.lora import rank_room
from lading.model.tuned import TunedModel
from lading.plan import Globs
from lading.settings import Settings
from lading.settings_table import DEFAULT_CACHE_PATH
from lading.uri import Scheme

if TYPE_CHECKING:
    from lading.adapters.request import LoraRequest
    from lading.cache.root import CacheRoot
    from lading.candidates import Surroundings
    from lading.hardware.inventory import Device, Inventory
    from lading.profiles.fit import Reread, Wish
    from lading.recall import Refresh
    from lading.resolve import Machine
    from lading.service import ServeRequest

CPU_ENGINE = "vllm-cpu"
_ANY_LENGTH = ("VLLM_ALLOW_LONG_MAX_MODEL_LEN", "SGLANG_ALLOW_OVERWRITE_LONGER_CONTEXT_LEN")
_TRUE = ("1", "true", "True")


@dataclass(frozen=True, slots=True)
class Session:
    """What every command is given: settings, the environment they were read from, and where to report."""

    settings: Settings
    environ: Mapping[str, str]
    report: Report


def serve(tokens: Sequence[str], session: Session) -> int:
    """``lading serve [MODEL] [flags]``."""
    from lading.serve import serve as run
    from lading.service import plan_service

    found = found_installations(session)
    require_asked(found, session.settings.backend)
    installations = of_one_family(found, session.settings.backend, lambda: _probe(session).device)
    engine = SpokenEngine.of(installations)
    arguments = ServeArguments.parse(tokens, engine.backend)
    session = _with_flags(session, arguments.flags)
    request = _serve_request(arguments, session, engine)
    world = surroundings_of(session, installations)
    if OwnFlag.DRY_RUN in arguments.flags:
        from lading.cli.render import render_service_plan

        _foretell_build(request, world)
        sys.stdout.write(render_service_plan(plan_service(request, world, session.report), session.environ))
        return 0
    return asyncio.run(run(request, world))


def _foretell_build(request: ServeRequest, world: Surroundings) -> None:
    """Say of a fine-tuned checkpoint that a start would build an engine of it first, where it would."""
    if isinstance(request.model, TunedModel):
        from lading.recall import Consultation
        from lading.tuned import plan_local_engine

        how = Consultation(request.refresh, world.report, request.globs)
        if wanted := plan_local_engine(request.model, request.wish, world, how):
            world.report(Note(f"a start builds the engine {request.model.name} first, into {wanted.plan.output}"))


def inventory(gpus: str | None, *, as_json: bool, session: Session) -> int:
    """``lading inventory``: this machine, or the one that ``gpus`` describes."""
    from lading.cli.render import render_inventory, render_inventory_json
    from lading.hardware.catalogue import described
    from lading.hardware.probe import probe

    found = described(gpus) if gpus else probe(session.environ)
    sys.stdout.write((render_inventory_json if as_json else render_inventory)(found))
    return 0


def doctor(model: str | None, *, as_json: bool, session: Session) -> int:
    """``lading doctor [MODEL]``: the findings on standard output, then the fault, if any, as any command's."""
    from lading.cli.render_doctor import Surroundings as Around
    from lading.cli.render_doctor import render_diagnosis, render_diagnosis_json
    from lading.doctor import examine
    from lading.sources import about_source, source_for
    from lading.sources.member import Context
    from lading.sources.proxy import proxy_for

    uri = model_named(model, session.settings)
    found = examine(uri, source_for(uri, session.settings, session.report))
    network = Context(session.settings, session.report).network
    proxy = proxy_for(found.access.endpoint, network.proxies) if found.access else None
    override = session.settings.repository_override if uri.scheme is Scheme.NGC else None
    around = Around(about_source(uri, session.settings), override, proxy, network.ca_bundle)
    sys.stdout.write((render_diagnosis_json if as_json else render_diagnosis)(found, around))
    sys.stdout.flush()
    if found.fault:
        raise found.fault
    return 0


def engine_install(*, dry_run: bool, session: Session) -> int:
    """``lading engine install``."""
    from lading.cli.render import render_install_plan

    engines = _engines(session.settings, session.environ)
    if dry_run:
        sys.stdout.write(render_install_plan(engines.plan(CPU_ENGINE)))
        return 0
    with cancelled_by_signal() as cancelled:
        environment = engines.install(CPU_ENGINE, session.report, cancelled)
    sys.stdout.write(f"{environment.path}\n")
    return 0


def engine_list(session: Session) -> int:
    """``lading engine list``."""
    from lading.cli.render import render_engines

    found = found_installations(session)
    sys.stdout.write(render_engines(_engines(session.settings, session.environ).installed(), found))
    return 0


def engine_path(session: Session) -> int:
    """``lading engine path``."""
    from lading.errors import EngineNotInstalled

    found = _engines(session.settings, session.environ).find(CPU_ENGINE)
    if found is None:
        raise EngineNotInstalled("Lading's CPU engine is not installed", remedy="lading engine install")
    sys.stdout.write(f"{found.path}\n")
    return 0


def engine_remove(*, dry_run: bool, session: Session) -> int:
    """``lading engine remove``."""
    from lading.units import format_bytes

    engines = _engines(session.settings, session.environ)
    if dry_run:
        found = engines.removable(CPU_ENGINE)
        lines = [f"would remove {path}: {format_bytes(size_bytes)}\n" for path, size_bytes in found.items()]
        sys.stdout.write("".join([*lines, f"{format_bytes(sum(found.values()))} would be freed\n"]))
        return 0
    freed = engines.remove(CPU_ENGINE)
    sys.stdout.write(f"removed, {format_bytes(freed)} freed\n")
    return 0


class Cancellation(threading.Event):
    """An event that a signal sets; ``number`` is the signal's, 0 before."""

    number = 0

    def by(self, number: int, _frame: object) -> None:
        """A handler for signals."""
        self.number = number
        self.set()


@contextlib.contextmanager
def cancelled_by_signal() -> Iterator[Cancellation]:
    """An event that TERM or INT sets while the block runs."""
    cancelled = Cancellation()
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = {number: signal.signal(number, cancelled.by) for number in numbers}
    try:
        yield cancelled
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def show_settings() -> int:
    """``lading settings``."""
    from lading.cli.render import render_settings

    sys.stdout.write(render_settings())
    return 0


def _serve_request(arguments: ServeArguments, session: Session, engine: SpokenEngine) -> ServeRequest:
    """Command line over ``NIM_PASSTHROUGH_ARGS`` over ``NIM_*`` over what follows from the model."""
    from lading.service import ServeRequest

    settings = session.settings
    asked = arguments_of(settings, arguments.engine_tokens, engine)
    flags = engine.backend.read_flags([token for each in asked for token in each.tokens])
    named = what_is_served(arguments.model, settings)
    names = flags.served_names or served_names(named, settings)
    if len(names) > 1 and not engine.backend.has_many_names:
        raise UsageError(
            f"{engine.backend.name} serves a model by one name, and {len(names)} were given: {', '.join(names)}",
            remedy=f"NIM_SERVED_MODEL_NAME={names[0]}",
        )
    return ServeRequest(
        model=named,
        served_names=names,
        wish=whole_wish(flags.wish, session),
        user_arguments=asked,
        access=access_of(settings, flags.host, flags.port),
        drain_seconds=settings.drain_seconds,
        stop_seconds=settings.stop_seconds,
        refresh=refresh_of(settings, demanded=OwnFlag.REFRESH in arguments.flags),
        globs=globs_of(settings),
        transfer=transfer_options(settings),
        reread=rereading(asked, engine, session),
        api_key=flags.api_key,
        repository_override=settings.repository_override or "",
        verify_checksums=OwnFlag.VERIFY in arguments.flags,
        may_download=not settings.disable_download,
        prefetch=settings.prefetch,
        lora=_lora_request(settings),
    )


def _lora_request(settings: Settings) -> LoraRequest:
    """What the settings ask of LoRA adapters; an interval of 0 means that they are not watched."""
    from lading.adapters.request import LoraRequest, parse_sources

    return LoraRequest(
        sources=parse_sources(settings.peft_source),
        refresh_seconds=settings.peft_refresh_seconds or None,
        api_seconds=settings.peft_api_seconds,
        max_rank=settings.max_lora_rank,
        gpu_loras=settings.max_gpu_loras,
        cpu_loras=settings.max_cpu_loras,
    )


def rereading(asked: Sequence[Argument], engine: SpokenEngine, session: Session) -> Reread:
    """Makes the wish of what the user ``asked``, and of flags that count less: those that a model brings along."""

    def reread(tokens: Sequence[str]) -> Wish:
        users = [token for each in asked for token in each.tokens]
        return whole_wish(engine.backend.read_flags([*tokens, *users]).wish, session)

    return reread


def whole_wish(flags: Wish, session: Session) -> Wish:
    """What flags ask for, with the profile that the settings name and what the environment lets engines do."""
    stretched = flags.any_length or any(session.environ.get(name, "") in _TRUE for name in _ANY_LENGTH)
    settings, options = session.settings, replace(flags.options, gpu_share=session.settings.gpu_mem_fraction)
    lora = flags.lora or bool(settings.peft_source.strip())
    if lora:
        rank = settings.max_lora_rank and rank_room(settings.max_lora_rank)
        slots = options.max_loras or settings.max_gpu_loras
        options = replace(options, max_lora_rank=options.max_lora_rank or rank, max_loras=slots)
    return replace(flags, profile=settings.model_profile, lora=lora, any_length=stretched, options=options)


def refresh_of(settings: Settings, *, demanded: bool) -> Refresh:
    """When sources are asked for what the cache has, by the settings; ``demanded`` on the command line, now."""
    from lading.recall import Refresh

    return Refresh.DEMANDED if demanded else Refresh[settings.refresh.upper()]


def globs_of(settings: Settings) -> Globs:
    """Which files the settings include and exclude."""
    return Globs.parse(settings.include, settings.exclude)


def arguments_of(settings: Settings, tokens: Sequence[str], engine: SpokenEngine) -> tuple[Argument, ...]:
    """All that the user asked of ``engine``, least important first: the last wins, JSON objects merge."""
    asked = (
        *knob_arguments(settings, engine),
        Argument(tuple(_shell_words(settings.passthrough_args)), "NIM_PASSTHROUGH_ARGS"),
        Argument(tuple(tokens), "command line"),
    )
    return merge_objects(asked, engine.backend.flags)


def _shell_words(text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError as error:
        raise UsageError(
            f"NIM_PASSTHROUGH_ARGS cannot be split into words: {error}", remedy="close its quotes"
        ) from None


def _with_flags(session: Session, flags: frozenset[OwnFlag]) -> Session:
    if OwnFlag.OFFLINE in flags:
        return replace(session, settings=replace(session.settings, offline=True))
    return session


def opened_cache(session: Session) -> CacheRoot:
    """The cache that the settings name, or the default one."""
    from lading.cache.root import Probe, open_cache

    return open_cache(
        session.settings.cache_path,
        default=Path(DEFAULT_CACHE_PATH),
        fallback=_user_directory(session.environ, "XDG_CACHE_HOME", ".cache"),
        report=session.report,
        probe=Probe(session.settings.cache_probe_seconds),
    )


def surroundings_of(session: Session, installations: Sequence[Installation] | None = None) -> Surroundings:
    """What use cases need of the world, as the settings say. ``installations`` None: looked for when needed."""
    from lading.candidates import Surroundings
    from lading.sources import source_for

    settings = session.settings.without_secrets() if session.settings.offline else session.settings
    return Surroundings(
        source_for=lambda uri, report: source_for(uri, settings, report),
        open_cache=lambda: opened_cache(session),
        machine=lambda: _machine(session, installations),
        environ=session.environ,
        report=session.report,
    )


def _machine(session: Session, installations: Sequence[Installation] | None) -> Machine:
    from lading.resolve import Machine

    inventory = _probe(session)
    if installations is None:
        found = found_installations(session)
        installations = of_one_family(found, session.settings.backend, lambda: inventory.device)
    return Machine(inventory, tuple(installations))


def _probe(session: Session) -> Inventory:
    from lading.hardware.probe import probe

    return probe(session.environ)


def family_here(settings: Settings, environ: Mapping[str, str], device: Callable[[], Device]) -> str:
    """The engine that flags are written for where none is named: the one asked for, else the one used here."""
    if settings.backend:
        return settings.backend
    return SpokenEngine.of(of_one_family(_installations(settings, environ), None, device)).backend.name


def found_installations(session: Session) -> list[Installation]:
    """The engines of this machine, those of the family that is preferred first."""
    return _installations(session.settings, session.environ)


def _installations(settings: Settings, environ: Mapping[str, str]) -> list[Installation]:
    engines = _engines(settings, environ)
    search_path = environ.get("PATH", os.defpath)
    return [found for backend in BACKENDS.values() for found in backend.installations(search_path, engines)]


def _engines(settings: Settings, environ: Mapping[str, str]) -> EngineEnvironments:
    root = settings.data_path or _user_directory(environ, "XDG_DATA_HOME", ".local/share")
    return EngineEnvironments(root / "engines", environ=environ, offline=settings.offline)


def _user_directory(environ: Mapping[str, str], variable: str, below_home: str) -> Path:
    """``$variable/lading``, else below the home directory (XDG Base Directory Specification), else a temporary one."""
    if base := environ.get(variable):
        return Path(base) / "lading"
    try:
        return Path.home() / below_home / "lading"
    except RuntimeError:  # no HOME, and a user id without an entry, as containers may have it
        return Path(tempfile.gettempdir()) / f"lading-{os.getuid()}"
