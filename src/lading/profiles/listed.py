"""The profiles that a manifest lists, and which GPUs it lists them for. Pure.

The engine is the tag ``llm_engine``, else ``model_type``, else ``backend``, as the NIM Operator looks for it. Parallel
sizes and LoRA that were asked for and that no profile lists are added, for engines that run from weights: their files
are the same. Engines compiled for one GPU and one size are not.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from lading.hardware.inventory import Gpu
from lading.model.facts import ModelFacts
from lading.model.listed import ListedProfile
from lading.profiles.profile import Profile

_ENGINE_TAGS = ("llm_engine", "model_type", "backend")
_TENSORRT = ("tensorrt", "trt", "triton")
FROM_WEIGHTS = ("vllm", "sglang")
_WORDS = re.compile(r"[a-z0-9]+")
_NVIDIA = ":10de"


def engine_of(listed: ListedProfile) -> str:
    """The engine family that runs the profile; "" where its tags name none."""
    name = next((listed.tags[tag] for tag in _ENGINE_TAGS if listed.tags.get(tag)), "").lower()
    return "tensorrt_llm" if name.startswith(_TENSORRT) else name


def listed_profile(listed: ListedProfile, precision: str = "") -> Profile:
    """The profile; ``precision`` is that of its weights, for a manifest that does not tell it."""
    tags = listed.tags
    return Profile(
        backend=engine_of(listed),
        precision=tags.get("precision", "").lower() or precision,
        tp=int(tags.get("tp") or 1),
        pp=int(tags.get("pp") or 1),
        lora=tags.get("feat_lora", "").lower() == "true",
        model_key=str(listed.workspace),
        listed=listed,
    )


def listed_profiles(
    listed: Sequence[ListedProfile],
    facts: ModelFacts,
    *,
    asked: tuple[int | None, int | None] = (None, None),
    lora: bool = False,
) -> list[Profile]:
    """The profiles of one workspace in the manifest's order; then those with the sizes ``asked`` (tp, pp) and LoRA."""
    folder = facts.built.folder if facts.built else None
    found = [replace(listed_profile(each, facts.precision), engine_folder=folder) for each in listed]
    known = {_kind(each) for each in found}
    for each in list(found) if any(asked) or lora else ():
        variant = Profile(
            each.backend,
            each.precision,
            asked[0] or each.tp,
            asked[1] or each.pp,
            each.lora or lora,
            each.model_key,
        )
        if each.backend in FROM_WEIGHTS and _kind(variant) not in known:
            known.add(_kind(variant))
            found.append(variant)
    return found


def _kind(profile: Profile) -> tuple[str, str, int, int, bool]:
    return profile.backend, profile.precision, profile.tp, profile.pp, profile.lora


def is_made_for(profile: Profile, gpus: Sequence[Gpu]) -> bool:
    """Whether a manifest lists the profile for these GPUs, or for any. Tags name a PCI device, or a model of GPU."""
    tags = profile.tags
    devices = {each.strip().lower().removesuffix(_NVIDIA) for each in tags.get("gpu_device", "").split(",")} - {""}
    names = [set(_WORDS.findall(each.lower())) for each in tags.get("gpu", "").split(",") if each.strip()]
    if devices and gpus and (not names or all(each.pci_id for each in gpus)):
        return all(each.pci_id.lower().removesuffix(_NVIDIA) in devices for each in gpus)
    if not devices and not names:
        return True
    here = [set(_WORDS.findall(each.name.lower())) for each in gpus]
    return bool(here) and all(any(name <= words for name in names) for words in here)
