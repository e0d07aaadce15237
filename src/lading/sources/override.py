"""Files of ``ngc://`` models from elsewhere: ``NIM_REPOSITORY_OVERRIDE``.

Another server that speaks NGC's API (``ngc://host[:port][/path]``) is asked like NGC itself. A bucket (``s3://``,
``gs://``, ``az://``) or an HTTP server holds each file under one flat name: the ``ngc://`` URI of the file without its
scheme, percent-encoded whole, below the prefix if there is one. In the URL of a request that name is encoded once more
(``%2F`` goes as ``%252F``). Rules kept here:

* NGC is not asked; but HTTP servers cannot be listed, so that the list of a model without a manifest is still NGC's;
* entries keep their ``ngc://`` URIs and their digests, which the bytes of the mirror have to keep;
* registries have no flat names and are refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path
from typing import cast
from urllib.parse import quote, unquote, urlsplit

from lading.errors import ModelNotFound, UsageError
from lading.events import Note
from lading.model.manifest import FileEntry, Manifest
from lading.sources import ngc
from lading.sources.interface import Access, Bucket, RangeReader, Source, only_file
from lading.sources.member import Context
from lading.sources.urls import is_http_url
from lading.sources.web import WebSource
from lading.uri import InvalidModelUri, ModelUri, Scheme

_BUCKETS = (Scheme.S3, Scheme.GS, Scheme.AZ)
_SERVERS = (Scheme.HTTP, Scheme.HTTPS)
_SERVER = re.compile(r"[A-Za-z0-9.:\[\]-]+(?:/[A-Za-z0-9._~/-]*)?")
_NAME = "NIM_REPOSITORY_OVERRIDE"
_ACCEPTED = (
    "set it to ngc://{host}, s3://{bucket}[/{prefix}], gs://{bucket}[/{prefix}], "
    "az://{account}/{container}[/{prefix}] or https://{host}[/{path}], or unset it"
)


def registry_url(override: str) -> str | None:
    """The base URL of the server that an ``ngc://`` override names; None for other overrides.

    https, but http for a server on this machine's own loopback addresses. Raises UsageError where it names no host.
    """
    scheme, _, rest = override.partition("://")
    if scheme.lower() != Scheme.NGC:
        return None
    url = f"https://{rest.rstrip('/')}"
    if not _SERVER.fullmatch(rest) or not is_http_url(url):
        raise UsageError(
            f"{_NAME}={override!r} names no server",
            remedy=f"set {_NAME} to ngc://host[:port][/path] of a server that speaks NGC's API",
        )
    return f"http://{rest.rstrip('/')}" if _is_loopback(urlsplit(url).hostname or "") else url


def mirror_location(override: str) -> ModelUri:
    """Where an override that is no NGC-compatible server keeps flat names.

    Raises UsageError for registries, directories and anything else that holds none.
    """
    try:
        place = ModelUri.parse(override)
    except InvalidModelUri as error:
        raise UsageError(f"{_NAME}={override!r} is no location", remedy=_ACCEPTED) from error
    if place.scheme in (Scheme.HF, Scheme.MODELSCOPE):
        raise UsageError(
            f"{_NAME} cannot name {place}: a registry holds models under its own names, not NGC's files",
            remedy=f"serve that model itself (NIM_MODEL_PATH={place}); {_ACCEPTED}",
        )
    if place.scheme not in (*_BUCKETS, *_SERVERS) or place.file:
        raise UsageError(f"{_NAME} cannot name {override}", remedy=_ACCEPTED)
    return place


def flat_name(file: ModelUri) -> str:
    """The name under which a mirror holds a file of an ``ngc://`` model."""
    return quote(f"{file.location}:{file.revision}?file={file.file or ''}", safe="")


def connect(context: Context, source_at: Callable[[ModelUri], Source]) -> Source:
    """The source of ``ngc://`` models that the settings' override makes; ``source_at`` connects that of a location."""
    override = context.settings.repository_override or ""
    context.report(Note(f"{_NAME}: files of ngc:// models come from {override}"))
    if url := registry_url(override):
        return ngc.connect(replace(context, settings=replace(context.settings, ngc_api_url=url)))
    place = mirror_location(override)
    store, registry = source_at(place), ngc.connect(context)
    if isinstance(store, WebSource):
        return WebMirror(place, store, registry)
    return BucketMirror(place, cast("Bucket", store), registry)


class _Mirror:
    """Flat names at ``place``, served by ``store``, of models of ``registry``."""

    in_place = False

    def __init__(self, place: ModelUri, store: Source, registry: Source) -> None:
        self._place = place
        self._store = store
        self._registry = registry

    def access(self, model: ModelUri) -> Access:  # noqa: ARG002  # the same for all models
        """Where and as whom the mirror is asked."""
        return self._store.access(self._place)

    def open_range(self, file: FileEntry, start: int, end: int) -> AbstractContextManager[RangeReader]:
        """The bytes of one range, from the mirror."""
        stored = replace(file, uri=self._place.with_file(flat_name(file.uri)))
        return self._store.open_range(stored, start, end)

    def local_copy(self, file: FileEntry) -> Path | None:
        """The file as a NIM left it on the volume."""
        return self._registry.local_copy(file)


class BucketMirror(_Mirror):
    """A mirror that lists what it holds."""

    def __init__(self, place: ModelUri, store: Bucket, registry: Source) -> None:
        super().__init__(place, store, registry)
        self._bucket = store

    def list_files(self, model: ModelUri) -> Manifest:
        """All files that the mirror holds of the model's version, or the one named."""
        found = files_held(self._bucket, self._place, model.model)
        if not found:
            start = flat_name(model.model)
            raise ModelNotFound(
                f"{self._place} holds no files of {model.model}",
                remedy=f"check {_NAME}: the names that it is asked for start with {start}",
            )
        files = [replace(file, uri=model.with_file(file.path)) for file in found]
        return only_file(Manifest.of(model, model.revision, files), model.file)


class WebMirror(_Mirror):
    """A mirror that cannot be listed: the registry lists models."""

    def __init__(self, place: ModelUri, store: WebSource, registry: Source) -> None:
        super().__init__(place, store, registry)
        self._server = store

    def list_files(self, model: ModelUri) -> Manifest:
        """All files that NGC lists of the model's version; one that is named is looked at where it lies."""
        if model.file is None:
            listed = self._registry.list_files(model)
            return replace(listed, files=tuple(replace(file, etag=None) for file in listed.files))
        found = self._server.look_at(self._place.with_file(flat_name(model)), model.file)
        return Manifest.of(model, model.revision, [replace(found, uri=model)])


def files_held(bucket: Bucket, place: ModelUri, model: ModelUri) -> tuple[FileEntry, ...]:
    """What a bucket holds of a model's version under flat names, by the paths in the model."""
    return bucket.list_objects(place, flat_name(model), lambda name: _path(model, name)).files


def _path(model: ModelUri, name: str) -> str | None:
    """The path in the model of the object with a flat name; None for a name that encodes something else."""
    path = unquote(name).removeprefix(f"{model.location}:{model.revision}?file=")
    return path if path and flat_name(model.with_file(path)) == name else None


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
