"""Write the documents that the program itself knows: the settings table and the commands' help.

``python tools/generate_docs.py`` writes them; ``tests/cli/test_documents.py`` fails when they differ from the program.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

REFERENCE = Path(__file__).parents[1] / "docs/reference"
COMMANDS = (
    (),
    ("serve",),
    ("list-model-profiles",),
    ("engine",),
    ("engine", "install"),
)
NOTE = "<!-- written by `make docs`; do not edit -->"


def documents() -> dict[Path, str]:
    """Each generated document and its text."""
    return {REFERENCE / "settings.md": _settings(), REFERENCE / "commands.md": _commands()}


def _settings() -> str:
    from lading.cli.render import render_settings

    head = "Read once, from the environment. An empty value means unset. Command line flags win over all of them."
    return f"# Settings\n\n{NOTE}\n\n{head}\n\n{render_settings()}"


def _commands() -> str:
    parts = [f"# Commands\n\n{NOTE}\n"]
    for command in COMMANDS:
        name = " ".join(("lading", *command))
        parts.append(f"\n## `{name}`\n\n```\n{_help(command)}```\n")
    return "".join(parts)


def _help(command: tuple[str, ...]) -> str:
    environ = {**os.environ, "COLUMNS": "110", "NO_COLOR": "1", "PYTHON_COLORS": "0"}
    done = subprocess.run(
        [sys.executable, "-m", "lading.cli", *command, "--help"],
        env=environ, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return done.stdout


def main() -> None:
    """Write every document."""
    for path, text in documents().items():
        path.write_text(text)
        print(path.relative_to(Path.cwd()))


if __name__ == "__main__":
    main()
