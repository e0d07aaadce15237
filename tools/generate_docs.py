"""Write the documents that the program itself knows: the settings table, the commands' help, the sources.

``python tools/generate_docs.py`` writes them; ``tests/cli/test_documents.py`` fails when they differ from the program.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lading.sources.member import About

DOCS = Path(__file__).parents[1] / "docs"
REFERENCE = DOCS / "reference"
COMMANDS = (
    (),
    ("serve",),
    ("list-model-profiles",),
    ("plan",),
    ("doctor",),
    ("download-to-cache",),
    ("download-model",),
    ("create-model-store",),
    ("huggingface-cli",),
    ("huggingface-cli", "download"),
    ("mirror",),
    ("cache",),
    ("cache", "list"),
    ("cache", "verify"),
    ("cache", "gc"),
    ("cache", "remove"),
    ("bundle",),
    ("bundle", "create"),
    ("bundle", "import"),
    ("optimize",),
    ("inventory",),
    ("engine",),
    ("engine", "install"),
    ("api-key",),
)
NOTE = "<!-- written by `make docs`; do not edit -->"


def documents() -> dict[Path, str]:
    """Each generated document and its text."""
    return {
        REFERENCE / "settings.md": _settings(),
        REFERENCE / "commands.md": _commands(),
        DOCS / "sources.md": _sources(),
    }


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


def _sources() -> str:
    from lading.sources import about_sources
    from lading.uri import FORMS

    forms: dict[About, list[str]] = {}
    for scheme, about in about_sources().items():
        forms.setdefault(about, []).append(FORMS[scheme])
    head = (
        "Where models come from. Proxies, authorities, offline use and mirrors of NGC work alike for all of them: "
        "[network](network.md). `lading doctor URI` tells which of these credentials is found, whether the source "
        "answers and what would be fetched. A listing is asked again after passing faults, a part of a file goes on "
        "at the byte where it stood, redirects to another host get no credential."
    )
    overview = "".join(f"| {_schemes(each)} | {about.title} |\n" for about, each in forms.items())
    sections = "\n".join(_source(about, each) for about, each in forms.items())
    return f"# Sources\n\n{NOTE}\n\n{head}\n\n| scheme | source |\n|---|---|\n{overview}\n{sections}"


def _schemes(forms: list[str]) -> str:
    return ", ".join(f"`{form.partition('://')[0]}://`" if "://" in form else "a path" for form in forms)


def _source(about: About, forms: list[str]) -> str:
    credentials = "<br>".join(f"{number}. {text}" for number, text in enumerate(about.credentials, 1))
    rows = {
        "grammar": "<br>".join(f"`{form}`" for form in forms),
        "credentials, in order": credentials,
        "asked at": about.endpoint,
        "pinned by": about.pinned_by,
        "checksum": about.checksum,
        "resume": about.resume,
        "tested against": about.tested_against,
        "needs": f'`pip install "lading[{about.extra}]"`' if about.extra else "nothing more",
    }
    table = "".join(f"| {name} | {text} |\n" for name, text in rows.items())
    notes = "".join(f"\n{note}.\n" for note in about.notes)
    return f"## {about.title}\n\n| | |\n|---|---|\n{table}{notes}"


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
