"""Profiles as NIM prints them, as JSON (``docs/reference/listing.md``), and explained term by term. Pure."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from lading.hardware.inventory import Device, Inventory
from lading.profiles.fit import LENGTH_FLAGS, Fit, Verdict
from lading.profiles.terms import RankEstimate, Term
from lading.units import GIB, format_bytes

if TYPE_CHECKING:
    from lading.candidates import Candidates

_FREE_GPU_SHARE = 0.05
_GROUPS = (
    ("- Compatible with system and runnable:", Verdict.COMPATIBLE),
    ("- Compatible with system but low memory:", Verdict.LOW_MEMORY),
    ("- Compilable to TRT-LLM using just-in-time compilation of HF models to TRTLLM engines:", None),
    ("- Incompatible with system:", Verdict.INCOMPATIBLE),
)
"""NIM's groups in its order; of those to be compiled there are none here."""
_BAR_WIDTH = 20
_JSON_TERMS = {
    "weights_bytes": ("weights", "rope_cache", "allocator"),
    "activation_bytes": ("activation", "encoder"),
    "non_torch_bytes": ("non_torch", "engine_reserve", "reserve"),
    "cuda_graph_bytes": ("cuda_graphs",),
    "lora_bytes": ("lora",),
}
"""A rank's figures as engines' logs give them: the loaded weights hold the rotary table, the peak the encoder's."""


def render_listing(found: Candidates, inventory: Inventory) -> str:
    """The profiles of a model in the form that NIM prints and other programs parse."""
    lines = ["SYSTEM INFO", *_system(inventory), "MODEL PROFILES"]
    for title, verdict in _GROUPS:
        plain = [each for each in found.fits if each.verdict is verdict and not each.profile.lora]
        lora = [each for each in found.fits if each.verdict is verdict and each.profile.lora]
        lines += _group(title, plain, lora, inventory.device)
    return "\n".join(lines) + "\n"


def _system(inventory: Inventory) -> list[str]:
    free = [each for each in inventory.gpus if each.used_share <= _FREE_GPU_SHARE]
    busy = [each for each in inventory.gpus if each.used_share > _FREE_GPU_SHARE]
    lines = []
    for title, gpus in (("- Free GPUs:", free), ("- Non-free GPUs:", busy)):
        lines += [title if gpus else f"{title} <None>"]
        lines += [
            f"  -  [{each.pci_id}] ({each.index}) {each.name} [current utilization: {each.used_share:.0%}]"
            for each in gpus
        ]
    if inventory.device is Device.CPU:
        lines.append(f"- CPU: {inventory.cpu_count} cores, {format_bytes(inventory.ram_bytes)} of RAM granted")
    return lines


def _group(title: str, plain: Sequence[Fit], lora: Sequence[Fit], device: Device) -> list[str]:
    if not plain and not lora:
        return [f"{title} <None>"]
    lines = [title, *(f"  - {_profile_line(each, device)}" for each in plain)]
    if lora:
        lines += ["  - With LoRA support:", *(f"    - {_profile_line(each, device)}" for each in lora)]
    return lines


def _profile_line(each: Fit, device: Device) -> str:
    notes = [f"requires >={_gib(each.needed_bytes)} GB/gpu"] if each.needed_bytes else []  # else nobody could look
    if device is Device.CPU and each.verdict is not Verdict.INCOMPATIBLE:
        notes.append("of RAM: it runs on the CPU")
    if each.verdict is Verdict.LOW_MEMORY and each.suggested_max_model_len and each.suggested_bytes:
        reduced = f"to reduce to >={_gib(each.suggested_bytes)} GB/gpu"
        notes.append(f"try {LENGTH_FLAGS[each.profile.backend]}={each.suggested_max_model_len} {reduced}")
    elif each.verdict is Verdict.LOW_MEMORY and each.remedy:
        notes.append(f"try {each.remedy}")
    if each.verdict is Verdict.INCOMPATIBLE:
        remedy = "; ".join((each.remedy or "").splitlines())
        notes.append(f"{each.reason}; {remedy}" if remedy else each.reason)
    return f"{each.profile.id} ({each.profile.name}) [{', '.join(notes)}]"


def _gib(size_bytes: int) -> int:
    """Whole GiB that a GPU (or the machine) must grant; NIM prints them as GB."""
    return math.ceil(size_bytes / GIB)


