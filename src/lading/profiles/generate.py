"""All profiles of a model: its precision × tensor parallelism × pipeline parallelism × LoRA, for each engine.

Generation knows nothing of the machine: the same model has the same profiles and ids everywhere, so one can be chosen
on a laptop for a cluster. Whether one runs here is :mod:`lading.profiles.fit`'s answer. What an engine can do with the
architecture, pipeline stages and LoRA, decides which are made; where that is not known, both are.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

from lading.model.built_engine import BuiltEngine
from lading.model.facts import ModelFacts
from lading.profiles.profile import Profile
from lading.profiles.rules import Support, accepted_sizes

TENSOR_PARALLEL_SIZES = (1, 2, 4, 8)
PIPELINE_PARALLEL_SIZES = (1, 2)
_QUANTIZED_ONLINE = ("bf16", "fp16")
_ONLINE_PRECISION = "fp8"
_ONLINE_BACKENDS = ("vllm", "sglang")
_ANYTHING = Support()


def generate_profiles(
    facts: ModelFacts,
    backends: Iterable[str],
    model_key: str,
    *,
    extra_sizes: Iterable[tuple[int, int]] = (),
    support: Mapping[str, Support] | None = None,
    lora: bool = False,
) -> list[Profile]:
    """The profiles of a model: for each backend plain before LoRA, least parallel first, then those quantised online.

    ``extra_sizes`` are (tp, pp) pairs that a user asked for beside the standard ones; ``lora`` says that LoRA was asked
    for. What was asked for is made even where the engine cannot do it, so that its reason can be told. ``support`` is
    what each backend can do with the architecture.
    """
    extra = set(extra_sizes)
    if facts.built:
        return _of_built_engine(facts, facts.built, model_key, extra, lora=lora)
    return [
        profile
        for backend in backends
        for profile in _of_backend(facts, backend, model_key, extra, (support or {}).get(backend, _ANYTHING), lora=lora)
    ]


def _of_built_engine(
    facts: ModelFacts, built: BuiltEngine, key: str, extra: set[tuple[int, int]], *, lora: bool
) -> list[Profile]:
    """The one size that the engine was built for, and what was asked for besides."""
    sizes = dict.fromkeys([(built.tp, built.pp), *sorted(extra)])
    as_built = Profile(
        "tensorrt_llm", facts.precision, built.tp, built.pp, False, key, engine_folder=built.folder,
        custom_name=built.name,
    )  # fmt: skip
    asked = [
        replace(as_built, tp=tp, pp=pp, lora=with_lora, custom_name="")
        for with_lora in ((False, True) if lora else (False,))
        for tp, pp in sizes
        if with_lora or (tp, pp) != (built.tp, built.pp)
    ]
    return [as_built, *asked]


def _of_backend(
    facts: ModelFacts, backend: str, key: str, extra: set[tuple[int, int]], support: Support, *, lora: bool
) -> Iterator[Profile]:
    accepted = accepted_sizes(facts, TENSOR_PARALLEL_SIZES)
    stages = PIPELINE_PARALLEL_SIZES if support.pp is not False and (facts.layers or 0) > 1 else (1,)
    sizes = sorted({(tp, pp) for tp in accepted for pp in stages} | extra, key=lambda size: (size[1], size[0]))
    for with_lora in (False, True) if lora or support.lora is not False else (False,):
        for tp, pp in sizes:
            yield Profile(backend, facts.precision, tp, pp, with_lora, key)
    if facts.precision in _QUANTIZED_ONLINE and backend in _ONLINE_BACKENDS:
        for tp, pp in sizes:
            if pp == 1 or (tp, pp) in extra:
                yield Profile(backend, _ONLINE_PRECISION, tp, pp, False, key, online=True)
