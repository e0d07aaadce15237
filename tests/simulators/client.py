"""The plainest HTTP client, for tests that look at what a simulator puts on the wire."""

import http.client
import json
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit


@dataclass(frozen=True, slots=True)
class Answer:
    """A response; ``body`` is what had arrived when the connection ended."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes
    error: Exception | None = None

    def json(self) -> object:
        return json.loads(self.body)


def ask(url: str, *, method: str = "GET", headers: Mapping[str, str] | None = None, body: str | None = None) -> Answer:
    """One request on a connection of its own; redirects are not followed."""
    target = urlsplit(url)
    connection = http.client.HTTPConnection(target.hostname or "", target.port, timeout=10)
    try:
        connection.request(method, f"{target.path}?{target.query}", body=body, headers=dict(headers or {}))
        return read_answer(connection.getresponse())
    finally:
        connection.close()


def read_answer(response: http.client.HTTPResponse) -> Answer:
    received = bytearray()
    error: Exception | None = None
    try:
        while piece := response.read1(65536):
            received += piece
        if response.length:
            error = http.client.IncompleteRead(bytes(received), response.length)
    except ConnectionError as reset:
        error = reset
    return Answer(response.status, response.headers, bytes(received), error)
