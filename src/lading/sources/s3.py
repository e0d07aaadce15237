"""Models in an S3 bucket: of AWS, or of any server that speaks its protocol (``AWS_ENDPOINT_URL``).

Three kinds of calls, ListObjectsV2, HeadObject and GetObject, built in :mod:`lading.sources.s3_wire`, signed by
:mod:`lading.sources.s3_requests`. The requests themselves go through the client that all sources share, so that
proxies, authorities, time-outs and ``LADING_OFFLINE`` mean the same here. Rules kept here:

* an object is pinned by its version where the bucket keeps versions, and always by its etag: ``If-Match`` and the
  answer's own etag guard every byte, so that an object that was replaced is an error, never a mixture;
* checksums are taken from HeadObject alone: some servers answer a range with the object's, some with the range's;
* refusals are told apart by status and S3's error code: see :mod:`lading.sources.s3_refusal`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from io import BytesIO
from pathlib import Path

from lading.digest import Digest, new_hasher
from lading.errors import (
    FileNotFoundAtSource,
    LadingError,
    ModelNotFound,
    SourceProtocolError,
    SourceUnreachable,
    Unauthorized,
    UsageError,
)
from lading.model.manifest import FileEntry, Manifest
from lading.sources.answer import Response, range_header, read_range
from lading.sources.http import HttpClient
from lading.sources.interface import Access, PathOf, RangeReader, is_empty_range, itself, nearest, only_file
from lading.sources.member import About, Context
from lading.sources.s3_credentials import S3Options
from lading.sources.s3_refusal import archived, changed, deleted
from lading.sources.s3_requests import S3Requests
from lading.sources.s3_wire import (
    Addressing,
    Page,
    Refusal,
    StoredObject,
    archive_of,
    bucket_and_key,
    bucket_and_prefix,
    etag_is_md5,
    parse_page,
    parse_refusal,
    possible_md5,
    quoted_etag,
    told_digests,
    version_id,
)
from lading.uri import ModelUri, Scheme

MOST_FILES = 200_000
MOST_PROBED = 2_000

_PROBES_AT_ONCE = 8


ABOUT = About(
    title="Amazon S3 and servers that speak its protocol",
    credentials=(
        "`AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, `AWS_SESSION_TOKEN`",
        "an assumed role, a web identity (`AWS_WEB_IDENTITY_TOKEN_FILE`, `AWS_ROLE_ARN`), an SSO login",
        "the shared credentials and configuration files, with `AWS_PROFILE`; `credential_process`",
        "container credentials (`AWS_CONTAINER_CREDENTIALS_FULL_URI`, `…_RELATIVE_URI`)",
        "the instance metadata service, version 2, unless `AWS_EC2_METADATA_DISABLED`: one try, one second",
        "none: public buckets",
    ),
    endpoint="`AWS_ENDPOINT_URL_S3`, `AWS_ENDPOINT_URL`, that of the profile, else AWS in the bucket's region",
    pinned_by="the version of each object where the bucket keeps versions, and its etag (`If-Match`)",
    checksum="the SHA-256 that S3 keeps, else the metadata `x-amz-meta-sha256`, else the MD5 that an etag is, else "
    "CRC32C; none for multipart uploads without one of these",
    resume="byte ranges",
    tested_against="Ceph RGW 16, `rclone serve s3`, and a simulator with regions, versions and sessions that end",
    extra="s3",
    notes=(
        "MinIO, Ceph and others without a host name per bucket need `AWS_S3_USE_PATH_STYLE=true`",
        "It needs the rights `s3:ListBucket` and `s3:GetObject`; with `s3:GetObjectVersion` too, a version that was "
        "listed can be read after it was replaced",
    ),
)


def connect(context: Context) -> S3Source:
    """The storage that the settings name."""
    return S3Source(*client_and_options(context))


def client_and_options(context: Context) -> tuple[HttpClient, S3Options]:
    """How the storage that the settings name is asked."""
    context = context.trusting(context.settings.aws_ca_bundle)
    settings = context.settings
    options = S3Options(
        settings.aws_endpoint_url,
        settings.aws_region,
        Addressing.PATH if settings.aws_s3_use_path_style else Addressing(settings.aws_s3_addressing_style),
        settings.aws_profile,
        settings.ca_bundle,
    )
    return context.client, options


class S3Source:
    """Buckets at one endpoint, or at AWS."""

    in_place = False

    def __init__(
        self, client: HttpClient, options: S3Options | None = None, requests: S3Requests | None = None
    ) -> None:
        """``requests`` are those of whoever does more with the buckets."""
        self._client = client
        self._requests = requests or S3Requests(client, options or S3Options())
        self._versions_denied: set[str] = set()

    def access(self, model: ModelUri) -> Access:
        """The bucket's address, and where the credentials come from."""
        identity = self._requests.identity()
        address = self._requests.address(bucket_and_prefix(model)[0])
        return Access(address.url(), None if identity.is_anonymous else identity.name)

    def list_files(self, model: ModelUri) -> Manifest:
        """The objects below the prefix, or the one named. S3 has no revision that covers them: each is pinned alone.

        A version and a digest come from the answer about the object itself, so that each is asked about; where they
        are more than ``MOST_PROBED``, no digest is promised and only etags pin.
        """
        bucket, prefix = bucket_and_prefix(model)
        manifest = _manifest(model, self._candidates(model), itself)
        if not manifest.files:
            raise self._nothing_there(model, bucket, prefix)
        return self._looked_at(only_file(manifest, model.file))

    def list_objects(self, place: ModelUri, start: str, path_of: PathOf) -> Manifest:
        """The objects whose names below the prefix start with ``start``: see :class:`~.interface.Bucket`."""
        return self._looked_at(_manifest(place, self._objects(place, start), path_of))

    @contextmanager
    def open_range(self, file: FileEntry, start: int, end: int) -> Iterator[RangeReader]:
        """The bytes of one range of the object as it was listed."""
        if is_empty_range(file, start, end):
            yield BytesIO()
            return
        with ExitStack() as stack:
            response = self._opened(stack, file, start, end)
            _check_unchanged(file, response.headers)
            yield read_range(response, start, end, file.size_bytes)

    def local_copy(self, file: FileEntry) -> Path | None:  # noqa: ARG002
        """None: no other program keeps objects where they could be found."""
        return None

    def _candidates(self, model: ModelUri) -> Iterable[StoredObject]:
        """The object that is named, alone where there is one; else all below the prefix."""
        bucket, key = bucket_and_key(model)
        named = [each for each in self._page(bucket, {"prefix": key}).objects if each.key == key] if key else []
        return named or self._objects(model)

    def _objects(self, model: ModelUri, start: str = "") -> Iterator[StoredObject]:
        bucket, prefix = bucket_and_prefix(model)
        token, listed, asked = "", 0, {""}
        while True:
            page = self._page(bucket, {"prefix": _below(prefix) + start, "continuation-token": token})
            yield from page.objects
            listed += max(1, len(page.objects))  # so that empty pages come to an end too
            if page.token is None:
                return
            token = page.token
            if listed > MOST_FILES:
                raise SourceProtocolError(
                    f"s3://{bucket}/{prefix} holds more than {MOST_FILES} objects", remedy="name the model's own prefix"
                )
            if token in asked:
                raise SourceProtocolError(f"s3://{bucket}/{prefix}: the pages of its listing go in a circle")
            asked.add(token)

    def _page(self, bucket: str, query: Mapping[str, str], *, tries: int | None = None) -> Page:
        given = {name: value for name, value in query.items() if value}
        wanted = {"list-type": "2", "encoding-type": "url", "max-keys": "1000", **given}

        def send(url: str, headers: Mapping[str, str]) -> bytes | Refusal:
            try:
                answer = self._client.fetch(url, headers, tries=tries)
            except SourceUnreachable as error:
                if hint := self._requests.path_style_hint(bucket):
                    remedy = f"{error.remedy}; {hint}" if error.remedy else hint
                    raise SourceUnreachable(error.message, remedy=remedy) from error
                raise
            if answer.status == 200:
                return answer.body
            return parse_refusal(answer.status, answer.headers, answer.body)

        body = self._requests.asked(ModelUri(Scheme.S3, bucket), wanted, send)
        try:
            return parse_page(body)
        except ValueError as error:
            raise SourceProtocolError(
                f"{self._requests.address(bucket).url()} does not list the bucket {bucket}: it answers with {error}",
                remedy="check that AWS_ENDPOINT_URL is the root of an S3 server; for MinIO, Ceph and others without a "
                "host name per bucket set AWS_S3_USE_PATH_STYLE=true",
            ) from None

    def _opened(self, stack: ExitStack, file: FileEntry, start: int, end: int) -> Response:
        """The answer to a range of the version that was listed."""

        def send(url: str, headers: Mapping[str, str]) -> Response | Refusal:
            wanted = {**headers, **range_header(start, end), **_if_match(file)}
            response = stack.enter_context(self._client.open(url, wanted))
            response.raise_if_passing()
            if response.status == 200 and "Content-Range" in response.headers:
                response.status = 206  # which servers made with gofakes3, rclone's among them, mean by it
            if response.status in (200, 206, 416):
                return response
            refusal = parse_refusal(response.status, response.headers, response.read_all())
            response.close()
            return refusal

        bucket, _ = bucket_and_prefix(file.uri)
        if file.version is None or bucket in self._versions_denied:
            return self._requests.asked(file.uri, {}, send)
        try:
            return self._requests.asked(file.uri, {"versionId": file.version}, send)
        except FileNotFoundAtSource:
            raise deleted(file.uri) from None
        except Unauthorized:  # s3:GetObjectVersion is a right of its own; the etag still guards the bytes
            response = self._requests.asked(file.uri, {}, send)
            self._versions_denied.add(bucket)
            return response

    def _looked_at(self, manifest: Manifest) -> Manifest:
        """The manifest with what each object's own answer tells; the manifest itself where that is too much to ask."""
        if len(manifest.files) > MOST_PROBED:
            return manifest
        with ThreadPoolExecutor(_PROBES_AT_ONCE, "s3-list") as threads:
            return replace(manifest, files=tuple(threads.map(self._pinned, manifest.files)))

    def _pinned(self, entry: FileEntry) -> FileEntry:
        """The entry with its version and digest, as far as the server tells them; empty objects have none to read.

        A HEAD tells all. Its refusals have no body that explains them, so that after one the first byte is asked for,
        whose answer is explained, or tells at least the version and whether the etag is an MD5.
        """
        if entry.size_bytes == 0:
            return entry
        headers = self._head(entry)
        if headers is not None:
            _check_unchanged(entry, headers)
            if archive := archive_of(headers):
                raise archived(entry.uri, archive)
            return replace(entry, version=version_id(headers), digest=_first_usable(told_digests(headers)))
        headers = self._first_byte(entry)
        _check_unchanged(entry, headers)
        digest = possible_md5(entry.etag) if etag_is_md5(headers) else None
        return replace(entry, version=version_id(headers), digest=digest) if headers else entry

    def _head(self, entry: FileEntry) -> Mapping[str, str] | None:
        """The headers of the object; None where they are refused."""

        def send(url: str, headers: Mapping[str, str]) -> Mapping[str, str] | Refusal | None:
            answer = self._client.send("HEAD", url, {**headers, **_if_match(entry)})
            if answer.status == 412:  # says all without a body
                return parse_refusal(answer.status, answer.headers, answer.body)
            return answer.headers if answer.status == 200 else None

        return self._requests.asked(entry.uri, {}, send, "HEAD")

    def _first_byte(self, entry: FileEntry) -> Mapping[str, str]:
        """The headers of the answer to its first byte; none where the answer cannot be used."""

        def send(url: str, headers: Mapping[str, str]) -> Mapping[str, str] | Refusal:
            answer = self._client.fetch(url, {**headers, **range_header(0, 1), **_if_match(entry)})
            if answer.status in (200, 206):
                return answer.headers
            return parse_refusal(answer.status, answer.headers, answer.body)

        try:
            return self._requests.asked(entry.uri, {}, send)
        except SourceProtocolError:  # such as a server without ranges, whose whole file is more than an answer may be
            return {}

    def _nothing_there(self, model: ModelUri, bucket: str, prefix: str) -> ModelNotFound:
        """The error for a prefix without objects, with the names beside it where they can be had."""
        if not prefix:
            return ModelNotFound(f"the bucket {bucket} is empty", remedy="check its name and AWS_ENDPOINT_URL")
        message = f"{model.model}: the bucket holds nothing below {prefix}/"
        parent, _, name = prefix.rpartition("/")
        try:
            page = self._page(bucket, {"prefix": _below(parent), "delimiter": "/"}, tries=1)
        except LadingError:
            return ModelNotFound(message, remedy="check the prefix")
        if any(each.key == prefix for each in page.objects):
            one = ModelUri(model.scheme, f"{bucket}/{parent}".rstrip("/"), file=name)
            return ModelNotFound(message, remedy=f"{prefix} is one object: a file of a model is named {one}")
        near = nearest(prefix, [each.rstrip("/") for each in page.prefixes])
        likely = " or ".join(str(ModelUri(model.scheme, f"{bucket}/{each}")) for each in near)
        return ModelNotFound(message, remedy=f"did you mean {likely}?" if near else "check the prefix")


