"""Uploads in parts by the protocol that S3 and Google's XML API share: the half of a destination that both have.

A member brings the requests and what its objects are told about themselves; the texts are in
:mod:`lading.sources.upload_wire`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import TypeVar

from lading.digest import Digest
from lading.errors import SourceProtocolError, Unauthorized
from lading.events import Note, Report
from lading.sources.answer import Answer
from lading.sources.interface import PassingFault
from lading.sources.s3_wire import Refusal, etag_is_md5, possible_md5
from lading.sources.upload import Body, Part, PartsNotSupported, Upload, UploadGone
from lading.sources.upload_wire import completion, parse_begun, parse_completed, parse_parts, parse_uploads
from lading.uri import ModelUri

_AGAIN = {"BadDigest", "IncompleteBody", "XAmzContentSHA256Mismatch", "RequestTimeout", "OperationAborted"}
_NOT_SUPPORTED = (405, 501)
_Parsed = TypeVar("_Parsed")


class PartUploads(ABC):
    """Uploads in parts to ``place``: see :class:`~lading.sources.upload.Destination`."""

    _tells_sha256 = False  # whether the server is told the SHA-256 of each part, and tells it back

    def __init__(self, place: ModelUri, report: Report) -> None:
        self.place = place
        self._report = report

    @abstractmethod
    def _ask(
        self,
        method: str,
        name: str,
        query: Mapping[str, str],
        headers: Mapping[str, str] | None = None,
        body: Body | None = None,
    ) -> Answer:
        """The answer to one request about an object, or the bucket for no name; refusals are raised."""

    @abstractmethod
    def _about(self, sha256: Digest) -> dict[str, str]:
        """The headers that tell what an object is."""

    @abstractmethod
    def _key(self, name: str) -> str:
        """The object's name in its bucket."""

    def unfinished(self, name: str) -> Sequence[Upload]:
        """The uploads of this object that were begun as one would be now; none where that may not be asked."""
        try:
            found = [self._with_parts(Upload(name, each)) for each in self._unfinished_ids(name)]
        except (Unauthorized, PartsNotSupported) as error:
            self._report(Note(f"{error.message}; uploads of earlier runs are not continued", "WARNING"))
            return []
        except UploadGone:  # what servers made with gofakes3, rclone's among them, say of a bucket that has no upload
            return []
        return [each for each in found if each]

    def begin(self, name: str, sha256: Digest) -> Upload:
        """A new upload in parts."""
        algorithm = {"x-amz-checksum-algorithm": "SHA256"} if self._tells_sha256 else {}
        answer = self._ask("POST", name, {"uploads": ""}, {**self._about(sha256), **algorithm})
        return Upload(name, self._read(parse_begun, answer))

    def send_part(self, upload: Upload, number: int, body: Body) -> Part:
        """Store a part; its etag, where it is an MD5, has to be that of the bytes."""
        query = {"partNumber": str(number), "uploadId": upload.id}
        answer = self._ask("PUT", upload.name, query, self._checksum(body), body)
        etag = answer.headers.get("ETag", "").strip()
        md5 = possible_md5(etag) if etag_is_md5(answer.headers) else None
        if not etag or (md5 and md5 != body.md5):
            raise PassingFault(f"{self.place} stored other bytes than were sent as part {number} of {upload.name}")
        return Part(number, body.size_bytes, etag, (body.sha256, body.md5))

    def complete(self, upload: Upload, parts: Sequence[Part]) -> None:
        """Make the object of these parts."""
        data = completion(parts, with_sha256=self._tells_sha256)
        answer = self._ask("POST", upload.name, {"uploadId": upload.id}, body=Body(data))
        if code := self._read(parse_completed, answer):
            self._raise_if_known(Refusal(answer.status, code, None), upload.name)
            raise PassingFault(f"{self.place}: {upload.name} could not be completed ({code:.64})")

    def abandon(self, upload: Upload) -> None:
        """Give an upload up."""
        with suppress(UploadGone):
            self._ask("DELETE", upload.name, {"uploadId": upload.id})

    def _checksum(self, body: Body) -> dict[str, str]:
        """The headers that tell a body's SHA-256 to servers that keep it."""
        if not self._tells_sha256:
            return {}
        return {"x-amz-checksum-sha256": b64encode(bytes.fromhex(body.sha256.hex)).decode()}

    def _unfinished_ids(self, name: str) -> list[str]:
        key, found = self._key(name), list[str]()
        more: Mapping[str, str] = {}
        while True:
            query = {"uploads": "", "prefix": key, **more}  # no encoding-type: Ceph encodes keys, and does not say so
            page = self._read(parse_uploads, self._ask("GET", "", query))
            found += [each for listed, each in page.uploads if listed == key and each]
            if not page.next or page.next == more:
                return found
            more = page.next

    def _with_parts(self, upload: Upload) -> Upload | None:
        """The upload with its parts; None for one that is gone, or keeps other checksums than ours would."""
        parts: list[Part] = []
        marker = ""
        while True:
            query = {"uploadId": upload.id} | ({"part-number-marker": marker} if marker else {})
            try:
                page = self._read(parse_parts, self._ask("GET", upload.name, query))
            except UploadGone:
                return None
            parts += page.parts
            if page.next is None or page.next == marker:
                is_alike = page.algorithm == "SHA256" or not self._tells_sha256
                return Upload(upload.name, upload.id, tuple(parts)) if is_alike else None
            marker = page.next

    def _raise_if_known(self, refusal: Refusal, name: str) -> None:
        """Raise what an upload does something about."""
        said = f"HTTP {refusal.status}{f', {refusal.code}' if refusal.code else ''}"
        if refusal.code == "NoSuchUpload":
            raise UploadGone(f"{self.place}: the upload of {name} is there no longer", remedy="run the command again")
        if refusal.status in _NOT_SUPPORTED:
            raise PartsNotSupported(f"{self.place} takes no uploads in parts ({said})")
        if refusal.code in _AGAIN:
            raise PassingFault(f"{self.place}: {name} is refused for now ({said})", status=refusal.status)

    def _read(self, parse: Callable[[bytes], _Parsed], answer: Answer) -> _Parsed:
        try:
            return parse(answer.body)
        except ValueError as error:
            raise SourceProtocolError(
                f"{self.place} does not take uploads in parts as S3 does: its server answers with {error}",
                remedy="check the endpoint, and that no login page answers in its place",
            ) from None
