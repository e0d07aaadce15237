"""Every setting Lading reads from the environment, read once.

The table :data:`~lading.settings_table.SETTINGS` is the only source for parsing, for ``lading settings`` and for
``docs/reference/settings.md``. ``NIM_*`` names keep their documented meaning; what NIM does not have is ``LADING_*``;
hub and proxy names are those that the hubs' own tools use. An empty value means unset. A value that cannot be read is a
:class:`UsageError` that names the variable, the value and what is accepted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from lading.errors import UsageError
from lading.secret import Secret
from lading.settings_table import SETTINGS, Setting


@dataclass(frozen=True, slots=True)
class Settings:
    """The environment, read. Field by field the rows of :data:`~lading.settings_table.SETTINGS`."""

    model_path: str | None
    model_name: str | None
    manifest_path: Path | None
    model_profile: str | None
    served_model_name: str | None
    server_port: int
    host: str
    cache_path: Path | None
    cache_probe_seconds: float
    data_path: Path | None
    log_level: str
    jsonl_logging: bool
    passthrough_args: str
    max_model_len: int | None
    stop_seconds: float
    include: str
    exclude: str
    connections: int | None
    part_bytes: int
    max_bandwidth: int | None
    prefetch: bool
    refresh: str
    disable_download: bool
    offline: bool
    hf_token: Secret | None
    hf_endpoint: str
    hf_home: Path | None
    hf_hub_cache: Path | None
    google_credentials: Path | None
    gcloud_config: Path | None
    gce_metadata_host: str
    no_gce_check: bool
    storage_emulator_host: str | None
    azure_storage_connection_string: Secret | None
    azure_storage_sas_token: Secret | None
    azure_storage_key: Secret | None
    azure_storage_account: str | None
    azure_storage_blob_endpoint: str | None
    azure_client_id: str | None
    azure_token_credentials: str | None
    aws_endpoint_url: str | None
    aws_region: str | None
    aws_profile: str | None
    aws_s3_use_path_style: bool
    aws_s3_addressing_style: str
    aws_ca_bundle: Path | None
    ngc_api_key: Secret | None
    ngc_api_url: str
    ngc_auth_url: str
    modelscope_api_token: Secret | None
    modelscope_endpoint: str
    modelscope_cache: Path | None
    http_token: Secret | None
    repository_override: str | None
    http_proxy: Secret | None
    https_proxy: Secret | None
    all_proxy: Secret | None
    no_proxy: str
    ca_bundle: Path | None

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> Settings:
        """The settings of ``environ``; raises :class:`UsageError` for the first value that cannot be read."""
        return cls(**{setting.field: _value(setting, environ) for setting in SETTINGS})


def _value(setting: Setting, environ: Mapping[str, str]) -> Any:
    for name in setting.names:
        text = environ.get(name, "")
        if not text.strip():
            continue
        try:
            value = setting.read(text)
        except ValueError:
            raise UsageError(
                f"{name}={_shown(setting, text)} cannot be read", remedy=f"set {name} to {setting.accepts}, or unset it"
            ) from None
        return replace(value, name=name) if isinstance(value, Secret) else value
    return setting.default


def _shown(setting: Setting, text: str) -> str:
    return "***" if setting.read is Secret else repr(text)


def field_names() -> tuple[str, ...]:
    """The fields of :class:`Settings`, for the test that holds it to the table."""
    return tuple(each.name for each in fields(Settings))
