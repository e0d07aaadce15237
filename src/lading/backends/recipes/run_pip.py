"""Runs pip and writes down, as data, why it failed. Started by an environment's own interpreter, never imported.

::

    python -I run_pip.py FAILURE_FILE install --no-deps -r requirements.txt

pip tells failures apart by exception type, then prints text and exits with 1. The exception is noted on its way out, so
that nobody has to search the text. FAILURE_FILE then holds the names of the exception's classes, its ``errno``, and the
hosts of the configured indexes that did not answer: pip takes an index that is out of reach for one that has nothing.
"""

import json
import sys
from optparse import Values
from pathlib import Path
from urllib.parse import urlsplit

from pip._internal.cli.base_command import Command
from pip._internal.commands import create_command

_PROBE_SECONDS = 5


def main(argv: list[str]) -> int:
    """Run pip's command with its arguments, which follow the failure file; pip's exit code."""
    failure_file, name, *arguments = argv
    command = create_command(name)
    run = command.run

    def noted(options: Values, args: list[str]) -> int:
        try:
            return run(options, args)
        except Exception as error:
            failure = {
                "classes": [each.__name__ for each in type(error).__mro__],
                "errno": getattr(error, "errno", None),
                "silent_hosts": _silent_hosts(command, options),
            }
            Path(failure_file).write_text(json.dumps(failure), encoding="utf-8")
            raise

    command.run = noted  # type: ignore[method-assign]
    return command.main(arguments)


def _silent_hosts(command: Command, options: Values) -> list[str]:
    """The index hosts that do not answer, asked the way pip asks: with its proxies, certificates and credentials."""
    indexes = [] if options.no_index else [options.index_url, *options.extra_index_urls]
    silent = []
    for index in indexes:
        if index.startswith(("http://", "https://")):
            try:
                session = command._build_session(options, retries=0, timeout=_PROBE_SECONDS)  # type: ignore[attr-defined]
                session.head(f"{index.rstrip('/')}/pip/", allow_redirects=False)
            except Exception:  # noqa: BLE001 (pip's own or those of its HTTP client, by version)
                silent.append(urlsplit(index).hostname or index)
    return silent


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
