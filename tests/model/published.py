"""Published configs among the test data, as facts without tensors."""

from __future__ import annotations

import json
from pathlib import Path

from lading.model.facts import ModelFacts, gather_facts

CONFIGS = Path(__file__).parents[1] / "assets/model-configs"


def facts_of(name: str) -> ModelFacts:
    """The facts of the config that is stored under ``name``."""
    published = json.loads((CONFIGS / f"{name}.json").read_text())
    return gather_facts(published["config"], (), quantization_file=published.get("hf_quant_config"))
