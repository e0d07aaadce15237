"""Which GPUs could serve a model: a table for people, and the same as JSON (``docs/reference/listing.md``). Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from lading.units import format_bytes

if TYPE_CHECKING:
    from lading.planning import Offer
    from lading.resolve import Listing

_HEAD = ("machine", "fits", "profile", "needs per GPU", "max length", "at once")


def render_plan(listing: Listing, offers: Sequence[Offer]) -> str:
    """The machines that serve the model, in the catalogue's order, then the names of GPUs that do not."""
    rows = [_HEAD, *(_row(each) for each in offers if each.serves)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEAD))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    if len(rows) == 1:
        largest = max(offers, key=lambda each: each.gpu.total_bytes * each.count, default=None)
        why = f": {largest.fit.reason}" if largest else ""
        lines = [f"no GPU of the catalogue serves it, not even eight of them{why}"]
    serving = {each.gpu.name for each in offers if each.serves}
    others = list(dict.fromkeys(each.gpu.name for each in offers if each.gpu.name not in serving))
    if others:
        lines.append(f"not in any number up to {max(each.count for each in offers)}: {', '.join(others)}")
    return "\n".join([f"{listing.pinned}: {listing.facts.architecture}, {listing.facts.precision}", *lines]) + "\n"


def _row(offer: Offer) -> tuple[str, ...]:
    length, own = offer.max_model_len, offer.fit.estimate.max_model_len
    needs = offer.fit.needed_bytes if length >= own else offer.fit.suggested_bytes or offer.fit.needed_bytes
    return (
        f"{offer.count} x {offer.gpu.name}",
        "yes" if length >= own else "shorter",
        offer.fit.profile.name,
        f"{format_bytes(needs)} of {format_bytes(offer.fit.have_bytes)}",
        str(length),
        f"{offer.concurrency:.1f}",
    )


def render_plan_json(listing: Listing, offers: Iterable[Offer]) -> str:
    """All offers, those that do not serve included, each with its reason."""
    document = {
        "model": str(listing.model),
        "revision": listing.manifest.revision,
        "architecture": listing.facts.architecture,
        "machines": [_offer_json(each) for each in offers],
    }
    return json.dumps(document, indent=2) + "\n"


def _offer_json(offer: Offer) -> dict[str, Any]:
    return {
        "gpu": offer.gpu.name,
        "count": offer.count,
        "total_bytes_per_gpu": offer.gpu.total_bytes,
        "fits": offer.serves,
        "verdict": str(offer.fit.verdict),
        "reason": offer.fit.reason,
        "remedy": offer.fit.remedy,
        "profile": offer.fit.profile.name,
        "profile_id": offer.fit.profile.id,
        "required_bytes_per_gpu": offer.fit.needed_bytes,
        "have_bytes_per_gpu": offer.fit.have_bytes,
        "max_model_len": offer.max_model_len,
        "concurrency": round(offer.concurrency, 2),
    }
