"""Sizes and times as people write and read them. Sizes are bytes, times are seconds."""

from __future__ import annotations

import re

KIB = 1 << 10
MIB = 1 << 20
GIB = 1 << 30

_SUFFIX = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_BINARY_SUFFIX = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b?", re.IGNORECASE)
_TIME_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_TIME = re.compile(r"(\d+(?:\.\d+)?)\s*([smhdw])", re.IGNORECASE)


def format_bytes(size_bytes: float) -> str:
    """``512 B``, ``6.5 MiB``, ``14.96 GiB``: binary units, three significant digits or so."""
    for unit, size in (("TiB", 1 << 40), ("GiB", GIB), ("MiB", MIB), ("KiB", KIB)):
        if abs(size_bytes) >= size:
            value = size_bytes / size
            return f"{value:.2f} {unit}" if value < 10 else f"{value:.1f} {unit}"
    return f"{size_bytes:.0f} B"


def parse_bytes(text: str) -> int:
    """The bytes of ``6``, ``4k``, ``1.5 GiB``, ``200MB``; ValueError for anything else. ``G`` is 10⁹, ``Gi`` is 2³⁰."""
    found = _SIZE.fullmatch(text.strip())
    if not found:
        raise ValueError(f"not a size: {text!r}")
    number, suffix, binary = found.groups()
    table = _BINARY_SUFFIX if binary else _SUFFIX
    return int(float(number) * table[suffix.lower()])


def parse_seconds(text: str) -> float:
    """The seconds of ``90s``, ``15m``, ``12h``, ``30d``, ``2w``; ValueError for anything else, a bare number too."""
    found = _TIME.fullmatch(text.strip())
    if not found:
        raise ValueError(f"not a time: {text!r}")
    return float(found[1]) * _TIME_UNITS[found[2].lower()]


def format_seconds(seconds: float) -> str:
    """``0.4 s``, ``42 s``, ``3 min 20 s``, ``2 h 05 min``."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 48 * 3600:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86400} days"
