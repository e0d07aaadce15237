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
    ft_model: Path | None
    custom_model_name: str | None
    manifest_path: Path | None
    model_profile: str | None
    served_model_name: str | None
    server_port: int
    backend: str | None
    host: str
    health_port: int | None
    ssl_mode: str
    ssl_key_path: Path | None
    ssl_certs_path: Path | None
    ssl_ca_certs_path: Path | None
    api_keys_file: Path | None
    max_body_bytes: int
    cors_allow_origins: str
    cors_allow_methods: str
    cors_allow_headers: str
    cors_expose_headers: str
    cors_max_age: int
    cache_path: Path | None
    cache_probe_seconds: float
    data_path: Path | None
    log_level: str
    jsonl_logging: bool
    passthrough_args: str
    max_model_len: int | None
    tensor_parallel_size: int | None
    pipeline_parallel_size: int | None
    gpu_mem_fraction: float | None
    max_num_seqs: int | None
    disable_cuda_graph: bool
    trust_custom_code: bool
    draft_model_path: Path | None
    num_speculative_tokens: int | None
    model_tokenizer: str | None
    tokenizer_mode: str | None
    peft_source: str
    peft_refresh_seconds: float | None
    peft_api_seconds: float
    max_lora_rank: int | None
    max_gpu_loras: int | None
    max_cpu_loras: int | None
    drain_seconds: float
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

    def without_secrets(self) -> Settings:
        """The same for a machine where nobody is asked, so that no token or key is looked at."""
        blanks: dict[str, Any] = {setting.field: None for setting in SETTINGS if setting.read is Secret}
        return replace(self, **blanks)


def deprecations(environ: Mapping[str, str]) -> list[str]:
    """One sentence for each name of NIM 1.x that is set: what to use instead, and whether it counts."""
    return [
        _deprecation(setting, name, environ)
        for setting in SETTINGS
        for name in setting.deprecated
        if _is_set(name, environ)
    ]


def _deprecation(setting: Setting, name: str, environ: Mapping[str, str]) -> str:
    used = next(each for each in setting.names if _is_set(each, environ))
    instead = setting.names[0] if setting.names[0] not in setting.deprecated else "the engine's own flag"
    ignored = "" if used == name else f"; it is not read, since {used} is set"
    return f"{name} is deprecated, a name of NIM 1.x: use {instead}{ignored}"


def _is_set(name: str, environ: Mapping[str, str]) -> bool:
    return bool(environ.get(name, "").strip())


def _value(setting: Setting, environ: Mapping[str, str]) -> Any:
    for name in setting.names:
        if not _is_set(name, environ):
            continue
        text = environ[name]
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
