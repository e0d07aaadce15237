"""Engine flags whose values are JSON objects: those of several sources merge, key by key, the more important last.

``--kv-transfer-config '{"a": 1}'`` and ``--kv-transfer-config.b.c=2`` become one flag with one object. Within one
source the engine's own rule holds: of whole objects the last counts, dotted keys add to it. A flag that some source
gives another value, or extends a list of (``--x.y+ 1``), is left as it was written; so is one that is written once.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from lading.backends.arguments import Flag, Values, scan
from lading.backends.interface import Argument


@dataclass(frozen=True, slots=True)
class _Written:
    """One occurrence of a flag. ``keys`` are the dotted ones; ``value`` None: it is no object and has no keys."""

    name: str
    tokens: tuple[str, ...]
    keys: tuple[str, ...] = ()
    value: Any = None


def merge_objects(arguments: Sequence[Argument], flags: Iterable[Flag]) -> tuple[Argument, ...]:
    """The arguments, least important first, with the objects of each flag merged into one behind all others.

    Its origin names all sources that it is made of, the most important first. Pure.
    """
    table = tuple(flags)
    written = [(argument.origin, _cut(argument.tokens, table)) for argument in arguments]
    mergeable = _mergeable([each for _, groups in written for each in groups])
    kept = [
        Argument(tuple(token for each in groups if each.name not in mergeable for token in each.tokens), origin)
        for origin, groups in written
    ]
    merged = (_merged(name, written) for name in mergeable)
    return tuple(each for each in (*kept, *merged) if each.tokens)


def _mergeable(groups: Sequence[_Written]) -> list[str]:
    """The flags that have objects in several places, or dotted keys, and nothing else."""
    names = dict.fromkeys(each.name for each in groups if each.value is not None)
    found = []
    for name in names:
        same = [each for each in groups if each.name == name]
        is_spread = len(same) > 1 or any(each.keys for each in same)
        if is_spread and all(each.value is not None for each in same):
            found.append(name)
    return found


def _merged(name: str, written: Sequence[tuple[str, Sequence[_Written]]]) -> Argument:
    merged: dict[str, Any] = {}
    origins: list[str] = []
    for origin, groups in written:
        own: dict[str, Any] = {}
        for each in (group for group in groups if group.name == name):
            own = _updated(own, _nested(each.keys, each.value)) if each.keys else each.value
            origins = [origin, *(other for other in origins if other != origin)]
        merged = _updated(merged, own)
    return Argument((name, json.dumps(merged)), ", ".join(origins))


def _updated(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """``base`` with all of ``over``; objects that both have are merged in turn, anything else is replaced."""
    result = dict(base)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(result.get(key), dict)
        result[key] = _updated(result[key], value) if both else value
    return result


def _nested(keys: Sequence[str], value: Any) -> dict[str, Any]:
    for key in reversed(keys):
        value = {key: value}
    return dict(value)


def _cut(tokens: Sequence[str], table: tuple[Flag, ...]) -> list[_Written]:
    """The tokens as occurrences of flags; a token that is no flag stands for itself."""
    groups: list[_Written] = []
    position = 0
    while position < len(tokens):
        each = _written_at(tokens, position, table)
        groups.append(each)
        position += len(each.tokens)
    return groups


def _written_at(tokens: Sequence[str], position: int, table: tuple[Flag, ...]) -> _Written:
    token = tokens[position]
    spelling, equals, attached = token.partition("=")
    base, *keys = spelling.split(".")
    flag = scan((base,), table)[0].flag
    if not flag and not spelling.startswith("--"):
        return _Written("", (token,))
    name = flag.name if flag else base.replace("_", "-")
    follows = not equals and position + 1 < len(tokens) and not tokens[position + 1].startswith("--")
    if flag and flag.values is Values.NONE:
        return _Written(name, (token,))
    text = attached if equals else tokens[position + 1] if follows else ""
    value = _value(text, dotted=bool(keys))
    if value is None or any(not key or key.endswith("+") for key in keys):
        return _Written(name, (token,))
    return _Written(name, (token, text) if follows else (token,), tuple(keys), value)


def _value(text: str, *, dotted: bool) -> Any:
    """What JSON makes of the text; of dotted flags also plain words, of others objects alone. None for nothing."""
    try:
        value = json.loads(text)
    except ValueError:
        return text if dotted and text else None
    return value if dotted or isinstance(value, dict) else None
