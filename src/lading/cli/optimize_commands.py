"""``lading optimize`` (``nim-optimize``): what was asked is read, one use case called."""

from __future__ import annotations

import argparse
import asyncio
import os
import shlex
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from lading.cli.commands import Session
from lading.errors import MachineError, UsageError
from lading.manifests.document import MOST_BYTES

if TYPE_CHECKING:
    from lading.hosting.build import BuildPlan


def run(options: argparse.Namespace, session: Session) -> int:
    """Build the engine that the command line asks for, or print how."""
    from lading.hosting.build import plan_build
    from lading.hosting.build_config import read_build_config
    from lading.hosting.builder import find_builder

    asked = _path(options.build_config)
    config = read_build_config(_read(asked), str(asked))
    search_path = session.environ.get("PATH", os.defpath)
    plan = plan_build(
        _path(options.model_dir), config, _path(options.output_engine_dir), lambda: find_builder(search_path)
    )
    if options.dry_run:
        sys.stdout.write("".join(f"# {step.title}\n{shlex.join(step.argv)}\n" for step in plan.steps))
        return 0
    output = asyncio.run(_build(plan, session))
    sys.stdout.write(f"{output}\n")
    return 0


async def _build(plan: BuildPlan, session: Session) -> Path:
    from lading.hardware.probe import probe
    from lading.hosting.build import build_engine

    gpu = next(iter(probe(session.environ).gpus), None)
    if gpu is None:
        raise MachineError(
            "an engine is built on the GPU that it is for, and this machine has none",
            remedy="run it where the GPU is; --dry-run checks the rest here",
        )
    with _Signals() as stop:
        return await build_engine(plan, gpu, session.environ, session.report, stop)


class _Signals:
    """TERM and INT while the block runs, as a request to stop."""

    def __init__(self) -> None:
        self.number = 0
        self.received = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    def __enter__(self) -> _Signals:
        for each in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(each, self._on_signal, each)
        return self

    def __exit__(self, *_: object) -> None:
        for each in (signal.SIGTERM, signal.SIGINT):
            self._loop.remove_signal_handler(each)

    def _on_signal(self, number: int) -> None:
        self.number = self.number or number
        self.received.set()


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(MOST_BYTES + 1)
    except OSError as error:
        raise UsageError(
            f"the build config {path} cannot be read: {error.strerror}",
            remedy="name a YAML file, such as one that holds `dtype: float16`",
        ) from error


def _path(text: str) -> Path:
    return Path(text).expanduser().absolute()
