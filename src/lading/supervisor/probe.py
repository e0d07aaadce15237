"""Does the model answer? Asked of the engine over its own endpoint.

An engine's ``/health`` only says that a server process runs, so ready means more: healthy, and one token came back.
A model that takes no completions (an embedding model) is ready when it is healthy and listed.
"""

from __future__ import annotations

import http.client
import json
import socket
from typing import Any

from lading.backends.interface import Endpoint
from lading.secret import Secret

_SHORT_SECONDS = 5.0
_TOKEN_SECONDS = 600.0
_NOT_THIS_KIND = {400, 404, 405, 422, 501}  # how engines say that a model does not write text


class EngineProbe:
    """Asks one engine whether ``model`` answers. Blocking: call it from a thread."""

    def __init__(self, endpoint: Endpoint, model: str, api_key: Secret | None = None) -> None:
        self._endpoint = endpoint
        self._model = model
        self._headers = {"Authorization": f"Bearer {api_key.reveal()}"} if api_key else {}

    def is_healthy(self) -> bool:
        """Whether the server process says that it is well."""
        return self._status("GET", "/health", None, _SHORT_SECONDS) == http.client.OK

    def answers(self) -> bool:
        """Whether the model gives one token; whether it is listed, where it is not one that writes text."""
        body = {"model": self._model, "prompt": "Hello", "max_tokens": 1, "temperature": 0}
        status = self._status("POST", "/v1/completions", body, _TOKEN_SECONDS)
        if status in _NOT_THIS_KIND:
            status = self._status("GET", "/v1/models", None, _SHORT_SECONDS)
        return status == http.client.OK

    def _status(self, method: str, path: str, body: dict[str, Any] | None, timeout_seconds: float) -> int | None:
        """The status of one request; None when nobody listens, or not long enough."""
        connection = EngineConnection(self._endpoint, timeout_seconds)
        try:
            headers = self._headers | ({"Content-Type": "application/json"} if body else {})
            connection.request(method, path, json.dumps(body) if body else None, headers)
            response = connection.getresponse()
            response.read()
        except (OSError, http.client.HTTPException):
            return None
        else:
            return response.status
        finally:
            connection.close()


class EngineConnection(http.client.HTTPConnection):
    """HTTP to an engine's endpoint, by Unix socket or loopback."""

    def __init__(self, endpoint: Endpoint, timeout_seconds: float) -> None:
        super().__init__("127.0.0.1", endpoint.port or 80, timeout=timeout_seconds)
        self._socket_path = endpoint.socket_path
        self._seconds = timeout_seconds

    def connect(self) -> None:
        """Connect to the Unix socket where the endpoint has one."""
        if self._socket_path is None:
            super().connect()
            return
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self._seconds)
        self.sock.connect(str(self._socket_path))
