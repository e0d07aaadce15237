"""What is said between us and Azure Blob Storage, as values: pages of a listing, refusals, what a key signs. Pure.

Wire forms: https://learn.microsoft.com/rest/api/storageservices/list-blobs, …/blob-service-error-codes and
…/authorize-with-shared-key.
"""

from __future__ import annotations

import re
from base64 import b64decode
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import parse_qsl, unquote, urlsplit
from xml.etree import ElementTree

from lading.digest import Digest
from lading.sources.interface import LARGEST_FILE_BYTES

_CODE = re.compile(r"[A-Za-z0-9]{1,64}")
_SIGNED_HEADERS = (
    "Content-Encoding", "Content-Language", "Content-Length", "Content-MD5", "Content-Type", "Date",
    "If-Modified-Since", "If-Match", "If-None-Match", "If-Unmodified-Since", "Range",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Blob:
    """A blob of a listing. ``etag`` has its quotes; ``encoding`` is its stored Content-Encoding, "" for none."""

    name: str
    size_bytes: int
    etag: str | None
    md5: Digest | None
    encoding: str
    is_directory: bool
    is_archived: bool


@dataclass(frozen=True, slots=True)
class Page:
    """A page of a listing; ``marker`` names the next one, None on the last."""

    blobs: tuple[Blob, ...]
    marker: str | None


def parse_page(body: bytes) -> Page:
    """The page that an answer to List Blobs holds; ValueError, whose text completes "it answers with …", for others."""
    root = _parse_xml(body)
    blobs = root.find("Blobs")
    if root.tag != "EnumerationResults" or blobs is None:
        raise ValueError("something that is no listing")
    return Page(tuple(_parse_blob(each) for each in blobs.iterfind("Blob")), root.findtext("NextMarker") or None)


def error_code(headers: Mapping[str, str], body: bytes) -> str:
    """Azure's code for an answer that is a refusal; "" where it has none."""
    code = headers.get("x-ms-error-code", "")
    if not code:
        try:
            code = _parse_xml(body).findtext("Code") or ""
        except ValueError:
            return ""
    return code if _CODE.fullmatch(code) else ""


def quoted_etag(text: str | None) -> str | None:
    """An etag as ``If-Match`` wants it; None for none. Listings leave the quotes out."""
    bare = (text or "").strip().strip('"')
    return f'"{bare}"' if bare and '"' not in bare and bare.isprintable() and bare.isascii() else None


def string_to_sign(account: str, url: str, headers: Mapping[str, str]) -> str:
    """What a key of ``account`` signs for a GET of ``url`` with these headers, named as HTTP's standards write them.

    The form of version 2009-09-19 and newer; an emulator's paths begin with the account, which then stands there twice.
    """
    parts = urlsplit(url)
    own = sorted((name.lower(), value.strip()) for name, value in headers.items() if name.lower().startswith("x-ms-"))
    query = sorted((name.lower(), value) for name, value in parse_qsl(parts.query, keep_blank_values=True))
    lines = ["GET", *(headers.get(name, "") for name in _SIGNED_HEADERS)]
    lines += [f"{name}:{value}" for name, value in own]
    lines.append(f"/{account}{parts.path or '/'}")
    lines += [f"{name}:{value}" for name, value in query]
    return "\n".join(lines)


def _parse_blob(blob: ElementTree.Element) -> Blob:
    name = _parse_name(blob.find("Name"))
    properties = {each.tag: each.text or "" for each in blob.iterfind("Properties/*")}
    size = properties.get("Content-Length", "")
    if not name or not (size.isascii() and size.isdecimal()) or len(size) > 19 or int(size) >= LARGEST_FILE_BYTES:
        raise ValueError(f"a blob {name!r} with a size of {size[:40]!r}")
    is_directory = (
        properties.get("ResourceType") == "directory"
        or (blob.findtext("Metadata/hdi_isfolder") or "").lower() == "true"
        or (name.endswith("/") and int(size) == 0)
    )
    return Blob(
        name,
        int(size),
        quoted_etag(properties.get("Etag")),
        _parse_md5(name, properties.get("Content-MD5", "")),
        properties.get("Content-Encoding", ""),
        is_directory,
        properties.get("AccessTier") == "Archive",
    )


def _parse_name(element: ElementTree.Element | None) -> str:
    """The name of a blob; where it holds what XML cannot, it is percent-encoded and says so."""
    text = (element.text or "") if element is not None else ""
    return unquote(text) if element is not None and element.get("Encoded") == "true" else text


def _parse_md5(name: str, text: str) -> Digest | None:
    if not text:
        return None
    try:
        return Digest("md5", b64decode(text, validate=True).hex())
    except ValueError:
        raise ValueError(f"a blob {name!r} with the Content-MD5 {text[:80]!r}") from None


def _parse_xml(body: bytes) -> ElementTree.Element:
    if b"<!DOCTYPE" in body or b"<!ENTITY" in body:  # Azure has none; entities are how small documents become large
        raise ValueError("something that is not Azure's XML")
    try:
        return ElementTree.fromstring(body)  # noqa: S314  # without entities there is nothing to expand
    except (ElementTree.ParseError, ValueError, LookupError):
        raise ValueError("something that is not XML") from None
