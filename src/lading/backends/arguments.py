"""Engine flags as people write them, kept as opaque tokens except for the few that Lading must understand.

A member declares a small table of :class:`Flag`; :func:`scan` cuts a token list into groups, each a known flag with its
values or a single unknown token, and loses nothing: joining the groups gives the tokens back. Spellings that argparse
engines accept are all found: ``--a b``, ``--a=b``, ``--a_b``, ``-tp 2``, ``-tp=2``, ``--no-a``, unambiguous prefixes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum, auto


class Values(Enum):
    """How many tokens follow a flag."""

    NONE = auto()
    ONE = auto()
    MANY = auto()


@dataclass(frozen=True, slots=True)
class Flag:
    """A flag of an engine: its full name with dashes, its short forms, and what follows it."""

    name: str
    values: Values = Values.ONE
    short: tuple[str, ...] = ()
    prefixes: bool = True


@dataclass(frozen=True, slots=True)
class Group:
    """Tokens that belong together. ``flag`` is None for a token that the table does not know.

    ``negated`` is True for ``--no-x``.
    """

    tokens: tuple[str, ...]
    flag: Flag | None = None
    values: tuple[str, ...] = ()
    negated: bool = False


def scan(tokens: Sequence[str], flags: Iterable[Flag]) -> list[Group]:
    """The tokens cut into groups, in order."""
    table = tuple(flags)
    groups: list[Group] = []
    position = 0
    while position < len(tokens):
        group = _group_at(tokens, position, table)
        groups.append(group)
        position += len(group.tokens)
    return groups


def last_values(tokens: Sequence[str], flags: Iterable[Flag], name: str) -> tuple[str, ...] | None:
    """The values of the last occurrence of flag ``name`` (the last wins in argparse), or None when it is absent.

    A boolean flag gives ``("true",)`` or, negated, ``("false",)``.
    """
    found = [group for group in scan(tokens, flags) if group.flag and group.flag.name == name]
    if not found:
        return None
    group = found[-1]
    if group.flag and group.flag.values is Values.NONE:
        return ("false",) if group.negated else ("true",)
    return group.values


def without(tokens: Sequence[str], flags: Iterable[Flag], names: Iterable[str]) -> tuple[str, ...]:
    """The tokens less every occurrence of the named flags and their values."""
    dropped = set(names)
    kept = [group.tokens for group in scan(tokens, flags) if not (group.flag and group.flag.name in dropped)]
    return tuple(token for group in kept for token in group)


def _group_at(tokens: Sequence[str], position: int, table: tuple[Flag, ...]) -> Group:
    token = tokens[position]
    spelling, equals, attached = token.partition("=")
    match = _match(spelling, table)
    if match is None:
        return Group((token,))
    flag, negated = match
    if flag.values is Values.NONE:
        return Group((token,), flag, negated=negated)
    if equals and flag.values is Values.ONE:
        return Group((token,), flag, (attached,))
    following = _following(tokens[position + 1 :], limit=1 if flag.values is Values.ONE else None)
    if equals:
        return Group((token, *following), flag, (attached, *following))
    return Group((token, *following), flag, tuple(following))


def _following(tokens: Sequence[str], limit: int | None) -> list[str]:
    taken: list[str] = []
    for token in tokens:
        if len(taken) == limit or (token.startswith("-") and not _is_number(token)):
            break
        taken.append(token)
    return taken


def _is_number(token: str) -> bool:
    return token.removeprefix("-").replace(".", "", 1).isdigit()


def _match(spelling: str, table: tuple[Flag, ...]) -> tuple[Flag, bool] | None:
    dashed = spelling.replace("_", "-")
    for flag in table:
        if spelling in flag.short or dashed in flag.short:
            return flag, False
    if not spelling.startswith("--"):
        return None
    for flag in table:
        if dashed == flag.name:
            return flag, False
        if flag.values is Values.NONE and dashed == f"--no-{flag.name.removeprefix('--')}":
            return flag, True
    starts = [flag for flag in table if flag.prefixes and flag.name.startswith(dashed) and len(dashed) > len("--x")]
    return (starts[0], False) if len(starts) == 1 else None
