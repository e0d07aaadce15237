"""What is said between us and an S3 server, as values: addresses, pages of a listing, refusals. Pure.

Names come from a server and go into URLs, host names and signatures, so they are checked or encoded here, once: keys
byte by byte as SigV4 wants them, regions by their alphabet before they become part of a host.
"""

from __future__ import annotations

import re
from base64 import b64decode
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import ip_address
from urllib.parse import quote, unquote_plus, urlsplit
from xml.etree import ElementTree

from lading.digest import Digest
from lading.sources.interface import LARGEST_FILE_BYTES
from lading.uri import ModelUri

_REGION = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_-]{0,62}[A-Za-z0-9])?")
_HOST_LABELS = re.compile(r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?(?:\.[a-z0-9](?:[a-z0-9-]*[a-z0-9])?)*")
_MD5 = re.compile(r"[0-9a-f]{32}")
_ETAG_OF_PARTS = re.compile(r'-\d+"$')
_SHA256 = re.compile(r"[0-9a-f]{64}")
_VERSION = re.compile(r"[!-~]{1,1024}")
_CODE = re.compile(r"[A-Za-z0-9.]{1,64}")
_ARCHIVES = {"GLACIER", "DEEP_ARCHIVE"}
_PATH_STYLE_HOSTS = (".oraclecloud.com", ".localhost")


class Addressing(StrEnum):
    """Where the bucket stands in a URL: before the host, in the path, or where the endpoint is known to want it."""

    AUTO = "auto"
    VIRTUAL = "virtual"
    PATH = "path"


@dataclass(frozen=True, slots=True)
class Address:
    """Where requests about one bucket go, and the region that they are signed for."""

    endpoint: str
    bucket: str
    region: str
    is_path_style: bool

    def url(self, key: str = "", query: Mapping[str, str] | None = None) -> str:
        """The URL of an object, of the bucket itself for the empty key."""
        scheme, _, host = self.endpoint.partition("://")
        base = f"{self.endpoint}/{self.bucket}" if self.is_path_style else f"{scheme}://{self.bucket}.{host}"
        path = f"/{quote(key, safe='/')}" if key or not self.is_path_style else ""
        pairs = sorted((quote(name, safe=""), quote(value, safe="")) for name, value in (query or {}).items())
        return f"{base}{path}{'?' if pairs else ''}{'&'.join(f'{name}={value}' for name, value in pairs)}"


@dataclass(frozen=True, slots=True)
class StoredObject:
    """An object of a listing. ``etag`` has its quotes; None where the server gives none."""

    key: str
    size_bytes: int
    etag: str | None


@dataclass(frozen=True, slots=True)
class Page:
    """A page of a listing; ``prefixes`` are those rolled up by a delimiter; ``token`` None on the last page."""

    objects: tuple[StoredObject, ...]
    prefixes: tuple[str, ...]
    token: str | None


@dataclass(frozen=True, slots=True)
class Refusal:
    """An answer that is none: its status, S3's error code ("" where it gave none), the region it says is right."""

    status: int
    code: str
    region: str | None


def aws_endpoint(region: str) -> str:
    """The endpoint of AWS in a region."""
    return f"https://s3.{region}.amazonaws.com{'.cn' if region.startswith('cn-') else ''}"


def is_region(text: str) -> bool:
    """Whether the text can be the name of a region, of AWS or of a server that makes up its own."""
    return bool(_REGION.fullmatch(text))


def is_path_style(endpoint: str, bucket: str, addressing: Addressing) -> bool:
    """Whether the bucket goes into the path.

    With AUTO it does for endpoints that have no host name per bucket (addresses, names without a dot, ``localhost``,
    Oracle's compatibility API) and for buckets whose name makes none, or none that a wildcard certificate covers.
    """
    if addressing is not Addressing.AUTO:
        return addressing is Addressing.PATH
    parts = urlsplit(endpoint)
    host = (parts.hostname or "").rstrip(".")
    makes_no_host = not _HOST_LABELS.fullmatch(bucket) or (parts.scheme == "https" and "." in bucket)
    return makes_no_host or "." not in host or host.endswith(_PATH_STYLE_HOSTS) or _is_ip_address(host)


def bucket_and_prefix(model: ModelUri) -> tuple[str, str]:
    """The bucket of a model, and the prefix below which it lies; "" for the whole bucket."""
    bucket, _, prefix = model.location.partition("/")
    return bucket, prefix


def bucket_and_key(target: ModelUri) -> tuple[str, str]:
    """The bucket and the object that a URI with ``?file=`` names; no key for one without."""
    bucket, prefix = bucket_and_prefix(target)
    return bucket, "/".join(part for part in (prefix, target.file) if part) if target.file else ""


def parse_page(body: bytes) -> Page:
    """The page that a ListObjectsV2 answer holds; ValueError, whose text completes "it answers with …", for others."""
    root = parse_xml(body)
    if xml_name(root) != "ListBucketResult":
        raise ValueError("something that is no listing")
    fields = texts_of(root)
    decode = unquote_plus if fields.get("EncodingType") == "url" else _as_it_stands
    objects, prefixes = [], []
    for child in root:
        if xml_name(child) == "Contents":
            objects.append(_parse_object(texts_of(child), decode))
        elif xml_name(child) == "CommonPrefixes":
            prefixes.append(decode(texts_of(child).get("Prefix", "")))
    token = fields.get("NextContinuationToken") if fields.get("IsTruncated") == "true" else None
    if fields.get("IsTruncated") == "true" and not token:
        raise ValueError("a page that names no next one and is not the last")
    return Page(tuple(objects), tuple(prefixes), token)


def parse_refusal(status: int, headers: Mapping[str, str], body: bytes) -> Refusal:
    """What an answer that is no success says, however malformed."""
    try:
        fields = texts_of(parse_xml(body))
    except ValueError:
        fields = {}
    region = headers.get("x-amz-bucket-region") or fields.get("Region") or ""
    return Refusal(status, error_code(fields.get("Code")), region if is_region(region) else None)


def error_code(text: object) -> str:
    """The error code that AWS's services answer with; "" for anything that only stands in its place."""
    return text if isinstance(text, str) and _CODE.fullmatch(text) else ""


def quoted_etag(text: str | None) -> str | None:
    """An etag as ``If-Match`` wants it; None for none. Servers leave the quotes out in listings, some in answers."""
    bare = (text or "").strip().removeprefix("W/").strip('"')
    return f'"{bare}"' if bare and '"' not in bare and bare.isprintable() and bare.isascii() else None


def possible_md5(etag: str | None) -> Digest | None:
    """The MD5 that an etag is unless the object is encrypted under a key; None for etags of multipart uploads."""
    bare = (etag or "").strip('"').lower()
    return Digest("md5", bare) if _MD5.fullmatch(bare) else None


def version_id(headers: Mapping[str, str]) -> str | None:
    """The version that an object's answer is about.

    None in buckets that keep none, and for ``null``: what is written while versioning is suspended is replaced too.
    """
    text = headers.get("x-amz-version-id", "").strip()
    return text if _VERSION.fullmatch(text) and text != "null" else None


def archive_of(headers: Mapping[str, str]) -> str | None:
    """The archive that the answer to a HEAD says the object's bytes lie in; None where they can be read."""
    tier = headers.get("x-amz-archive-status", "")
    kept = tier or headers.get("x-amz-storage-class", "")
    restored = 'ongoing-request="false"' in headers.get("x-amz-restore", "")
    return kept[:40] if (tier or kept in _ARCHIVES) and not restored else None


def told_digests(headers: Mapping[str, str]) -> tuple[Digest, ...]:
    """What the answer to a HEAD tells of the whole object's bytes, best first.

    S3's SHA-256; the one that a ``lading mirror`` wrote beside the object; the MD5 that the etag is; S3's CRC32C.
    """
    own = headers.get("x-amz-meta-sha256", "").strip().lower()
    found = (
        _checksum(headers, "sha256"),
        Digest("sha256", own) if _SHA256.fullmatch(own) else None,
        possible_md5(quoted_etag(headers.get("ETag"))) if etag_is_md5(headers) else None,
        _checksum(headers, "crc32c"),
    )
    return tuple(each for each in found if each)


def _checksum(headers: Mapping[str, str], algorithm: str) -> Digest | None:
    """S3's checksum of all bytes; None where it has none, or one of the parts' checksums.

    Servers that do not tell the type are believed for objects that were uploaded whole: a checksum of parts should end
    in ``-N`` as their etag does, and not all write it.
    """
    text, kind = headers.get(f"x-amz-checksum-{algorithm}", ""), headers.get("x-amz-checksum-type", "")
    is_in_parts = _ETAG_OF_PARTS.search(quoted_etag(headers.get("ETag")) or "")
    if kind != "FULL_OBJECT" and (kind or is_in_parts):
        return None
    try:
        return Digest(algorithm, b64decode(text, validate=True).hex())
    except ValueError:  # "-N" is no base64
        return None


def etag_is_md5(headers: Mapping[str, str]) -> bool:
    """Whether the headers of an object's answer leave its etag the MD5 of its bytes: not so with KMS or own keys."""
    encryption = headers.get("x-amz-server-side-encryption", "AES256")
    return encryption == "AES256" and "x-amz-server-side-encryption-customer-algorithm" not in headers


def _parse_object(fields: Mapping[str, str], decode: Callable[[str], str]) -> StoredObject:
    key, size = decode(fields.get("Key", "")), fields.get("Size", "")
    if not key or not (size.isascii() and size.isdecimal()) or len(size) > 19 or int(size) >= LARGEST_FILE_BYTES:
        raise ValueError(f"an object {key!r} with a size of {size[:40]!r}")
    return StoredObject(key, int(size), quoted_etag(fields.get("ETag")))


def parse_xml(body: bytes) -> ElementTree.Element:
    """The root of a server's XML; ValueError, whose text completes "it answers with …", for anything else."""
    if b"<!DOCTYPE" in body or b"<!ENTITY" in body:  # S3 has none; entities are how small documents become large
        raise ValueError("something that is not S3's XML")
    try:
        return ElementTree.fromstring(body)  # noqa: S314  # without entities there is nothing to expand
    except (ElementTree.ParseError, ValueError, LookupError):
        raise ValueError("something that is not XML") from None


def _as_it_stands(text: str) -> str:
    return text


def texts_of(element: ElementTree.Element) -> dict[str, str]:
    """The texts of an element's children, by their names."""
    return {xml_name(child): child.text or "" for child in element}


def xml_name(element: ElementTree.Element) -> str:
    """An element's name without its namespace."""
    return element.tag.rpartition("}")[2]


def _is_ip_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True
