"""What a server said in its own words, as an error may show it: a clause, without anything that it was sent."""

from __future__ import annotations

_LONGEST = 200


def quoted(text: str, *secrets: str) -> str:
    """The start of a text that others wrote, without control characters, and without ``secrets`` that it repeats."""
    text = "".join(char for char in text if char.isprintable())
    for secret in sorted(filter(None, secrets), key=len, reverse=True):
        text = text.replace(secret, "***")
    return text[:_LONGEST]


def it_says(text: str, *secrets: str) -> str:
    """The same as a clause after a sentence of ours; "" for nothing said."""
    shown = quoted(text, *secrets)
    return f" (it says: {shown})" if shown else ""
