"""An engine for a fine-tuned checkpoint: whether to build one, of which size, and its place in the cache's list.

``local_cache/<name>/`` is what :mod:`lading.hosting.build` makes; ``local_cache/local_manifest.yaml`` lists all
that are there, as NIM 1.x does. The directories are the truth, the list follows from them. Where no engine can be
built the checkpoint is served as it is, and a note says why.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lading.cache.disk import write_atomically
from lading.candidates import Surroundings
from lading.errors import EngineNotInstalled, LadingError, NotWritable, UsageError
from lading.events import Note, Report
from lading.hardware.inventory import Gpu
from lading.hosting.build import BuildPlan, plan_build, read_record
from lading.hosting.build_config import BuildConfig, Value
from lading.hosting.builder import Builder, find_builder
from lading.inspection import ModelReader, inspect
from lading.manifests.write import Workspace, manifest_yaml
from lading.model.built_engine import ENGINE_FOLDER
from lading.model.tuned import LOCAL_CACHE, TunedModel
from lading.profiles.fit import Fit, Verdict, Wish
from lading.profiles.generate import generate_profiles
from lading.profiles.naming import DEFAULT, named
from lading.recall import Consultation
from lading.resolve import Machine, Subject, list_profiles
from lading.sources.local import LocalSource
from lading.uri import ModelUri

LOCAL_MANIFEST = "local_manifest.yaml"


@dataclass(frozen=True, slots=True)
class LocalBuild:
    """An engine to build into the cache at ``cache_path``, on ``gpu``."""

    plan: BuildPlan
    gpu: Gpu
    cache_path: Path


def plan_local_engine(what: TunedModel, wish: Wish, world: Surroundings, how: Consultation) -> LocalBuild | None:
    """The engine to build, or None, with a note: it is here already, or none can be built and the checkpoint serves.

    Raises what looking at the checkpoint gives rise to, and what a disk lacks.
    """
    report, machine, cache = how.report, world.machine(), world.open_cache()
    place = what.engine_below(cache.path)
    try:
        builder = find_builder(world.environ.get("PATH", os.defpath))
        gpu = _gpu(machine)
        cache.require_writable()
        config = _config(_size_for(_fits(what, wish, machine, world, how), wish), wish, what)
        plan = plan_build(Path(what.checkpoint.location), config, place, lambda: builder, may_exist=True)
    except (EngineNotInstalled, NotWritable, UsageError) as error:
        report(Note(f"no engine is built of {what}, the checkpoint itself is served: {error.message}", "WARNING"))
        return None
    plan = replace(plan, name=what.name)
    if _is_current(plan, gpu, builder):
        report(Note(f"the engine {what.name} was built before: {place}"))
        return None
    return LocalBuild(plan, gpu, cache.path)


def _gpu(machine: Machine) -> Gpu:
    found = next(iter(machine.inventory.engine_gpus), None)
    if found is None:
        raise UsageError("this machine has no GPU")
    return found


def _fits(what: TunedModel, wish: Wish, machine: Machine, world: Surroundings, how: Consultation) -> Sequence[Fit]:
    source = world.source_for(what.checkpoint, how.report)
    silent = replace(how, report=lambda _: None)
    return list_profiles(Subject(what.checkpoint), wish, source=source, cache=None, machine=machine, world=silent).fits


def _size_for(fits: Sequence[Fit], wish: Wish) -> Fit:
    """The size to build for: the first of TensorRT-LLM that fits, else one that does with a shorter length.

    Raises UsageError, with the reason, where what was asked for is not what an engine would be.
    """
    if wish.lora:
        raise UsageError("LoRA is asked for, which built engines do not have")
    if _is_of_checkpoint(fits, wish.profile):
        raise UsageError(f"NIM_MODEL_PROFILE={wish.profile} is a profile of the checkpoint")
    ours = [each for each in fits if each.profile.backend == "tensorrt_llm" and not each.profile.lora]
    asked = [each for each in ours if (wish.tp or each.profile.tp, wish.pp or each.profile.pp) == _sizes(each)]
    for verdict in (Verdict.COMPATIBLE, Verdict.LOW_MEMORY):
        if found := [each for each in asked if each.verdict is verdict]:
            return min(found, key=lambda each: (each.profile.ranks, each.profile.pp))
    why = asked[0].reason if asked else "another engine is in use; LADING_BACKEND=tensorrt_llm chooses TensorRT-LLM"
    raise UsageError(why)


def _sizes(each: Fit) -> tuple[int, int]:
    return each.profile.tp, each.profile.pp


def _is_of_checkpoint(fits: Sequence[Fit], name: str | None) -> bool:
    """Whether a name is that of one of the checkpoint's own profiles; any other may be the engine's."""
    if not name or name.strip().lower() == DEFAULT:
        return False
    try:
        named(fits, name)
    except UsageError:
        return False
    return True


def _config(fit: Fit, wish: Wish, what: TunedModel) -> BuildConfig:
    """What follows from the profile and from what was asked; the rest is the builder's default."""
    length = fit.suggested_max_model_len or fit.estimate.max_model_len
    values: dict[str, Value] = {"tp_size": fit.profile.tp, "pp_size": fit.profile.pp, "max_seq_len": length}
    if wish.options.max_sequences:
        values["max_batch_size"] = wish.options.max_sequences
    return BuildConfig(f"the engine {what.name}", values, {})


def _is_current(plan: BuildPlan, gpu: Gpu, builder: Builder) -> bool:
    record = read_record(plan.output)
    wanted = {"state": plan.checkpoint.state, "gpu": gpu.name, "tensorrt_llm": builder.version}
    is_whole = all((plan.output / ENGINE_FOLDER / name).is_file() for name in plan.engine_files)
    return is_whole and {**record, **wanted} == record and record.get("options") == plan.config.values


def register_local_engines(cache_path: Path, report: Report) -> None:
    """Write the list of the engines that the cache keeps: a profile each, by the name that the user gave it."""
    workspaces = []
    for directory in sorted((cache_path / LOCAL_CACHE).iterdir()):
        if directory.is_dir() and not directory.name.startswith("."):
            try:
                workspaces.append(_workspace(directory))
            except LadingError as error:
                report(Note(f"{directory} is not listed: {error.message}", "WARNING"))
    write_atomically(cache_path / LOCAL_CACHE / LOCAL_MANIFEST, manifest_yaml(workspaces).encode())


def _workspace(directory: Path) -> Workspace:
    source, model = LocalSource(), ModelUri.parse(str(directory))
    files = source.list_files(model).files
    facts = inspect(files, ModelReader(source, source.local_copy))
    profiles = generate_profiles(facts, (), str(model))
    if not profiles:
        raise UsageError("it holds no engine")
    local = [replace(each, uri=ModelUri.parse(f"local://{directory}").with_file(each.path)) for each in files]
    return profiles, local
