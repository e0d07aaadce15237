"""Models in a bucket of Google Cloud Storage, by its JSON API.

Two kinds of calls: ``/storage/v1/b/{bucket}/o?prefix=…`` lists page by page, ``…/o/{key}?alt=media&generation=…`` reads
a range. Rules kept here:

* a file is pinned by its object's generation, its etag in the manifest: later reads give those bytes or an error;
* the promise is the SHA-256 that a mirror wrote beside the object, else the MD5, or the CRC32C of composite objects,
  which have no MD5;
* only keys below the prefix at a ``/`` are the model's; keys that end in ``/`` stand for directories and are no files;
* the token goes to the storage host alone, is made anew once when that rejects it, and never goes to an emulator.
"""

from __future__ import annotations

import re
from base64 import b64decode
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote, urlencode

from lading.digest import Digest
from lading.errors import (
    ContentError,
    MalformedModel,
    ModelNotFound,
    RateLimited,
    SourceError,
    SourceProtocolError,
    Unauthorized,
)
from lading.model.manifest import FileEntry, Manifest
from lading.sources.answer import Answer, Response, range_header, read_range
from lading.sources.gcs_credentials import READ_SCOPE, WRITE_SCOPE, GoogleCredentials, Places
from lading.sources.http import HttpClient
from lading.sources.interface import (
    LARGEST_FILE_BYTES,
    LIST_AGAIN,
    Access,
    PathOf,
    RangeReader,
    is_empty_range,
    itself,
    only_file,
)
from lading.sources.member import About, Context
from lading.sources.quoting import it_says
from lading.sources.urls import redacted
from lading.uri import ModelUri

ENDPOINT = "https://storage.googleapis.com"
MOST_FILES = 200_000

_FIELDS = "items(name,size,generation,md5Hash,crc32c,contentEncoding,metadata),nextPageToken"
_SHA256 = re.compile(r"[0-9a-f]{64}")
_PAGE_SIZE = 1000
_R = TypeVar("_R", Answer, Response)


ABOUT = About(
    title="Google Cloud Storage",
    credentials=(
        "the file that `GOOGLE_APPLICATION_CREDENTIALS` names: `service_account`, `authorized_user`, "
        "`external_account`, `external_account_authorized_user`, `impersonated_service_account`",
        "gcloud's login in `CLOUDSDK_CONFIG`, else `~/.config/gcloud`",
        "the metadata server `GCE_METADATA_HOST`, unless `NO_GCE_CHECK` is set: one try, one second",
        "none: public buckets",
    ),
    endpoint="`https://storage.googleapis.com`; an emulator at `STORAGE_EMULATOR_HOST` is asked without credentials",
    pinned_by="the generation of each object",
    checksum="the SHA-256 in the metadata `sha256`, else MD5; CRC32C for composite objects, which have no MD5",
    resume="byte ranges",
    tested_against="`gcp-storage-emulator`, and a simulator with pages, generations, token endpoints and STS",
    extra="gcs",
)


@dataclass(frozen=True, slots=True)
class Use:
    """What is done with a bucket, and what that needs: a scope of tokens, a role."""

    verb: str
    scope: str
    role: str


READING = Use("read", READ_SCOPE, "roles/storage.objectViewer")
WRITING = Use("write to", WRITE_SCOPE, "roles/storage.objectUser")


def connect(context: Context, use: Use = READING) -> GcsSource:
    """Google's storage, or the emulator that the settings name."""
    settings = context.settings
    if settings.storage_emulator_host:
        return GcsSource(context.client, None, settings.storage_emulator_host, use)
    config = settings.gcloud_config or (context.home / ".config/gcloud" if context.home else None)
    places = Places(settings.google_credentials, config, None if settings.no_gce_check else settings.gce_metadata_host)
    credentials = GoogleCredentials(context.network, places, context.report, scope=use.scope)
    return GcsSource(context.client, credentials, use=use)


