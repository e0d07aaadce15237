from __future__ import annotations

import math
import re
from pathlib import Path

import pytest

from lading.events import AdaptersChanged, BytesFetched, Phase, PhaseChanged, RetryScheduled, TransferStarted
from lading.gateway.metrics import Family, Sample, page
from lading.gateway.status import ServiceInfo, ServiceStatus
from lading.gateway.traffic import Traffic
from lading.profiles.measurement import Measurement
from tests.gateway.prometheus_text import Samples, parse


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def sample(samples: Samples, metric: str, /, **labels: str) -> float:
    return samples[f"lading_{metric}", frozenset(labels.items())]


def rendered(status: ServiceStatus, traffic: Traffic | None = None, engine_up: bool | None = None) -> Samples:
    return parse(page(status.snapshot(), traffic or Traffic(frozenset()), engine_up, b"").decode())


def test_every_metric_of_a_start_is_there_from_the_first_second() -> None:
    samples = rendered(ServiceStatus())
    assert sample(samples, "startup_phase", phase="resolving") == 1
    assert sample(samples, "startup_phase", phase="ready") == 0
    assert sample(samples, "ready") == 0
    for name in ("bytes_total", "bytes_expected", "bytes_per_second", "retries_total"):
        assert sample(samples, f"download_{name}") == 0
    assert math.isnan(sample(samples, "download_eta_seconds"))
    assert sample(samples, "cache_hit_bytes") == 0
    assert sample(samples, "http_in_flight") == 0
    assert sample(samples, "http_time_to_first_byte_seconds_count") == 0
    assert not any(name == "lading_engine_metrics_up" for name, _ in samples)


def test_phases_and_download_are_told() -> None:
    clock = Clock()
    status = ServiceStatus(clock)
    clock.now = 1.5
    status.report(PhaseChanged(Phase.DOWNLOADING))
    status.report(TransferStarted(files=2, total_bytes=1000, present_bytes=100))
    status.report(RetryScheduled("a", "timeout", 1.0))
    clock.now = 3.5
    status.report(BytesFetched("a", 300))
    samples = rendered(status)
    assert sample(samples, "startup_phase_seconds", phase="resolving") == 1.5
    assert sample(samples, "startup_phase_seconds", phase="downloading") == 2.0
    assert sample(samples, "download_bytes_total") == 300
    assert sample(samples, "download_bytes_expected") == 900
    assert sample(samples, "download_bytes_per_second") == 150
    assert sample(samples, "download_eta_seconds") == 4
    assert sample(samples, "download_retries_total") == 1
    assert sample(samples, "cache_hit_bytes") == 100


def test_serving_is_no_start_up_phase() -> None:
    status = ServiceStatus()
    status.report(PhaseChanged(Phase.READY))
    samples = rendered(status)
    assert sample(samples, "ready") == 1
    assert ("lading_startup_phase_seconds", frozenset({("phase", "ready")})) not in samples


NASTY = 'a "quoted"\\ back\nline ü {}, =1'


def test_the_profile_is_told_with_its_labels_escaped() -> None:
    status = ServiceStatus()
    status.describe(
        ServiceInfo(
            profile_id="ab" * 32, profile_name=NASTY, backend="vllm", backend_version="0.33.0", estimate_bytes=7
        )
    )
    samples = rendered(status)
    labels = {"id": "ab" * 32, "name": NASTY, "backend": "vllm", "version": "0.33.0"}
    assert sample(samples, "profile_info", **labels) == 1
    assert sample(samples, "profile_memory_estimate_bytes") == 7


def test_estimated_and_measured_memory_are_told_by_term_and_rank() -> None:
    status = ServiceStatus()
    before = {name for name, _ in rendered(status)}
    assert not any(name.startswith(("lading_memory", "lading_kv_pool")) for name in before)
    status.describe(ServiceInfo(estimated_memory=(Measurement(weights_bytes=15, activation_bytes=2),)))
    samples = rendered(status)
    assert sample(samples, "memory_estimated_bytes", term="weights", rank="0") == 15
    assert sample(samples, "memory_estimated_bytes", term="activation", rank="0") == 2
    assert not any(name.startswith("lading_memory_measured") for name, _ in samples)
    ranks = (Measurement(14, 0, 1, 3, 50, 4096), Measurement(13, kv_pool_tokens=4096))
    status.describe(ServiceInfo(measured_memory=ranks))
    samples = rendered(status)
    told = {
        (dict(labels)["term"], dict(labels)["rank"]): value
        for (name, labels), value in samples.items()
        if name == "lading_memory_measured_bytes"
    }
    assert told == {
        ("weights", "0"): 14, ("activation", "0"): 0, ("non_torch", "0"): 1, ("cuda_graphs", "0"): 3, ("kv_pool", "0"): 50,
        ("weights", "1"): 13,
    }  # fmt: skip
    assert sample(samples, "kv_pool_measured_tokens", rank="1") == 4096


