"""Models in an S3 bucket: of AWS, or of any server that speaks its protocol (``AWS_ENDPOINT_URL``).

Two kinds of calls, ListObjectsV2 and GetObject, built in :mod:`lading.sources.s3_wire` and signed by
:mod:`lading.sources.s3_credentials`. The requests themselves go through the client that all sources share, so that
proxies, authorities, time-outs and ``LADING_OFFLINE`` mean the same here. Rules kept here:

* signatures are headers, made anew for every request: they do not outlive it, stand in no URL, and follow no redirect
  to another host;
* a refusal that says how to ask better (another region, a token that ended) is followed once;
* refusals are told apart by status and S3's error code; its sentences, which quote keys and signatures, are not shown;
* ``If-Match`` and the answer's own etag guard every byte: an object that was replaced is an error, never a mixture.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from threading import Lock
from typing import TypeVar
from urllib.parse import urlsplit

from lading.errors import (
    ContentError,
    FileNotFoundAtSource,
    LadingError,
    ModelNotFound,
    OfflineError,
    SourceError,
    SourceProtocolError,
    SourceUnreachable,
    Unauthorized,
)
from lading.model.manifest import FileEntry, Manifest
from lading.sources.http import HttpClient, Response, range_header, read_range
from lading.sources.interface import Access, RangeReader, is_empty_range, nearest, only_file
from lading.sources.member import About, Context
from lading.sources.s3_credentials import AwsIdentity, S3Options, check_options
from lading.sources.s3_wire import (
    Address,
    Addressing,
    Page,
    Refusal,
    StoredObject,
    aws_endpoint,
    etag_is_md5,
    is_path_style,
    parse_page,
    parse_refusal,
    possible_md5,
    quoted_etag,
)
from lading.uri import ModelUri, Scheme

MOST_FILES = 200_000
MOST_PROBED = 2_000

_FIRST_REGION = "us-east-1"
_PROBES_AT_ONCE = 8
_ABOUT_US = {"ExpiredToken", "InvalidToken", "InvalidAccessKeyId", "SignatureDoesNotMatch", "RequestTimeTooSkewed"}
_Got = TypeVar("_Got")


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
    pinned_by="the etag of each object (`If-Match`)",
    checksum="MD5 of objects whose etag is one",
    resume="byte ranges",
    tested_against="`rclone serve s3`, and a simulator with regions, pages and sessions that end",
    extra="s3",
    notes=("MinIO, Ceph and others without a host name per bucket need `AWS_S3_USE_PATH_STYLE=true`",),
)


def connect(context: Context) -> S3Source:
    """The storage that the settings name."""
    context = context.trusting(context.settings.aws_ca_bundle)
    settings = context.settings
    options = S3Options(
        settings.aws_endpoint_url,
        settings.aws_region,
        Addressing.PATH if settings.aws_s3_use_path_style else Addressing(settings.aws_s3_addressing_style),
        settings.aws_profile,
        settings.ca_bundle,
    )
    return S3Source(context.client, options)


class S3Source:
    """Buckets at one endpoint, or at AWS."""

    in_place = False

    def __init__(self, client: HttpClient, options: S3Options | None = None) -> None:
        self._client = client
        self._options = options or S3Options()
        self._identity: AwsIdentity | None = None
        self._regions: dict[str, str] = {}
        self._lock = Lock()
        check_options(self._options)

    def access(self, model: ModelUri) -> Access:
        """The bucket's address, and where the credentials come from."""
        identity = self._who()
        address = self._address(_bucket_and_prefix(model)[0])
        return Access(address.url(), None if identity.is_anonymous else identity.name)

    def list_files(self, model: ModelUri) -> Manifest:
        """The objects below the prefix, or the one named. S3 has no revision that covers them: each is pinned by etag.

        An MD5 is promised for objects whose etag is one. Only an answer about the object itself tells whether it is, so
        one byte of each is asked for; where they are more than ``MOST_PROBED``, nothing is promised.
        """
        bucket, prefix = _bucket_and_prefix(model)
        entries = [_entry(model, prefix, each) for each in self._candidates(model) if not _is_marker(each)]
        if not entries:
            raise self._nothing_there(model, bucket, prefix)
        manifest = only_file(Manifest.of(model, None, entries), model.file)
        if len(manifest.files) > MOST_PROBED:
            return manifest
        with ThreadPoolExecutor(_PROBES_AT_ONCE, "s3-list") as threads:
            return replace(manifest, files=tuple(threads.map(self._with_digest, manifest.files)))

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
        bucket, key = _bucket_and_key(model)
        named = [each for each in self._page(bucket, {"prefix": key}).objects if each.key == key] if key else []
        return named or self._objects(*_bucket_and_prefix(model))

    def _objects(self, bucket: str, prefix: str) -> Iterator[StoredObject]:
        token, listed, asked = "", 0, {""}
        while True:
            page = self._page(bucket, {"prefix": f"{prefix}/" if prefix else "", "continuation-token": token})
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
                if hint := self._path_style_hint(bucket):
                    remedy = f"{error.remedy}; {hint}" if error.remedy else hint
                    raise SourceUnreachable(error.message, remedy=remedy) from error
                raise
            if answer.status == 200:
                return answer.body
            return parse_refusal(answer.status, answer.headers, answer.body)

        body = self._asked(ModelUri(Scheme.S3, bucket), wanted, send)
        try:
            return parse_page(body)
        except ValueError as error:
            raise SourceProtocolError(
                f"{self._address(bucket).url()} does not list the bucket {bucket}: it answers with {error}",
                remedy="check that AWS_ENDPOINT_URL is the root of an S3 server; for MinIO, Ceph and others without a "
                "host name per bucket set AWS_S3_USE_PATH_STYLE=true",
            ) from None

    def _opened(self, stack: ExitStack, file: FileEntry, start: int, end: int) -> Response:
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

        return self._asked(file.uri, {}, send)

    def _with_digest(self, entry: FileEntry) -> FileEntry:
        """The entry with the MD5 that its etag is; unchanged where the etag is something else."""
        digest = possible_md5(entry.etag)
        if digest is None or entry.size_bytes == 0:
            return entry

        def send(url: str, headers: Mapping[str, str]) -> Mapping[str, str] | Refusal:
            answer = self._client.fetch(url, {**headers, **range_header(0, 1), **_if_match(entry)})
            if answer.status in (200, 206):
                return answer.headers
            return parse_refusal(answer.status, answer.headers, answer.body)

        try:
            headers = self._asked(entry.uri, {}, send)
        except SourceProtocolError:  # such as a server without ranges, whose whole file is more than an answer may be
            return entry
        _check_unchanged(entry, headers)
        return replace(entry, digest=digest) if etag_is_md5(headers) else entry

    def _asked(
        self,
        target: ModelUri,
        query: Mapping[str, str],
        send: Callable[[str, Mapping[str, str]], _Got | Refusal],
    ) -> _Got:
        """What ``send`` gets with signed headers; sent once more for each thing that a refusal teaches."""
        if self._client.offline:  # before credentials are looked for, which may take the network too
            raise OfflineError(
                f"{target} is needed, and the network is forbidden", remedy="unset LADING_OFFLINE and HF_HUB_OFFLINE"
            )
        bucket, key = _bucket_and_key(target)
        learnt: set[str] = set()
        while True:
            identity, address = self._who(), self._address(bucket)
            url = address.url(key, query)
            got = send(url, identity.headers(url, address.region))
            if not isinstance(got, Refusal):
                return got
            lesson = self._lesson(got, identity, address)
            if lesson is None or lesson in learnt:
                raise _refused(got, target, identity, address)
            learnt.add(lesson)

    def _lesson(self, refusal: Refusal, identity: AwsIdentity, address: Address) -> str | None:
        """What the next request does better, or None: signing for the right region, with a token that is alive."""
        if refusal.region and refusal.region != address.region and refusal.status in (301, 307, 400, 403):
            self._regions[address.bucket] = refusal.region
            return "region"
        if refusal.code == "ExpiredToken":
            with self._lock:
                if self._identity is identity:
                    self._identity = AwsIdentity(self._options)
            return "token"
        return None

    def _who(self) -> AwsIdentity:
        with self._lock:
            self._identity = self._identity or AwsIdentity(self._options)
            return self._identity

    def _address(self, bucket: str) -> Address:
        identity = self._who()
        region = self._regions.get(bucket) or self._options.region or identity.region or _FIRST_REGION
        endpoint = self._options.endpoint or identity.endpoint or aws_endpoint(region)
        return Address(endpoint, bucket, region, is_path_style(endpoint, bucket, self._options.addressing))

    def _nothing_there(self, model: ModelUri, bucket: str, prefix: str) -> ModelNotFound:
        """The error for a prefix without objects, with the names beside it where they can be had."""
        if not prefix:
            return ModelNotFound(f"the bucket {bucket} is empty", remedy="check its name and AWS_ENDPOINT_URL")
        message = f"{model.model}: the bucket holds nothing below {prefix}/"
        parent, _, name = prefix.rpartition("/")
        below = f"{parent}/" if parent else ""
        try:
            page = self._page(bucket, {"prefix": below, "delimiter": "/"}, tries=1)
        except LadingError:
            return ModelNotFound(message, remedy="check the prefix")
        if any(each.key == prefix for each in page.objects):
            one = ModelUri(model.scheme, f"{bucket}/{parent}".rstrip("/"), file=name)
            return ModelNotFound(message, remedy=f"{prefix} is one object: a file of a model is named {one}")
        near = nearest(prefix, [each.rstrip("/") for each in page.prefixes])
        likely = " or ".join(str(ModelUri(model.scheme, f"{bucket}/{each}")) for each in near)
        return ModelNotFound(message, remedy=f"did you mean {likely}?" if near else "check the prefix")

    def _path_style_hint(self, bucket: str) -> str | None:
        """What may help where the bucket's host cannot be reached; None where it is not the bucket's own."""
        address = self._address(bucket)
        if address.is_path_style or address.endpoint == aws_endpoint(address.region):
            return None
        return f"if {urlsplit(address.url()).hostname} is no name here, set AWS_S3_USE_PATH_STYLE=true"


