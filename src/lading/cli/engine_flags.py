"""The flags of the engine beside those of Lading, for commands that estimate: told apart before any is parsed.

Which engine's they are is told by ``--engine``, else they are those of the engine that would be used here. Flags that
nobody here reads go along unread, as they do when a model is served. What looks like a slip is an error: Lading's
misspelt, or another engine's.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING

from lading.settings_readers import ENGINES
from lading.settings_readers import engine as read_engine

if TYPE_CHECKING:
    from lading.backends.arguments import Group

DEFAULT_ENGINE = "vllm"
_VERSION = re.compile(r"v?\d+(\.\d+)*([.+-]?[a-z][a-z0-9.+-]*|[+][a-z0-9.]+)?", re.IGNORECASE)
_OWN_WITH_VALUE = ("--model", "--format", "--gpus", "--engine", "--manifest-file", "--manifest", "-m")
_OWN = (*_OWN_WITH_VALUE, "--refresh", "--explain", "--debug", "--help")
_LEAST_ABBREVIATION = len("--gpu")
_ALIKE = 0.8
_LOCATION = re.compile(r"[a-z0-9]+://|[/.~]", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class SplitFlags:
    """Tokens for Lading, those for the engine in their order, and which of these nothing here reads."""

    own: tuple[str, ...]
    engine: tuple[str, ...] = ()
    unread: tuple[str, ...] = ()


def parse_engine(text: str) -> tuple[str, str]:
    """Engine and version of ``vllm==0.19.0`` or ``sglang``; the version is empty where none is named.

    Raises UsageError for an engine that is not known, and for what is no version.
    """
    from lading.errors import UsageError

    name, equals, version = (part.strip() for part in text.strip().partition("=="))
    try:
        engine = read_engine(name)
    except ValueError:
        known = f"it is one of {', '.join(ENGINES)}, with a version behind it as in vllm==0.19.0"
        raise UsageError(f"--engine {text}: no such engine", remedy=known) from None
    if equals and not _VERSION.fullmatch(version):
        raise UsageError(f"--engine {text}: {version!r} is no version", remedy=f"{engine}==0.19.0, or {engine} alone")
    return engine, version.removeprefix("v")


def split_engine_flags(tokens: Sequence[str], unnamed: Callable[[], str] = lambda: DEFAULT_ENGINE) -> SplitFlags:
    """The tokens of a command line told apart; ``unnamed`` tells the engine where the line has flags and names none.

    A word behind a flag that nobody knows may be its value: it is taken for the model only where no other word can be,
    and it is a location. Raises UsageError for flags that look like slips.
    """
    family = _family(tokens, unnamed)
    own: list[str] = []
    engine: list[tuple[str, ...]] = []
    unread: list[str] = []
    claimable: list[str] = []
    for group, before_is_unknown in _groups(tokens, family):
        word = group.tokens[0]
        if group.flag:
            engine.append(group.tokens)
        elif not word.startswith("-") and before_is_unknown:
            claimable.append(word)
            engine.append(group.tokens)
        elif _is_own(word) or not word.startswith("-"):
            own += group.tokens
        else:
            _refuse_slips(word, family)
            unread.append(word)
            engine.append(group.tokens)
    model = None if _names_model(own) else next((word for word in reversed(claimable) if _LOCATION.match(word)), None)
    if model is not None:
        engine.remove((model,))
        own.append(model)
    return SplitFlags(tuple(own), tuple(token for group in engine for token in group), tuple(unread))


def _groups(tokens: Sequence[str], family: str) -> Iterator[tuple[Group, bool]]:
    """Flags that are known, with their values, and single tokens; each with whether an unknown flag is before."""
    from lading.backends.arguments import Group, scan
    from lading.backends.engine_options import flags_of

    position, after_unknown = 0, False
    while position < len(tokens):
        word = tokens[position]
        name, equals, _ = word.partition("=")
        if name in _OWN_WITH_VALUE:
            group = Group(tuple(tokens[position : position + (1 if equals else 2)]))
        elif _is_abbreviation(name):
            group = Group((word,))
        else:
            group = scan(tokens[position:], flags_of(family))[0]
        yield group, after_unknown
        is_unknown = group.flag is None and word.startswith("-") and not _is_own(word) and not equals
        after_unknown = is_unknown or (after_unknown and group.flag is None and not word.startswith("-"))
        position += len(group.tokens)


def _is_own(word: str) -> bool:
    return word == "-h" or word.partition("=")[0] in _OWN


def _is_abbreviation(name: str) -> bool:
    return len(name) >= _LEAST_ABBREVIATION and any(flag.startswith(name) and flag != name for flag in _OWN)


def _names_model(own: Sequence[str]) -> bool:
    """Whether a word stands by itself, or behind ``--model``."""
    alone = [word for place, word in enumerate(own) if place == 0 or own[place - 1] not in _OWN_WITH_VALUE]
    return any(not word.startswith("-") or word.partition("=")[0] == "--model" for word in alone)


def _refuse_slips(word: str, family: str) -> None:
    """Raises UsageError for nearly a flag of Lading's, and for another engine's where this one has the same."""
    from lading.backends.engine_options import counterpart
    from lading.errors import UsageError

    name = word.partition("=")[0].replace("_", "-")
    near = [flag for flag in _OWN if _is_abbreviation(name) and flag.startswith(name)]
    near = near or get_close_matches(name, _OWN, n=1, cutoff=_ALIKE)
    if near:
        raise UsageError(f"there is no flag {word.partition('=')[0]}", remedy=f"did you mean {near[0]}?")
    if theirs := counterpart(name, family):
        flag, other = theirs
        raise UsageError(
            f"{name} is a flag of {other}, not of {family}",
            remedy=f"{flag}, or --engine {other} to ask for that engine",
        )


def _family(tokens: Sequence[str], unnamed: Callable[[], str]) -> str:
    """The engine of the last ``--engine``, which is the one that counts."""
    named = [
        value if equals else next(iter(tokens[position + 1 :]), "")
        for position, (name, equals, value) in enumerate(token.partition("=") for token in tokens)
        if name == "--engine"
    ]
    if named:
        return parse_engine(named[-1])[0]
    has_flags = any(token.startswith("-") and not _is_own(token) for token in tokens)
    return unnamed() if has_flags else DEFAULT_ENGINE
