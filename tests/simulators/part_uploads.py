"""Uploads in parts, as S3 and Google's XML API keep them until they are completed: for the simulators of both.

Every body is checked against its ``Content-MD5`` and the SHA-256 that was signed; parts below the least size are refused
when an upload is completed, as are etags and checksums that are not those of the parts.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from hashlib import md5, sha256
from itertools import count
from xml.etree import ElementTree
from xml.sax.saxutils import escape

from .server import Call, Reply

_NAMESPACE = re.compile(r"^\{.*\}")


@dataclass
class Begun:
    """An upload that is not completed."""

    key: str
    headers: Mapping[str, str]
    parts: dict[int, tuple[str, bytes, str]] = field(default_factory=dict)  # etag, bytes, checksum


Store = Callable[[str, bytes, Mapping[str, str], str], None]
"""Told of a completed upload: key, bytes, the headers it was begun with, etag."""


class PartUploads:
    """The unfinished uploads of one bucket. An upload that names a checksum's algorithm wants it of every part."""

    def __init__(self, *, etags_are_md5: bool = True, least_bytes: int = 5 << 20, page_size: int = 1000) -> None:
        self.begun: dict[str, Begun] = {}
        self.etags_are_md5 = etags_are_md5
        self.least_bytes = least_bytes
        self.page_size = page_size
        self._numbers = count(1)

    def answer(self, call: Call, key: str, store: Store) -> Reply | None:
        """The answer to a call about uploads in parts; None for other calls."""
        query = {name: values[0] for name, values in call.parameters.items()}
        match call.method, "uploads" in query, query.get("uploadId"):
            case "GET", True, None:
                return self._list(query)
            case "POST", True, None:
                name = f"upload+{next(self._numbers)}/="
                self.begun[name] = Begun(key, call.headers)
                return xml("InitiateMultipartUploadResult", f"<Key>{escape(key)}</Key><UploadId>{name}</UploadId>")
            case _, False, str(name):
                upload = self.begun.get(name)
                if upload is None or upload.key != key:
                    return refusal(404, "NoSuchUpload")
                return self._about(call, query, name, upload, store)
        return None

    def _about(self, call: Call, query: Mapping[str, str], name: str, upload: Begun, store: Store) -> Reply:
        match call.method:
            case "PUT":
                return self._take(call, int(query["partNumber"]), upload)
            case "GET":
                return self._list_parts(upload, int(query.get("part-number-marker", "0")))
            case "POST":
                return self._complete(call, name, upload, store)
        del self.begun[name]
        return Reply(204)

    def _take(self, call: Call, number: int, upload: Begun) -> Reply:
        if wrong := wrong_body(call):
            return wrong
        checksum = call.headers.get("x-amz-checksum-sha256", "")
        if upload.headers.get("x-amz-checksum-algorithm") == "SHA256":
            if checksum != b64encode(sha256(call.body).digest()).decode():
                return refusal(400, "InvalidRequest")
        elif checksum:
            return refusal(400, "InvalidRequest")
        etag = md5(call.body if self.etags_are_md5 else b"sealed" + call.body).hexdigest()
        upload.parts[number] = (etag, call.body, checksum)
        sealed = {} if self.etags_are_md5 else {"x-amz-server-side-encryption": "aws:kms"}
        return Reply(200, {"ETag": f'"{etag}"', **sealed})

    def _list(self, query: Mapping[str, str]) -> Reply:
        found = sorted((upload.key, name) for name, upload in self.begun.items())
        found = [each for each in found if each[0].startswith(query.get("prefix", ""))]
        if "key-marker" in query:
            found = [each for each in found if each > (query["key-marker"], query.get("upload-id-marker", ""))]
        page = found[: self.page_size]
        listed = "".join(f"<Upload><Key>{escape(key)}</Key><UploadId>{name}</UploadId></Upload>" for key, name in page)
        more = ""
        if len(found) > len(page):
            more = f"<NextKeyMarker>{escape(page[-1][0])}</NextKeyMarker><NextUploadIdMarker>{page[-1][1]}</NextUploadIdMarker>"
        cut = f"<IsTruncated>{str(bool(more)).lower()}</IsTruncated>"
        return xml("ListMultipartUploadsResult", cut + more + listed)

    def _list_parts(self, upload: Begun, after: int) -> Reply:
        numbers = sorted(number for number in upload.parts if number > after)
        page = numbers[: self.page_size]
        algorithm = upload.headers.get("x-amz-checksum-algorithm", "")
        told = f"<ChecksumAlgorithm>{algorithm}</ChecksumAlgorithm>" if algorithm else ""
        more = len(numbers) > len(page)
        cut = f"<IsTruncated>{str(more).lower()}</IsTruncated>"
        cut += f"<NextPartNumberMarker>{page[-1]}</NextPartNumberMarker>" if more else ""
        return xml("ListPartsResult", cut + told + "".join(self._part(number, upload) for number in page))

    def _part(self, number: int, upload: Begun) -> str:
        etag, data, checksum = upload.parts[number]
        told = f"<ChecksumSHA256>{checksum}</ChecksumSHA256>" if checksum else ""
        return f"<Part><PartNumber>{number}</PartNumber><Size>{len(data)}</Size><ETag>&quot;{etag}&quot;</ETag>{told}</Part>"

    def _complete(self, call: Call, name: str, upload: Begun, store: Store) -> Reply:
        chosen = []
        for element in ElementTree.fromstring(call.body):
            fields = {_NAMESPACE.sub("", each.tag): each.text or "" for each in element}
            part = upload.parts.get(int(fields["PartNumber"]))
            wanted = fields["ETag"].strip('"'), fields.get("ChecksumSHA256", "")
            if part is None or (part[0], part[2]) != wanted:
                return refusal(400, "InvalidPart")
            chosen.append(part[1])
        if any(len(each) < self.least_bytes for each in chosen[:-1]):
            return refusal(400, "EntityTooSmall")
        del self.begun[name]
        whole = md5(b"".join(md5(each).digest() for each in chosen)).hexdigest()
        store(upload.key, b"".join(chosen), upload.headers, f"{whole}-{len(chosen)}")
        return xml("CompleteMultipartUploadResult", f"<Key>{escape(upload.key)}</Key>")


def wrong_body(call: Call) -> Reply | None:
    """The refusal of a body that is not what its checksums say; None for a right one."""
    if call.headers.get("content-md5") != b64encode(md5(call.body).digest()).decode():
        return refusal(400, "BadDigest")
    signed = call.headers.get("x-amz-content-sha256")
    if signed not in (None, sha256(call.body).hexdigest()):
        return refusal(400, "XAmzContentSHA256Mismatch")
    return None


def metadata(headers: Mapping[str, str], vendor: str) -> dict[str, str]:
    """What an object is told to remember, by name."""
    start = f"x-{vendor}-meta-"
    return {name.removeprefix(start): value for name, value in headers.items() if name.startswith(start)}


def xml(root: str, inner: str) -> Reply:
    """An answer of this root."""
    body = f'<?xml version="1.0" encoding="UTF-8"?><{root} xmlns="http://s3.amazonaws.com/doc/2006-03-01/">{inner}</{root}>'
    return Reply(200, {"Content-Type": "application/xml"}, body.encode())


def refusal(status: int, code: str) -> Reply:
    """A refusal with its code."""
    body = f"<Error><Code>{code}</Code><Message>No.</Message></Error>"
    return Reply(status, {"Content-Type": "application/xml"}, body.encode())
