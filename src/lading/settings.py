"""Every setting Lading reads from the environment, read once.

The table :data:`SETTINGS` is the only source for parsing, for ``lading settings`` and for ``docs/reference/settings.md``.
``NIM_*`` names keep their documented meaning; what NIM does not have is ``LADING_*``; hub and proxy names are those that
the hubs' own tools use. An empty value means unset. A value that cannot be read is a :class:`UsageError` that names the
variable, the value and what is accepted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from lading.errors import UsageError
from lading.secret import Secret
from lading.units import MIB, parse_bytes

DEFAULT_CACHE_PATH = "/opt/nim/.cache"
ALL_ADDRESSES = "0.0.0.0"  # noqa: S104  # a server in a container listens on all of its addresses
ADDRESSING_STYLES = ("auto", "virtual", "path")
LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")


@dataclass(frozen=True, slots=True)
class Setting:
    """One row of the table: variable names in order of precedence, how to read one, what unset means."""

    field: str
    names: tuple[str, ...]
    read: Callable[[str], Any]
    default: Any
    help: str
    accepts: str = "text"


def _boolean(text: str) -> bool:
    match text.strip().lower():
        case "1" | "true" | "yes" | "on":
            return True
        case "0" | "false" | "no" | "off":
            return False
    raise ValueError(text)


def _port(text: str) -> int:
    port = int(text)
    if not 0 <= port <= 65535:
        raise ValueError(text)
    return port


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 <= seconds < float("inf"):
        raise ValueError(text)
    return seconds


def _count(text: str) -> int:
    count = int(text)
    if count < 1:
        raise ValueError(text)
    return count


def _size(text: str) -> int:
    size_bytes = parse_bytes(text)
    if size_bytes < 1:
        raise ValueError(text)
    return size_bytes


def _rate(text: str) -> int:
    return _size(text.strip().removesuffix("/s"))


def _log_level(text: str) -> str:
    level = text.strip().upper()
    if level not in LOG_LEVELS:
        raise ValueError(text)
    return level


def _addressing_style(text: str) -> str:
    style = text.strip().lower()
    if style not in ADDRESSING_STYLES:
        raise ValueError(text)
    return style


def _url(text: str) -> str:
    if not text.startswith(("http://", "https://")):
        raise ValueError(text)
    return text.rstrip("/")


def _emulator(text: str) -> str:
    return _url(text if "://" in text else f"http://{text}")


def _path(text: str) -> Path:
    return Path(text).expanduser().absolute()


_BOOLEAN = "true or false (1, 0, yes, no, on, off)"
_PORT = "a port number, 0 for any free one"
_SECONDS = "seconds, 0 or more"

SETTINGS: tuple[Setting, ...] = (
    Setting(
        "model_path",
        ("NIM_MODEL_PATH",),
        str,
        None,
        "Model to serve: a URI or an absolute directory. A model named on the command line wins.",
        "a model location",
    ),
    Setting(
        "model_profile",
        ("NIM_MODEL_PROFILE",),
        str,
        None,
        "Profile to use: its id, its name, or `default`. Unset: the best that fits.",
        "an id or name",
    ),
    Setting(
        "served_model_name",
        ("NIM_SERVED_MODEL_NAME",),
        str,
        None,
        "Name of the model in the API. Unset: the location without scheme and revision.",
        "a name, or several joined by commas",
    ),
    Setting("server_port", ("NIM_SERVER_PORT",), _port, 8000, "Port of the gateway.", _PORT),
    Setting("host", ("LADING_HOST",), str, ALL_ADDRESSES, "Address the gateway listens on.", "an address"),
    Setting(
        "cache_path",
        ("NIM_CACHE_PATH",),
        _path,
        None,
        f"Root of the cache. Unset: `{DEFAULT_CACHE_PATH}`, or the user's cache directory where that cannot be written.",
        "a directory",
    ),
    Setting(
        "cache_probe_seconds",
        ("NIM_CACHE_PROBE_TIMEOUT",),
        _seconds,
        60.0,
        "How long the cache's volume may take to answer before that is an error.",
        _SECONDS,
    ),
    Setting(
        "data_path",
        ("LADING_DATA_PATH",),
        _path,
        None,
        "Where engine environments live. Unset: `$XDG_DATA_HOME/lading`.",
        "a directory",
    ),
    Setting("log_level", ("NIM_LOG_LEVEL",), _log_level, "INFO", "Least severe lines to log.", ", ".join(LOG_LEVELS)),
    Setting(
        "jsonl_logging",
        ("NIM_JSONL_LOGGING",),
        _boolean,
        False,
        "One JSON object per log line, the engine's lines included.",
        _BOOLEAN,
    ),
    Setting(
        "passthrough_args",
        ("NIM_PASSTHROUGH_ARGS",),
        str,
        "",
        "Engine flags as one shell-quoted string; flags on the command line win.",
        "shell words",
    ),
    Setting(
        "max_model_len",
        ("NIM_MAX_MODEL_LEN",),
        int,
        None,
        "Longest sequence to serve, in tokens; `--max-model-len` wins.",
        "a number of tokens",
    ),
    Setting(
        "stop_seconds",
        ("LADING_STOP_SECONDS",),
        _seconds,
        20.0,
        "How long the engine may take to stop before it is killed.",
        _SECONDS,
    ),
    Setting(
        "include",
        ("LADING_INCLUDE",),
        str,
        "",
        "Files to fetch although a rule leaves them out (`*.gguf`, `original/*`).",
        "globs for paths or names, joined by commas",
    ),
    Setting(
        "exclude",
        ("LADING_EXCLUDE",),
        str,
        "",
        "Files to leave out besides those that rules leave out; `LADING_INCLUDE` wins.",
        "globs for paths or names, joined by commas",
    ),
    Setting(
        "connections",
        ("LADING_CONNECTIONS",),
        _count,
        None,
        "Most connections of a download at a time. Unset: as many as make it faster, up to 8.",
        "a number, 1 or more",
    ),
    Setting(
        "part_bytes",
        ("LADING_PART_SIZE",),
        _size,
        8 * MIB,
        "Bytes that one request of a download asks for.",
        "a size: 8MiB, 16M",
    ),
    Setting(
        "max_bandwidth",
        ("LADING_MAX_BANDWIDTH",),
        _rate,
        None,
        "Most bytes per second of a download. Unset: as many as come.",
        "a size per second: 100MB, 1.5GiB, 12500k",
    ),
    Setting(
        "prefetch",
        ("LADING_PREFETCH",),
        _boolean,
        True,
        "Read the weights into the page cache while the engine starts, up to half of the free memory.",
        _BOOLEAN,
    ),
    Setting(
        "offline",
        ("LADING_OFFLINE", "HF_HUB_OFFLINE"),
        _boolean,
        False,
        "Forbid every connection to a source; serve from the cache.",
        _BOOLEAN,
    ),
    Setting(
        "hf_token",
        ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"),
        Secret,
        None,
        "Token for gated and private Hugging Face models.",
        "a token",
    ),
    Setting(
        "hf_endpoint",
        ("HF_ENDPOINT",),
        _url,
        "https://huggingface.co",
        "Base URL of the Hugging Face hub, a mirror or a proxy of it.",
        "an http or https URL",
    ),
    Setting(
        "hf_home",
        ("HF_HOME",),
        _path,
        None,
        "Existing Hugging Face cache to read from (never written). Unset: `~/.cache/huggingface`.",
        "a directory",
    ),
    Setting(
        "hf_hub_cache", ("HF_HUB_CACHE",), _path, None, "Its `hub` folder, where that lies elsewhere.", "a directory"
    ),
    Setting(
        "google_credentials",
        ("GOOGLE_APPLICATION_CREDENTIALS",),
        _path,
        None,
        "Credential file for gs:// models. Unset: gcloud's login, else the metadata server, else none (public buckets).",
        "a file",
    ),
    Setting(
        "gcloud_config",
        ("CLOUDSDK_CONFIG",),
        _path,
        None,
        "Directory that holds gcloud's login. Unset: `~/.config/gcloud`.",
        "a directory",
    ),
    Setting(
        "gce_metadata_host",
        ("GCE_METADATA_HOST",),
        str,
        "169.254.169.254",
        "Google's metadata server, asked for a token when no credential file is found: one try, one second.",
        "`host` or `host:port`",
    ),
    Setting("no_gce_check", ("NO_GCE_CHECK",), _boolean, False, "Never ask the metadata server.", _BOOLEAN),
    Setting(
        "storage_emulator_host",
        ("STORAGE_EMULATOR_HOST",),
        _emulator,
        None,
        "Emulator to read gs:// models from instead of Google Cloud Storage, without credentials.",
        "an http or https URL, or `host:port`",
    ),
    Setting(
        "azure_storage_connection_string",
        ("AZURE_STORAGE_CONNECTION_STRING",),
        Secret,
        None,
        "Connection string of the storage account of az:// models, with its key or shared access signature.",
        "a connection string",
    ),
    Setting(
        "azure_storage_sas_token",
        ("AZURE_STORAGE_SAS_TOKEN",),
        Secret,
        None,
        "Shared access signature for az:// models: it needs the permissions to read and to list.",
        "a signature (`sv=…&sig=…`)",
    ),
    Setting(
        "azure_storage_key",
        ("AZURE_STORAGE_KEY", "AZURE_STORAGE_ACCOUNT_KEY"),
        Secret,
        None,
        "Key of the storage account of az:// models. Unset, like the two above: Azure's default credential chain, whose variables (`AZURE_TENANT_ID`, `AZURE_CLIENT_SECRET`, `AZURE_FEDERATED_TOKEN_FILE`, `AZURE_AUTHORITY_HOST`, `IDENTITY_ENDPOINT`, …) are read by azure-identity; else none (public containers).",
        "a key",
    ),
    Setting(
        "azure_storage_account",
        ("AZURE_STORAGE_ACCOUNT",),
        str,
        None,
        "The only storage account that the key and the signature above are sent to. Unset: whichever a location names.",
        "the name of an account",
    ),
    Setting(
        "azure_storage_blob_endpoint",
        ("AZURE_STORAGE_BLOB_ENDPOINT",),
        _url,
        None,
        "Base URL of a storage account's blobs, for emulators and sovereign clouds. Unset: that of the connection string, else `https://{account}.blob.core.windows.net`.",
        "an http or https URL; `{account}` in it stands for the account of the location",
    ),
    Setting(
        "azure_client_id",
        ("AZURE_CLIENT_ID",),
        str,
        None,
        "Client ID of the service principal, workload identity or user-assigned managed identity that reads az:// models.",
        "a client ID",
    ),
    Setting(
        "azure_token_credentials",
        ("AZURE_TOKEN_CREDENTIALS",),
        str,
        None,
        "Which members of Azure's default credential chain are asked: `prod` without developers' logins, `dev` only those, or one by its name. Unset: all.",
        "`prod`, `dev`, or a name such as `AzureCliCredential`",
    ),
    Setting(
        "aws_endpoint_url",
        ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"),
        _url,
        None,
        "Base URL of S3-compatible storage. Unset: AWS in the bucket's region.",
        "an http or https URL",
    ),
    Setting(
        "aws_region",
        ("AWS_REGION", "AWS_DEFAULT_REGION"),
        str,
        None,
        "Region that S3 requests are signed for. Unset: that of the profile, else `us-east-1`; what S3 says wins.",
        "the name of a region",
    ),
    Setting(
        "aws_profile",
        ("AWS_DEFAULT_PROFILE", "AWS_PROFILE"),
        str,
        None,
        "Profile of the shared AWS files. All other `AWS_*` variables of the standard credential chain (keys, session token, files, web identity, container and instance metadata) are read by botocore.",
        "the name of a profile",
    ),
    Setting(
        "aws_s3_use_path_style",
        ("AWS_S3_USE_PATH_STYLE",),
        _boolean,
        False,
        "Put the bucket into the path of S3 URLs, as MinIO and Ceph want it.",
        _BOOLEAN,
    ),
    Setting(
        "aws_s3_addressing_style",
        ("AWS_S3_ADDRESSING_STYLE",),
        _addressing_style,
        "auto",
        "Where the bucket goes: `virtual` in front of the host, `path` into the path; `auto` is `virtual` but for addresses, names without a dot and Oracle OCI.",
        ", ".join(ADDRESSING_STYLES),
    ),
    Setting(
        "aws_ca_bundle",
        ("AWS_CA_BUNDLE",),
        _path,
        None,
        "PEM file of the authorities to trust for S3, where `SSL_CERT_FILE` is not set.",
        "a file",
    ),
    Setting(
        "ngc_api_key",
        ("NGC_CLI_API_KEY", "NGC_API_KEY"),
        Secret,
        None,
        "Key for NGC models that are not open to guests: a personal or service key (`nvapi-…`), a JWT or a legacy key.",
        "a key",
    ),
    Setting(
        "ngc_api_url",
        ("NGC_CLI_API_URL",),
        _url,
        "https://api.ngc.nvidia.com",
        "Base URL of NGC's API, or of a proxy that speaks it.",
        "an http or https URL",
    ),
    Setting(
        "ngc_auth_url",
        ("NGC_CLI_AUTH_URL",),
        _url,
        "https://authn.nvidia.com",
        "Base URL of the service that exchanges legacy NGC keys for tokens.",
        "an http or https URL",
    ),
    Setting(
        "modelscope_api_token",
        ("MODELSCOPE_API_TOKEN",),
        Secret,
        None,
        "Access token for private ModelScope models.",
        "a token",
    ),
    Setting(
        "modelscope_endpoint",
        ("MODELSCOPE_ENDPOINT",),
        _url,
        "https://www.modelscope.cn",
        "Base URL of ModelScope, its international site or a private one.",
        "an http or https URL",
    ),
    Setting(
        "modelscope_cache",
        ("MODELSCOPE_CACHE",),
        _path,
        None,
        "Existing ModelScope cache to read from (never written). Unset: `~/.cache/modelscope`.",
        "a directory",
    ),
    Setting(
        "http_token",
        ("LADING_HTTP_TOKEN",),
        Secret,
        None,
        "What http:// and https:// servers that hold models are asked with.",
        "a bearer token, or `user:password`",
    ),
    Setting(
        "repository_override",
        ("NIM_REPOSITORY_OVERRIDE",),
        str,
        None,
        "Where ngc:// files are read from instead of NGC: an NGC-compatible server, or a bucket or HTTP server that holds them under percent-encoded names.",
        "an `ngc://`, `s3://`, `gs://`, `http://` or `https://` location",
    ),
    Setting("http_proxy", ("http_proxy", "HTTP_PROXY"), Secret, None, "Proxy for http:// sources.", "a proxy URL"),
    Setting("https_proxy", ("https_proxy", "HTTPS_PROXY"), Secret, None, "Proxy for https:// sources.", "a proxy URL"),
    Setting(
        "all_proxy",
        ("all_proxy", "ALL_PROXY"),
        Secret,
        None,
        "Proxy where neither of the two above is set.",
        "a proxy URL",
    ),
    Setting(
        "no_proxy",
        ("no_proxy", "NO_PROXY"),
        str,
        "",
        "Hosts that bypass the proxy: names, `.suffixes`, `host:port`, addresses, networks in CIDR form, `*`.",
        "a list joined by commas",
    ),
    Setting(
        "ca_bundle",
        ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"),
        _path,
        None,
        "PEM file of the authorities to trust for sources, instead of the system's.",
        "a file",
    ),
)


@dataclass(frozen=True, slots=True)
class Settings:
    """The environment, read. Field by field the rows of :data:`SETTINGS`."""

    model_path: str | None
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