def test_the_metrics_that_the_page_on_calibration_names_are_those_of_memory() -> None:
    status, ranks = ServiceStatus(), (Measurement(1, 2, 3, 4, 5, 6),)
    before = {name for name, _ in rendered(status)}
    status.describe(ServiceInfo(estimated_memory=ranks, measured_memory=ranks))
    samples = rendered(status)
    text = (Path(__file__).parents[2] / "docs" / "calibration.md").read_text()
    assert {name for name, _ in samples} - before == set(re.findall(r"\blading_\w+", text))
    terms = {value for _, labels in samples for name, value in labels if name == "term"}
    assert all(f"`{term}`" in text for term in terms)


def test_help_text_is_escaped() -> None:
    family = Family("x", "gauge", "a\\b\nc", (Sample(1.0),))
    assert str(family).startswith("# HELP x a\\\\b\\nc\n")


def test_requests_are_counted_by_route_and_code() -> None:
    traffic = Traffic(frozenset(("/v1/health/live",)))
    for path, status in [
        ("/v1/health/live", 200),
        ("/v1/chat/completions", 200),
        ("/v1/chat/completions", 200),
        ("/v1/chat/completions", 0),
        ("/wp-login.php", 404),
        ("/etc/passwd", 404),
    ]:
        traffic.began()
        traffic.ended(path, status)
    traffic.refused(400)
    traffic.began()
    samples = rendered(ServiceStatus(), traffic)
    assert sample(samples, "http_requests_total", route="/v1/chat/completions", code="200") == 2
    assert sample(samples, "http_requests_total", route="/v1/chat/completions", code="499") == 1
    assert sample(samples, "http_requests_total", route="other", code="404") == 2
    assert sample(samples, "http_requests_total", route="invalid", code="400") == 1
    assert sample(samples, "http_in_flight") == 1


def test_first_bytes_fall_into_cumulative_buckets() -> None:
    traffic = Traffic(frozenset())
    for seconds in (0.01, 0.02, 0.3, 4.0, 1000.0):
        traffic.replied(seconds)
    samples = rendered(ServiceStatus(), traffic)
    buckets = {
        bound: sample(samples, "http_time_to_first_byte_seconds_bucket", le=bound)
        for bound in ("0.01", "0.05", "0.5", "5", "60", "+Inf")
    }
    assert buckets == {"0.01": 1, "0.05": 2, "0.5": 3, "5": 4, "60": 4, "+Inf": 5}
    assert sample(samples, "http_time_to_first_byte_seconds_count") == 5
    assert sample(samples, "http_time_to_first_byte_seconds_sum") == pytest.approx(1004.33)


@pytest.mark.parametrize("up", [True, False], ids=["up", "down"])
def test_the_engines_block_comes_last_and_unchanged(up: bool) -> None:
    block = b"# HELP vllm:x X.\n# TYPE vllm:x gauge\nvllm:x 1.0\n" if up else b""
    text = page(ServiceStatus().snapshot(), Traffic(frozenset()), up, block)
    assert text.endswith(block)
    assert sample(parse(text.decode()), "engine_metrics_up") == float(up)


def test_lora_adapters_are_counted_and_named_where_there_are_any() -> None:
    status = ServiceStatus()
    assert not any("lora" in name for name, _ in rendered(status))
    status.report(AdaptersChanged(("a", "b"), 1))
    samples = rendered(status)
    assert sample(samples, "lora_adapters", state="loaded") == 2
    assert sample(samples, "lora_adapters", state="skipped") == 1
    assert sample(samples, "lora_adapter_info", name="b") == 1
    status.report(AdaptersChanged((), 0))
    assert sample(rendered(status), "lora_adapters", state="loaded") == 0
