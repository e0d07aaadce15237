"""API keys: who a request is from, by digests in a file.

One key per line, ``name:sha256:<64 hex>``; empty lines and ``#`` comments are skipped. A name may have several keys,
so that a new one can be given out before the old one goes. The digest is plain SHA-256: keys are long and random, and
what makes passwords need a slow hash (people choose them) does not hold for them.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lading.errors import UsageError
from lading.events import Note, Report
from lading.gateway.watch import Watched

SETTING = "LADING_API_KEYS_FILE"
_NAME = r"[A-Za-z0-9._@-]{1,64}"
_LINE = re.compile(rf"({_NAME}):sha256:([0-9a-fA-F]{{64}})")
_LEAST_LENGTH = 20

Field = tuple[bytes, bytes]


@dataclass(frozen=True, slots=True)
class KeyRing:
    """Names with the digests of their keys."""

    entries: tuple[tuple[str, bytes], ...]

    @classmethod
    def parse(cls, text: str) -> KeyRing:
        """Raises ValueError that names the first line which is none; the line's text stays out of it."""
        entries = []
        for number, line in enumerate(text.splitlines(), 1):
            told = line.partition("#")[0].strip()
            if not told:
                continue
            found = _LINE.fullmatch(told)
            if not found:
                raise ValueError(f"line {number} is not name:sha256:<64 hex digits>")
            entries.append((found[1], bytes.fromhex(found[2])))
        return cls(tuple(entries))

    def owner_of(self, key: bytes) -> str | None:
        """The name whose key this is. Takes as long for a wrong key as for any right one."""
        digest = hashlib.sha256(key).digest()
        owner = None
        for name, known in self.entries:
            if hmac.compare_digest(digest, known) and owner is None:
                owner = name
        return owner


def read_keys(path: Path) -> KeyRing:
    """The keys of a file, none for an empty one (nobody gets in); raises :class:`UsageError`."""
    remedy = f"set {SETTING} to a file with a line for each key; `lading api-key NAME` makes one"
    try:
        return KeyRing.parse(path.read_text())
    except OSError as error:
        raise UsageError(f"{SETTING}={path}: {error.strerror}", remedy=remedy) from error
    except ValueError as error:
        reason = "not text" if isinstance(error, UnicodeDecodeError) else str(error)
        raise UsageError(f"{SETTING}={path}: {reason}", remedy=remedy) from error


def watch_keys(path: Path, report: Report) -> Watched[KeyRing]:
    """The keys of a file, read again when it changes; raises :class:`UsageError`."""

    def read() -> KeyRing:
        ring = read_keys(path)
        if not ring.entries:
            report(Note(f"{SETTING}={path} holds no key: nobody gets in", "WARNING"))
        return ring

    return Watched("the API keys", [path], read, report)


def new_key() -> str:
    """A key of 256 random bits."""
    return f"lading-{secrets.token_urlsafe(32)}"


def line_for(name: str, key: str) -> str:
    """The file's line for ``key``; raises :class:`UsageError` for a name that is none and a key that can be guessed."""
    if not re.fullmatch(_NAME, name):
        raise UsageError(f"{name!r} is no name for a key", remedy="letters, digits, '.', '_', '@' and '-', 64 at most")
    if len(key) < _LEAST_LENGTH or not key.isascii() or not key.isprintable() or " " in key:
        remedy = "leave it to `lading api-key NAME` to make one"
        raise UsageError(f"a key needs {_LEAST_LENGTH} or more printable ASCII characters, no spaces", remedy=remedy)
    return f"{name}:sha256:{hashlib.sha256(key.encode()).hexdigest()}"


def credentials(headers: Sequence[Field]) -> list[tuple[Field, bytes]]:
    """The keys that a request presents, each with its field: a bearer token, or ``x-api-key``."""
    found = []
    for name, value in headers:
        if name == b"x-api-key":
            found.append(((name, value), value))
        elif name == b"authorization":
            scheme, _, token = value.partition(b" ")
            if scheme.lower() == b"bearer":
                found.append(((name, value), token.strip()))
    return found
