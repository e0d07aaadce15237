"""``lading`` and the bare command names: read the environment once, run a command, turn errors into lines and a code.

The only place that catches broadly: a :class:`LadingError` is shown as ``error:`` and ``try:`` lines and ends with its
exit code, anything else is a defect of ours and says so. ``--debug`` shows the traceback of either.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING

from lading.cli.engine_flags import SplitFlags, split_engine_flags
from lading.cli.parser import (
    API_KEY,
    BUNDLE,
    CACHE,
    DOCTOR,
    DOWNLOAD,
    ENGINE,
    HUGGING_FACE,
    INVENTORY,
    LIST,
    MIRROR,
    OPTIMIZE,
    PLAN,
    SERVE,
    SETTINGS,
    STORE,
    TO_CACHE,
    command_line,
)
from lading.errors import LadingError, UsageError
from lading.events import Note
from lading.settings import Settings, deprecations
from lading.settings_table import DEFAULT_MANIFEST_PATHS

if TYPE_CHECKING:
    from lading.cli.commands import Session
    from lading.cli.log import EventLog
    from lading.cli.profile_commands import Enquiry

_ALIASES = {"nim-serve": SERVE, "list-profiles": LIST, "nim-optimize": OPTIMIZE}
_COMMANDS = (
    SERVE,
    LIST,
    PLAN,
    DOCTOR,
    TO_CACHE,
    DOWNLOAD,
    STORE,
    HUGGING_FACE,
    MIRROR,
    CACHE,
    BUNDLE,
    OPTIMIZE,
    INVENTORY,
    ENGINE,
    API_KEY,
    SETTINGS,
)
_NAMING = ("NIM_FT_MODEL", "NIM_MODEL_PATH", "NIM_MODEL_NAME", "NIM_MANIFEST_PATH")
_PIPE_CLOSED = 141  # 128 + SIGPIPE, what a shell shows for a reader that went away


def main(argv: Sequence[str] | None = None) -> int:
    """``lading``: the command that the first argument names; a location, a path or a flag there means ``serve``."""
    return _guarded(list(sys.argv[1:] if argv is None else argv))


def nim_serve() -> int:
    """``nim-serve``."""
    return _guarded([SERVE, *sys.argv[1:]])


def list_model_profiles() -> int:
    """``list-model-profiles``."""
    return _guarded([LIST, *sys.argv[1:]])


def download_to_cache() -> int:
    """``download-to-cache``."""
    return _guarded([TO_CACHE, *sys.argv[1:]])


def download_model() -> int:
    """``download-model``."""
    return _guarded([DOWNLOAD, *sys.argv[1:]])


def create_model_store() -> int:
    """``create-model-store``."""
    return _guarded([STORE, *sys.argv[1:]])


def mirror() -> int:
    """``mirror``."""
    return _guarded([MIRROR, *sys.argv[1:]])


def nim_optimize() -> int:
    """``nim-optimize``."""
    return _guarded([OPTIMIZE, *sys.argv[1:]])


def _guarded(argv: list[str]) -> int:
    debug = "--debug" in argv
    try:
        return _dispatch(argv, debug=debug)
    except LadingError as error:
        if debug:
            raise
        _show(error)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _PIPE_CLOSED
    except Exception as error:  # the outermost edge: a defect is reported, not spilled
        if debug:
            raise
        sys.stderr.write(f"error: Lading itself failed: {type(error).__name__}: {error}\ntry: the same with --debug\n")
        return 1


def _show(error: LadingError) -> None:
    if _logs_are_json():
        record = {"level": "ERROR", "message": error.message, "remedy": error.remedy, "exit_code": error.exit_code}
        sys.stderr.write(json.dumps(record) + "\n")
        return
    sys.stderr.write(f"error: {error.message}\n")
    if error.remedy:
        first, *more = error.remedy.splitlines()
        sys.stderr.write("\n".join([f"try: {first}", *(f"     {line}" for line in more)]) + "\n")


def _logs_are_json() -> bool:
    try:
        return Settings.from_env(os.environ).jsonl_logging
    except LadingError:
        return False


def _dispatch(argv: list[str], *, debug: bool) -> int:
    command, rest = _split(argv)
    if command == SERVE and not {"-h", "--help"} & set(rest):
        return _serve(rest, debug=debug)
    flags = split_engine_flags(rest, _family_here) if command in (LIST, PLAN) else SplitFlags(tuple(rest))
    options = command_line().parse_args([command, *flags.own] if command else flags.own)
    options.engine_tokens, options.unread_flags = flags.engine, flags.unread
    if options.command is None:
        command_line().print_help()
        return 0
    return _run(options, debug=debug)


def _family_here() -> str:
    from lading.cli import commands
    from lading.hardware.probe import probe

    return commands.family_here(Settings.from_env(os.environ), os.environ, lambda: probe(os.environ).device)


def _split(argv: list[str]) -> tuple[str | None, list[str]]:
    """The command and what follows it; None where only ``--help`` or ``--version`` was asked, or nothing at all."""
    first = argv[0] if argv else ""
    if first in _COMMANDS or first in _ALIASES:
        return _ALIASES.get(first, first), argv[1:]
    if first in ("-h", "--help", "--version"):
        return None, [first]
    if not first:
        return (SERVE, []) if any(os.environ.get(name) for name in _NAMING) or _has_manifest() else (None, [])
    if first.startswith(("-", "/", ".", "~")) or "://" in first:
        return SERVE, argv
    near = get_close_matches(first, [*_COMMANDS, *_ALIASES], n=1)
    raise UsageError(
        f"{first!r} is neither a command nor a model location",
        remedy=f"did you mean `lading {near[0]}`?" if near else "`lading --help` lists the commands",
    )


def _has_manifest() -> bool:
    """Whether this is an image of one model."""
    return any(Path(path).is_file() for path in DEFAULT_MANIFEST_PATHS)


def _session(*, debug: bool) -> tuple[Settings, EventLog]:
    from lading.cli.log import EventLog

    settings = Settings.from_env(os.environ)
    log = EventLog(level="DEBUG" if debug else settings.log_level, jsonl=settings.jsonl_logging)
    for sentence in deprecations(os.environ):
        log(Note(sentence, "WARNING"))
    return settings, log


def _serve(tokens: list[str], *, debug: bool) -> int:
    from lading.cli import commands

    settings, log = _session(debug=debug)
    try:
        return commands.serve(tokens, commands.Session(settings, dict(os.environ), log))
    finally:
        log.close()


def _run(options: argparse.Namespace, *, debug: bool) -> int:
    from lading.cli import commands

    settings, log = _session(debug=debug)
    session = commands.Session(settings, dict(os.environ), log)
    try:
        return _run_with(options, session)
    finally:
        log.close()


def _run_with(options: argparse.Namespace, session: Session) -> int:
    from lading.cli import commands

    match options.command:
        case "list-model-profiles":
            from lading.cli import profile_commands

            return profile_commands.list_model_profiles(_enquiry(options), session)
        case "plan":
            from lading.cli import profile_commands

            return profile_commands.plan(_enquiry(options), session)
        case "inventory":
            return commands.inventory(options.gpus, as_json=options.json, session=session)
        case "doctor":
            return commands.doctor(options.model, as_json=options.format == "json", session=session)
        case "engine":
            return _engine(options, session)
        case "api-key":
            from lading.cli import key_commands

            return key_commands.api_key(options.name, from_input=options.stdin)
        case "settings":
            return commands.show_settings()
        case name:
            return _ROOMS[name](options, session)


def _download(options: argparse.Namespace, session: Session) -> int:
    from lading.cli import download_commands

    return download_commands.run(options, session)


def _mirror(options: argparse.Namespace, session: Session) -> int:
    from lading.cli import mirror_commands

    return mirror_commands.run(options, session)


def _bundle(options: argparse.Namespace, session: Session) -> int:
    from lading.cli import bundle_commands

    return bundle_commands.run(options, session)


def _cache(options: argparse.Namespace, session: Session) -> int:
    from lading.cli import cache_commands

    return cache_commands.run(options, session)


def _optimize(options: argparse.Namespace, session: Session) -> int:
    from lading.cli import optimize_commands

    return optimize_commands.run(options, session)


_ROOMS: Mapping[str, Callable[[argparse.Namespace, Session], int]] = {
    **dict.fromkeys((TO_CACHE, DOWNLOAD, STORE, HUGGING_FACE), _download),
    MIRROR: _mirror,
    BUNDLE: _bundle,
    CACHE: _cache,
    OPTIMIZE: _optimize,
}
"""Commands that have a file of their own, imported when one is run."""


def _enquiry(options: argparse.Namespace) -> Enquiry:
    from lading.cli.profile_commands import Enquiry

    return Enquiry(
        model=options.model or getattr(options, "model_flag", None),
        manifest=Path(options.manifest_file).absolute() if getattr(options, "manifest_file", None) else None,
        as_json=options.format == "json",
        refresh=options.refresh,
        explain=getattr(options, "explain", False),
        gpus=getattr(options, "gpus", None),
        engine=options.engine,
        engine_tokens=options.engine_tokens,
        unread_flags=options.unread_flags,
    )


def _engine(options: argparse.Namespace, session: Session) -> int:
    from lading.cli import commands

    match options.action:
        case "install":
            return commands.engine_install(dry_run=options.dry_run, session=session)
        case "list":
            return commands.engine_list(session)
        case "path":
            return commands.engine_path(session)
        case _:
            return commands.engine_remove(dry_run=options.dry_run, session=session)
