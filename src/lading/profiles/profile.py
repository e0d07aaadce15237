"""A profile: one way to run a model, named and identified as NIM does it.

``vllm-bf16-tp2-pp1`` with ``-feat_lora`` behind it for LoRA. The id is the SHA-256 of the canonical JSON of the
profile's tags and its model's identity, so it is stable across machines and releases (``docs/spec/profile-id.md``).
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Profile:
    """One combination of engine, precision, tensor and pipeline parallelism, and LoRA, for one model.

    ``model_key`` identifies the model's bytes: the source and the revision that it was pinned to. ``online`` says that
    the engine makes the precision from 16-bit weights while it loads them.
    """

    backend: str
    precision: str
    tp: int
    pp: int
    lora: bool
    model_key: str
    online: bool = False

    @property
    def name(self) -> str:
        """The description that listings print and ``NIM_MODEL_PROFILE`` accepts."""
        return f"{self.backend}-{self.precision}-tp{self.tp}-pp{self.pp}{'-feat_lora' if self.lora else ''}"

    @property
    def tags(self) -> dict[str, str]:
        """The tags of schema 2.0: all values are strings."""
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
        identity = {"model": self.model_key, "tags": self.tags}
        return hashlib.sha256(json.dumps(identity, sort_keys=True, separators=(",", ":")).encode()).hexdigest()

    @property
    def ranks(self) -> int:
        """Number of engine processes that share the model: GPUs, or CPU workers."""
        return self.tp * self.pp

    def __str__(self) -> str:
        return self.name
