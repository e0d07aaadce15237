"""Which model a command is about, by command line and settings, and what it is called in the API.

A model named on the command line wins over ``NIM_FT_MODEL``, that over ``NIM_MODEL_PATH``, that over a location in
``NIM_MODEL_NAME`` (NIM 1.x), that over a manifest: ``NIM_MANIFEST_PATH``, or the one that the image has.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from lading.errors import UsageError
from lading.model.built_engine import ENGINE_FOLDER
from lading.model.listed import ProfileManifest
from lading.model.tuned import TunedModel
from lading.settings import Settings
from lading.settings_table import DEFAULT_MANIFEST_PATHS
from lading.uri import ModelUri

if TYPE_CHECKING:
    from lading.candidates import Named

DEMO = "demo"
DEMO_SERVED_NAME = "lading-demo"


_NAME_IT = "lading serve hf://ORG/MODEL, or set NIM_MODEL_PATH"


def what_is_named(
    text: str | None, settings: Settings, manifest_file: Path | None = None, *, remedy: str = _NAME_IT
) -> ModelUri | ProfileManifest:
    """The model, or the manifest, that was named; raises UsageError, with ``remedy``, where nothing names one.

    ``manifest_file`` was named on the command line beside it.
    """
    from lading.manifests.read import load_manifest

    if text:
        return model_at(text)
    if manifest_file:
        return load_manifest(manifest_file)
    if settings.ft_model:
        return _checkpoint(settings.ft_model)
    if location := settings.model_path or _location(settings.model_name):
        return model_at(location)
    if path := settings.manifest_path or _found_manifest():
        return load_manifest(path)
    raise UsageError("no model was named", remedy=remedy)


def what_is_served(text: str | None, settings: Settings, manifest_file: Path | None = None) -> Named:
    """What was named; of a fine-tuned checkpoint whose engine has a name, both."""
    named = what_is_named(text, settings, manifest_file)
    is_tuned = settings.ft_model and not text and not manifest_file
    if is_tuned and settings.custom_model_name and isinstance(named, ModelUri):
        return TunedModel(named, settings.custom_model_name)
    return named


def _checkpoint(directory: Path) -> ModelUri:
    """``NIM_FT_MODEL``, which is no engine: as NIM has it."""
    below = (directory, directory / ENGINE_FOLDER)
    if any(each.is_dir() and any(each.glob("rank*.engine")) for each in below):
        raise UsageError(
            f"NIM_FT_MODEL={directory} is a built engine, and takes the checkpoint that an engine is built of",
            remedy=f"serve the engine as it is: NIM_MODEL_NAME={directory}, without NIM_FT_MODEL",
        )
    return ModelUri.parse(str(directory.expanduser().absolute()))


def model_named(text: str | None, settings: Settings) -> ModelUri:
    """The model that was named, where only a location will do; raises UsageError where none is."""
    named = what_is_named(text, settings)
    if isinstance(named, ModelUri):
        return named
    raise UsageError(f"{named} lists several sets of files", remedy="name the location of a model: hf://ORG/MODEL")


def model_at(text: str) -> ModelUri:
    """The location that a user wrote: a URI, a path, or ``demo``."""
    if text == DEMO:
        from lading.demo import demo_model_directory

        return ModelUri.parse(str(demo_model_directory()))
    if text.startswith((".", "~")):
        return ModelUri.parse(str(Path(text).expanduser().resolve()))
    return ModelUri.parse(text)


def served_names(named: Named, settings: Settings) -> tuple[str, ...]:
    """What the model is called in the API where no flag says it."""
    asked = settings.served_model_name or ("" if _location(settings.model_name) else settings.model_name) or ""
    if names := tuple(name.strip() for name in asked.split(",") if name.strip()):
        return names
    if isinstance(named, TunedModel):
        return (named.name,)
    if isinstance(named, ProfileManifest):
        first = named.profiles[0]
        return (first.model or first.files[0].uri.served_name,)
    from lading.demo import demo_model_directory

    return (DEMO_SERVED_NAME,) if named.location == str(demo_model_directory()) else (named.served_name,)


def _location(name: str | None) -> str | None:
    """What ``NIM_MODEL_NAME`` holds, if that is a location: in images of one model it is a name."""
    return name if name and (name.startswith("/") or "://" in name) else None


def _found_manifest() -> Path | None:
    return next((path for path in map(Path, DEFAULT_MANIFEST_PATHS) if path.is_file()), None)
