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
from lading.uri import FORMS, ModelUri, Scheme

if TYPE_CHECKING:
    from lading.sources.member import About, Member


def source_for(uri: ModelUri, settings: Settings, report: Report = ignore) -> Source:
    """The source that ``uri`` is read from, connected to nothing yet.

    Raises UsageError for a scheme that this build does not read, and for credentials or endpoints that cannot be used.
    """
    from lading.sources.member import Context

    if uri.scheme not in _MEMBERS:
        raise UsageError(
            f"{uri}: this build of Lading does not read {uri.scheme}:// locations",
            remedy="it reads " + " and ".join(FORMS[scheme] for scheme in _MEMBERS),
        )
    return _member(uri.scheme).connect(Context(settings, report))


def about_sources() -> Mapping[Scheme, About]:
    """What each source says of itself, for documents."""
    return {scheme: _member(scheme).ABOUT for scheme in _MEMBERS}


def _member(scheme: Scheme) -> Member:
    return cast("Member", import_module(f"{__name__}.{_MEMBERS[scheme]}"))


_MEMBERS: Mapping[Scheme, str] = {
    Scheme.HF: "huggingface",
    Scheme.NGC: "ngc",
    Scheme.S3: "s3",
    Scheme.GS: "gcs",
    Scheme.MODELSCOPE: "modelscope",
    Scheme.LOCAL: "local",
    Scheme.PATH: "local",
}