class GcsSource:
    """The storage at ``endpoint``, asked with ``credentials``; without them, as for an emulator, anonymously."""

    in_place = False

    def __init__(
        self,
        client: HttpClient,
        credentials: GoogleCredentials | None = None,
        endpoint: str = ENDPOINT,
        use: Use = READING,
    ) -> None:
        self.client = client
        self._use = use
        self._credentials = credentials
        self.endpoint = endpoint.rstrip("/")

    def access(self, model: ModelUri) -> Access:  # noqa: ARG002  # the same for all buckets
        """The storage host, and where its credential comes from."""
        if self._credentials and not self.client.offline:
            self._credentials.headers()
        return Access(redacted(self.endpoint), self._credentials.name if self._credentials else None)

    def list_files(self, model: ModelUri) -> Manifest:
        """All files below the prefix, or the one the URI names, at their generations of now."""
        manifest = self.list_objects(model, "", itself)
        if not manifest.files:
            raise ModelNotFound(
                f"{model.model} holds no files",
                remedy="check the prefix: it names a whole directory; one object is named gs://bucket/prefix?file=name",
            )
        return only_file(manifest, model.file)

    def list_objects(self, place: ModelUri, start: str, path_of: PathOf) -> Manifest:
        """The objects whose names below the prefix start with ``start``: see :class:`~.interface.Bucket`."""
        found = (self._entry(place, item, path_of) for item in self._items(place, start))
        return Manifest.of(place, None, [entry for entry in found if entry])

    @contextmanager
    def open_range(self, file: FileEntry, start: int, end: int) -> Iterator[RangeReader]:
        """The bytes of one range of the generation that was listed; a ContentError when that is gone."""
        if is_empty_range(file, start, end):
            yield BytesIO()
            return
        key = quote(_key(file.uri), safe="")
        url = f"{self.objects_url(file.uri)}/{key}?{urlencode({'alt': 'media', 'generation': file.etag or ''})}"
        with ExitStack() as stack:
            wanted = range_header(start, end)
            response = self.authorized(lambda headers: stack.enter_context(self.client.open(url, headers | wanted)))
            response.raise_if_passing()
            generation = response.headers.get("X-Goog-Generation", file.etag)
            if response.status in (404, 412) or generation != file.etag:
                raise ContentError(f"{file.uri} was replaced or deleted after it was listed", remedy=LIST_AGAIN)
            if response.status not in (200, 206, 416):
                answer = Answer(response.status, response.headers, response.read_all(), response.url)
                raise self.refusal(answer, file.uri)
            yield read_range(response, start, end, file.size_bytes)

    def local_copy(self, file: FileEntry) -> Path | None:  # noqa: ARG002  # the port's signature
        """None: no copy is kept on this machine."""
        return None

    def _items(self, model: ModelUri, start: str) -> Iterator[object]:
        query = {"prefix": _start(model) + start, "maxResults": str(_PAGE_SIZE), "fields": _FIELDS}
        listed = 0
        tokens: set[str] = set()
        while True:
            url = f"{self.objects_url(model)}?{urlencode(query, quote_via=quote)}"
            items, token = self._page(url, model)
            yield from items
            listed += len(items)
            if listed > MOST_FILES:
                raise MalformedModel(f"{model} holds more than {MOST_FILES} files", remedy="name the model's prefix")
            if not token:
                return
            if token in tokens:
                raise self._no_storage(url, "the pages of its listing go in a circle")
            tokens.add(token)
            query["pageToken"] = token

    def _page(self, url: str, model: ModelUri) -> tuple[list[object], str]:
        try:
            answer = self.authorized(lambda headers: self.client.fetch(url, headers))
        except RateLimited as error:
            raise RateLimited(error.message, remedy="wait and start again; what was fetched is kept") from error
        if answer.status != 200:
            raise self.refusal(answer, model)
        try:
            page = answer.json(dict)
        except ValueError as error:
            raise self._no_storage(url, f"it answers with {error}") from None
        items, token = page.get("items", []), page.get("nextPageToken", "")
        if not isinstance(items, list) or not isinstance(token, str):
            raise self._no_storage(url, "it answers with something that is no listing")
        return items, token

    def _entry(self, model: ModelUri, item: object, path_of: PathOf) -> FileEntry | None:
        try:
            return parse_entry(model, item, path_of)
        except ValueError as error:
            raise self._no_storage(self.objects_url(model), f"it lists {error}") from None

    def authorized(self, ask: Callable[[dict[str, str]], _R]) -> _R:
        """The answer to ``ask`` with the headers of a token, asked once more with a new one after a 401."""
        if self._credentials is None or self.client.offline:
            return ask({})
        headers = self._credentials.headers()
        answer = ask(headers)
        return ask(self._credentials.headers(rejected=headers)) if answer.status == 401 and headers else answer

    def objects_url(self, model: ModelUri) -> str:
        """Where the JSON API has the bucket's objects."""
        return f"{self.endpoint}/storage/v1/b/{quote(_bucket(model), safe='')}/o"

    def refusal(self, answer: Answer, model: ModelUri) -> SourceError:
        """The error for an answer that is no answer, by its status."""
        secrets = [each.reveal() for each in self._credentials.given] if self._credentials else []
        bucket, said = f"gs://{_bucket(model)}", it_says(_sentence(answer), *secrets)
        name = self._credentials.name if self._credentials else None
        match answer.status:
            case 404:
                return ModelNotFound(f"there is no bucket {bucket}{said}", remedy="check the name after gs://")
            case 401 | 403 if name is None:
                return Unauthorized(
                    f"{bucket} is not public, and no Google credentials were found{said}",
                    remedy="set GOOGLE_APPLICATION_CREDENTIALS to a key file, run gcloud auth application-default "
                    "login, or attach a service account to this machine or workload",
                )
            case 401:
                return Unauthorized(
                    f"Google Cloud Storage rejects the token of {name}{said}",
                    remedy="check that this account still exists; log in again or make a new key",
                )
            case 403:
                return Unauthorized(
                    f"{name} may not {self._use.verb} {model.model}{said}",
                    remedy=f"grant its account {self._use.role} on {bucket}",
                )
        return self._no_storage(self.objects_url(model), f"it answers HTTP {answer.status}{said}")

    def _no_storage(self, url: str, why: str) -> SourceProtocolError:
        return SourceProtocolError(
            f"{redacted(url)} does not behave as Google Cloud Storage does: {why}",
            remedy="check STORAGE_EMULATOR_HOST where it is set, and that no login page answers in its place",
        )


