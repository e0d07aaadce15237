"""The flags of the engine beside those of Lading, for commands that estimate: told apart before any is parsed.

Which engine's they are is told by ``--engine``, else they are vLLM's.
"""

from __future__ import annotations

from collections.abc import Sequence

DEFAULT_ENGINE = "vllm"
ENGINES = ("vllm", "sglang", "tensorrt_llm")
_ALIASES = {"trtllm": "tensorrt_llm", "tensorrt-llm": "tensorrt_llm", "trt-llm": "tensorrt_llm"}


def parse_engine(text: str) -> tuple[str, str]:
    """Engine and version of ``vllm==0.19.0`` or ``sglang``; the version is empty where none is named.

    Raises UsageError for an engine that is not known.
    """
    from lading.errors import UsageError

    name, _, version = text.strip().partition("==")
    plain = name.strip().lower()
    engine = _ALIASES.get(plain, plain)
    if engine not in ENGINES:
        raise UsageError(f"--engine {text}: no such engine", remedy=f"it is one of {', '.join(ENGINES)}")
    return engine, version.strip()


def split_engine_flags(tokens: Sequence[str]) -> tuple[list[str], list[str]]:
    """Tokens for Lading, and those of the engine's flags that change its memory."""
    from lading.backends.arguments import scan
    from lading.backends.engine_options import flags_of

    groups = scan(tokens, flags_of(_family(tokens)))
    own = [token for group in groups if group.flag is None for token in group.tokens]
    return own, [token for group in groups if group.flag for token in group.tokens]


def _family(tokens: Sequence[str]) -> str:
    for position, token in enumerate(tokens):
        name, equals, value = token.partition("=")
        if name == "--engine":
            text = value if equals else next(iter(tokens[position + 1 :]), "")
            return parse_engine(text)[0]
    return DEFAULT_ENGINE
