"""What a row of the tables is."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Image(Enum):
    """The kinds of image. One of a model has a manifest; to one of none a model is named."""

    FREE = "model-free"
    SPECIFIC = "model-specific"


FREE, SPECIFIC, EITHER = (Image.FREE,), (Image.SPECIFIC,), (Image.FREE, Image.SPECIFIC)


@dataclass(frozen=True)
class Example:
    """An example of a seed.

    ``text`` is the shell text, or the YAML of a container, as the seed has it, its lost line breaks restored.
    ``stand`` is where the model is. ``backend`` is the image's engine, ``engine`` are words of the command line that it
    gets, ``name`` is what the model is called. ``proxied``: it names a proxy, which then must be the only way out. ``bucket``: a mirror's.
    """

    heading: str
    text: str
    stand: str = "hf"
    images: tuple[Image, ...] = FREE
    engine: str = ""
    backend: str = "vllm"
    name: str = ""
    proxied: bool = False
    bucket: str = ""

    @property
    def is_kubernetes(self) -> bool:
        return "docker run" not in self.text and "containers:" in self.text
