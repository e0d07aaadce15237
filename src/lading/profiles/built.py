"""Whether a built engine of TensorRT-LLM runs here: it is of one release, for one model of GPU, of one size. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from lading.hardware.inventory import Gpu
from lading.model.built_engine import BuiltEngine
from lading.profiles.constants import version_key
from lading.profiles.profile import Profile
from lading.profiles.rules import Refusal

_REMOVED_IN = (1, 3)
_AGAIN = "build it again, here (nim-optimize)"


def built_refusal(built: BuiltEngine, profile: Profile, version: str, gpus: Sequence[Gpu]) -> Refusal | None:
    """Why TensorRT-LLM of ``version`` does not run the engine as ``profile`` has it; None where it should.

    What the engine's files do not tell is no reason to refuse it.
    """
    if (profile.tp, profile.pp) != (built.tp, built.pp):
        return Refusal(f"the engine was built for tp{built.tp}-pp{built.pp}, and is not split otherwise", _AGAIN)
    if profile.lora:
        return Refusal("tensorrt_llm has no LoRA for built engines", "run it without LoRA")
    here = version_key(version)
    if here >= _REMOVED_IN:
        return Refusal(
            f"tensorrt_llm {version} no longer runs built engines",
            f"use TensorRT-LLM {built.version or '1.2'}, or serve the checkpoint that it was built of",
        )
    if here and built.version and here != version_key(built.version):
        return Refusal(
            f"the engine was built by TensorRT-LLM {built.version}, and runs with that alone; {version} is installed",
            f"use TensorRT-LLM {built.version}, or {_AGAIN}",
        )
    others = sorted({gpu.name for gpu in gpus} - {built.gpu})
    if built.gpu and others:
        return Refusal(f"the engine was built for {built.gpu}, this machine has {', '.join(others)}", _AGAIN)
    return None
