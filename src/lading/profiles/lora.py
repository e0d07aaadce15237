"""What the slots for LoRA adapters take: A and B of every linear layer that an adapter may change."""

from __future__ import annotations

from lading.model.facts import ModelFacts
from lading.profiles.options import EngineOptions
from lading.profiles.terms import Term

DEFAULT_RANK = 16
DEFAULT_SLOTS = 1


def lora_term(facts: ModelFacts, layers: int, tp: int, options: EngineOptions) -> Term:
    """The slots of a rank of so many layers. A is on every rank unless asked to be split, B is split as its layer.

    Row-parallel layers (attention's output, the MLP's) have A split as well, and B whole.
    """
    rank, slots = options.max_lora_rank or DEFAULT_RANK, options.max_loras or DEFAULT_SLOTS
    width = layers * sum(_split(sides, tp, options) for sides in _linear_layers(facts))
    what = f"{slots} adapter {'slot' if slots == 1 else 'slots'} of rank {rank}"
    return Term("lora", slots * rank * width * options.element_bytes, what)


def _linear_layers(facts: ModelFacts) -> list[tuple[int, int, bool]]:
    """Inputs, outputs, and whether the inputs are split, of the linear layers of one block."""
    hidden = facts.hidden_size or 0
    heads, head = facts.attention_heads or 0, facts.head_dim or 0
    queries, keys = heads * head or hidden, (facts.kv_heads or heads) * head or hidden
    inner = facts.intermediate_size or 4 * hidden
    return [
        (hidden, queries, False),
        (hidden, keys, False),
        (hidden, keys, False),
        (queries, hidden, True),
        (hidden, inner, False),
        (hidden, inner, False),
        (inner, hidden, True),
    ]


def _split(sides: tuple[int, int, bool], tp: int, options: EngineOptions) -> int:
    inputs, outputs, inputs_are_split = sides
    if inputs_are_split:
        return inputs // tp + (outputs // tp if options.sharded_loras else outputs)
    return (inputs // tp if options.sharded_loras else inputs) + outputs // tp
