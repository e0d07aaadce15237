"""Who may use the gateway, and how, by the settings."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from lading.errors import UsageError

if TYPE_CHECKING:
    from lading.gateway.access import Access
    from lading.gateway.cors import Cors
    from lading.gateway.tls import TlsFiles
    from lading.settings import Settings


def access_of(settings: Settings, host: str | None, port: int | None) -> Access:
    """Where the gateway listens and what it keeps to; ``host`` and ``port`` are those of the command line.

    Raises UsageError where a setting lacks another one.
    """
    from lading.gateway.access import Access

    port = settings.server_port if port is None else port
    same_port = settings.health_port == port != 0
    health_port = None if same_port else settings.health_port
    return Access(
        host or settings.host,
        port,
        tls=_tls(settings),
        health_port=health_port,
        cors=_cors(settings),
        keys_file=settings.api_keys_file,
        body_bytes=settings.max_body_bytes or None,
    )


def _cors(settings: Settings) -> Cors | None:
    from lading.gateway.cors import Cors

    origins = tuple(each.strip().rstrip("/") for each in settings.cors_allow_origins.split(",") if each.strip())
    if origins == ("none",):
        return None
    return Cors(
        origins,
        methods=settings.cors_allow_methods,
        headers=settings.cors_allow_headers,
        expose=settings.cors_expose_headers,
        max_age_seconds=settings.cors_max_age,
    )


def _tls(settings: Settings) -> TlsFiles | None:
    if settings.ssl_mode == "DISABLED":
        return None
    from lading.gateway.tls import TlsFiles

    mutual = settings.ssl_mode == "MTLS"
    return TlsFiles(
        key=_needed(settings, "NIM_SSL_KEY_PATH", settings.ssl_key_path),
        certs=_needed(settings, "NIM_SSL_CERTS_PATH", settings.ssl_certs_path),
        ca_certs=_needed(settings, "NIM_SSL_CA_CERTS_PATH", settings.ssl_ca_certs_path) if mutual else None,
    )


def _needed(settings: Settings, name: str, path: Path | None) -> Path:
    if path is None:
        mode = f"NIM_SSL_MODE={settings.ssl_mode}"
        raise UsageError(f"{mode} needs {name}", remedy=f"set {name} to a PEM file, or unset NIM_SSL_MODE")
    return path
