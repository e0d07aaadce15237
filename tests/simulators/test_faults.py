"""Every fault: the steps it becomes, and what a client of a faulty hub sees."""

import http.client
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from .client import ask, read_answer
from .faults import (
    BodyFault,
    Corrupt,
    CutAfter,
    Fault,
    HangUp,
    IgnoreRange,
    Latency,
    Pause,
    Send,
    Stall,
    Status,
    Step,
    Throttle,
    Truncate,
    WrongEtag,
    WrongRange,
    script,
)
from .hub import HubSimulator
from .hub_repository import Blob

CONFIG = b'{"model_type": "tiny"}\n'
WEIGHTS = bytes(range(256)) * 400
FILES = {"config.json": CONFIG, "model.safetensors": WEIGHTS}
CONFIG_PATH = "/demo/tiny/resolve/main/config.json"
WEIGHTS_PATH = "/demo/tiny/resolve/main/model.safetensors"


def link_to_weights(hub: HubSimulator) -> str:
    location = ask(hub.endpoint + WEIGHTS_PATH, method="HEAD").headers["Location"]
    assert location is not None
    return location


@pytest.fixture
def hub() -> Iterator[HubSimulator]:
    with HubSimulator() as simulator:
        simulator.add_model("demo/tiny", FILES)
        yield simulator


@pytest.mark.parametrize(
    ("faults", "steps"),
    [
        pytest.param([], [Send(10, 30)], id="none"),
        pytest.param([CutAfter(5)], [Send(10, 15), HangUp(reset=False)], id="cut counts from the start of the body"),
        pytest.param(
            [Truncate(15)], [Send(10, 15), HangUp(reset=False)], id="truncate counts from the start of the file"
        ),
        pytest.param([Truncate(3)], [HangUp(reset=False)], id="truncate before the range"),
        pytest.param([Stall(5, 2.0)], [Send(10, 15), Pause(2.0), Send(15, 30)], id="stall"),
        pytest.param([Stall(0, 2.0)], [Pause(2.0), Send(10, 30)], id="stall at once"),
        pytest.param([Corrupt(12)], [Send(10, 12), Send(12, 13, inverted=True), Send(13, 30)], id="corrupt"),
        pytest.param(
            [Stall(5, 2.0), CutAfter(5, reset=True)],
            [Send(10, 15), Pause(2.0), HangUp(reset=True)],
            id="stall, then reset",
        ),
        pytest.param([Corrupt(20), CutAfter(5)], [Send(10, 15), HangUp(reset=False)], id="cut before the corrupt byte"),
        pytest.param([Throttle(200)], [Pause(0.05), Send(10, 20), Pause(0.05), Send(20, 30)], id="throttle"),
    ],
)
def test_faults_compose_into_steps(faults: list[BodyFault], steps: list[Step]) -> None:
    assert list(script(range(10, 30), faults)) == steps


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (CutAfter(5000), http.client.IncompleteRead),
        (CutAfter(5000, reset=True), ConnectionResetError),
        (Truncate(5000), http.client.IncompleteRead),
    ],
)
@pytest.mark.parametrize("kept", ["bytes", "file"])
def test_a_short_body_ends_the_connection(
    hub: HubSimulator, tmp_path: Path, kept: str, fault: Fault, error: type[Exception]
) -> None:
    (tmp_path / "weights").write_bytes(WEIGHTS)
    hub.add_model("demo/tiny", {"model.safetensors": WEIGHTS if kept == "bytes" else tmp_path / "weights"})
    link = link_to_weights(hub)
    hub.fault("model.safetensors", fault)
    answer = ask(link)
    assert (answer.status, answer.headers["Content-Length"]) == (200, str(len(WEIGHTS)))
    assert isinstance(answer.error, error)
    assert answer.body == WEIGHTS[:5000]
    assert ask(link).body == WEIGHTS


def test_a_truncated_copy_cannot_be_resumed_past_its_end(hub: HubSimulator) -> None:
    link = link_to_weights(hub)
    hub.fault("model.safetensors", Truncate(5000), times=None)
    answer = ask(link, headers={"Range": "bytes=5000-"})
    assert (answer.status, answer.body, type(answer.error)) == (206, b"", http.client.IncompleteRead)


@pytest.mark.parametrize("kept", ["bytes", "file"])
def test_a_corrupt_byte_is_met_by_the_range_that_covers_it(hub: HubSimulator, tmp_path: Path, kept: str) -> None:
    (tmp_path / "weights").write_bytes(WEIGHTS)
    hub.add_model("demo/tiny", {"model.safetensors": WEIGHTS if kept == "bytes" else tmp_path / "weights"})
    link = link_to_weights(hub)
    hub.fault("model.safetensors", Corrupt(7))
    assert ask(link, headers={"Range": "bytes=8-"}).body == WEIGHTS[8:]
    assert hub.unused_faults == [Corrupt(7)]
    assert ask(link).body == WEIGHTS[:7] + bytes([WEIGHTS[7] ^ 0xFF]) + WEIGHTS[8:]
    assert hub.unused_faults == []


