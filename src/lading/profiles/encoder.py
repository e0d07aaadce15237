"""What an image encoder takes beside the language model while an engine profiles itself.

The engine encodes as many of the largest images as its budget of tokens allows (a whole image at least), keeps what
they become, and then runs the language model: the peak is the larger of the two runs.
"""

from __future__ import annotations

from lading.model.facts import ModelFacts
from lading.model.towers import VisionFacts
from lading.profiles.options import EngineOptions
from lading.profiles.terms import Term


def encoder_term(
    facts: ModelFacts, vision: VisionFacts, batched_tokens: int, activation_bytes: int, options: EngineOptions
) -> Term:
    """What the encoder adds to the peak of the language model, ``activation_bytes``."""
    budget = max(batched_tokens, vision.image_tokens)
    kept = budget * (facts.hidden_size or 0) * options.element_bytes
    if options.skip_mm_profiling:
        return Term("encoder", 0, "not profiled, as asked: it comes on top of the budget")
    images = max(1, budget // max(1, vision.image_tokens))
    patches = images * vision.patches
    rows = 4 * vision.hidden_size + 3 * vision.intermediate_size
    encoding = patches * rows * options.element_bytes
    size = max(kept + activation_bytes, kept + encoding) - activation_bytes
    return Term("encoder", size, f"{images} images of {vision.image_tokens} tokens, encoded before the profile run")
