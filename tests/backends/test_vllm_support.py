"""What architectures support, read from source like vLLM's and from the table."""

from __future__ import annotations

from pathlib import Path

import pytest

from lading.backends.vllm_registry import REGISTRY
from lading.backends.vllm_support import MODELS, support_of
from lading.profiles.rules import Support

REGISTRY_SOURCE = """
_TEXT_GENERATION_MODELS = {
    "LlamaForCausalLM": ("llama", "LlamaForCausalLM"),
    "ChildForCausalLM": ("child", "ChildForCausalLM"),
    "PlainForCausalLM": ("llama", "PlainForCausalLM"),
    "LostForCausalLM": ("lost", "LostForCausalLM"),
    "OddForCausalLM": "odd",
}
"""
LLAMA = """
from .interfaces import SupportsLoRA, SupportsPP
class LlamaForCausalLM(nn.Module, SupportsLoRA, SupportsPP): ...
class Base(SupportsPP): ...
class PlainForCausalLM(nn.Module, Base): ...
"""
CHILD = "from .llama import LlamaForCausalLM as Parent\nclass ChildForCausalLM(Parent): ...\n"


@pytest.fixture
def packages(tmp_path: Path) -> Path:
    models = tmp_path / MODELS
    models.mkdir(parents=True)
    (tmp_path / REGISTRY).write_text(REGISTRY_SOURCE)
    (models / "llama.py").write_text(LLAMA)
    (models / "child.py").write_text(CHILD)
    return tmp_path


@pytest.mark.parametrize(
    ("architecture", "support"),
    [
        ("LlamaForCausalLM", Support(pp=True, lora=True)),
        ("ChildForCausalLM", Support(pp=True, lora=True)),
        ("PlainForCausalLM", Support(pp=True, lora=False)),
        ("LostForCausalLM", Support()),
        ("OddForCausalLM", Support()),
        ("FalconForCausalLM", Support(pp=True, lora=False)),
    ],
    ids=["its own bases", "another file's", "this file's", "no such file", "an odd table", "the table knows"],
)
def test_an_installations_classes_say_what_they_support(packages: Path, architecture: str, support: Support) -> None:
    assert support_of(architecture, "0.33.0", packages) == support


@pytest.mark.parametrize(
    ("architecture", "version", "support"),
    [
        ("LlamaForCausalLM", "0.19.0", Support(pp=True, lora=True)),
        ("Mamba2ForCausalLM", "0.33.0", Support(pp=False, lora=False)),
        ("NewForCausalLM", "0.33.0", Support()),
        ("MllamaForConditionalGeneration", "0.33.0", Support(last_version="0.10.2")),
        ("MllamaForConditionalGeneration", "0.10.2", Support()),
        ("MllamaForConditionalGeneration", "of any version", Support()),
    ],
)
def test_without_an_installation_the_table_says_it(architecture: str, version: str, support: Support) -> None:
    assert support_of(architecture, version, None) == support
