"""Signed requests to an S3 server, each asked again once for every better way that a refusal teaches.

Who signs comes from :mod:`lading.sources.s3_credentials`, where to from :mod:`lading.sources.s3_wire`. The requests
themselves are the caller's, through the client that all sources share. Rules kept here:

* signatures are headers, made anew for every request: they do not outlive it, stand in no URL, and follow no redirect
  to another host;
* a refusal that says how to ask better (another region, a token that ended) is followed once;
* offline, credentials are not looked for, which may take the network too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from threading import Lock
from typing import TypeVar
from urllib.parse import urlsplit

from lading.errors import OfflineError
from lading.sources.http import HttpClient
from lading.sources.s3_credentials import EMPTY_SHA256, AwsIdentity, S3Options, check_options
from lading.sources.s3_refusal import READING, Use, refused
from lading.sources.s3_wire import Address, Refusal, aws_endpoint, bucket_and_key, is_path_style
from lading.uri import ModelUri

_FIRST_REGION = "us-east-1"
_SIGNED_TOO = {"HEAD": {"x-amz-checksum-mode": "ENABLED"}}
_Got = TypeVar("_Got")


@dataclass(frozen=True, slots=True)
class Signed:
    """What is signed besides the method and the URL: headers, and the SHA-256 of the body in hex."""

    headers: Mapping[str, str] = field(default_factory=dict)
    body_sha256: str = EMPTY_SHA256


class S3Requests:
    """Requests about the buckets at one endpoint, or at AWS, by whom the options name. Safe for several threads.

    ``use`` is what they are for, which errors tell.
    """

    def __init__(self, client: HttpClient, options: S3Options, use: Use = READING) -> None:
        """Opens nothing. Raises UsageError for options that cannot be used."""
        self._client = client
        self._options = options
        self._use = use
        self._identity: AwsIdentity | None = None
        self._regions: dict[str, str] = {}
        self._lock = Lock()
        check_options(options)

    def asked(
        self,
        target: ModelUri,
        query: Mapping[str, str],
        send: Callable[[str, Mapping[str, str]], _Got | Refusal],
        method: str = "GET",
        signed: Signed | None = None,
    ) -> _Got:
        """What ``send`` gets for a URL and the headers that sign it; sent once more for each thing a refusal teaches.

        A HEAD asks for checksums. Raises the error that explains the last refusal, OfflineError, and what
        :meth:`identity` and ``send`` raise.
        """
        if self._client.offline:
            raise OfflineError(
                f"{target} is needed, and the network is forbidden", remedy="unset LADING_OFFLINE and HF_HUB_OFFLINE"
            )
        bucket, key = bucket_and_key(target)
        signed = signed or Signed(_SIGNED_TOO.get(method, {}))
        learnt: set[str] = set()
        while True:
            identity, address = self.identity(), self.address(bucket)
            url = address.url(key, query)
            got = send(url, identity.headers(method, url, address.region, signed.headers, signed.body_sha256))
            if not isinstance(got, Refusal):
                return got
            lesson = self._lesson(got, identity, address)
            if lesson is None or lesson in learnt:
                raise refused(got, target, identity, address, self._use)
            learnt.add(lesson)

    def identity(self) -> AwsIdentity:
        """Who asks. The first call walks the chain of credentials, and raises what that meets."""
        with self._lock:
            self._identity = self._identity or AwsIdentity(self._options, self._client)
            return self._identity

    def address(self, bucket: str) -> Address:
        """Where requests about the bucket go, as far as it is known by now."""
        identity = self.identity()
        region = self._regions.get(bucket) or self._options.region or identity.region or _FIRST_REGION
        endpoint = self._options.endpoint or identity.endpoint or aws_endpoint(region)
        return Address(endpoint, bucket, region, is_path_style(endpoint, bucket, self._options.addressing))

    def path_style_hint(self, bucket: str) -> str | None:
        """What may help where the bucket's host cannot be reached; None where it is not the bucket's own."""
        address = self.address(bucket)
        if address.is_path_style or address.endpoint == aws_endpoint(address.region):
            return None
        return f"if {urlsplit(address.url()).hostname} is no name here, set AWS_S3_USE_PATH_STYLE=true"

    def _lesson(self, refusal: Refusal, identity: AwsIdentity, address: Address) -> str | None:
        """What the next request does better, or None: signing for the right region, with a token that is alive."""
        if refusal.region and refusal.region != address.region and refusal.status in (301, 307, 400, 403):
            self._regions[address.bucket] = refusal.region
            return "region"
        if refusal.code == "ExpiredToken":
            with self._lock:
                if self._identity is identity:
                    self._identity = AwsIdentity(self._options, self._client)
            return "token"
        return None
