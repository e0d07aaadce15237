"""The flags of ``serve`` that the engine never sees. Kept light: ``lading --help`` shows them."""

from __future__ import annotations

from enum import StrEnum


class OwnFlag(StrEnum):
    """A flag of Lading's own; the value is how it is written."""

    DRY_RUN = "--dry-run"
    REFRESH = "--refresh"
    OFFLINE = "--offline"
    VERIFY = "--verify-checksums"
    DEBUG = "--debug"


OWN_FLAG_HELP = {
    OwnFlag.DRY_RUN: "print what would be done, with the origin of every engine argument, and do nothing",
    OwnFlag.REFRESH: "ask the source again even though the model is in the cache",
    OwnFlag.OFFLINE: "open no connection to a source",
    OwnFlag.VERIFY: "hash what the cache has of the model again before it is served",
    OwnFlag.DEBUG: "log everything, and show tracebacks",
}