def _bucket_and_prefix(model: ModelUri) -> tuple[str, str]:
    bucket, _, prefix = model.location.partition("/")
    return bucket, prefix


def _bucket_and_key(target: ModelUri) -> tuple[str, str]:
    bucket, prefix = _bucket_and_prefix(target)
    return bucket, "/".join(part for part in (prefix, target.file) if part) if target.file else ""


def _entry(model: ModelUri, prefix: str, found: StoredObject) -> FileEntry:
    name = found.key[len(prefix) + 1 :] if prefix else found.key
    return FileEntry(name, found.size_bytes, model.with_file(name), etag=found.etag)


def _is_marker(found: StoredObject) -> bool:
    """Whether the object is how consoles draw an empty folder."""
    return found.key.endswith("/") and found.size_bytes == 0


def _if_match(file: FileEntry) -> dict[str, str]:
    return {"If-Match": file.etag} if file.etag else {}


def _check_unchanged(file: FileEntry, headers: Mapping[str, str]) -> None:
    """Raise ContentError when the answer is about another version; some servers do not know ``If-Match``."""
    etag = quoted_etag(headers.get("ETag"))
    if file.etag and etag and etag != file.etag:
        raise _changed(file.uri)


def _changed(target: ModelUri) -> ContentError:
    return ContentError(f"{target} changed after it was listed", remedy="list the model's files again (--refresh)")


