"""Buckets of Google Cloud Storage as destinations.

One request by the JSON API for what fits into one; large objects in parts by the XML API, whose uploads are parallel
and can be listed and so be continued by another process, as resumable sessions cannot
(https://cloud.google.com/storage/docs/multipart-uploads). Every body goes with its MD5. Objects made of parts have no
MD5: the storage tells a CRC32C of the whole, which is compared with that of the file.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from secrets import token_hex
from urllib.parse import quote

from lading.digest import Digest
from lading.errors import SourceProtocolError
from lading.events import Report
from lading.sources.answer import Answer
from lading.sources.gcs import WRITING, GcsSource, told_digests
from lading.sources.gcs import connect as connect_source
from lading.sources.interface import PassingFault
from lading.sources.member import Context
from lading.sources.part_uploads import PartUploads
from lading.sources.s3_wire import Refusal, parse_refusal
from lading.sources.upload import Body, Held
from lading.uri import ModelUri

_Pieces = Callable[[], Iterator[memoryview]]


def connect(place: ModelUri, context: Context) -> GcsDestination:
    """The bucket at ``place``, of Google's storage or of the emulator that the settings name."""
    return GcsDestination(place, connect_source(context, WRITING), context.report)


class GcsDestination(PartUploads):
    """A bucket, or a prefix of one: see :class:`~lading.sources.upload.Destination`."""

    whole_digest = "crc32c"

    def __init__(self, place: ModelUri, source: GcsSource, report: Report) -> None:
        super().__init__(place, report)
        self.bucket = source

    def put(self, name: str, sha256: Digest, body: Body) -> None:
        """Store an object in one request: its description, then its bytes (a body of type multipart/related)."""
        cut = token_hex(16)
        about = {"name": self._key(name), "md5Hash": body.content_md5, "metadata": {"sha256": sha256.hex}}
        head = (
            f"--{cut}\r\nContent-Type: application/json; charset=UTF-8\r\n\r\n{json.dumps(about)}\r\n"
            f"--{cut}\r\nContent-Type: application/octet-stream\r\n\r\n"
        ).encode()
        tail = f"\r\n--{cut}--\r\n".encode()
        headers = {
            "Content-Type": f"multipart/related; boundary={cut}",
            "Content-Length": str(len(head) + body.size_bytes + len(tail)),
        }
        url = f"{self.bucket.endpoint}/upload{self._objects_path}?uploadType=multipart"
        answer = self._sent("POST", url, headers, lambda: _framed(head, body, tail))
        if answer.status == 400:  # what it says to bytes that are not those of the MD5
            raise PassingFault(f"{self.place}: {name} is refused for now (HTTP 400)", status=400)
        if answer.status != 200:
            raise self.bucket.refusal(answer, self.place)

    def look_at(self, name: str) -> Held | None:
        """The object as it is stored now."""
        answer = self._sent("GET", f"{self._object_url(name)}?fields=size,md5Hash,crc32c,metadata")
        if answer.status == 404:
            return None
        if answer.status != 200:
            raise self.bucket.refusal(answer, self.place)
        try:
            item = answer.json(dict)
            return Held(int(str(item.get("size"))), told_digests(name, item))
        except ValueError as error:
            raise SourceProtocolError(f"{self.place}: the storage describes {name} wrongly: {error}") from None

    def remove(self, name: str) -> None:
        """Delete an object."""
        answer = self._sent("DELETE", self._object_url(name))
        if answer.status not in (200, 204, 404):
            raise self.bucket.refusal(answer, self.place)

    def _ask(
        self,
        method: str,
        name: str,
        query: Mapping[str, str],
        headers: Mapping[str, str] | None = None,
        body: Body | None = None,
    ) -> Answer:
        bucket = f"{self.bucket.endpoint}/{self._bucket_name}"
        url = f"{bucket}/{quote(self._key(name))}" if name else bucket
        pairs = "&".join(f"{each}={quote(text, safe='')}" if text else each for each, text in query.items())
        given = dict(headers or {})
        if body:
            given |= {"Content-MD5": body.content_md5, "Content-Length": str(body.size_bytes)}
        answer = self._sent(method, f"{url}?{pairs}", given, body.slices if body else None)
        if answer.status not in (200, 204):
            self._raise_if_known(parse_refusal(answer.status, answer.headers, answer.body), name)
            raise self.bucket.refusal(answer, self.place)
        return answer

    def _sent(
        self, method: str, url: str, headers: Mapping[str, str] | None = None, body: _Pieces | None = None
    ) -> Answer:
        client = self.bucket.client

        def ask(authorization: dict[str, str]) -> Answer:
            given = {**(headers or {}), **authorization}
            return client.send_once(method, url, given, body() if body else None)

        try:
            return self.bucket.authorized(ask)
        except PassingFault as fault:
            if fault.status == 501:
                self._raise_if_known(Refusal(501, "", None), "")
            raise

    def _about(self, sha256: Digest) -> dict[str, str]:
        return {"Content-Type": "application/octet-stream", "x-goog-meta-sha256": sha256.hex}

    def _key(self, name: str) -> str:
        prefix = self.place.location.partition("/")[2]
        return f"{prefix}/{name}" if prefix else name

    def _object_url(self, name: str) -> str:
        return f"{self.bucket.endpoint}{self._objects_path}/{quote(self._key(name), safe='')}"

    @property
    def _objects_path(self) -> str:
        return f"/storage/v1/b/{self._bucket_name}/o"

    @property
    def _bucket_name(self) -> str:
        return quote(self.place.location.partition("/")[0], safe="")


def _framed(head: bytes, body: Body, tail: bytes) -> Iterator[memoryview]:
    yield memoryview(head)
    yield from body.slices()
    yield memoryview(tail)
