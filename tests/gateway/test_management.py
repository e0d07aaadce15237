from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from lading.events import BytesFetched, Phase, PhaseChanged, TransferStarted
from lading.gateway.asgi import call
from lading.gateway.heads import parse_head
from lading.gateway.management import MANAGEMENT_PATHS, explain, management_app
from lading.gateway.replies import LocalReply
from lading.gateway.status import ServiceInfo, ServiceStatus
from lading.profiles.measurement import Measurement
from tests.gateway.prometheus_text import parse


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class Management:
    """The application under test and the status behind it."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.status = ServiceStatus(self.clock)
        self.app = management_app(self.status, "1.2.3")

    def ask(self, path: str, method: str = "GET", accept: str = "*/*") -> LocalReply:
        head = parse_head(f"{method} {path} HTTP/1.1\r\nhost: a\r\naccept: {accept}\r\n\r\n".encode())
        return asyncio.run(call(self.app, head))

    def download(self) -> None:
        self.status.report(PhaseChanged(Phase.DOWNLOADING, "from the hub"))
        self.status.report(TransferStarted(files=2, total_bytes=4 << 30, present_bytes=1 << 30))
        self.clock.now += 8
        self.status.report(BytesFetched("a", 1 << 30))


@pytest.fixture
def management() -> Management:
    return Management()


def header(reply: LocalReply, name: str) -> str | None:
    return next((value.decode() for key, value in reply.headers if key == name.encode()), None)


def content(reply: LocalReply) -> Any:
    assert header(reply, "content-type") == "application/json"
    return json.loads(reply.body)


@pytest.mark.parametrize("phase", list(Phase))
def test_live_is_said_in_every_phase(management: Management, phase: Phase) -> None:
    management.status.report(PhaseChanged(phase))
    reply = management.ask("/v1/health/live")
    assert reply.status == 200
    assert content(reply) == {"object": "health.response", "message": "live", "status": "live"}


def test_ready_is_said_when_the_model_answers(management: Management) -> None:
    management.status.report(PhaseChanged(Phase.READY))
    reply = management.ask("/v1/health/ready")
    assert reply.status == 200
    assert content(reply) == {"object": "health.response", "message": "ready", "status": "ready"}


def test_before_that_ready_tells_the_phase_and_how_far_it_is(management: Management) -> None:
    management.download()
    reply = management.ask("/v1/health/ready")
    assert reply.status == 503
    assert header(reply, "retry-after") == "16"
    assert content(reply) == {
        "object": "health.response",
        "message": "The model is not ready: downloading, 50 % of 4.00 GiB, about 16 s left.",
        "status": "not_ready",
        "phase": "downloading",
        "detail": "from the hub",
        "percent": 50.0,
        "eta_seconds": 16.0,
        "bytes_fetched": 1 << 30,
        "bytes_total": 4 << 30,
        "seconds_in_phase": 8.0,
    }


def test_what_is_not_known_yet_is_null(management: Management) -> None:
    body = content(management.ask("/v1/health/ready"))
    assert [body[key] for key in ("percent", "eta_seconds", "bytes_fetched", "bytes_total")] == [None] * 4


@pytest.mark.parametrize(
    ("fetched", "expected"),
    [(1 << 30, "16"), (3 << 30, "1"), (1 << 20, "60"), (0, "5")],
    ids=["eta", "soon", "far", "unknown"],
)
def test_retry_after_follows_the_time_left_within_a_minute(management: Management, fetched: int, expected: str) -> None:
    management.status.report(PhaseChanged(Phase.DOWNLOADING))
    management.status.report(TransferStarted(files=1, total_bytes=3 << 30, present_bytes=0))
    management.clock.now += 8
    management.status.report(BytesFetched("a", fetched))
    assert header(management.ask("/v1/health/ready"), "retry-after") == expected


@pytest.mark.parametrize(
    ("phase", "sentence"),
    [
        (Phase.LOADING, "The model is not ready: loading (shard 1 of 4), for 0.0 s."),
        (Phase.STOPPING, "The service is stopping."),
        (Phase.STOPPED, "The service is stopping."),
        (Phase.READY, "The model is ready."),
    ],
)
def test_each_phase_has_a_sentence(management: Management, phase: Phase, sentence: str) -> None:
    management.status.report(PhaseChanged(phase, "shard 1 of 4"))
    assert explain(management.status.snapshot()) == sentence


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/chat/completions"),
        ("GET", "/v1/models"),
        ("DELETE", "/anything/at/all"),
        ("OPTIONS", "/v1/models"),
        ("OPTIONS", "*"),
        ("PATCH", "/v1/health/live/"),
        ("GET", "/v1/health"),
        ("GET", "/"),
    ],
)
def test_engine_paths_are_503_in_every_method_before_ready(management: Management, method: str, path: str) -> None:
    management.download()
    reply = management.ask(path, method)
    assert reply.status == 503
    assert header(reply, "retry-after") == "16"
    assert content(reply)["error"] == {
        "message": "The model is not ready: downloading, 50 % of 4.00 GiB, about 16 s left.",
        "type": "service_unavailable",
        "code": 503,
        "phase": "downloading",
        "percent": 50.0,
        "eta_seconds": 16.0,
    }


def test_a_ready_service_without_an_engine_says_so(management: Management) -> None:
    management.status.report(PhaseChanged(Phase.READY))
    assert "not connected" in content(management.ask("/v1/models"))["error"]["message"]


@pytest.mark.parametrize("path", sorted(MANAGEMENT_PATHS))
def test_a_wrong_method_is_told_the_right_ones(management: Management, path: str) -> None:
    reply = management.ask(path, "POST")
    assert reply.status == 405
    assert set((header(reply, "allow") or "").split(", ")) == {"GET", "HEAD"}
    assert content(reply)["error"]["code"] == 405


@pytest.mark.parametrize("path", sorted(MANAGEMENT_PATHS))
def test_head_is_answered_like_get(management: Management, path: str) -> None:
    management.status.describe(ServiceInfo(manifest_yaml="a: 1\n"))
    assert management.ask(path, "HEAD").status == management.ask(path, "GET").status


def test_version(management: Management) -> None:
    assert content(management.ask("/v1/version")) == {"release": "1.2.3", "api": "1.0"}


def test_metadata_has_the_keys_of_nim_before_anything_is_known(management: Management) -> None:
    body = content(management.ask("/v1/metadata"))
    assert body["version"] == "1.2.3"
    assert body["assetInfo"] == []
    assert body["modelInfo"] == []
    assert isinstance(body["licenseInfo"], dict)
    assert (body["repository_override"], body["selectedModelProfileId"]) == ("", "")
    assert body["phase"] == "resolving"


def test_metadata_tells_what_is_served_and_why(management: Management) -> None:
    management.status.describe(
        ServiceInfo(
            served_names=("llama", "alias"),
            source="hf://org/llama",
            revision="abc123",
            profile_id="f" * 64,
            profile_name="vllm-bf16-tp1-pp1",
            profile_reason="the fastest that fits",
            backend="vllm",
            backend_version="0.33.0",
        )
    )
    body = content(management.ask("/v1/metadata"))
    assert body["modelInfo"] == [
        {"shortName": "llama", "modelUrl": "hf://org/llama"},
        {"shortName": "alias", "modelUrl": "hf://org/llama"},
    ]
    assert body["assetInfo"] == ["hf://org/llama"]
    assert body["selectedModelProfileId"] == "f" * 64
    assert (body["profile_name"], body["profile_reason"]) == ("vllm-bf16-tp1-pp1", "the fastest that fits")
    assert (body["backend"], body["backend_version"], body["revision"]) == ("vllm", "0.33.0", "abc123")


def test_metadata_tells_the_memory_of_each_rank_as_listings_do(management: Management) -> None:
    assert content(management.ask("/v1/metadata"))["memory"] == {"estimated": [], "measured": []}
    ranks = (Measurement(weights_bytes=1, kv_pool_tokens=2), Measurement(weights_bytes=3))
    management.status.describe(ServiceInfo(measured_memory=ranks))
    first, second = content(management.ask("/v1/metadata"))["memory"]["measured"]
    assert (first["rank"], first["weights_bytes"], first["kv_pool_tokens"], first["kv_pool_bytes"]) == (0, 1, 2, None)
    assert (second["rank"], second["weights_bytes"]) == (1, 3)


MANIFEST = "schema_version: '2.0'\nprofiles: []\n"


def test_the_manifest_is_503_until_it_is_known(management: Management) -> None:
    reply = management.ask("/v1/manifest")
    assert reply.status == 503
    assert header(reply, "retry-after")
    assert "manifest is not known" in content(reply)["error"]["message"]


@pytest.mark.parametrize("accept", ["*/*", "application/json", "text/html, application/json;q=0.9"])
def test_the_manifest_is_json_unless_asked_otherwise(management: Management, accept: str) -> None:
    management.status.describe(ServiceInfo(manifest_yaml=MANIFEST))
    reply = management.ask("/v1/manifest", accept=accept)
    assert content(reply) == {"manifest": MANIFEST}
    assert header(reply, "vary") == "accept"


@pytest.mark.parametrize("accept", ["application/yaml", "text/yaml", "text/html, Application/YAML;q=0.9"])
def test_the_manifest_is_yaml_for_those_who_ask(management: Management, accept: str) -> None:
    management.status.describe(ServiceInfo(manifest_yaml=MANIFEST))
    reply = management.ask("/v1/manifest", accept=accept)
    assert reply.body.decode() == MANIFEST
    assert (header(reply, "content-type") or "").startswith("application/yaml")


@pytest.mark.parametrize("path", ["/metrics", "/v1/metrics"])
def test_metrics_are_prometheus_text(management: Management, path: str) -> None:
    reply = management.ask(path)
    assert header(reply, "content-type") == "text/plain; version=0.0.4; charset=utf-8"
    assert parse(reply.body.decode())
