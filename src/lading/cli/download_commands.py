"""``download-to-cache``, ``download-model``, ``create-model-store``: what was asked is read, one use case called."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from lading.backends.members import BACKENDS
from lading.cli.commands import (
    Session,
    arguments_of,
    cancelled_by_signal,
    globs_of,
    rereading,
    surroundings_of,
)
from lading.cli.engine_choice import DEFAULT_FAMILY, SpokenEngine
from lading.cli.named import what_is_named
from lading.cli.parser import DOWNLOAD, HUGGING_FACE, STORE, TO_CACHE, command_line
from lading.cli.transfer_settings import transfer_options
from lading.errors import Stopped, UsageError
from lading.events import Note

if TYPE_CHECKING:
    from lading.download import DownloadRequest
    from lading.profiles.fit import Reread


_CACHE_IN_STORE = ".lading-cache"
_NAME_IT = "--model-uri hf://ORG/MODEL, or set NIM_MODEL_PATH"


def run(options: argparse.Namespace, session: Session) -> int:
    """The command that the command line named."""
    if options.command == HUGGING_FACE:
        options = _as_store(options)
    session = with_cache(options, session)
    return bring(request_of(options, session), session, dry_run=options.dry_run, as_json=options.json)


def bring(request: DownloadRequest, session: Session, *, dry_run: bool, as_json: bool) -> int:
    """Carry out the request, or print what it would do."""
    from lading.cli import render_download
    from lading.download import download, plan_download
    from lading.transfer import TransferCancelled

    plan = plan_download(request, surroundings_of(session))
    if dry_run:
        sys.stdout.write((render_download.plan_json if as_json else render_download.plan)(plan))
        return 0
    with cancelled_by_signal() as cancelled:
        try:
            done = download(plan, session.report, cancelled)
        except TransferCancelled:
            raise Stopped(cancelled.number) from None
    sys.stdout.write((render_download.done_json if as_json else render_download.done)(done))
    return 0


def _as_store(options: argparse.Namespace) -> argparse.Namespace:
    """What ``huggingface-cli download`` asks for, as ``create-model-store`` would be asked."""
    revision = f":{options.revision}" if options.revision else ""
    arguments = [STORE, "--model-repo", f"hf://{options.repository}{revision}", "--model-store", options.local_dir]
    return command_line().parse_args(arguments)


def with_cache(options: argparse.Namespace, session: Session) -> Session:
    """The session with the cache that the command line names.

    A model store in the cache's own place, as the NIM Operator asks for it, has the cache in a hidden folder: links
    between the two take no room, and who serves the directory sees the model alone.
    """
    cache = _directory(options.model_cache_path) if options.model_cache_path else session.settings.cache_path
    store = _directory(options.model_store) if options.command == STORE else None
    if cache and store and cache.resolve() == store.resolve():
        cache = store / _CACHE_IN_STORE
        session.report(Note(f"the model store is where the cache would be: the cache is {cache}"))
    return replace(session, settings=replace(session.settings, cache_path=cache))


def request_of(options: argparse.Namespace, session: Session) -> DownloadRequest:
    """What is to be brought here, by command line and settings."""
    from lading.download import DownloadRequest, Extent, Output

    settings = session.settings
    model = _model(options)
    named_file = _directory(options.manifest_file) if options.manifest_file else None
    profiles, reread = _profiles(options), _reading(session)
    extent = Extent.SELECTED
    if options.command == TO_CACHE:
        _refuse_conflicts(options, profiles)
        extent = Extent.ALL if options.all else Extent.LORA if options.lora else extent
    directory = {DOWNLOAD: "workspace_path", STORE: "model_store"}.get(options.command)
    place = getattr(options, directory) if directory else None
    output = Output.STORE if place else Output.WORKSPACE if options.command == DOWNLOAD else Output.CACHE
    return DownloadRequest(
        model=what_is_named(model, settings, named_file, remedy=_NAME_IT),
        wish=reread(()),
        reread=reread,
        profiles=profiles,
        extent=extent,
        output=output,
        directory=_directory(place) if place else None,
        manifest_file=named_file if model else None,
        use_cache=options.use_cache,
        verify_cached=bool(options.verify_checksums),
        globs=globs_of(settings),
        transfer=transfer_options(settings),
    )


def _model(options: argparse.Namespace) -> str | None:
    """The model's location on the command line, None where there is none; raises UsageError where two are named."""
    repo: str | None = options.model_repo if options.command == STORE else None
    if repo and options.model_uri and repo != options.model_uri:
        raise UsageError(f"two models are named: {repo} and {options.model_uri}", remedy="name one")
    named: str | None = options.model_uri or repo
    return named


def _profiles(options: argparse.Namespace) -> tuple[str, ...]:
    """The profiles that were named. A text without a space may name several, joined by commas."""
    if options.command == STORE:
        if not (options.profile or options.model_repo):
            raise UsageError(
                "create-model-store: no profile was named",
                remedy="--profile PROFILE, by its id or its name; `lading list-model-profiles` shows them",
            )
        return (options.profile,) if options.profile else ()
    texts: Sequence[str] = options.profiles
    parts = [part for text in texts for part in ([text] if " " in text.strip() else text.split(","))]
    return tuple(part.strip() for part in parts if part.strip())


def _refuse_conflicts(options: argparse.Namespace, profiles: tuple[str, ...]) -> None:
    given = [
        name
        for name, is_given in (("--all", options.all), ("--profiles", bool(profiles)), ("--lora", options.lora))
        if is_given
    ]
    if len(given) > 1:
        raise UsageError(f"{' and '.join(given)} exclude each other", remedy="give one of them")


def _directory(text: str) -> Path:
    return Path(text).expanduser().absolute()


def _reading(session: Session) -> Reread:
    """Reads what the settings ask of the engine, as serving does."""
    engine = SpokenEngine(BACKENDS[session.settings.backend or DEFAULT_FAMILY])
    return rereading(arguments_of(session.settings, (), engine), engine, session)
