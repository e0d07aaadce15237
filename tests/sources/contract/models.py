"""The model of every stand, and how its source is made and read."""

from __future__ import annotations

import random
import threading
from dataclasses import dataclass, field
from functools import cached_property
from importlib import import_module

from lading.cache.root import CacheRoot
from lading.cache.store import FileHasher
from lading.events import BytesFetched, Event, Report, ignore
from lading.model.manifest import FileEntry, Manifest
from lading.settings import Settings
from lading.sources import about_sources, source_for
from lading.sources.fault import Limits
from lading.sources.http import HttpClient, Network
from lading.sources.interface import Source
from lading.sources.member import Context, Member
from lading.transfer import TransferOptions, survey, transfer
from tests.sources.contract.stand import Stand
from tests.sources.servers import FakeTime

WEIGHTS = "model.safetensors"
LARGE = "large.safetensors"
NAMES = "nested/deep er/100% of 1+2 #3?&a=b;c,d'(e)!*@:$~.bin"
FILES = {
    "config.json": b'{"model_type": "tiny"}',
    "__init__.py": b"",
    WEIGHTS: random.Random(1).randbytes(100_000),
    "nested/part 1.bin": random.Random(2).randbytes(3000),
    NAMES: random.Random(3).randbytes(300),
    "ünïcode/模型-%2F%41.txt": "naïve".encode(),
}


def settings_of(stand: Stand, **changes: str) -> Settings:
    return Settings.from_env({**stand.environ, **changes})


def source_of(stand: Stand, report: Report = ignore, **changes: str) -> Source:
    """The stand's source, made as every command makes it; ``changes`` are settings."""
    return source_for(stand.uri, settings_of(stand, **changes), report)


@dataclass(frozen=True)
class _Hurried(Context):
    limits: Limits = field(default_factory=Limits)
    time: FakeTime = field(default_factory=FakeTime)

    @property
    def client(self) -> HttpClient:
        time = self.time
        return HttpClient(self.network, report=self.report, sleep=time.sleep, clock=time.clock, jitter=lambda: 1.0)

    @cached_property
    def network(self) -> Network:
        network = super().network
        return Network(network.proxies, network.ca_bundle, network.offline, self.limits)


def hurried_source(stand: Stand, time: FakeTime, report: Report = ignore, *, read_seconds: float = 5.0) -> Source:
    """The stand's source with a clock of its own, and little patience with a silent server."""
    limits = Limits(connect_seconds=5.0, read_seconds=read_seconds)
    module = type(source_of(stand)).__module__
    member: Member = import_module(module)
    assert about_sources()[stand.scheme] == member.ABOUT
    return member.connect(_Hurried(settings_of(stand), report, limits, time))


def read(source: Source, file: FileEntry, start: int = 0, end: int | None = None, *, step: int = 7000) -> bytes:
    """One range, through a buffer of ``step`` bytes."""
    data = bytearray()
    buffer = memoryview(bytearray(step))
    with source.open_range(file, start, file.size_bytes if end is None else end) as body:
        while count := body.readinto(buffer):
            data += buffer[:count]
    return bytes(data)


def keeps_promise(file: FileEntry, data: bytes) -> bool:
    """Whether ``data`` has the digest that is promised, if any is."""
    hasher = FileHasher(len(data), file.digest)
    hasher.update(data)
    return hasher.keeps_promise


def hurried(event: threading.Event, seconds: float) -> bool:
    return event.wait(min(seconds, 0.001))


OPTIONS = TransferOptions(connections=2, part_bytes=20_000, run_bytes=1, retries=4, journal_seconds=0.02, wait=hurried)
ONE_REQUEST = TransferOptions(connections=1, part_bytes=1 << 20, retries=4, journal_seconds=0.02, wait=hurried)


def fetch(
    manifest: Manifest,
    source: Source,
    cache: CacheRoot,
    report: Report = ignore,
    *,
    options: TransferOptions = OPTIONS,
    cancelled: threading.Event | None = None,
) -> dict[str, bytes]:
    """A transfer into the cache; what it says are the files' bytes, by path."""
    plan = survey(manifest, source, cache)
    done = transfer(plan, source, cache, report, cancelled=cancelled or threading.Event(), options=options)
    return {each.path: cache.store.path_of(each.digest).read_bytes() for each in done.files if each.digest}


def counts(events: list[Event], path: str) -> list[int]:
    """How many bytes of a file were fetched, step by step."""
    return [each.count for each in events if isinstance(each, BytesFetched) and each.path == path]
