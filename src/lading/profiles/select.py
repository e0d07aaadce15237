"""Which profile to run, and why not the others.

Unset: the compatible profile that uses the fewest devices (and of those the first engine in order). ``default``: the
same today, kept apart because NIM names it. An id, an id's first eight digits or more, or a name: exactly that one,
even when the estimate says that memory is short, never when it cannot run. Parallel sizes given as flags win over the
profile's. LoRA profiles only when LoRA is asked for.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from lading.errors import NoRunnableProfile, UsageError
from lading.profiles.fit import Fit, Verdict, Wish

DEFAULT = "default"
_ID_PREFIX = re.compile(r"[0-9a-f]{8,64}")
_DISPLAY_FORM = re.compile(r"(?P<id>[0-9a-f]{64})\s+\(.*\)")


@dataclass(frozen=True, slots=True)
class Selection:
    """The fit to run, why it was chosen, and each other one with why it was not."""

    chosen: Fit
    reason: str
    others: tuple[tuple[Fit, str], ...]


def select(fits: Sequence[Fit], wish: Wish) -> Selection:
    """The profile to run.

    Raises UsageError for a profile name that no fit has, NoRunnableProfile when none that may be chosen runs here; both
    carry the remedy.
    """
    asked = _named(fits, wish.profile) if wish.profile and wish.profile != DEFAULT else None
    candidates = [each for each in fits if _is_candidate(each, wish, asked)]
    explicit = asked is not None or wish.tp is not None or wish.pp is not None
    allowed = (Verdict.COMPATIBLE, Verdict.LOW_MEMORY) if explicit and asked else (Verdict.COMPATIBLE,)
    runnable = [each for each in candidates if each.verdict in allowed]
    if not runnable:
        raise _none_runs(candidates or list(fits), wish)
    chosen = min(runnable, key=_preference)
    reason = _why(chosen, wish, asked)
    return Selection(chosen, reason, tuple((each, _why_not(each, chosen, wish)) for each in fits if each is not chosen))


def _is_candidate(each: Fit, wish: Wish, asked: Fit | None) -> bool:
    profile = each.profile
    tp = wish.tp or (asked.profile.tp if asked else profile.tp)
    pp = wish.pp or (asked.profile.pp if asked else profile.pp)
    lora = wish.lora or (asked.profile.lora if asked else False)
    backend = asked.profile.backend if asked else profile.backend
    precision = asked.profile.precision if asked else profile.precision
    if profile.online and not asked:
        return False
    found = (profile.tp, profile.pp, profile.lora, profile.backend, profile.precision)
    return found == (tp, pp, lora, backend, precision)


def _preference(each: Fit) -> tuple[int, int]:
    return each.profile.ranks, each.profile.pp


def _named(fits: Sequence[Fit], text: str) -> Fit:
    wanted = text.strip()
    if display := _DISPLAY_FORM.fullmatch(wanted):
        wanted = display["id"]
    name = re.sub(r"-lora$", "-feat_lora", wanted)
    found = [each for each in fits if each.profile.name == name]
    if not found and _ID_PREFIX.fullmatch(wanted):
        found = [each for each in fits if each.profile.id.startswith(wanted)]
    if len(found) == 1:
        return found[0]
    names = [each.profile.name for each in fits]
    near = get_close_matches(name, names, n=3, cutoff=0.5) or names[:3]
    raise UsageError(
        f"NIM_MODEL_PROFILE is {text!r}, which {'several profiles match' if found else 'no profile of this model has'}",
        remedy=f"nearest: {', '.join(near)}; `lading list-model-profiles` shows all with their ids",
    )


def _why(chosen: Fit, wish: Wish, asked: Fit | None) -> str:
    if asked and asked.profile == chosen.profile:
        return f"asked for by name; {chosen.reason}"
    if wish.tp or wish.pp:
        return f"parallel sizes were given as flags; {chosen.reason}"
    devices = "device" if chosen.profile.ranks == 1 else "devices"
    return f"fits on the fewest devices ({chosen.profile.ranks} {devices}); {chosen.reason}"


def _why_not(each: Fit, chosen: Fit, wish: Wish) -> str:
    if each.verdict is not Verdict.COMPATIBLE:
        return each.reason
    if each.profile.lora and not chosen.profile.lora:
        return "runs, but LoRA was not asked for"
    if wish.profile and wish.profile != DEFAULT:
        return "runs, but another was asked for"
    return f"runs, but takes {each.profile.ranks} devices where {chosen.profile.ranks} do"


def _none_runs(candidates: Sequence[Fit], wish: Wish) -> NoRunnableProfile:
    nearest = min(candidates, key=lambda each: (list(Verdict).index(each.verdict), each.needed_bytes), default=None)
    if nearest is None:
        return NoRunnableProfile("this model has no profiles")
    what = f"profile {nearest.profile}" if wish.profile or wish.tp or wish.pp else "no profile of this model"
    verb = "does not run" if what.startswith("profile") else "runs"
    lead = "" if what.startswith("profile") else f"; the nearest is {nearest.profile}"
    return NoRunnableProfile(f"{what} {verb} on this machine{lead}: {nearest.reason}", remedy=nearest.remedy)
