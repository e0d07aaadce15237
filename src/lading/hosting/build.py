"""An engine, built whole or not at all: ``DIR/trtllm_engine/`` with the model's tokenizer and config beside it.

:func:`plan_build` decides and changes nothing, :func:`build_engine` carries it out. Everything is made in a hidden
directory beside the output and renamed into place when it is complete; what a failure, a signal or a crash leaves is
removed, at the latest by the next build for the same output. One build per output at a time.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import shutil
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Protocol

from lading.backends import tensorrt_llm_log
from lading.backends.launching import passed_on
from lading.cache.disk import can_write_directory, machine_errors, nearest_existing, not_writable, sync_file
from lading.cache.lock import Lock
from lading.errors import EngineFailed, MalformedModel, NotEnoughDisk, Stopped, UsageError
from lading.events import EngineOutput, Note, Report
from lading.hardware.inventory import Gpu
from lading.hosting.build_config import OPTIONS, BuildConfig, Program, check_split, length_note
from lading.hosting.builder import Builder, Step
from lading.inspection import ModelReader, inspect
from lading.model.built_engine import BUILD_RECORD, ENGINE_FOLDER, engine_folder, is_own_checkpoint
from lading.model.config import CONFIG_FILE, table, whole
from lading.model.facts import read_json_object
from lading.model.files import WEIGHTS_INDEX_FILE
from lading.model.manifest import Manifest
from lading.placing import is_mount_point
from lading.plan import ALWAYS_KEPT
from lading.sources.local import LocalSource
from lading.supervisor.process import GuardedProcess
from lading.units import format_bytes
from lading.uri import ModelUri

_TAIL_LINES = 400
_SHOWN_LINES = 5
_GRACE_SECONDS = 10.0


class StopRequest(Protocol):
    """A wish to stop: ``number`` is that of the signal, 0 before; ``received`` is set with it."""

    number: int
    received: asyncio.Event


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What an engine is built of. ``is_own``: a checkpoint of TensorRT-LLM, which is not converted.

    ``beside`` are the names of the files that an engine needs beside it: tokenizer, configs, templates. ``ranks`` are
    those of a checkpoint of TensorRT-LLM, 0 else. ``state`` changes with any of its files.
    ``notes`` are sentences for the user.
    """

    directory: Path
    is_own: bool
    beside: tuple[str, ...]
    weights_bytes: int
    ranks: int = 0
    state: str = ""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class BuildPlan:
    """Everything decided, nothing done: what ``--dry-run`` prints. ``name`` is what the user calls the engine."""

    checkpoint: Checkpoint
    config: BuildConfig
    builder: Builder
    output: Path
    name: str = ""

    @property
    def staging(self) -> Path:
        """Where it is made."""
        return self.output.with_name(f".{self.output.name}.partial")

    @property
    def made(self) -> Path:
        """What becomes the output."""
        return self.staging / "model"

    @property
    def steps(self) -> tuple[Step, ...]:
        """The commands, in order."""
        engine, given = self.made / ENGINE_FOLDER, self.checkpoint.directory
        if self.checkpoint.is_own:
            return (self.builder.build(given, engine, self.config),)
        converted = self.staging / "checkpoint"
        convert = self.builder.convert(given, converted, self.config)
        return convert, self.builder.build(converted, engine, self.config)

    @property
    def engine_files(self) -> tuple[str, ...]:
        """What the builder has to leave."""
        ranks = self.checkpoint.ranks or self.config.tp * self.config.pp
        return (CONFIG_FILE, *(f"rank{number}.engine" for number in range(ranks)))

    @property
    def needed_bytes(self) -> int:
        """The disk that a build takes at most: the engine, and the converted checkpoint while it is built."""
        return self.checkpoint.weights_bytes * len(self.steps)


