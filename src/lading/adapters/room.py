"""How much room the engine keeps for LoRA adapters: the rank and number of those that were found, or what was asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from lading.adapters.request import LoraRequest
from lading.backends.interface import Limit, LoraRoom
from lading.model.lora import RANKS, rank_room
from lading.profiles.fit import Wish

USUAL_RANK = 32
MOST_SLOTS = 8
"""NIM's own defaults: what is kept where the adapters are not known yet."""


def room_for(ranks: Sequence[int], asked: LoraRequest, wish: Wish, host_slots: int | None) -> LoraRoom:
    """The room for adapters of these ``ranks``, those that may come included where they are watched.

    The engine's own flags, in ``wish``, win over the settings, these over what was found. ``host_slots``: how
    many the engine shall keep in RAM at least where nobody said it; None: it keeps all.
    """
    if not asked.sources:
        return LoraRoom(
            _asked_rank(asked),
            _asked("NIM_MAX_GPU_LORAS", asked.gpu_loras),
            _asked("NIM_MAX_CPU_LORAS", asked.cpu_loras),
        )
    is_open = asked.refresh_seconds is not None or not ranks
    served = [rank for rank in ranks if rank <= RANKS[-1]]
    found = f"{len(ranks)} LoRA adapters found"
    rank = _asked_rank(asked) or Limit(rank_room(max([*served, USUAL_RANK if is_open or not served else 1])), found)
    slots = _asked("NIM_MAX_GPU_LORAS", asked.gpu_loras) or Limit(
        min(MOST_SLOTS, MOST_SLOTS if is_open else len(ranks), asked.cpu_loras or MOST_SLOTS), found
    )
    host = _asked("NIM_MAX_CPU_LORAS", asked.cpu_loras)
    if host is None and host_slots:
        host = Limit(max(host_slots, wish.options.max_loras or slots.value), "as NIM has it")
    return LoraRoom(rank, slots, host, is_open=True)


def with_room(wish: Wish, room: LoraRoom) -> Wish:
    """The wish, with what the room takes of the memory; what its flags say of that stays."""
    options = wish.options
    rank = options.max_lora_rank or (room.rank.value if room.rank else None)
    slots = options.max_loras or (room.slots.value if room.slots else None)
    return replace(wish, lora=True, options=replace(options, max_lora_rank=rank, max_loras=slots))


def _asked_rank(asked: LoraRequest) -> Limit | None:
    return _asked("NIM_MAX_LORA_RANK", asked.max_rank and rank_room(asked.max_rank))


def _asked(variable: str, value: int | None) -> Limit | None:
    return None if value is None else Limit(value, variable)
