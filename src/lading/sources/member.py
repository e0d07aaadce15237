"""What a member of the family brings besides its source: how it is connected, and what its users should know of it.

A member's module has two names that :mod:`lading.sources` looks up: ``ABOUT``, an :class:`About`, and ``connect``, a
function from a :class:`Context` to a :class:`~lading.sources.interface.Source`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Protocol

from lading.events import Report
from lading.settings import Settings
from lading.settings_table import DEFAULT_CACHE_PATH
from lading.sources.http import HttpClient, Network
from lading.sources.interface import Source
from lading.sources.proxy import Proxies
from lading.sources.upload import Destination
from lading.uri import ModelUri


@dataclass(frozen=True, slots=True)
class About:
    """A source as its users see it: one section of ``docs/sources.md``. Texts are Markdown, without a full stop.

    ``credentials`` are in the order in which they are looked for; ``pinned_by`` is what keeps later reads to the bytes
    that were listed; ``extra`` is the extra of Lading's package that it needs, "" for none.
    """

    title: str
    credentials: tuple[str, ...]
    endpoint: str
    pinned_by: str
    checksum: str
    resume: str
    tested_against: str
    extra: str = ""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Context:
    """What sources are connected with: the settings, and where to report."""

    settings: Settings
    report: Report

    @property
    def client(self) -> HttpClient:
        """A client for the source's requests."""
        return HttpClient(self.network, report=self.report)

    @cached_property
    def network(self) -> Network:
        """How this machine reaches sources."""
        settings = self.settings
        proxies = Proxies(settings.http_proxy, settings.https_proxy, settings.all_proxy, settings.no_proxy)
        return Network(proxies, settings.ca_bundle, settings.offline)

    @property
    def home(self) -> Path | None:
        """The user's home directory; None for a user id without an entry and no HOME, as containers may have it."""
        try:
            return Path.home()
        except RuntimeError:
            return None

    @property
    def volume(self) -> Path:
        """The cache's directory, where a NIM may have left files in its own layout."""
        return self.settings.cache_path or Path(DEFAULT_CACHE_PATH)

    def trusting(self, bundle: Path | None) -> Context:
        """The same where ``bundle`` is trusted unless the settings name authorities for every source."""
        return replace(self, settings=replace(self.settings, ca_bundle=self.settings.ca_bundle or bundle))


class Member(Protocol):
    """A member's module."""

    ABOUT: About
    connect: Callable[[Context], Source]


class WrittenMember(Protocol):
    """The module of a destination."""

    connect: Callable[[ModelUri, Context], Destination]
