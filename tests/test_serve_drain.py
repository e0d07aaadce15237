"""A stop of ``lading serve`` while requests are under way: they end first, the engine is told then."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager

import pytest

from tests.models import tiny_model, write_model
from tests.program import environment, running
from tests.simulators.vllm_program import install

FIRST = b'data: {"choices": [{"delta": {"content": "Hel"}}]}\n\n'


@pytest.fixture
def gate(tmp_path):
    return tmp_path / "gate"


@pytest.fixture
def serve(tmp_path, gate):
    """Starts a service whose streams stop after their first event until the gate is there."""
    (tmp_path / "home").mkdir()
    model = write_model(tmp_path / "model", tiny_model())
    engine = install(tmp_path / "engine")

    def start(**changes: str):
        path = f"{engine}:{os.environ['PATH']}"
        stand_in = json.dumps({"gate": str(gate)})
        environ = environment(tmp_path, PATH=path, STAND_IN=stand_in, **changes)
        return running([str(model), "--served-model-name", "m"], environ, tmp_path / "log")

    return start


@contextmanager
def stream(port: int) -> Iterator[http.client.HTTPResponse]:
    """A stream that has begun."""
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
        body = json.dumps({"model": "m", "messages": [], "stream": True})
        connection.request("POST", "/v1/chat/completions", body, {"Content-Type": "application/json"})
        with connection.getresponse() as reply:
            assert reply.read(len(FIRST)) == FIRST
            yield reply


def ask(port: int, path: str) -> tuple[int, dict[str, object]]:
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
        connection.request("GET", path)
        reply = connection.getresponse()
        return reply.status, json.loads(reply.read())


def test_a_stream_ends_before_the_engine_is_told_and_nobody_new_is_let_in(serve, gate):
    with serve(LADING_DRAIN_SECONDS="60", NIM_HEALTH_PORT="0") as program:
        program.wait_until_ready()
        health_port = int(program.output.partition("health and metrics on port ")[2].split()[0])
        with stream(program.port) as reply, socket.create_connection(("127.0.0.1", program.port)) as idle:
            program.process.send_signal(signal.SIGTERM)
            program.wait_for_line("requests under way: 1")
            assert idle.recv(1) == b""
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", program.port))
            status, told = ask(health_port, "/v1/health/ready")
            assert (status, told["phase"]) == (503, "stopping")
            assert ask(health_port, "/v1/health/live")[0] == 200
            assert "stopping the engine" not in program.output
            gate.touch()
            assert reply.read().endswith(b"data: [DONE]\n\n")
        assert program.process.wait(30) == 0
        assert "stopping the engine" in program.output


def test_a_stream_that_outlasts_the_limit_is_cut(serve):
    with serve(LADING_DRAIN_SECONDS="0.3") as program:
        program.wait_until_ready()
        with stream(program.port) as reply:
            program.process.send_signal(signal.SIGTERM)
            with pytest.raises((http.client.IncompleteRead, ConnectionError)):
                reply.read()
        assert program.process.wait(30) == 0


def test_a_second_signal_does_not_wait(serve):
    with serve(LADING_DRAIN_SECONDS="600") as program:
        program.wait_until_ready()
        with stream(program.port):
            program.process.send_signal(signal.SIGTERM)
            program.wait_for_line("requests under way: 1")
            program.process.send_signal(signal.SIGTERM)
            program.process.wait(30)  # its code tells which of TERM and KILL the engine met first


def test_without_requests_nobody_waits(serve):
    with serve(LADING_DRAIN_SECONDS="600") as program:
        program.wait_until_ready()
        with socket.create_connection(("127.0.0.1", program.port)):
            began = time.monotonic()
            assert program.stop() == 0
        assert time.monotonic() - began < 30
