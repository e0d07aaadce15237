"""``lading bundle``: what was asked is read, one use case called."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from lading.cli import render_bundle
from lading.cli.commands import Session, cancelled_by_signal, opened_cache
from lading.cli.named import model_at, what_is_named
from lading.errors import Stopped, UsageError
from lading.units import parse_bytes
from lading.uri import ModelUri

if TYPE_CHECKING:
    from lading.cache.disk import Check
    from lading.cache.root import CacheRoot


def run(options: argparse.Namespace, session: Session) -> int:
    """The action that the command line named."""
    if options.model_cache_path:
        session = replace(session, settings=replace(session.settings, cache_path=_path(options.model_cache_path)))
    cache = opened_cache(session)
    return _create(cache, options, session) if options.action == "create" else _import(cache, options, session)


def _create(cache: CacheRoot, options: argparse.Namespace, session: Session) -> int:
    from lading.bundle.create import choose_models, create_bundle, plan_create

    models = choose_models(cache, _models(options, cache, session), session.report)
    plan = plan_create(
        models,
        _path(options.file),
        volume_bytes=_volume_bytes(options.volume_size),
        sign_key=_path(options.sign_key) if options.sign_key else None,
    )
    if options.dry_run:
        sys.stdout.write((render_bundle.create_plan_json if options.json else render_bundle.create_plan)(plan))
        return 0
    with _checking() as check:
        done = create_bundle(plan, cache, session.report, check)
    sys.stdout.write((render_bundle.created_json if options.json else render_bundle.created)(done))
    return 0


def _import(cache: CacheRoot, options: argparse.Namespace, session: Session) -> int:
    from lading.bundle.archive import find_volumes, open_bundle
    from lading.bundle.intake import ImportOptions, import_bundle, plan_import

    asked = ImportOptions(
        verify_key=_path(options.verify_key) if options.verify_key else None,
        replace=options.replace,
        verify_cached=options.verify_checksums,
    )
    volumes = find_volumes(_path(options.file), [_path(each) for each in options.elsewhere])
    with open_bundle(volumes) as bundle, _checking() as check:
        plan = plan_import(bundle, cache, asked, session.report, check)
        if options.dry_run:
            render = render_bundle.import_plan_json if options.json else render_bundle.import_plan
            sys.stdout.write(render(plan, cache))
            return 0
        done = import_bundle(plan, cache, session.report, check)
    sys.stdout.write((render_bundle.imported_json if options.json else render_bundle.imported)(done, cache))
    return 0


def _models(options: argparse.Namespace, cache: CacheRoot, session: Session) -> list[ModelUri]:
    """The models that were named, of a manifest those that the cache has complete; none where all are meant."""
    if options.all and options.models:
        raise UsageError("--all and the name of a model exclude each other", remedy="give one of them")
    if options.all:
        return []
    if options.models:
        return [model_at(each) for each in options.models]
    named = what_is_named(None, session.settings, remedy="lading bundle create FILE hf://ORG/MODEL, or --all")
    if isinstance(named, ModelUri):
        return [named]
    entries = [(each, cache.index.load(each)) for each in named.workspaces]
    return [each for each, entry in entries if entry and entry.is_complete] or list(named.workspaces)


def _volume_bytes(text: str | None) -> int | None:
    try:
        return None if text is None else parse_bytes(text)
    except ValueError:
        raise UsageError(f"--volume-size {text} is no size", remedy="write it as 4GB, 650MB or 25GiB") from None


def _path(text: str) -> Path:
    return Path(text).expanduser().absolute()


@contextmanager
def _checking() -> Iterator[Check]:
    """A check that raises Stopped once a signal came."""
    with cancelled_by_signal() as cancelled:

        def check() -> None:
            if cancelled.is_set():
                raise Stopped(cancelled.number)

        yield check
