"""Uploads in parts as S3 and Google's XML API have them, as values: bodies that are sent, answers that are read. Pure.

Both speak the same protocol: Amazon S3 API reference, CreateMultipartUpload, UploadPart, ListParts,
ListMultipartUploads, CompleteMultipartUpload; https://cloud.google.com/storage/docs/multipart-uploads.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

from lading.digest import Digest
from lading.sources.s3_wire import parse_xml, possible_md5, texts_of, xml_name
from lading.sources.upload import Part
from lading.units import MIB

MOST_PARTS = 10_000
LEAST_PART_BYTES = 5 * MIB
USUAL_PART_BYTES = 16 * MIB
LARGEST_PART_BYTES = 5 << 30


@dataclass(frozen=True, slots=True)
class PartsPage:
    """A page of an upload's parts; ``next`` is the marker of the next page, None on the last one."""

    parts: tuple[Part, ...]
    algorithm: str
    next: str | None


@dataclass(frozen=True, slots=True)
class UploadsPage:
    """A page of unfinished uploads, as pairs of key and id; ``next`` are the markers of the next page."""

    uploads: tuple[tuple[str, str], ...]
    next: Mapping[str, str]


def part_bytes(size_bytes: int, usual_bytes: int = USUAL_PART_BYTES) -> int:
    """The size of an object's parts but the last: the usual one, or more whole MiB where they would be too many.

    It depends on nothing else, so that a later run finds the parts of an earlier one where it would put its own.
    """
    least = -(-size_bytes // MOST_PARTS)
    return max(usual_bytes, -(-least // MIB) * MIB)


def completion(parts: Sequence[Part], *, with_sha256: bool) -> bytes:
    """The body that completes an upload."""
    listed = "".join(
        f"<Part><PartNumber>{each.number}</PartNumber><ETag>{escape(each.etag)}</ETag>"
        f"{_sha256_element(each) if with_sha256 else ''}</Part>"
        for each in parts
    )
    return f"<CompleteMultipartUpload>{listed}</CompleteMultipartUpload>".encode()


def _sha256_element(part: Part) -> str:
    text = next(
        (b64encode(bytes.fromhex(each.hex)).decode() for each in part.digests if each.algorithm == "sha256"), ""
    )
    return f"<ChecksumSHA256>{text}</ChecksumSHA256>" if text else ""


def parse_begun(body: bytes) -> str:
    """The id of an upload that was begun; ValueError, whose text completes "it answers with …", for another answer.

    Servers made with gofakes3, rclone's among them, leave the end of the element's name out.
    """
    found = _root(body, "InitiateMultipartUploadResult", "InitiateMultipartUpload").get("UploadId", "")
    if not found or not found.isprintable():
        raise ValueError("an upload without an id")
    return found


def parse_completed(body: bytes) -> str | None:
    """None where an upload was completed, the error code where it was not: S3 tells that with status 200 too.

    ValueError for an answer that is neither.
    """
    root = parse_xml(body.lstrip())
    if xml_name(root) == "Error":
        return texts_of(root).get("Code", "") or "Error"
    if xml_name(root) != "CompleteMultipartUploadResult":
        raise ValueError("something else than a completed upload")
    return None


def parse_parts(body: bytes) -> PartsPage:
    """A page of a ListParts answer; ValueError for another answer."""
    root = parse_xml(body)
    fields = _root(body, "ListPartsResult")
    parts = tuple(_parse_part(texts_of(each)) for each in root if xml_name(each) == "Part")
    marker = fields.get("NextPartNumberMarker") if fields.get("IsTruncated") == "true" else None
    return PartsPage(parts, fields.get("ChecksumAlgorithm", ""), marker or None)


def parse_uploads(body: bytes) -> UploadsPage:
    """A page of a ListMultipartUploads answer whose keys are not encoded; ValueError for another answer."""
    fields = _root(body, "ListMultipartUploadsResult")
    uploads = [texts_of(each) for each in parse_xml(body) if xml_name(each) == "Upload"]
    more = {}
    if fields.get("IsTruncated") == "true" and fields.get("NextKeyMarker"):
        more = {"key-marker": fields["NextKeyMarker"], "upload-id-marker": fields.get("NextUploadIdMarker", "")}
    return UploadsPage(tuple((each.get("Key", ""), each.get("UploadId", "")) for each in uploads), more)


def _parse_part(fields: Mapping[str, str]) -> Part:
    number, size, etag = fields.get("PartNumber", ""), fields.get("Size", ""), fields.get("ETag", "")
    if not (number.isdecimal() and size.isdecimal() and len(number) < 6 and len(size) < 20 and etag):
        raise ValueError(f"a part {number[:20]!r} of {size[:20]!r} bytes")
    md5, sha256 = possible_md5(etag), base64_sha256(fields.get("ChecksumSHA256", ""))
    return Part(int(number), int(size), etag, tuple(each for each in (sha256, md5) if each))


def base64_sha256(text: str) -> Digest | None:
    """The SHA-256 that a base64 text is; None for another text."""
    try:
        return Digest("sha256", b64decode(text, validate=True).hex())
    except ValueError:
        return None


def _root(body: bytes, *names: str) -> Mapping[str, str]:
    root = parse_xml(body)
    if xml_name(root) not in names:
        raise ValueError(f"something else than {names[0]}")
    return texts_of(root)
