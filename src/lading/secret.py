"""A string that does not show itself: tokens, keys, proxy passwords."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Secret:
    """A credential. ``str`` and ``repr`` print ``***``; only :meth:`reveal` gives the text, at the place of use.

    ``name`` is the variable that it was read from, "" where it was made otherwise: errors may show it.
    """

    _text: str = field(repr=False)
    name: str = field(default="", compare=False)

    def reveal(self) -> str:
        """The credential itself."""
        return self._text

    def __str__(self) -> str:
        return "***"

    def __repr__(self) -> str:
        return "Secret(***)"

    def __bool__(self) -> bool:
        return bool(self._text)
