"""Metrics in the Prometheus text format 0.0.4: ours from the first second, the engine's own appended byte for byte.

Everything here is pure; the page is put together in :mod:`lading.gateway.server`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import accumulate

from lading.events import Phase
from lading.gateway.progress import DownloadProgress
from lading.gateway.status import StatusSnapshot
from lading.gateway.traffic import FIRST_BYTE_BUCKETS_SECONDS, Traffic

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
STARTUP_PHASES = tuple(phase for phase in Phase if phase not in (Phase.READY, Phase.STOPPING, Phase.STOPPED))

Labels = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Sample:
    """One line: a value with its labels; ``suffix`` follows the family's name (``_bucket``, ``_sum``, ``_count``)."""

    value: float
    labels: Labels = ()
    suffix: str = ""


@dataclass(frozen=True, slots=True)
class Family:
    """One metric: its name, type, help and samples. ``str`` is its text."""

    name: str
    kind: str
    help: str
    samples: tuple[Sample, ...]

    def __str__(self) -> str:
        help_text = self.help.replace("\\", r"\\").replace("\n", r"\n")
        lines = [f"# HELP {self.name} {help_text}", f"# TYPE {self.name} {self.kind}"]
        lines += [f"{self.name}{each.suffix}{_labels(each.labels)} {_number(each.value)}" for each in self.samples]
        return "\n".join(lines) + "\n"


def page(snapshot: StatusSnapshot, traffic: Traffic, engine_up: bool | None, engine_block: bytes) -> bytes:
    """The whole text. ``engine_up`` is None while no engine is expected to answer."""
    own = [*_startup(snapshot), *_download(snapshot), *_profile(snapshot), *_memory(snapshot)]
    own += [*_adapters(snapshot), *_http(traffic)]
    if engine_up is not None:
        own.append(_gauge("engine_metrics_up", "Whether the engine's own metrics follow below.", engine_up))
    return "".join(map(str, own)).encode() + engine_block


def _startup(snapshot: StatusSnapshot) -> Iterator[Family]:
    seconds = snapshot.phase_seconds
    yield _family(
        "startup_phase_seconds",
        "gauge",
        "Seconds spent in each phase of the start so far.",
        (Sample(seconds[phase], (("phase", phase.value),)) for phase in STARTUP_PHASES if phase in seconds),
    )
    yield _family(
        "startup_phase",
        "gauge",
        "1 for the phase the service is in, 0 for the others.",
        (Sample(float(phase is snapshot.phase), (("phase", phase.value),)) for phase in Phase),
    )
    yield _gauge("ready", "Whether the model answers.", snapshot.ready)


def _download(snapshot: StatusSnapshot) -> Iterator[Family]:
    download = snapshot.download or DownloadProgress(0, 0, 0, 0.0, None)
    expected = download.total_bytes - download.present_bytes
    eta = download.eta_seconds if download.eta_seconds is not None else math.nan
    yield _counter("download_bytes_total", "Bytes fetched from the source.", snapshot.downloaded_bytes)
    yield _counter("download_retries_total", "Requests to the source made again.", snapshot.retries)
    yield _gauge("cache_hit_bytes", "Bytes of the model that were in the cache already.", snapshot.cache_hit_bytes)
    yield _gauge("download_bytes_expected", "Bytes that the transfer has to fetch.", expected)
    yield _gauge("download_bytes_per_second", "Rate of the last ten seconds.", download.bytes_per_second)
    yield _gauge("download_eta_seconds", "Seconds until the transfer ends at this rate; NaN while unknown.", eta)


def _profile(snapshot: StatusSnapshot) -> Iterator[Family]:
    info = snapshot.info
    if info.profile_id:
        labels = (
            ("id", info.profile_id),
            ("name", info.profile_name or ""),
            ("backend", info.backend or ""),
            ("version", info.backend_version or ""),
        )
        yield _family("profile_info", "gauge", "The profile that is served.", [Sample(1, labels)])
    if info.estimate_bytes is not None:
        yield _gauge("profile_memory_estimate_bytes", "Memory the profile should need.", info.estimate_bytes)


def _memory(snapshot: StatusSnapshot) -> Iterator[Family]:
    """Families without a sample are left out: not every engine tells everything."""
    told = (
        ("estimated", "estimated", snapshot.info.estimated_memory),
        ("measured", "measured by the engine at its start", snapshot.info.measured_memory),
    )
    for name, what, ranks in told:
        numbered = [(("rank", str(rank)), each) for rank, each in enumerate(ranks)]
        in_bytes = [
            Sample(size, (("term", term), rank)) for rank, each in numbered for term, size in each.terms.items()
        ]
        tokens = [Sample(each.kv_pool_tokens, (rank,)) for rank, each in numbered if each.kv_pool_tokens is not None]
        if in_bytes:
            yield _family(f"memory_{name}_bytes", "gauge", f"Memory of a rank by what holds it, as {what}.", in_bytes)
        if tokens:
            yield _family(f"kv_pool_{name}_tokens", "gauge", f"Tokens that the KV pool holds, as {what}.", tokens)


def _adapters(snapshot: StatusSnapshot) -> Iterator[Family]:
    if found := snapshot.adapters:
        states = (("loaded", len(found.loaded)), ("skipped", found.skipped))
        samples = (Sample(count, (("state", state),)) for state, count in states)
        yield _family("lora_adapters", "gauge", "LoRA adapters that were found, by what became of them.", samples)
        named = [Sample(1, (("name", name),)) for name in found.loaded]
        if named:
            yield _family("lora_adapter_info", "gauge", "1 for each LoRA adapter that is loaded.", named)


def _http(traffic: Traffic) -> Iterator[Family]:
    yield _family(
        "http_requests_total",
        "counter",
        "Requests ended, by route and status; 499: the client left before the reply.",
        (
            Sample(count, (("route", route), ("code", str(code))))
            for (route, code), count in sorted(traffic.requests.items())
        ),
    )
    if traffic.by_key:
        samples = [
            Sample(count, (("key", name), ("code", str(code))))
            for (name, code), count in sorted(traffic.by_key.items())
        ]
        yield _family(
            "http_requests_by_key_total", "counter", "Requests ended, by name of API key and status.", samples
        )
    yield _gauge("http_in_flight", "Requests whose reply is not complete.", traffic.in_flight)
    counts = list(accumulate(traffic.first_byte))
    bounds = [*(_number(each) for each in FIRST_BYTE_BUCKETS_SECONDS), "+Inf"]
    buckets = [Sample(count, (("le", bound),), "_bucket") for count, bound in zip(counts, bounds, strict=True)]
    totals = [Sample(traffic.first_byte_seconds, suffix="_sum"), Sample(counts[-1], suffix="_count")]
    yield _family(
        "http_time_to_first_byte_seconds",
        "histogram",
        "From a request's head to the engine's first reply byte.",
        buckets + totals,
    )


def _gauge(name: str, text: str, value: float) -> Family:
    return _family(name, "gauge", text, [Sample(value)])


def _counter(name: str, text: str, value: float) -> Family:
    return _family(name, "counter", text, [Sample(value)])


def _family(name: str, kind: str, text: str, samples: Iterable[Sample]) -> Family:
    return Family(f"lading_{name}", kind, text, tuple(samples))


def _labels(labels: Labels) -> str:
    if not labels:
        return ""
    return "{" + ",".join(f'{name}="{_escape(value)}"' for name, value in labels) + "}"


def _escape(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def _number(value: float) -> str:
    if math.isnan(value):
        return "NaN"
    return str(int(value)) if value == int(value) else repr(value)
