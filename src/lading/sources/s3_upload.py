"""Buckets of S3 as destinations: PutObject, and uploads in parts, signed by :mod:`lading.sources.s3_requests`.

Every body goes with its MD5 (``Content-MD5``) and is signed with its SHA-256 (``x-amz-content-sha256``): servers refuse
other bytes. AWS, where an etag is no MD5 in buckets with keys of KMS, is told each part's SHA-256 as a checksum too, to
have it back in the list of parts; others are not, since some refuse what they do not know.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress

from lading.digest import Digest
from lading.errors import FileNotFoundAtSource, SourceProtocolError
from lading.events import Report
from lading.sources.answer import Answer
from lading.sources.http import HttpClient
from lading.sources.interface import PassingFault
from lading.sources.member import Context
from lading.sources.part_uploads import PartUploads
from lading.sources.s3 import S3Source, client_and_options
from lading.sources.s3_credentials import S3Options
from lading.sources.s3_refusal import WRITING
from lading.sources.s3_requests import S3Requests, Signed
from lading.sources.s3_wire import Refusal, aws_endpoint, bucket_and_key, parse_refusal, told_digests
from lading.sources.upload import Body, Held
from lading.uri import ModelUri


def connect(place: ModelUri, context: Context) -> S3Destination:
    """The bucket at ``place``, of the storage that the settings name."""
    return S3Destination(place, *client_and_options(context), context.report)


class S3Destination(PartUploads):
    """A bucket, or a prefix of one: see :class:`~lading.sources.upload.Destination`."""

    whole_digest = None

    def __init__(self, place: ModelUri, client: HttpClient, options: S3Options, report: Report) -> None:
        super().__init__(place, report)
        self._client = client
        self._requests = S3Requests(client, options, WRITING)
        self.bucket = S3Source(client, options, self._requests)

    def put(self, name: str, sha256: Digest, body: Body) -> None:
        """Store an object in one request."""
        self._ask("PUT", name, {}, {**self._about(sha256), **self._checksum(body)}, body)

    def look_at(self, name: str) -> Held | None:
        """The object as it is stored now."""

        def send(url: str, headers: Mapping[str, str]) -> Answer | Refusal:
            answer = self._client.send_once("HEAD", url, headers)
            is_told = answer.status in (200, 404)
            return answer if is_told else parse_refusal(answer.status, answer.headers, answer.body)

        answer = self._requests.asked(self.place.with_file(name), {}, send, "HEAD")
        if answer.status == 404:
            return None
        size = answer.headers.get("Content-Length", "")
        if not size.isdecimal():
            raise SourceProtocolError(f"{self.place}: the server tells no size of {name}")
        return Held(int(size), told_digests(answer.headers))

    def remove(self, name: str) -> None:
        """Delete an object."""
        with suppress(FileNotFoundAtSource):
            self._ask("DELETE", name, {})

    def _ask(
        self,
        method: str,
        name: str,
        query: Mapping[str, str],
        headers: Mapping[str, str] | None = None,
        body: Body | None = None,
    ) -> Answer:
        def send(url: str, given: Mapping[str, str]) -> Answer | Refusal:
            answer = self._sent(method, url, given, body)
            if answer.status in (200, 204):
                return answer
            refusal = parse_refusal(answer.status, answer.headers, answer.body)
            self._raise_if_known(refusal, name)
            return refusal

        checksum = {"Content-MD5": body.content_md5} if body else {}
        signed = Signed({**(headers or {}), **checksum}, *([body.sha256.hex] if body else []))
        target = self.place.with_file(name) if name else ModelUri(self.place.scheme, self._bucket_name)
        return self._requests.asked(target, query, send, method, signed)

    def _sent(self, method: str, url: str, headers: Mapping[str, str], body: Body | None) -> Answer:
        try:
            if body is None:
                return self._client.send_once(method, url, headers)
            length = {"Content-Length": str(body.size_bytes)}
            return self._client.send_once(method, url, {**headers, **length}, body.slices())
        except PassingFault as fault:
            if fault.status == 501:
                self._raise_if_known(Refusal(501, "", None), "")
            raise

    def _about(self, sha256: Digest) -> dict[str, str]:
        return {"Content-Type": "application/octet-stream", "x-amz-meta-sha256": sha256.hex}

    def _key(self, name: str) -> str:
        return bucket_and_key(self.place.with_file(name))[1]

    @property
    def _bucket_name(self) -> str:
        return self.place.location.partition("/")[0]

    @property
    def _tells_sha256(self) -> bool:  # type: ignore[override]
        address = self._requests.address(self._bucket_name)
        return address.endpoint == aws_endpoint(address.region)
