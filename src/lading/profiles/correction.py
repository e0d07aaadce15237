"""What an estimate takes from the last start of the same: figures that were measured in place of constants. Pure.

Activation, what is not PyTorch's and CUDA graphs are replaced. What is exact stays computed: weights come from the
files and a token's bytes from the model, so a measurement that differs there is told and not taken over.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from lading.profiles.measurement import RESOLUTION_BYTES, Measurement
from lading.profiles.terms import RankEstimate, Target, Term
from lading.units import GIB

_EXACT_SHARE = 0.01
_REPLACED = ("activation", "non_torch", "cuda_graphs")


def figures_of(rank: RankEstimate) -> Measurement:
    """A rank's estimate as the engine would tell it."""
    terms = {term.name: term.size_bytes for term in (*rank.terms, *rank.on_top)}
    pool = {"kv_pool": max(0, rank.kv_pool_bytes), "kv_pool_tokens": rank.kv_pool_tokens}
    return Measurement.of_terms({**terms, **pool})


def corrected(terms: Iterable[Term], rank: int, target: Target) -> list[Term]:
    """``terms`` of a rank, with what was measured in place of what could only be estimated."""
    told = target.measured.of_rank(rank).terms if target.measured else {}
    return [
        Term(term.name, told[term.name], "measured at the last start of this architecture here")
        if term.name in _REPLACED and term.name in told
        else term
        for term in terms
    ]


def mismatches(measured: Measurement, computed: Measurement) -> Iterator[str]:
    """Sentences on what was computed, counts as exact, and was measured otherwise."""
    if measured.weights_bytes and computed.weights_bytes:
        difference = abs(measured.weights_bytes - computed.weights_bytes)
        if difference > max(_EXACT_SHARE * measured.weights_bytes, RESOLUTION_BYTES):
            yield (
                f"the engine loaded {measured.weights_bytes / GIB:.2f} GiB of weights at its last start here, "
                f"{computed.weights_bytes / GIB:.2f} were computed"
            )
    if measured.kv_pool_bytes and measured.kv_pool_tokens and computed.kv_pool_bytes and computed.kv_pool_tokens:
        computed_bytes = computed.kv_pool_bytes * measured.kv_pool_tokens // computed.kv_pool_tokens
        difference = abs(measured.kv_pool_bytes - computed_bytes)
        if difference > max(_EXACT_SHARE * measured.kv_pool_bytes, RESOLUTION_BYTES):
            yield (
                f"the engine's KV cache took {measured.kv_pool_bytes / measured.kv_pool_tokens:,.0f} bytes for each "
                f"token at its last start here, {computed.kv_pool_bytes / computed.kv_pool_tokens:,.0f} were computed"
            )
