"""A row of the table of settings, and what many rows say."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

DEFAULT_CACHE_PATH = "/opt/nim/.cache"
DEFAULT_MANIFEST_PATHS = ("/opt/nim/etc/default/model_manifest.yaml", "/etc/nim/config/model_manifest.yaml")
ALL_ADDRESSES = "0.0.0.0"  # noqa: S104  # a server in a container listens on all of its addresses

BOOLEAN = "true or false (1, 0, yes, no, on, off)"
PORT = "a port number, 0 for any free one"
SECONDS = "seconds, 0 or more"


@dataclass(frozen=True, slots=True)
class Setting:
    """One row of the table: variable names in order of precedence, how to read one, what unset means.

    ``deprecated`` are those of the names that NIM 1.x had: they are read, and a line says what to use instead.
    """

    field: str
    names: tuple[str, ...]
    read: Callable[[str], Any]
    default: Any
    help: str
    accepts: str = "text"
    deprecated: tuple[str, ...] = ()