def parse_entry(model: ModelUri, item: object, path_of: PathOf = itself) -> FileEntry | None:
    """The file that one object of a listing is; None for the marker of a directory, and where ``path_of`` says so.

    Raises ValueError, whose text completes "it lists …", for an object of another shape, UnsafePath for its name,
    MalformedModel for one whose bytes are stored compressed.
    """
    match item:
        case {"name": str(name), "size": str() | int() as size, "generation": str() | int() as generation, **rest}:
            size_bytes, version = _count(size), _count(generation)
        case _:
            raise ValueError("something that is no object")
    start = _start(model)
    if not name.startswith(start):
        raise ValueError(f"{name!r} below {start!r}")
    below = name.removeprefix(start)
    path = path_of(below) if below and not below.endswith("/") else None
    if path is None:
        return None
    if size_bytes is None or version is None:
        raise ValueError(f"{name!r} with a size of {size!r} and the generation {generation!r}")
    if rest.get("contentEncoding") not in (None, "", "identity"):
        raise MalformedModel(
            f"{model.with_file(below)} is stored compressed: the bytes that were listed are not the file's own",
            remedy="upload it again without compression (gsutil cp without -z or -Z)",
        )
    digest = next(iter(told_digests(name, rest)), None)
    return FileEntry(path, size_bytes, model.with_file(below), digest, str(version))


def told_digests(name: str, item: Mapping[Any, object]) -> tuple[Digest, ...]:
    """What is told of an object's bytes, best first: the SHA-256 that a mirror wrote, MD5, CRC32C (big-endian).

    Raises ValueError for one that is none.
    """
    found = []
    match item.get("metadata"):
        case {"sha256": str(text)} if _SHA256.fullmatch(text):
            found.append(Digest("sha256", text))
    for field, algorithm in (("md5Hash", "md5"), ("crc32c", "crc32c")):
        told = item.get(field)
        if told is None:
            continue
        try:
            found.append(Digest(algorithm, b64decode(str(told), validate=True).hex()))
        except ValueError:
            raise ValueError(f"{name!r} with the {field} {str(told)[:80]!r}") from None
    return tuple(found)


def _count(value: str | int) -> int | None:
    """The number that a listing says, as text or as a number; None where it is none, or one that no file has."""
    text = str(value)
    number = int(text) if text.isascii() and text.isdecimal() and len(text) < 20 else None
    return number if number is not None and number < LARGEST_FILE_BYTES else None


def _bucket(model: ModelUri) -> str:
    return model.location.partition("/")[0]


def _start(model: ModelUri) -> str:
    """What the keys of the model's files start with."""
    prefix = model.location.partition("/")[2]
    return f"{prefix}/" if prefix else ""


def _key(file: ModelUri) -> str:
    return f"{_start(file)}{file.file or ''}"


def _sentence(answer: Answer) -> str:
    """The sentence of a refusal, where it has Google's form."""
    with suppress(ValueError):
        match answer.json(dict).get("error"):
            case {"message": str(message)}:
                return message
    return ""