def _refused(refusal: Refusal, target: ModelUri, identity: AwsIdentity, address: Address) -> LadingError:
    """The error for an answer of S3 that is no answer, by its status and code."""
    where, who, bucket = address.endpoint, identity.name, address.bucket
    said = f"HTTP {refusal.status}{f', {refusal.code}' if refusal.code else ''}"
    match refusal.code, refusal.status:
        case "NoSuchBucket" | "InvalidBucketName", _:
            return ModelNotFound(
                f"{where} has no bucket {bucket}", remedy="check its name, and AWS_ENDPOINT_URL where it is not AWS's"
            )
        case "NoSuchKey", _:
            return FileNotFoundAtSource(f"{target} is gone", remedy="list the model's files again (--refresh)")
        case _, 412:
            return _changed(target)
        case "InvalidObjectState", _:
            return SourceError(
                f"{target} is archived and cannot be read ({said})", remedy="restore it from its storage class first"
            )
        case "PermanentRedirect" | "TemporaryRedirect" | "AuthorizationHeaderMalformed", _:
            return SourceError(
                f"the bucket {bucket} is not in the region {address.region} of {where} ({said})",
                remedy=f"set AWS_REGION to {refusal.region or 'its region'}, and AWS_ENDPOINT_URL, where set, with it",
            )
        case code, status if status in (401, 403) or (status == 400 and (identity.is_anonymous or code in _ABOUT_US)):
            return _refused_identity(refusal.code, said, identity, address)
        case _, 404:
            return ModelNotFound(
                f"{where} has no bucket {bucket} ({said})", remedy="check its name, and AWS_ENDPOINT_URL"
            )
    return SourceProtocolError(
        f"{where} does not behave as an S3 server does: it answers {said} to {who}",
        remedy="check that AWS_ENDPOINT_URL is the root of an S3 server, and that no login page answers in its place",
    )


def _refused_identity(code: str, said: str, identity: AwsIdentity, address: Address) -> Unauthorized:
    """The error for what S3 has against us."""
    where, who, bucket = address.endpoint, identity.name, address.bucket
    if identity.is_anonymous:
        return Unauthorized(
            f"{where} does not let just anybody read the bucket {bucket} ({said}), and no AWS credentials were found"
            f"{f' for the profile {identity.profile}' if identity.profile else ''}",
            remedy="set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE; they were looked for in the "
            "environment, the shared files, web identity, SSO, container and instance metadata",
        )
    match code:
        case "InvalidAccessKeyId":
            what, remedy = (
                "does not know the access key of",
                "check AWS_ACCESS_KEY_ID, and that AWS_ENDPOINT_URL fits it",
            )
        case "SignatureDoesNotMatch":
            what, remedy = (
                "rejects the signature of",
                "check that AWS_SECRET_ACCESS_KEY belongs to the access key, whole and without quotes; "
                "a proxy that changes requests breaks signatures too",
            )
        case "ExpiredToken":
            what, remedy = "says that the session has ended of", "log in again, or set keys and AWS_SESSION_TOKEN anew"
        case "InvalidToken":
            what, remedy = (
                "rejects the session token of",
                "set AWS_SESSION_TOKEN to the one of these keys, or unset it for lasting keys",
            )
        case "RequestTimeTooSkewed":
            what, remedy = (
                "has a clock that differs by minutes from this machine's, and rejects",
                "set this machine's clock",
            )
        case _:
            what, remedy = (
                f"does not let the bucket {bucket} be read by",
                f"allow these credentials s3:ListBucket on {bucket} and s3:GetObject on {bucket}/* (and kms:Decrypt "
                "for its key), or use others",
            )
    return Unauthorized(f"{where} {what} {who} ({said})", remedy=remedy)
