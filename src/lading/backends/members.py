"""The one mapping of engine families. A new member is one file beside this one and one line here."""

from __future__ import annotations

from lading.backends.interface import Backend
from lading.backends.vllm import VllmBackend

BACKENDS: dict[str, Backend] = {"vllm": VllmBackend()}