@pytest.mark.parametrize(
    "fault",
    [Stall(5000, 0.2), Stall(0, 0.2), Latency(0.2), Throttle(len(WEIGHTS) * 5)],
    ids=["stall", "stall at once", "latency", "throttle"],
)
def test_a_slow_answer_takes_its_time_and_is_whole(hub: HubSimulator, fault: Fault) -> None:
    link = link_to_weights(hub)
    hub.fault("model.safetensors", fault)
    start = time.monotonic()
    assert ask(link).body == WEIGHTS
    assert time.monotonic() - start >= 0.19


def test_stopping_interrupts_a_stall() -> None:
    with HubSimulator() as hub:
        hub.add_model("demo/tiny", FILES)
        hub.fault("config.json", Stall(3, 3600))
        connection = http.client.HTTPConnection("127.0.0.1", hub.port, timeout=10)
        connection.request("GET", CONFIG_PATH)
        response = connection.getresponse()
        assert response.read(3) == CONFIG[:3]
        hub.stop()
        assert isinstance(read_answer(response).error, http.client.IncompleteRead | ConnectionError)
        connection.close()


@pytest.mark.parametrize(
    ("fault", "headers", "body"),
    [
        (Status(429, retry_after=7), {"Retry-After": "7", "RateLimit": '"resolvers";r=0;t=7'}, b'"Too Many Requests"'),
        (Status(503, retry_after=7), {"Retry-After": "7", "RateLimit": None}, b'"Service Unavailable"'),
        (Status(500, body=b"<html>"), {"Retry-After": None}, b"<html>"),
        (Status(403, error_code="GatedRepo"), {"X-Error-Code": "GatedRepo"}, b'"Forbidden"'),
    ],
)
def test_a_status_replaces_the_answer(
    hub: HubSimulator, fault: Status, headers: dict[str, str | None], body: bytes
) -> None:
    hub.fault(None, fault)
    answer = ask(f"{hub.endpoint}/api/models/demo/tiny")
    assert answer.status == fault.code == hub.requests[-1].status
    assert {name: answer.headers[name] for name in headers} == headers
    assert body in answer.body
    assert ask(f"{hub.endpoint}/api/models/demo/tiny").status == 200


def test_a_server_may_ignore_a_range(hub: HubSimulator) -> None:
    link = link_to_weights(hub)
    hub.fault("model.safetensors", IgnoreRange())
    assert ask(link).status == 200
    assert hub.unused_faults == [IgnoreRange()]
    answer = ask(link, headers={"Range": "bytes=5-9"})
    assert (answer.status, answer.headers["Content-Range"], answer.body) == (200, None, WEIGHTS)
    assert (hub.requests[-1].start, hub.requests[-1].status) == (5, 200)


@pytest.mark.parametrize(
    ("asked", "start", "stop"), [("bytes=5-9", 4, 9), ("bytes=0-9", 1, 11), ("bytes=100-", 99, len(WEIGHTS) - 1)]
)
def test_a_server_may_answer_with_another_range(hub: HubSimulator, asked: str, start: int, stop: int) -> None:
    link = link_to_weights(hub)
    hub.fault("model.safetensors", WrongRange())
    answer = ask(link, headers={"Range": asked})
    assert (answer.status, answer.headers["Content-Range"]) == (206, f"bytes {start}-{stop - 1}/{len(WEIGHTS)}")
    assert answer.body == WEIGHTS[start:stop]


@pytest.mark.parametrize(
    ("header", "status"),
    [(None, 206), ("If-Match", 412), ("If-Range", 200)],
    ids=["no condition", "If-Match", "If-Range"],
)
def test_a_file_may_seem_to_have_been_replaced(hub: HubSimulator, header: str | None, status: int) -> None:
    link = link_to_weights(hub)
    etag = ask(link, method="HEAD").headers["ETag"] or ""
    hub.fault("model.safetensors", WrongEtag(), on="cdn")
    answer = ask(link, headers={"Range": "bytes=5-9", **({header: etag} if header else {})})
    assert answer.status == status
    assert answer.headers["ETag"] != etag


def test_the_hub_may_name_the_wrong_digest_for_a_file_in_lfs(hub: HubSimulator) -> None:
    hub.fault("model.safetensors", WrongEtag())
    wrong, right = (ask(hub.endpoint + WEIGHTS_PATH, method="HEAD") for _ in range(2))
    assert wrong.headers["X-Linked-ETag"] != right.headers["X-Linked-ETag"] == f'"{Blob.of("a.bin", WEIGHTS).sha256}"'


def test_faults_meet_the_requests_they_name(hub: HubSimulator) -> None:
    hub.fault("/api/models/demo/tiny/tree/", Status(500))
    hub.fault("config.json", Status(501))
    hub.fault("model.safetensors", Status(502), on="cdn")
    api = f"{hub.endpoint}/api/models/demo/tiny"
    urls = [api, f"{api}/tree/main", hub.endpoint + CONFIG_PATH, link_to_weights(hub), api, api]
    hub.fault(None, Status(503), times=2)
    assert [ask(url).status for url in urls] == [503, 500, 501, 502, 503, 200]


def test_faults_of_one_kind_meet_one_request_each_in_order(hub: HubSimulator) -> None:
    hub.fault("config.json", Status(500), times=2)
    hub.fault("config.json", Status(503))
    assert [ask(hub.endpoint + CONFIG_PATH).status for _ in range(4)] == [500, 500, 503, 200]
