"""A profile: one way to run a model, named and identified as NIM does it.

``vllm-bf16-tp2-pp1`` with ``-feat_lora`` behind it for LoRA. The id is the SHA-256 of the canonical JSON of the
profile's tags and its model's identity, so it is stable across machines and releases (``docs/spec/profile-id.md``). A
profile that a manifest lists has the id and the tags that stand there; its name says for which GPU and for what it was
tuned where the tags do: ``tensorrt_llm-h100-fp8-tp2-pp1-throughput``.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

from lading.model.listed import ListedProfile


@dataclass(frozen=True, slots=True)
class Profile:
    """One combination of engine, precision, tensor and pipeline parallelism, and LoRA, for one model.

    ``model_key`` identifies the model's bytes: the source and the revision that it was pinned to. ``online`` says that
    the engine makes the precision from 16-bit weights while it loads them. ``listed`` is what a manifest says of the
    profile, None for those that follow from the model. ``engine_folder`` is where below the model's directory a built
    engine lies ("": at its top), None where the engine loads a checkpoint.
    ``custom_name`` is what a user called that engine; it stands for the whole name.
    """

    backend: str
    precision: str
    tp: int
    pp: int
    lora: bool
    model_key: str
    online: bool = False
    listed: ListedProfile | None = None
    engine_folder: str | None = None
    custom_name: str = ""

    @property
    def name(self) -> str:
        """The description that listings print and ``NIM_MODEL_PROFILE`` accepts."""
        if self.custom_name:
            return self.custom_name
        gpu, tuning = (f"-{each}" if each else "" for each in (self.gpu, self.tuning))
        lora = "-feat_lora" if self.lora else ""
        return f"{self.backend}{gpu}-{self.precision}-tp{self.tp}-pp{self.pp}{tuning}{lora}"

    @property
    def gpu(self) -> str:
        """The GPU that a manifest lists the profile for, in lower case; "" where it is for any."""
        return self.tags.get("gpu", "").lower().replace(" ", "_")

    @property
    def tuning(self) -> str:
        """What the profile was tuned for: ``latency``, ``throughput``, or "" where nothing is said."""
        return self.tags.get("profile", "").lower()

    @property
    def tags(self) -> dict[str, str]:
        """The tags of schema 2.0: all values are strings."""
        if self.listed:
            return dict(self.listed.tags)
        return {
            "feat_lora": "true" if self.lora else "false",
            "llm_engine": self.backend,
            "pp": str(self.pp),
            "precision": self.precision,
            "tp": str(self.tp),
        }

    @property
    def id(self) -> str:
        """64 lowercase hexadecimal digits; equal for equal tags and model, on every machine."""
        if self.listed:
            return self.listed.id
        identity = {"model": self.model_key, "tags": self.tags}
        return hashlib.sha256(json.dumps(identity, sort_keys=True, separators=(",", ":")).encode()).hexdigest()

    @property
    def ranks(self) -> int:
        """Number of engine processes that share the model: GPUs, or CPU workers."""
        return self.tp * self.pp

    def __str__(self) -> str:
        return self.name
