"""Which profile a text of ``NIM_MODEL_PROFILE`` names, in every spelling that people use.

An id, its first eight digits or more, a name, and the form that listings print, ``<id> (<name>)``, with what stands
before and behind it. Names may lack their precision (``vllm-tp2-pp1``: the checkpoint's), say ``-lora`` for
``-feat_lora``, and carry what NIM's own names end in: a figure of GB, or an id of the model.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from difflib import get_close_matches

from lading.errors import UsageError
from lading.profiles.fit import Fit

DEFAULT = "default"
_ID_PREFIX = re.compile(r"[0-9a-f]{8,64}")
_DISPLAY_FORM = re.compile(r"(?:-\s+)?(?P<id>[0-9a-f]{64})\s+\(.*\)(?:\s*\[.*\])?")
_SUFFIX = re.compile(r"-(?:\d+(?:\.\d+)?|[0-9a-f]{64})$")


def named(fits: Sequence[Fit], text: str) -> Fit:
    """The one fit whose profile ``text`` names; raises UsageError, with the nearest names, for none or several."""
    wanted = text.strip().lower()
    if display := _DISPLAY_FORM.fullmatch(wanted):
        wanted = display["id"]
    name = re.sub(r"-lora$", "-feat_lora", _SUFFIX.sub("", wanted))
    found = [each for each in fits if name in _names(each)]
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


def _names(each: Fit) -> tuple[str, ...]:
    profile = each.profile
    if profile.online or profile.custom_name:
        return (profile.name.lower(),)
    return (profile.name, profile.name.replace(f"-{profile.precision}-", "-", 1))