def render_explanation(found: Candidates) -> str:
    """Each profile's estimate: its terms, and for every GPU a bar of what they take of its budget."""
    return "\n".join("\n".join(_explained(each)) for each in found.fits) + "\n"


def _explained(each: Fit) -> Iterable[str]:
    yield f"{each.profile.name}: {each.verdict}: {each.reason}"
    if each.remedy:
        yield f"  try: {each.remedy}"
    if each.warning:
        yield f"  but: {each.warning}"
    for term in each.estimate.terms:
        yield _term_line(term, each.have_bytes)
    total, have, rank = each.needed_bytes, each.have_bytes, each.estimate.binding
    yield f"  {'total':<15}{format_bytes(total):>10}  {_bar(total, have)}  of {format_bytes(have)}"
    for term in rank.on_top:
        yield _term_line(term, have)
    for gpu in each.estimate.ranks if len(each.estimate.ranks) > 1 else ():
        needed, pool = format_bytes(gpu.needed_bytes), format_bytes(max(0, gpu.kv_pool_bytes))
        yield f"  {f'GPU {gpu.rank}':<15}{needed:>10}  {_bar(gpu.needed_bytes, have)}  pool {pool}"
    if rank.kv_pool_tokens:
        size = f"{rank.kv_pool_tokens} tokens in {format_bytes(rank.kv_pool_bytes)}"
        yield f"  {'KV pool':<15}{size}, {rank.concurrency:.2f} requests of {rank.max_model_len} at once"
    for note in each.estimate.notes:
        yield f"  note: {note}"


def _term_line(term: Term, have_bytes: int) -> str:
    return f"  {term.name:<15}{format_bytes(term.size_bytes):>10}  {_bar(term.size_bytes, have_bytes)}  {term.how}"


def _bar(size_bytes: int, have_bytes: int) -> str:
    """So much of a budget, in twentieths; ``>`` at the end where it is more than there is."""
    filled = round(_BAR_WIDTH * size_bytes / have_bytes) if have_bytes else _BAR_WIDTH + 1
    return f"{'#' * min(filled, _BAR_WIDTH):.<{_BAR_WIDTH}}{'>' if filled > _BAR_WIDTH else ' '}"


def render_listing_json(found: Candidates, inventory: Inventory) -> str:
    """The same as JSON: the machine, the model, every profile with verdict, reason, remedy and what each rank holds.

    Revision and architecture are null for a manifest that lists several sets of files.
    """
    listings = list(found.listings.values())
    only = listings[0] if len(listings) == 1 else None
    document = {
        "model": str(found.named),
        "revision": only.manifest.revision if only else None,
        "architecture": only.facts.architecture if only else None,
        "inventory": inventory.to_json(),
        "profiles": [fit_json(each) for each in found.fits],
    }
    return json.dumps(document, indent=2) + "\n"


def fit_json(each: Fit) -> dict[str, Any]:
    """One profile on a machine."""
    return {
        "profile_id": each.profile.id,
        "name": each.profile.name,
        "tags": each.profile.tags,
        "verdict": str(each.verdict),
        "reason": each.reason,
        "remedy": each.remedy,
        "warning": each.warning,
        "required_bytes_per_gpu": each.needed_bytes,
        "have_bytes_per_gpu": each.have_bytes,
        "max_model_len": each.estimate.max_model_len,
        "suggested_max_model_len": each.suggested_max_model_len,
        "suggested_bytes_per_gpu": each.suggested_bytes,
        "terms": {term.name: term.size_bytes for term in each.estimate.terms},
        "binding_rank": each.estimate.binding.rank,
        "ranks": [_rank_json(rank) for rank in each.estimate.ranks],
        "notes": list(each.estimate.notes),
    }


def _rank_json(rank: RankEstimate) -> dict[str, Any]:
    terms = {name: rank.bytes_of(*parts) for name, parts in _JSON_TERMS.items()}
    pool = {
        "kv_pool_bytes": max(0, rank.kv_pool_bytes),
        "kv_pool_tokens": rank.kv_pool_tokens,
        "kv_bytes_per_request": rank.kv_bytes_per_request,
    }
    return {"rank": rank.rank, **terms, **pool, "concurrency": round(rank.concurrency, 2)}
