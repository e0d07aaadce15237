"""Loading and unloading adapters in a running engine, by its own HTTP API.

vLLM answers 200 with a sentence, or the JSON of an OpenAI error; SGLang ``{"success", "error_message"}`` with 200 or
400. The adapter is replaced by unloading and loading: vLLM's ``load_inplace`` sticks to the adapter, which is then read
from the disk again at every step (0.32).
"""

from __future__ import annotations

import http.client
import json
from pathlib import Path

from lading.backends.interface import Endpoint, LoraApi
from lading.errors import EngineError
from lading.secret import Secret
from lading.supervisor.probe import EngineConnection

_MOST_WORDS = 400


class NoAnswer(EngineError):
    """The engine did not say what became of a request: it may have done it, or do it yet."""


class NotThere(EngineError):
    """The engine has no such adapter."""


class EngineAdapters:
    """The adapters of one engine. Blocking: call it from a thread."""

    def __init__(self, endpoint: Endpoint, api: LoraApi, seconds: float, api_key: Secret | None = None) -> None:
        self._endpoint = endpoint
        self._api = api
        self._seconds = seconds
        self._headers = {"Content-Type": "application/json"}
        if api_key:
            self._headers["Authorization"] = f"Bearer {api_key.reveal()}"

    def load(self, name: str, directory: Path) -> None:
        """Have the engine load the adapter in ``directory``; raises EngineError with the engine's words, NoAnswer."""
        self._ask(self._api.load, {"lora_name": name, "lora_path": str(directory)})

    def unload(self, name: str) -> None:
        """Have the engine forget the adapter; raises as :meth:`load` does, and NotThere, which only vLLM tells."""
        self._ask(self._api.unload, {"lora_name": name})

    def _ask(self, path: str, body: dict[str, str]) -> None:
        connection = EngineConnection(self._endpoint, self._seconds)
        try:
            connection.request("POST", path, json.dumps(body), self._headers)
            response = connection.getresponse()
            text = response.read()
        except TimeoutError:
            raise NoAnswer(
                f"the engine did not answer within {self._seconds:g} s",
                remedy="NIM_PEFT_API_TIMEOUT_SECS gives it longer",
            ) from None
        except (OSError, http.client.HTTPException) as error:
            raise NoAnswer(f"the engine cannot be asked: {error}") from error
        finally:
            connection.close()
        if response.status != http.client.OK:
            fault = NotThere if response.status == http.client.NOT_FOUND else EngineError
            raise fault(f"the engine says: {_words(text) or response.status}")


def _words(text: bytes) -> str:
    """What an error body says, on one line."""
    try:
        data = json.loads(text)
    except ValueError:
        data = None
    if isinstance(data, dict):
        error = data.get("error")
        found = error.get("message") if isinstance(error, dict) else error
        found = found or data.get("message") or data.get("error_message") or data.get("detail")
    else:
        found = text.decode(errors="replace")
    return " ".join(str(found or "").split())[:_MOST_WORDS]
