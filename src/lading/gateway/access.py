"""Who may use the gateway, and how: what is decided before it listens."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lading.gateway.cors import Cors
from lading.gateway.tls import TlsFiles


@dataclass(frozen=True, slots=True)
class Access:
    """Where the gateway listens and what it demands there.

    A port of 0 is any free one. ``tls`` is None for plain HTTP; ``health_port`` is a second port for probes, which
    demands nothing; ``keys_file`` holds API keys, None demands none; ``body_bytes`` is the largest request body.
    """

    host: str
    port: int
    tls: TlsFiles | None = None
    health_port: int | None = None
    cors: Cors | None = None
    keys_file: Path | None = None
    body_bytes: int | None = None

    def url(self, port: int, host: str | None = None) -> str:
        """How to reach the gateway that listens on ``port``; ``host`` instead of the address it listens on."""
        name = host or self.host
        return f"{'https' if self.tls else 'http'}://{f'[{name}]' if ':' in name else name}:{port}"