def plan_build(
    directory: Path, config: BuildConfig, output: Path, find: Callable[[], Builder], *, may_exist: bool = False
) -> BuildPlan:
    """What building an engine of ``directory`` into ``output`` takes; ``find`` finds the builder, last of all.

    ``may_exist``: an output that is there is replaced when the new one is whole. Raises UsageError for a model or an
    output that will not do, MachineError for a disk that will not, and what ``find`` raises.
    """
    checkpoint = survey(directory, config)
    _check_output(output, may_exist=may_exist)
    plan = BuildPlan(checkpoint, config, find(), output)
    with machine_errors(output):
        place = os.statvfs(nearest_existing(output.parent))
    if (free := place.f_bavail * place.f_frsize) < plan.needed_bytes:
        raise NotEnoughDisk(
            f"building takes up to {format_bytes(plan.needed_bytes)} beside {output}, {format_bytes(free)} are free",
            remedy="free space there, or name an output on a larger disk",
        )
    return plan


def survey(directory: Path, config: BuildConfig) -> Checkpoint:
    """What is in ``directory``, checked against what is asked of it.

    Raises UsageError for an engine, a quantised checkpoint, or one that is not split so; MalformedModel for no model.
    """
    source = LocalSource()
    manifest = source.list_files(ModelUri.parse(str(directory)))
    paths = {entry.path for entry in manifest.files}
    require_no_engine(paths, directory)
    beside = tuple(path for path in sorted(paths) if _goes_beside(path))
    if is_own_checkpoint(paths):
        return _own_checkpoint(directory, manifest, beside, config)
    facts = inspect(manifest.files, ModelReader(source, source.local_copy))
    if facts.quantization:
        raise UsageError(
            f"{directory} is quantised ({facts.quantization}): an engine is built of 16 or 32 bit weights",
            remedy=f"serve it as it is: `lading serve {directory}`; or give a checkpoint of TensorRT-LLM "
            "that its quantize.py made",
        )
    check_split(config, facts)
    note = length_note(config, facts)
    state = state_of(manifest)
    return Checkpoint(directory, False, beside, facts.weights_bytes, state=state, notes=(note,) if note else ())


def state_of(manifest: Manifest) -> str:
    """A digest of a directory's listing: names, sizes and times of change of its files."""
    listed = [[entry.path, entry.size_bytes, entry.etag] for entry in manifest.files]
    return hashlib.sha256(json.dumps(listed).encode()).hexdigest()


def require_no_engine(paths: set[str], directory: Path) -> None:
    """Raises UsageError where a directory of these files is an engine already."""
    if engine_folder(paths) is not None:
        raise UsageError(
            f"{directory} holds a built engine, and an engine is built of a checkpoint",
            remedy=f"serve it as it is: `lading serve {directory}`, or NIM_MODEL_NAME={directory}",
        )


def _goes_beside(path: str) -> bool:
    """Whether an engine needs the file beside it: what is at the top and small, as Hugging Face names it."""
    if "/" in path or path == WEIGHTS_INDEX_FILE:
        return False
    return any(fnmatchcase(path.lower(), each) for each in ALWAYS_KEPT)


def _own_checkpoint(directory: Path, manifest: Manifest, beside: tuple[str, ...], config: BuildConfig) -> Checkpoint:
    path = directory / CONFIG_FILE
    try:
        written = read_json_object(str(path), path.read_bytes())
    except OSError as error:
        raise MalformedModel(f"{path} cannot be read: {error.strerror}") from error
    mapping = table(written.get("mapping"))
    split = {"tp_size": whole(mapping, "tp_size") or 1, "pp_size": whole(mapping, "pp_size") or 1}
    for name, value in config.values.items():
        if OPTIONS[name][0] is Program.CONVERT and value != split.get(name):
            what = f"{name} {value}: {directory} is a checkpoint of TensorRT-LLM, made with {split}"
            raise config.error(name, what, f"leave {name} out, or convert the Hugging Face checkpoint again")
    weights = sum(entry.size_bytes for entry in manifest.files if entry.path.endswith(".safetensors"))
    ranks = split["tp_size"] * split["pp_size"]
    kept = tuple(each for each in beside if each != CONFIG_FILE)
    return Checkpoint(directory, True, kept, weights, ranks, state_of(manifest))


def _check_output(output: Path, *, may_exist: bool) -> None:
    with machine_errors(output):
        if output.exists() and not output.is_dir():
            raise UsageError(f"{output} is not a directory", remedy="name a new or empty directory")
        if output.is_dir() and not may_exist and any(output.iterdir()):
            raise UsageError(f"{output} is not empty", remedy="name a new or empty directory")
    if is_mount_point(output):
        raise UsageError(f"{output} is where a volume is mounted", remedy=f"name a directory below it: {output}/engine")
    if not can_write_directory(place := nearest_existing(output.parent)):
        raise not_writable(place)


