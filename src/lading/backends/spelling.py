"""How an engine of a version spells what Lading asks of it: the rows of ``spellings.json``.

A version that is not known counts as the newest. What an engine cannot be asked by flag is a UsageError with what to do
instead.
"""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from typing import Any

from lading.errors import UsageError
from lading.profiles.constants import version_key


def spell(family: str, version: str, what: str, value: object = "", *, origin: str = "") -> tuple[str, ...]:
    """The tokens that ask an engine for ``what``; ``origin`` is what a user set to get it, for the error."""
    row = _row(family, version, what)
    if "refusal" in row:
        asked = f"{origin} asks for" if origin else "Lading asks for"
        named = f"{family} {version}".strip()
        raise UsageError(f"{asked} what {named} has no flag for", remedy=row["refusal"])
    return tuple(token.replace("{value}", str(value)) for token in row["tokens"])


def _row(family: str, version: str, what: str) -> dict[str, Any]:
    rows: list[dict[str, Any]] = _table()[family][what]
    wanted = version_key(version)
    suited = [row for row in rows if version_key(row["since"]) <= wanted]
    return (suited if wanted else rows)[-1]


@cache
def _table() -> dict[str, Any]:
    table: dict[str, Any] = json.loads((files("lading.backends") / "spellings.json").read_text())
    return table
