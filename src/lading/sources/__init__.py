"""The sources: one port (``interface.py``), one file per member, one mapping.

A new source is one file, one line in :data:`_SOURCES`, one test file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from lading.errors import UsageError
from lading.events import Report, ignore
from lading.settings import Settings
from lading.sources.interface import Source
from lading.uri import FORMS, ModelUri, Scheme

if TYPE_CHECKING:
    from lading.sources.http import HttpClient


def source_for(uri: ModelUri, settings: Settings, report: Report = ignore) -> Source:
    """The source that ``uri`` is read from, connected to nothing yet.

    Raises UsageError for a scheme that this build does not read, and for credentials or endpoints that cannot be used.
    """
    make = _SOURCES.get(uri.scheme)
    if make is None:
        raise UsageError(
            f"{uri}: this build of Lading does not read {uri.scheme}:// locations",
            remedy="it reads " + " and ".join(FORMS[scheme] for scheme in _SOURCES),
        )
    return make(settings, report)


def _hugging_face(settings: Settings, report: Report) -> Source:
    from lading.sources.huggingface import HuggingFaceSource
    from lading.sources.huggingface_cache import HuggingFaceCache, cache_roots

    roots = cache_roots(settings.hf_hub_cache, settings.hf_home, _home())
    caches = [HuggingFaceCache(root) for root in roots]
    return HuggingFaceSource(_client(settings, report), settings.hf_endpoint, settings.hf_token, caches, report)


def _local(_settings: Settings, _report: Report) -> Source:
    from lading.sources.local import LocalSource

    return LocalSource()


def _client(settings: Settings, report: Report) -> HttpClient:
    from lading.sources.http import HttpClient, Network
    from lading.sources.proxy import Proxies

    proxies = Proxies(settings.http_proxy, settings.https_proxy, settings.all_proxy, settings.no_proxy)
    return HttpClient(Network(proxies, settings.ca_bundle, settings.offline), report=report)


def _home() -> Path | None:
    try:
        return Path.home()
    except RuntimeError:  # no HOME, and a user id without an entry, as containers may have it
        return None


_SOURCES: Mapping[Scheme, Callable[[Settings, Report], Source]] = {
    Scheme.HF: _hugging_face,
    Scheme.LOCAL: _local,
    Scheme.PATH: _local,
}
