"""What the documents say of the program is what the program does."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tools.generate_docs import documents

from lading.settings_table import SETTINGS

ROOT = Path(__file__).parents[2]
DOCUMENTS = documents()


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_generated_documents_are_current(path):
    assert path.read_text() == DOCUMENTS[path], "run `make docs`"


def test_every_command_has_its_help_among_the_documents():
    text = (ROOT / "docs/reference/commands.md").read_text()
    overview = text.partition("commands:")[2].partition("```")[0]
    named = set(re.findall(r"^    ([a-z-]+)", overview, re.MULTILINE))
    assert named - {"settings"} <= set(re.findall(r"^## `lading ([a-z-]+)`", text, re.MULTILINE))


def markdown_files() -> list[Path]:
    return [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]


@pytest.mark.parametrize("path", markdown_files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_links_between_documents_lead_somewhere(path):
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", path.read_text()):
        if "://" not in target:
            assert (path.parent / target).exists(), target


def test_every_variable_that_documents_name_exists():
    known = {name for setting in SETTINGS for name in setting.names}
    allowed = {"NIM_LLM_IMAGE"}
    for path in markdown_files():
        named = set(re.findall(r"\b(?:NIM|LADING)_[A-Z][A-Z_]+\b", path.read_text()))
        assert named <= known | allowed, f"{path.name}: {sorted(named - known - allowed)}"


def test_every_make_target_that_documents_name_exists():
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for path in markdown_files():
        assert set(re.findall(r"`make ([a-z]+)`", path.read_text())) <= targets, path.name
