"""What a start measured, kept for the next one: its key and its value. Pure.

A calibration counts only for the same key: all that is known to change what an engine needs beside weights and KV
cache. :mod:`lading.profiles.correction` says what is taken from it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from lading.model.facts import ModelFacts
from lading.profiles.measurement import Measurement, merge
from lading.profiles.options import EngineOptions
from lading.profiles.profile import Profile

ON_CPU = "cpu"


@dataclass(frozen=True, slots=True)
class CalibrationKey:
    """For what a measurement counts. ``CalibrationKey.from_json(k.to_json()) == k``.

    ``gpu`` is the name that the driver gives it, ``cpu`` without one. ``weights_bytes`` are those of the whole model:
    with the architecture they tell sizes of one family apart, and keep a fine-tuned model with its origin.
    ``batched_tokens`` and ``sequences`` are None where the engine's defaults count, ``kv_dtype`` is then ``auto``.
    ``other_flags`` is a digest of what else was asked of the engine that may change its memory, "" for nothing.
    """

    engine: str
    version: str
    gpu: str
    architecture: str
    precision: str
    weights_bytes: int
    tp: int = 1
    pp: int = 1
    lora: bool = False
    kv_dtype: str = "auto"
    batched_tokens: int | None = None
    sequences: int | None = None
    eager: bool = False
    other_flags: str = ""

    @classmethod
    def of(
        cls, engine: str, version: str, gpu: str, facts: ModelFacts, profile: Profile, options: EngineOptions
    ) -> CalibrationKey:
        """For what a measurement of this profile counts; the same before a start as after it."""
        return cls(
            engine=engine,
            version=version,
            gpu=gpu,
            architecture=facts.architecture,
            precision=profile.precision,
            weights_bytes=facts.weights_bytes,
            tp=profile.tp,
            pp=profile.pp,
            lora=profile.lora,
            kv_dtype=options.kv_dtype or "auto",
            batched_tokens=options.batched_tokens,
            sequences=options.max_sequences,
            eager=gpu == ON_CPU or options.eager,
            other_flags=_digest_of_others(options),
        )

    @property
    def digest(self) -> str:
        """64 lowercase hexadecimal digits: the SHA-256 of the key's canonical JSON."""
        text = json.dumps(self.to_json(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    def to_json(self) -> dict[str, Any]:
        """The key as JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> CalibrationKey:
        """What :meth:`to_json` wrote; KeyError or TypeError for anything else."""
        return cls(**{each.name: data[each.name] for each in fields(cls)})

    def __str__(self) -> str:
        where = f"{self.engine} {self.version} on {self.gpu}"
        lora = " with LoRA" if self.lora else ""
        return f"{self.architecture} {self.precision} tp{self.tp} pp{self.pp}{lora}, {where}"


@dataclass(frozen=True, slots=True)
class Calibration:
    """What the engine told at one start, rank by rank, and what had been estimated.

    Engines often let one rank speak for all, so there may be fewer ``measured`` than ranks, but there is one.
    ``measured_at`` is Unix time. ``Calibration.from_json(c.to_json()) == c``.
    """

    key: CalibrationKey
    measured: tuple[Measurement, ...]
    estimated: tuple[Measurement, ...]
    measured_at: int

    def of_rank(self, rank: int) -> Measurement:
        """What to take for a rank: its own figures where each rank spoke for itself, else the largest of any."""
        if len(self.measured) == self.key.tp * self.key.pp:
            return with_derived_activation(self.measured[rank], self._estimate_of(rank))
        return with_derived_activation(merge(self.measured), merge(self.estimated))

    def _estimate_of(self, rank: int) -> Measurement:
        return self.estimated[rank] if rank < len(self.estimated) else merge(self.estimated)

    def to_json(self) -> dict[str, Any]:
        """The calibration as JSON values."""
        return {
            "key": self.key.to_json(),
            "measured_at": self.measured_at,
            "measured": [each.to_json() for each in self.measured],
            "estimated": [each.to_json() for each in self.estimated],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Calibration:
        """What :meth:`to_json` wrote; KeyError, TypeError or ValueError for anything else."""
        measured = tuple(Measurement.from_json(each) for each in data["measured"])
        estimated = tuple(Measurement.from_json(each) for each in data["estimated"])
        measured_at = data["measured_at"]
        if not measured or type(measured_at) is not int:
            raise ValueError("a calibration without a measurement or its time")
        return cls(CalibrationKey.from_json(data["key"]), measured, estimated, measured_at)


def _digest_of_others(options: EngineOptions) -> str:
    """Of the options without a field in the key, less those that change the pool alone."""
    left = replace(
        options,
        kv_dtype=None,
        batched_tokens=None,
        max_sequences=None,
        eager=False,
        max_model_len=None,
        gpu_utilization=None,
        kv_pool_bytes=None,
        kv_pool_tokens=None,
        gpu_share=None,
    )
    return "" if left == EngineOptions() else hashlib.sha256(repr(left).encode()).hexdigest()


def with_derived_activation(measured: Measurement, estimated: Measurement) -> Measurement:
    """``measured``, with an activation where the engine told its pool but not that.

    By how much the pool was estimated wrong, and no other term explains, the activation was: the same engine made the
    pool from what was left. Without both pools, both weights and an estimated activation nothing is derived.
    """
    if measured.activation_bytes is not None or estimated.activation_bytes is None:
        return measured
    surplus = _difference(estimated.kv_pool_bytes, measured.kv_pool_bytes)
    weights = _difference(measured.weights_bytes, estimated.weights_bytes)
    if surplus is None or weights is None:
        return measured
    others = weights
    others += _difference(measured.non_torch_bytes, estimated.non_torch_bytes) or 0
    others += _difference(measured.cuda_graph_bytes, estimated.cuda_graph_bytes) or 0
    return replace(measured, activation_bytes=max(0, estimated.activation_bytes + surplus - others))


def _difference(first: int | None, second: int | None) -> int | None:
    return None if first is None or second is None else first - second
