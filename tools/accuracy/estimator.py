"""The one place where the report meets the estimator: a record's situation in, the estimator's figures out.

When the estimator's interface changes, this file does and nothing else of the report.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from lading.hardware.inventory import Gpu, Inventory
from lading.model.facts import ModelFacts, gather_facts
from lading.model.weights import Heads
from lading.profiles.fit import Engine, Fit, Verdict, Wish, fit
from lading.profiles.overhead import constants_for
from lading.profiles.profile import Profile
from tools.accuracy.records import Model, Record

SPOKEN = frozenset({"vllm"})
"""The engines that the estimator speaks of."""

_ENDLESS = 1 << 30  # a length that no machine holds: the estimator then says what it would suggest instead
_CAPABILITY = (9, 0)


@dataclass(frozen=True, slots=True)
class Estimated:
    """What the estimator says of a record's situation, for the rank whose figures the record gives.

    ``tokens_in`` gives the tokens that a pool of so many bytes has room for, None where the cache is not known;
    ``suggested`` is the longest length it would suggest, were the model endless.
    """

    weights_bytes: int
    activation_bytes: int
    non_torch_bytes: int
    graph_bytes: int
    kv_bytes: int
    kv_tokens: int | None
    is_compatible: bool
    suggested: int | None
    tokens_in: Callable[[int], int] | None


class Situation(NamedTuple):
    """A record's machine and engine, as the estimator takes them."""

    profile: Profile
    facts: ModelFacts
    inventory: Inventory
    engines: tuple[Engine, ...]
    wish: Wish


def estimate_record(record: Record, model: Model) -> Estimated:
    """The figures for what the record ran."""
    situation = _situation(record, model)
    facts, found = situation.facts, fit(*situation)
    terms = {term.name: term.size_bytes for term in found.estimate.terms}
    weights = terms["weights"] + terms["rope_cache"]  # the engine's "model loading" counts both
    pool = found.have_bytes - weights - terms["activation"] - terms["non_torch"] - terms.get("cuda_graphs", 0)
    layout = facts.kv

    def tokens_in(pool_bytes: int) -> int:
        assert layout is not None
        return layout.pool_tokens(pool_bytes * record.pp, tp=record.tp)

    return Estimated(
        weights_bytes=weights,
        activation_bytes=terms["activation"],
        non_torch_bytes=terms["non_torch"],
        graph_bytes=terms.get("cuda_graphs", 0),
        kv_bytes=pool,
        kv_tokens=tokens_in(pool) if layout and pool > 0 else None,
        is_compatible=found.verdict is Verdict.COMPATIBLE,
        suggested=_endless(situation).suggested_max_model_len,
        tokens_in=tokens_in if layout else None,
    )


def stage_weights(model: Model, tp: int, pp: int) -> tuple[int, ...]:
    """Bytes that a rank of each pipeline stage holds once the model is loaded."""
    facts = gather_facts(model.config, model.tensors, quantization_file=model.quantization_file)
    if facts.weights is None:
        raise ValueError("the checkpoint has no tensors")
    heads = Heads(facts.attention_heads or 0, facts.kv_heads or 0)
    return tuple(size + facts.rope_cache_bytes for size in facts.weights.rank_bytes(tp, pp, heads))


def _endless(situation: Situation) -> Fit:
    return fit(*situation._replace(wish=_wish(situation.wish, _ENDLESS)))


def _wish(wish: Wish, length: int | None) -> Wish:
    return Wish(tp=wish.tp, pp=wish.pp, max_model_len=length, gpu_utilization=wish.gpu_utilization)


def _situation(record: Record, model: Model) -> Situation:
    facts = gather_facts(model.config, model.tensors, quantization_file=model.quantization_file)
    profile = Profile(record.engine, facts.precision, record.tp, record.pp, lora=False, model_key=record.model)
    gpus = tuple(
        Gpu(index, record.gpu, record.total_bytes, record.total_bytes, _CAPABILITY)
        for index in range(record.tp * record.pp)
    )
    machine = Inventory(gpus, ram_bytes=0, ram_available_bytes=0, cpu_count=0)
    engine = Engine(record.engine, record.version, machine.device)
    utilization = record.utilization or constants_for(record.version).utilization
    wish = Wish(tp=record.tp, pp=record.pp, max_model_len=record.max_model_len, gpu_utilization=utilization)
    return Situation(profile, facts, machine, (engine,), wish)
