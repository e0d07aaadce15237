"""How the values of settings are read from text. Each raises ValueError for what it cannot read."""

from __future__ import annotations

import re
from pathlib import Path

from lading.units import parse_bytes

ADDRESSING_STYLES = ("auto", "virtual", "path")
REFRESHES = ("never", "check", "always")
ENGINES = ("vllm", "sglang", "tensorrt_llm")
_ENGINE_ALIASES = {"trtllm": "tensorrt_llm", "tensorrt-llm": "tensorrt_llm", "trt-llm": "tensorrt_llm"}
SSL_MODES = ("DISABLED", "TLS", "MTLS")
_BODY_SIZE = re.compile(r"(\d+)([kmg]?)", re.IGNORECASE)
_SHIFTS = {"": 0, "k": 10, "m": 20, "g": 30}
_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")


def file_name(text: str) -> str:
    """A word that is the name of a directory."""
    if not _FILE_NAME.fullmatch(text.strip()):
        raise ValueError(text)
    return text.strip()


def boolean(text: str) -> bool:
    """True or False, in any of the usual spellings."""
    match text.strip().lower():
        case "1" | "true" | "yes" | "on":
            return True
        case "0" | "false" | "no" | "off":
            return False
    raise ValueError(text)


def port(text: str) -> int:
    """A TCP port; 0 for any free one."""
    port = int(text)
    if not 0 <= port <= 65535:
        raise ValueError(text)
    return port


def seconds(text: str) -> float:
    """A time, 0 or more."""
    seconds = float(text)
    if not 0 <= seconds < float("inf"):
        raise ValueError(text)
    return seconds


def count(text: str) -> int:
    """A number, 1 or more."""
    count = int(text)
    if count < 1:
        raise ValueError(text)
    return count


def size(text: str) -> int:
    """A number of bytes, 1 or more."""
    size_bytes = parse_bytes(text)
    if size_bytes < 1:
        raise ValueError(text)
    return size_bytes


def rate(text: str) -> int:
    """Bytes per second, 1 or more."""
    return size(text.strip().removesuffix("/s"))


def engine(text: str) -> str:
    """The name of an engine family; NVIDIA's has several."""
    name = text.strip().lower()
    name = _ENGINE_ALIASES.get(name, name)
    if name not in ENGINES:
        raise ValueError(text)
    return name


def ssl_mode(text: str) -> str:
    """How a port is secured."""
    mode = text.strip().upper()
    if mode not in SSL_MODES:
        raise ValueError(text)
    return mode


def field_text(text: str) -> str:
    """What may stand in a header field: printable ASCII."""
    value = text.strip()
    if not value.isascii() or not value.isprintable():
        raise ValueError(text)
    return value


def body_size(text: str) -> int:
    """Bytes as nginx writes them: ``500M`` is 500 times 2²⁰, 0 is no limit."""
    found = _BODY_SIZE.fullmatch(text.strip())
    if not found:
        raise ValueError(text)
    return int(found[1]) << _SHIFTS[found[2].lower()]


def share(text: str) -> float:
    """A part of a whole: above 0, and 1 at most."""
    share = float(text)
    if not 0 < share <= 1:
        raise ValueError(text)
    return share


def log_level(text: str) -> str:
    """The name of a level of :mod:`logging`."""
    level = text.strip().upper()
    if level not in LOG_LEVELS:
        raise ValueError(text)
    return level


def addressing_style(text: str) -> str:
    """Where S3 URLs have the bucket."""
    style = text.strip().lower()
    if style not in ADDRESSING_STYLES:
        raise ValueError(text)
    return style


def refresh(text: str) -> str:
    """When a source is asked for what the cache has."""
    when = text.strip().lower()
    if when not in REFRESHES:
        raise ValueError(text)
    return when


def url(text: str) -> str:
    """An http or https URL, without a slash at its end."""
    if not text.startswith(("http://", "https://")):
        raise ValueError(text)
    return text.rstrip("/")


def emulator(text: str) -> str:
    """The same, where the scheme may be left out."""
    return url(text if "://" in text else f"http://{text}")


def path(text: str) -> Path:
    """A path, made absolute; ``~`` is the home directory."""
    return Path(text).expanduser().absolute()
