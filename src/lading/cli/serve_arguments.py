"""``lading serve``'s command line: Lading's own few flags, the model, and everything else for the engine, untouched."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lading.backends.arguments import scan
from lading.backends.interface import Backend
from lading.cli.own_flags import OwnFlag
from lading.errors import UsageError
from lading.uri import InvalidModelUri, ModelUri, Scheme

_SCHEMES = tuple(f"{scheme}://" for scheme in Scheme if scheme is not Scheme.PATH)


@dataclass(frozen=True, slots=True)
class ServeArguments:
    """What was asked on the command line. ``model`` is text as typed, None where none was named."""

    model: str | None
    flags: frozenset[OwnFlag]
    engine_tokens: tuple[str, ...]

    @classmethod
    def parse(cls, tokens: Sequence[str], backend: Backend) -> ServeArguments:
        """Split ``tokens``. The model is the first word, or a location later on that no engine flag can claim.

        Tokens behind ``--`` are the engine's whatever they look like. Raises UsageError when two models are named.
        """
        own_part, _, engine_part = _partition(tokens)
        flags = frozenset(OwnFlag(token) for token in own_part if token in set(OwnFlag))
        rest = [token for token in own_part if token not in set(OwnFlag)]
        named, rest = _take_model(rest, backend)
        flagged = backend.read_flags(rest).model
        if named and flagged:
            raise UsageError(f"two models are named: {named} and --model {flagged}", remedy="name one")
        return cls(named or flagged, flags, (*rest, *engine_part))


def _partition(tokens: Sequence[str]) -> tuple[list[str], bool, list[str]]:
    if "--" not in tokens:
        return list(tokens), False, []
    position = list(tokens).index("--")
    return list(tokens[:position]), True, list(tokens[position + 1 :])


def _take_model(tokens: list[str], backend: Backend) -> tuple[str | None, list[str]]:
    if tokens and not tokens[0].startswith("-"):
        return tokens[0], tokens[1:]
    before_may_claim = False
    position = 0
    for group in scan(tokens, backend.flags):
        text = group.tokens[0]
        if group.flag is None and not before_may_claim and _is_location(text):
            return text, tokens[:position] + tokens[position + 1 :]
        before_may_claim = group.flag is None and text.startswith("-") and "=" not in text
        position += len(group.tokens)
    return None, tokens


def _is_location(text: str) -> bool:
    if not text.startswith(_SCHEMES):
        return False
    try:
        ModelUri.parse(text)
    except InvalidModelUri:
        return False
    return True
