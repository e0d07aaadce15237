"""The sources: one port (``interface.py``), one file per member, one mapping.

A new source is one file with the two names of :class:`~lading.sources.member.Member`, one line in :data:`_MEMBERS`,
one test file. ``docs/sources.md`` is generated from what the members say of themselves.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, cast

from lading.errors import UsageError
from lading.events import Report, ignore
from lading.settings import Settings
from lading.sources.interface import Source
from lading.uri import ModelUri, Scheme

if TYPE_CHECKING:
    from lading.sources.member import About, Member, WrittenMember
    from lading.sources.upload import Destination


def source_for(uri: ModelUri, settings: Settings, report: Report = ignore) -> Source:
    """The source that ``uri`` is read from, connected to nothing yet.

    Raises UsageError for credentials, endpoints or an override that cannot be used.
    """
    from lading.sources.member import Context

    context = Context(settings, report)
    if uri.scheme is Scheme.MANIFEST:
        from lading.sources.listed import ListedSource

        return ListedSource((), lambda place: source_for(place, settings, report))
    if uri.scheme is Scheme.NGC and settings.repository_override:
        from lading.sources import override

        return override.connect(context, lambda place: _member(place.scheme).connect(context))
    return _member(uri.scheme).connect(context)


def destination_for(place: ModelUri, settings: Settings, report: Report = ignore) -> Destination:
    """The bucket at ``place`` as one that is written to, connected to nothing yet.

    Raises UsageError for a place of another kind, and for credentials or endpoints that cannot be used.
    """
    from lading.sources.member import Context

    if place.scheme not in _DESTINATIONS:
        raise UsageError(f"{place} cannot be written to", remedy="name a bucket: s3://bucket or gs://bucket")
    member = cast("WrittenMember", import_module(f"{__name__}.{_DESTINATIONS[place.scheme]}"))
    return member.connect(place, Context(settings, report))


def about_sources() -> Mapping[Scheme, About]:
    """What each source says of itself, for documents."""
    return {scheme: _member(scheme).ABOUT for scheme in _MEMBERS}


def about_source(uri: ModelUri, settings: Settings) -> About:
    """What the source that ``uri`` is read from says of itself."""
    place = uri
    if uri.scheme is Scheme.NGC and settings.repository_override:
        from lading.sources import override

        if override.registry_url(settings.repository_override) is None:
            place = override.mirror_location(settings.repository_override)
    return _member(place.scheme).ABOUT


def _member(scheme: Scheme) -> Member:
    return cast("Member", import_module(f"{__name__}.{_MEMBERS[scheme]}"))


_MEMBERS: Mapping[Scheme, str] = {
    Scheme.HF: "huggingface",
    Scheme.NGC: "ngc",
    Scheme.S3: "s3",
    Scheme.GS: "gcs",
    Scheme.AZ: "azure",
    Scheme.MODELSCOPE: "modelscope",
    Scheme.HTTP: "web",
    Scheme.HTTPS: "web",
    Scheme.LOCAL: "local",
    Scheme.PATH: "local",
}
_DESTINATIONS: Mapping[Scheme, str] = {Scheme.S3: "s3_upload", Scheme.GS: "gcs_upload"}