def _manifest(model: ModelUri, found: Iterable[StoredObject], path_of: PathOf) -> Manifest:
    start = len(_below(bucket_and_prefix(model)[1]))
    files = []
    for each in found:
        name = each.key[start:]
        path = None if _is_marker(each) else path_of(name)
        if path is not None:
            files.append(FileEntry(path, each.size_bytes, model.with_file(name), etag=each.etag))
    return Manifest.of(model, None, files)


def _below(prefix: str) -> str:
    """What the keys below the prefix start with."""
    return f"{prefix}/" if prefix else ""


def _is_marker(found: StoredObject) -> bool:
    """Whether the object is how consoles draw an empty folder."""
    return found.key.endswith("/") and found.size_bytes == 0


def _if_match(file: FileEntry) -> dict[str, str]:
    return {"If-Match": file.etag} if file.etag else {}


def _check_unchanged(file: FileEntry, headers: Mapping[str, str]) -> None:
    """Raise ContentError when the answer is about other bytes; some servers do not know ``If-Match``."""
    etag = quoted_etag(headers.get("ETag"))
    if file.etag and etag and etag != file.etag:
        raise changed(file.uri)


def _first_usable(digests: Iterable[Digest]) -> Digest | None:
    """The first digest that this installation can check, or None: CRC32C needs a package that S3 does not."""
    for digest in digests:
        try:
            new_hasher(digest.algorithm, 0)
        except UsageError:
            continue
        return digest
    return None
