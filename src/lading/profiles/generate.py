"""All profiles of a model: its precision × tensor parallelism × pipeline parallelism × LoRA, for each engine.

Generation knows nothing of the machine: the same model has the same profiles and ids everywhere, so one can be chosen
on a laptop for a cluster. Whether one runs here is :mod:`lading.profiles.fit`'s answer.
"""

from __future__ import annotations

from collections.abc import Iterable

from lading.model.facts import ModelFacts
from lading.model.weights import VOCABULARY_ROWS
from lading.profiles.profile import Profile

TENSOR_PARALLEL_SIZES = (1, 2, 4, 8)


def generate_profiles(
    facts: ModelFacts, backends: Iterable[str], model_key: str, *, extra_sizes: Iterable[tuple[int, int]] = ()
) -> list[Profile]:
    """The profiles of a model, each backend's in the order of least to most parallel, plain before LoRA.

    ``extra_sizes`` are (tp, pp) pairs that a user asked for beside the standard ones.
    """
    sizes = sorted({(tp, 1) for tp in TENSOR_PARALLEL_SIZES if _splits(facts, tp)} | set(extra_sizes))
    return [
        Profile(backend, facts.precision, tp, pp, lora, model_key)
        for backend in backends
        for lora in (False, True)
        for tp, pp in sizes
    ]


def _splits(facts: ModelFacts, tp: int) -> bool:
    """Whether the engine's layers divide by ``tp``: it refuses other sizes.

    Heads have to, KV heads too or repeat evenly, and what else is split: MLPs, vocabularies once they are padded.
    """
    heads, kv_heads = facts.attention_heads, facts.kv_heads
    if not heads:
        return tp == 1
    vocabulary = -(-(facts.vocab_size or 0) // VOCABULARY_ROWS) * VOCABULARY_ROWS
    sizes = (heads, facts.intermediate_size or 0, vocabulary)
    return all(size % tp == 0 for size in sizes) and (not kv_heads or kv_heads % tp == 0 or tp % kv_heads == 0)
