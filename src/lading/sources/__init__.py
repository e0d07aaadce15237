"""The sources: one port (``interface.py``), one file per member, one mapping.

A new source is one file, one line in :data:`_SOURCES`, one test file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from lading.errors import UsageError
from lading.events import Report, ignore
from lading.settings import Settings
from lading.sources.interface import Source
from lading.uri import FORMS, ModelUri, Scheme

if TYPE_CHECKING:
    from lading.sources.http import HttpClient, Network


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


def _google_storage(settings: Settings, report: Report) -> Source:
    from lading.sources.gcs import GcsSource
    from lading.sources.gcs_credentials import GoogleCredentials, Places

    if settings.storage_emulator_host:
        return GcsSource(_client(settings, report), None, settings.storage_emulator_host)
    home = _home()
    config = settings.gcloud_config or (home / ".config/gcloud" if home else None)
    metadata_host = None if settings.no_gce_check else settings.gce_metadata_host
    places = Places(settings.google_credentials, config, metadata_host)
    return GcsSource(_client(settings, report), GoogleCredentials(_network(settings), places, report))


def _s3(settings: Settings, report: Report) -> Source:
    from lading.sources.s3 import S3Source
    from lading.sources.s3_credentials import S3Options
    from lading.sources.s3_wire import Addressing

    settings = replace(settings, ca_bundle=settings.ca_bundle or settings.aws_ca_bundle)
    options = S3Options(
        settings.aws_endpoint_url,
        settings.aws_region,
        Addressing.PATH if settings.aws_s3_use_path_style else Addressing(settings.aws_s3_addressing_style),
        settings.aws_profile,
        settings.ca_bundle,
    )
    return S3Source(_client(settings, report), options)


def _ngc(settings: Settings, report: Report) -> Source:
    from lading.sources.ngc import NgcSource

    return NgcSource(_client(settings, report), settings.ngc_api_url, settings.ngc_auth_url, settings.ngc_api_key)


def _modelscope(settings: Settings, report: Report) -> Source:
    from lading.sources.modelscope import ModelScopeSource
    from lading.sources.modelscope_cache import ModelScopeCache, cache_roots

    caches = [ModelScopeCache(root) for root in cache_roots(settings.modelscope_cache, _home())]
    endpoint, token = settings.modelscope_endpoint, settings.modelscope_api_token
    return ModelScopeSource(_client(settings, report), endpoint, token, caches, report)


def _local(_settings: Settings, _report: Report) -> Source:
    from lading.sources.local import LocalSource

    return LocalSource()


def _client(settings: Settings, report: Report) -> HttpClient:
    from lading.sources.http import HttpClient

    return HttpClient(_network(settings), report=report)


def _network(settings: Settings) -> Network:
    from lading.sources.http import Network
    from lading.sources.proxy import Proxies

    proxies = Proxies(settings.http_proxy, settings.https_proxy, settings.all_proxy, settings.no_proxy)
    return Network(proxies, settings.ca_bundle, settings.offline)


def _home() -> Path | None:
    try:
        return Path.home()
    except RuntimeError:  # no HOME, and a user id without an entry, as containers may have it
        return None


_SOURCES: Mapping[Scheme, Callable[[Settings, Report], Source]] = {
    Scheme.HF: _hugging_face,
    Scheme.NGC: _ngc,
    Scheme.S3: _s3,
    Scheme.GS: _google_storage,
    Scheme.MODELSCOPE: _modelscope,
    Scheme.LOCAL: _local,
    Scheme.PATH: _local,
}
