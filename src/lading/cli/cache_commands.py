"""``lading cache``: what the cache holds, whether it is right, and making room in it."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from lading.cache import upkeep
from lading.cli import render_cache
from lading.cli.commands import Session, cancelled_by_signal, opened_cache
from lading.errors import DigestMismatch, Stopped, UsageError
from lading.units import parse_seconds
from lading.uri import ModelUri

if TYPE_CHECKING:
    from lading.cache.root import CacheRoot


def run(options: argparse.Namespace, session: Session) -> int:
    """The action that the command line named."""
    cache = opened_cache(session)
    match options.action:
        case "list":
            return _list(cache, session, as_json=options.json)
        case "verify":
            return _verify(cache, options, session)
        case "gc":
            return _collect(cache, options, session)
        case _:
            done = upkeep.remove(cache, ModelUri.parse(options.model), session.report, dry_run=options.dry_run)
            render = render_cache.cleaned_json if options.json else render_cache.cleaned
            sys.stdout.write(render(done, dry_run=options.dry_run))
            return 0


def _list(cache: CacheRoot, session: Session, *, as_json: bool) -> int:
    found = upkeep.contents(cache, session.report)
    render = render_cache.contents_json if as_json else render_cache.contents
    sys.stdout.write(render(found, cache))
    return 0


def _verify(cache: CacheRoot, options: argparse.Namespace, session: Session) -> int:
    uri = ModelUri.parse(options.model) if options.model else None
    with cancelled_by_signal() as cancelled:

        def check() -> None:
            if cancelled.is_set():
                raise Stopped(cancelled.number)

        found = upkeep.verify(cache, uri, session.report, check, dry_run=options.dry_run)
    sys.stdout.write(render_cache.verdict_json(found) if options.json else render_cache.verdict(found))
    sys.stdout.flush()
    if found.damaged:
        raise DigestMismatch(
            f"{len(found.damaged)} of {found.blobs} files in the cache do not have the bytes that were fetched",
            remedy=_after_damage(found, cache),
        )
    return 0


def _after_damage(found: upkeep.Verdict, cache: CacheRoot) -> str:
    if found.removed:
        return "they were removed and are fetched again when a model needs them; check the disk"
    if cache.is_writable:
        return "`lading cache verify` without --dry-run removes them, to be fetched again; check the disk"
    return "this cache is not writable: verify it where it is, to have them removed; check the disk"


def _collect(cache: CacheRoot, options: argparse.Namespace, session: Session) -> int:
    unused_seconds = None
    if options.unused_for is not None:
        try:
            unused_seconds = parse_seconds(options.unused_for)
        except ValueError:
            raise UsageError(
                f"--unused-for {options.unused_for} is no time", remedy="write it as 30d, 12h, 15m or 2w"
            ) from None
    done = upkeep.collect(cache, session.report, unused_seconds=unused_seconds, dry_run=options.dry_run)
    render = render_cache.cleaned_json if options.json else render_cache.cleaned
    sys.stdout.write(render(done, dry_run=options.dry_run))
    return 0