async def build_engine(
    plan: BuildPlan, gpu: Gpu, environ: Mapping[str, str], report: Report, stop: StopRequest
) -> Path:
    """Carry the plan out; the output, complete. Call from the main thread (:meth:`GuardedProcess.start`).

    Each line that the programs print is reported. Raises EngineFailed where one of them fails, Stopped where ``stop``
    asked for it, CacheBusy where another build makes the same output. The output is then as it was.
    """
    for note in plan.checkpoint.notes:
        report(Note(note, "WARNING"))
    with _staged(plan):
        for step in plan.steps:
            report(Note(f"{step.title} with TensorRT-LLM {plan.builder.version}"))
            await _run(step, passed_on(environ), report, stop)
        await asyncio.to_thread(_complete, plan, gpu)
    report(Note(f"built {plan.output}"))
    return plan.output


@contextmanager
def _staged(plan: BuildPlan) -> Iterator[None]:
    """The empty staging directory, which is gone afterwards."""
    lock = Lock(plan.staging / "lock", held_for=f"the build of {plan.output}")
    with lock.acquire(0):
        try:
            with machine_errors(plan.staging):
                for left in plan.staging.iterdir():
                    if left.is_dir():
                        shutil.rmtree(left)
                plan.made.mkdir()
            yield
        finally:
            shutil.rmtree(plan.staging, ignore_errors=True)


async def _run(step: Step, environ: Mapping[str, str], report: Report, stop: StopRequest) -> None:
    tail: deque[str] = deque(maxlen=_TAIL_LINES)

    def on_line(line: str) -> None:
        tail.append(line)
        report(EngineOutput(line))

    process = await GuardedProcess.start(step.argv, environ, on_line)
    ended, stopped = asyncio.create_task(process.wait()), asyncio.create_task(stop.received.wait())
    try:
        await asyncio.wait({ended, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if not ended.done():
            process.terminate()
            await asyncio.wait({ended}, timeout=_GRACE_SECONDS)
    finally:
        stopped.cancel()
        if not ended.done():
            process.kill()
        code = await ended
    if stop.number:
        raise Stopped(stop.number)
    if code:
        raise _failure(step, code, tuple(tail))


def _failure(step: Step, code: int, tail: tuple[str, ...]) -> EngineFailed:
    cause = tensorrt_llm_log.explain(tail)
    said = cause.message if cause else "".join(f"\n    {line}" for line in tail[-_SHOWN_LINES:])
    return EngineFailed(
        f"{step.title} failed (exit code {code}): {said}",
        remedy=(cause.remedy if cause else None) or "its output above says more; nothing was left behind",
    )


def read_record(output: Path) -> dict[str, Any]:
    """What was written beside an engine that was built here; empty where there is none that can be read."""
    try:
        return read_json_object(BUILD_RECORD, (output / BUILD_RECORD).read_bytes())
    except (OSError, MalformedModel):
        return {}


def _complete(plan: BuildPlan, gpu: Gpu) -> None:
    """Check what was built, put beside it what it is served with, and move it into place."""
    missing = [name for name in plan.engine_files if not (plan.made / ENGINE_FOLDER / name).is_file()]
    if missing:
        raise EngineFailed(f"the builder ended without an error and made no {', '.join(missing)}")
    with machine_errors(plan.output):
        for name in plan.checkpoint.beside:
            shutil.copyfile(plan.checkpoint.directory / name, plan.made / name)
        record = {
            "tensorrt_llm": plan.builder.version,
            "gpu": gpu.name,
            "compute_capability": ".".join(map(str, gpu.compute_capability)),
            "name": plan.name,
            "checkpoint": str(plan.checkpoint.directory),
            "state": plan.checkpoint.state,
            "options": dict(plan.config.values),
        }
        (plan.made / BUILD_RECORD).write_text(json.dumps(record, indent=2) + "\n")
        for place in sorted(plan.made.rglob("*")):
            if place.is_file():
                sync_file(place)
        if plan.output.is_dir() and any(plan.output.iterdir()):
            plan.output.rename(plan.staging / "replaced")
        plan.made.rename(plan.output)
