"""A strict little parser of the Prometheus text format 0.0.4: anything the format does not allow is an error."""

from __future__ import annotations

import re

_HELP = re.compile(r"# HELP ([a-zA-Z_:][a-zA-Z0-9_:]*) ((?:[^\\\n]|\\\\|\\n)*)")
_TYPE = re.compile(r"# TYPE ([a-zA-Z_:][a-zA-Z0-9_:]*) (counter|gauge|histogram|summary|untyped)")
_SAMPLE = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? (NaN|[+-]?Inf|[+-]?[0-9.]+(?:e[+-]?[0-9]+)?)")
_LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\\\|\\"|\\n)*)"(?:,|$)')
_SUFFIXES = {"histogram": ("_bucket", "_sum", "_count"), "summary": ("", "_sum", "_count")}
_UNESCAPED = {"\\\\": "\\", '\\"': '"', "\\n": "\n"}

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def parse(text: str) -> Samples:
    """All samples by name and labels; raises ValueError or AssertionError for text that is not in the format."""
    assert text.endswith("\n")
    samples: Samples = {}
    kinds: dict[str, str] = {}
    helped: set[str] = set()
    current = ""
    for line in text[:-1].split("\n"):
        if found := _HELP.fullmatch(line):
            assert found[1] not in helped, f"HELP twice: {line}"
            helped.add(found[1])
        elif found := _TYPE.fullmatch(line):
            assert found[1] not in kinds, f"TYPE twice: {line}"
            current = found[1]
            kinds[current] = found[2]
        elif found := _SAMPLE.fullmatch(line):
            name = found[1]
            assert name in {current + suffix for suffix in _SUFFIXES.get(kinds[current], ("",))}, f"stray: {line}"
            key = (name, frozenset(_labels(found[2] or "")))
            assert key not in samples, f"sample twice: {line}"
            samples[key] = float(found[3])
        else:
            raise ValueError(f"not in the format: {line!r}")
    return samples


def _labels(text: str) -> list[tuple[str, str]]:
    labels, position = [], 0
    while position < len(text):
        found = _LABEL.match(text, position)
        if not found:
            raise ValueError(f"not labels: {text!r}")
        labels.append((found[1], re.sub(r'\\[\\"n]', lambda escape: _UNESCAPED[escape[0]], found[2])))
        position = found.end()
    return labels
