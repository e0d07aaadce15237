"""``docker run`` of an image that is this machine: its options are read, its entry point is run in docker's place.

Variables that ``-e`` does not name do not get in. A volume's place inside stands for its place outside, in variables and
arguments. What the image is, ``container.json`` beside this program's first argument says: ``environ``, its own
variables; ``root``, a directory that holds what examples have at absolute places; ``inside``, where what is written
inside goes that no volume is for, and what it starts in.
"""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path

_WITH_VALUE = ("-e", "-v", "-p", "-u", "--gpus", "--name", "--shm-size", "--network", "--add-host", "--entrypoint")
_ALONE = ("--rm", "-it")


def options_of(arguments: list[str]) -> tuple[list[tuple[str, str]], list[str]]:
    """The options, and what comes behind the image's name."""
    rest, found = list(arguments), []
    while rest and rest[0].startswith("-"):
        name, equals, value = rest.pop(0).partition("=")
        if name not in (*_WITH_VALUE, *_ALONE):
            sys.exit(f"docker: unknown option {name}")
        if name in _WITH_VALUE:
            found.append((name, value if equals else rest.pop(0)))
    if not rest:
        sys.exit("docker: no image")
    return found, rest[1:]


def outside(place: str, root: Path) -> Path:
    """Where a host's directory is: below ``root``, unless the test has made it."""
    path = Path(place)
    if path.is_relative_to(root.parent):
        path.mkdir(parents=True, exist_ok=True) if not path.exists() else None
        return path
    return root / place.lstrip("/")


def main(container: Path, arguments: list[str]) -> None:
    """``run``: become the entry point."""
    about = json.loads(container.read_text())
    root, inside = Path(about["root"]), Path(about["inside"])
    options, command = options_of(arguments)
    places = {"/opt/nim/.cache": inside / "opt/nim/.cache"}
    environ: dict[str, str] = dict(about["environ"])
    for name, value in options:
        if name == "-v":
            here, there = value.split(":")[:2]
            places[there] = outside(here, root)
    for name, value in options:
        if name == "-e":
            variable, equals, text = value.partition("=")
            if equals or variable in os.environ:
                environ[variable] = text if equals else os.environ[variable]

    def seen_from_here(text: str) -> str:
        for there, here in sorted(places.items(), key=lambda each: -len(each[0])):
            text = re.sub(rf"(?<![\w./-]){re.escape(there)}(?![\w.-])", str(here), text)
        return text

    environ = {name: seen_from_here(value) for name, value in environ.items()}
    entry = dict(options).get("--entrypoint", "lading")
    os.chdir(inside)
    os.execvpe(entry, [entry, *map(seen_from_here, command)], environ)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[3:])
