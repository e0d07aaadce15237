"""What the model is taught: ``tools/demo_corpus.toml``, read and checked."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Topic:
    """One answer and what asks for it: whole questions, those that need a turn before them, and phrases for frames."""

    id: str
    answer: str
    questions: tuple[str, ...]
    followups: tuple[str, ...]
    phrases: tuple[tuple[str, str], ...]
    """Pairs of the kind of frame and what to put into it."""


@dataclass(frozen=True, slots=True)
class Corpus:
    """Everything the model is taught, and the held-out questions it is judged by."""

    topics: tuple[Topic, ...]
    unrelated: Topic
    frames: dict[str, tuple[str, ...]]
    slots: dict[str, tuple[str, ...]]
    systems: tuple[str, ...]
    documents: tuple[str, ...]
    held_out: tuple[tuple[str, frozenset[str]], ...]

    def answer(self, topic_id: str) -> str:
        """Text of the answer of `topic_id`."""
        return next(topic.answer for topic in (self.unrelated, *self.topics) if topic.id == topic_id)


def read_corpus(path: Path) -> Corpus:
    """Parse the corpus file; raises KeyError or TOMLDecodeError when it is not one."""
    raw = tomllib.loads(path.read_text(encoding="utf-8"))
    frames = {kind: tuple(texts) for kind, texts in raw["frames"].items()}

    def topic(table: dict[str, Any]) -> Topic:
        phrases = tuple((kind, phrase) for kind in frames for phrase in table.get(kind, ()))
        return Topic(
            table["id"], table["answer"], tuple(table["questions"]), tuple(table.get("followups", ())), phrases
        )

    return Corpus(
        topics=tuple(map(topic, raw["topic"])),
        unrelated=topic({"id": "unrelated", **raw["unrelated"]}),
        frames=frames,
        slots={name: tuple(words) for name, words in raw["slots"].items()},
        systems=tuple(raw["system"]["prompts"]),
        documents=tuple(raw["documents"]["texts"]),
        held_out=tuple((q, frozenset(h["topics"])) for h in raw["held_out"] for q in h["questions"]),
    )
