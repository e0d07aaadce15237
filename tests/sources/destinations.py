"""Buckets that tests write to: real servers and simulators, each with a client that tells what was sent."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from lading.events import Event
from lading.model.manifest import FileEntry, Manifest
from lading.sources.answer import Answer, Response
from lading.sources.fault import Limits
from lading.sources.gcs import WRITING, GcsSource
from lading.sources.gcs_upload import GcsDestination
from lading.sources.http import HttpClient, Network
from lading.sources.s3_credentials import S3Options
from lading.sources.s3_upload import S3Destination
from lading.sources.s3_wire import Addressing
from lading.uri import ModelUri
from tests.simulators.google import GoogleSimulator
from tests.simulators.s3 import S3Simulator

AWS = "s3.us-east-1.amazonaws.com"
Written = S3Destination | GcsDestination


@dataclass(frozen=True)
class Sent:
    """A request as it went out; ``size_bytes`` of its body."""

    method: str
    path: str
    query: str
    size_bytes: int


class TellingClient(HttpClient):
    """A client that keeps a record, and lets a test have a hand in what goes out and what comes back.

    ``before`` may raise, ``spoil`` changes a body, ``after`` may replace the answer. ``lead`` says where a URL leads.
    """

    def __init__(self, lead: Callable[[str], str] = lambda url: url) -> None:
        super().__init__(Network(limits=Limits(read_seconds=20.0)))
        self.sent: list[Sent] = []
        self.before: Callable[[Sent], None] = lambda _: None
        self.spoil: Callable[[Sent, bytes], bytes] = lambda _, data: data
        self.after: Callable[[Sent, Answer], Answer] = lambda _, answer: answer
        self._lead = lead

    def send_once(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | Iterable[memoryview] | None = None
    ) -> Answer:
        parts = urlsplit(url)
        data = b"".join(body) if body is not None and not isinstance(body, bytes) else body
        sent = Sent(method, parts.path, parts.query, len(data or b""))
        self.before(sent)
        self.sent.append(sent)
        answer = super().send_once(method, self._lead(url), headers, self.spoil(sent, data) if data else data)
        return self.after(sent, answer)

    @contextmanager
    def open(self, url: str, headers: Mapping[str, str]) -> Iterator[Response]:
        with super().open(self._lead(url), headers) as response:
            yield response

    @property
    def parts(self) -> list[Sent]:
        """The parts that were sent."""
        return [each for each in self.sent if each.method == "PUT" and "partNumber" in each.query]

    @property
    def objects_with_bytes(self) -> list[Sent]:
        """The requests that carried files' bytes."""
        completions = [each for each in self.sent if each.method == "POST" and "uploadId" in each.query]
        return [each for each in self.sent if each.size_bytes and each not in completions]


@dataclass
class Stand:
    """A bucket: ``connect`` makes a destination of its own client, as another process would have it."""

    place: ModelUri
    make: Callable[[TellingClient, Callable[[Event], None]], Written]
    takes_parts: bool = True
    bears_rivals: bool = True  # whether several may write one object at a time
    simulator: Any = None
    lead: Callable[[str], str] = lambda url: url
    events: list[Event] = field(default_factory=list)

    def connect(self) -> tuple[Written, TellingClient]:
        client = TellingClient(self.lead)
        return self.make(client, self.events.append), client


def s3_stand(endpoint: str | None, bucket: str, simulator: S3Simulator | None = None) -> Stand:
    """A bucket of an S3 server."""
    place = ModelUri.parse(f"s3://{bucket}/nim models/1+2%25")
    options = S3Options(endpoint, "us-east-1", Addressing.PATH)
    return Stand(place, lambda client, report: S3Destination(place, client, options, report), simulator=simulator)


def aws_stand(simulator: S3Simulator, bucket: str) -> Stand:
    """The simulator as AWS: what goes there by its name is led to the simulator."""
    stand = s3_stand(None, bucket, simulator)
    stand.lead = lambda url: url.replace(f"https://{AWS}", simulator.endpoint)
    return stand


def gcs_stand(endpoint: str, bucket: str, simulator: GoogleSimulator | None = None) -> Stand:
    """A bucket of Google's storage, or of an emulator."""
    place = ModelUri.parse(f"gs://{bucket}/nim models/1+2%25")

    def make(client: TellingClient, report: Callable[[Event], None]) -> Written:
        return GcsDestination(place, GcsSource(client, None, endpoint, WRITING), report)

    return Stand(place, make, takes_parts=simulator is not None, simulator=simulator)


def written(directory: Path, model: ModelUri, files: Mapping[str, bytes]) -> tuple[Manifest, dict[str, Path]]:
    """The files as the cache has them: a manifest with their SHA-256, and where their blobs lie."""
    from lading.digest import Digest

    directory.mkdir(parents=True, exist_ok=True)
    entries, places = [], {}
    for number, (path, data) in enumerate(files.items()):
        places[path] = directory / str(number)
        places[path].write_bytes(data)
        entries.append(FileEntry(path, len(data), model.with_file(path), Digest.of(data)))
    return Manifest.of(model, model.revision, entries), places
