"""``mirror {s3,gcs}``: bring a model here, then copy it into a bucket; each of the two planned before it is done."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

from lading.cli.commands import Session, cancelled_by_signal, surroundings_of
from lading.cli.download_commands import request_of, with_cache
from lading.cli.transfer_settings import transfer_options
from lading.errors import Stopped
from lading.events import Note, Report
from lading.uri import ModelUri, Scheme

if TYPE_CHECKING:
    from lading.cache.root import CacheRoot
    from lading.download import Downloaded, DownloadPlan, Portion
    from lading.mirror import MirroredFile

_SCHEMES = {"s3": Scheme.S3, "gcs": Scheme.GS}


def run(options: argparse.Namespace, session: Session) -> int:
    """The command that the command line named."""
    from lading.cli import render_mirror
    from lading.download import download, plan_download
    from lading.mirror import mirror, require_ngc, survey_mirror
    from lading.sources import destination_for
    from lading.sources.upload import bucket_location
    from lading.transfer import TransferCancelled, unless

    session = with_cache(options, session)
    place = bucket_location(_SCHEMES[options.kind], options.bucket)
    request = request_of(options, session)
    if isinstance(request.model, ModelUri):
        require_ngc(request.model)
    destination = destination_for(place, session.settings, session.report)
    planned = plan_download(request, surroundings_of(session))
    wanted = _of_ngc(_files_ahead(planned), session.report)
    ahead = survey_mirror(wanted, destination)  # so that a bucket that is not there costs no download
    if options.dry_run:
        sys.stdout.write((render_mirror.plan_json if options.json else render_mirror.plan)(planned, ahead))
        return 0
    with cancelled_by_signal() as cancelled:
        try:
            got = download(planned, session.report, cancelled)
            now = survey_mirror(_of_ngc(_files_here(got)), destination, check=unless(cancelled))
            settings = transfer_options(session.settings)
            done = mirror(now, destination, session.report, cancelled=cancelled, options=settings)
        except TransferCancelled:
            raise Stopped(cancelled.number) from None
    sys.stdout.write((render_mirror.done_json if options.json else render_mirror.done)(got, done))
    return 0


def _files_ahead(planned: DownloadPlan) -> list[MirroredFile]:
    """The files as far as they are known before they are brought here: by what is promised, or is here."""
    return [file for each in planned.portions for file in _of_portion(each, planned.cache)]


def _of_portion(portion: Portion, cache: CacheRoot | None) -> list[MirroredFile]:
    from lading.mirror import mirrored_files
    from lading.plan import Step

    manifest, transfer = portion.listing.manifest, portion.transfer
    here = {each.entry.path: each.digest for each in transfer.of_step(Step.PRESENT)} if transfer else {}
    files = tuple(replace(each, digest=here.get(each.path) or each.digest) for each in manifest.files)
    known = {path: digest for path, digest in here.items() if digest}
    places = {path: cache.store.path_of(digest) for path, digest in known.items()} if cache else {}
    return mirrored_files(replace(manifest, files=files), places)


def _files_here(got: Downloaded) -> list[MirroredFile]:
    """The files with the digests and the blobs that they have now."""
    from lading.mirror import mirrored_files

    cache = got.plan.cache
    return [
        file
        for each in got.brought
        for file in mirrored_files(each.manifest, cache.store.places_of(each.manifest) if cache else {})
    ]


def _of_ngc(files: Iterable[MirroredFile], report: Report | None = None) -> list[MirroredFile]:
    """The files of NGC, each name once; ``report`` is told of the others, which are served from where they are.

    Raises UsageError where there are none of NGC.
    """
    from lading.mirror import require_ngc

    wanted: dict[str, MirroredFile] = {}
    others: dict[ModelUri, int] = {}
    for each in files:
        if each.entry.uri.scheme is Scheme.NGC:
            wanted.setdefault(each.name, each)
        else:
            others[each.entry.uri.model] = others.get(each.entry.uri.model, 0) + 1
    for model, count in others.items():
        if not wanted:
            require_ngc(model)
        if report:
            report(Note(f"{count} files of {model} are not on NGC and stay where they are", "WARNING"))
    return list(wanted.values())
